"""Attach, link and query programs at a device's hooks, from within the device's namespace.

An ifindex means what it means in the caller's namespace (kernel/bpf/tcx.c, drivers/net/netkit.c), so each call enters
the device's own. Arguments and refusals are those of selftests.lib.bpf.
"""

from __future__ import annotations

from selftests.lib import bpf
from selftests.lib.rtnl import Link


def link(
    program: bpf.Program, device: Link, hook: int, *, flags: int = 0, relative: int = 0, revision: int = 0
) -> bpf.Link:
    """LINK_CREATE."""
    with device.namespace.entered():
        return bpf.link_create(program.fd, device.index, hook, flags=flags, relative=relative, revision=revision)


def attach(
    program: bpf.Program,
    device: Link,
    hook: int,
    *,
    flags: int = 0,
    replace: int = 0,
    relative: int = 0,
    revision: int = 0,
) -> None:
    """PROG_ATTACH; goes with the device at the latest."""
    with device.namespace.entered():
        bpf.attach(device.index, program.fd, hook, flags=flags, replace=replace, relative=relative, revision=revision)


def detach(
    program: bpf.Program | None, device: Link, hook: int, *, flags: int = 0, relative: int = 0, revision: int = 0
) -> None:
    """PROG_DETACH; no program: what ``flags`` points at."""
    fd = program.fd if program else 0
    with device.namespace.entered():
        bpf.detach(device.index, fd, hook, flags=flags, relative=relative, revision=revision)


def query(device: Link, hook: int, *, room: int = bpf.MAX_PROGRAMS, arrays: bool = True) -> bpf.Query:
    """PROG_QUERY."""
    with device.namespace.entered():
        return bpf.query(device.index, hook, room=room, arrays=arrays)
