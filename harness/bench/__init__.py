"""The performance lab: what a packet, or a transaction, costs in a kernel, and what a patch changes about it."""
