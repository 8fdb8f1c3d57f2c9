int netkit_run(void) { return 0; }
