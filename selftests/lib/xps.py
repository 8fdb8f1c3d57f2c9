"""Programs that choose transmit queues: attached by a link or by rtnetlink, and what the kernel tells of them.

The interface is that of patches/xps_bpf: attach type BPF_XPS, and the nest IFLA_XPS.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

from selftests.lib import bpf, hooks, rtnetlink
from selftests.lib.bpf import AttachType
from selftests.lib.closing import Closing
from selftests.lib.rtnl import Link

IFLA_XPS = 70

Way = Literal["link", "netlink"]


class Attr(IntEnum):
    """Attributes in the nest; the last three are the kernel's to write."""

    FD = 1
    FLAGS = 2
    EXPECTED_FD = 3
    ATTACHED = 4
    PROG_ID = 5
    COUNT = 6


class XpsFlags(IntEnum):
    """XPS_FLAGS_…"""

    UPDATE_IF_NOEXIST = 1 << 0
    REPLACE = 1 << 1


class Attached(IntEnum):
    """XPS_ATTACHED_…"""

    NETLINK = 1
    LINK = 2


@dataclass(frozen=True)
class State:
    """What a dump tells of a device."""

    attached: int
    prog_id: int
    """Of the program that runs first."""
    count: int


def nest(
    fd: int | None = None,
    *,
    flags: int | None = None,
    expected: int | None = None,
    more: Mapping[int, bytes] | None = None,
) -> bytes:
    """The nest of a request. What is None is left out; ``more`` are further attributes by number."""
    inner = [] if fd is None else [rtnetlink.s32(Attr.FD, fd)]
    if flags is not None:
        inner.append(rtnetlink.u32(Attr.FLAGS, flags))
    if expected is not None:
        inner.append(rtnetlink.s32(Attr.EXPECTED_FD, expected))
    inner += [rtnetlink.attribute(kind, payload) for kind, payload in (more or {}).items()]
    return rtnetlink.nest(IFLA_XPS, *inner)


def set_program(
    device: Link,
    fd: int | None,
    *,
    flags: int | None = None,
    expected: int | None = None,
    more: Mapping[int, bytes] | None = None,
    message: int = rtnetlink.RTM_SETLINK,
) -> None:
    """Ask rtnetlink for the program with this descriptor (-1: none). Raises NetlinkRefused."""
    request = nest(fd, flags=flags, expected=expected, more=more)
    rtnetlink.change(device.namespace, message, request, index=device.index)


def state(device: Link) -> State | None:
    """What the device's own message tells; None where it has no nest."""
    return told(rtnetlink.link(device.namespace, device.index))


def states(device: Link) -> dict[int, State]:
    """What a dump of the device's namespace tells, by ifindex of those that have a nest."""
    found = {index: told(attributes) for index, attributes in rtnetlink.links(device.namespace).items()}
    return {index: one for index, one in found.items() if one}


def told(attributes: rtnetlink.Attributes) -> State | None:
    """What a message tells; None where it has no nest."""
    if IFLA_XPS not in attributes:
        return None
    inner = rtnetlink.parse(attributes[IFLA_XPS])
    assert set(inner) == {Attr.ATTACHED, Attr.PROG_ID, Attr.COUNT}, f"attributes in the nest of a dump: {inner}"
    (attached,) = struct.unpack("<B", inner[Attr.ATTACHED])
    prog_id, count = (struct.unpack("<I", inner[kind])[0] for kind in (Attr.PROG_ID, Attr.COUNT))
    return State(attached, prog_id, count)


def link(program: bpf.Program, device: Link, *, flags: int = 0, relative: int = 0, revision: int = 0) -> bpf.Link:
    """LINK_CREATE at the device's queue selection."""
    return hooks.link(program, device, AttachType.XPS, flags=flags, relative=relative, revision=revision)


def query(device: Link, *, room: int = bpf.MAX_PROGRAMS, arrays: bool = True) -> bpf.Query:
    """PROG_QUERY of the device's queue selection."""
    return hooks.query(device, AttachType.XPS, room=room, arrays=arrays)


class Attachment(Closing):
    """A program at work, whichever way it came; ``close`` takes it off."""

    def __init__(self, way: Way, program: bpf.Program, device: Link) -> None:
        self.device = device
        self.link = link(program, device) if way == "link" else None
        if way == "netlink":
            set_program(device, program.fd)

    def replace(self, program: bpf.Program) -> None:
        """Another program in its place, at once."""
        if self.link:
            self.link.update(program)
        else:
            set_program(self.device, program.fd)

    def close(self) -> None:
        if self.link:
            self.link.close()
        else:
            set_program(self.device, -1)
