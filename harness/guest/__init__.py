"""Floor 2: from a kernel to a running Python in a virtual machine."""
