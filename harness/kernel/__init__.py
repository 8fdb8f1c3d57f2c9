"""From a name to a kernel: source, series, Kconfig, build, store. Start at ``obtain.py``."""
