"""rtnetlink byte by byte: requests that no library would send, and the kernel's answers with their messages.

Layouts: include/uapi/linux/netlink.h, linux/rtnetlink.h. For ordinary requests there is selftests.lib.rtnl.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

from selftests.lib import wait
from selftests.lib.netns import Namespace

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWQDISC, RTM_DELQDISC, RTM_NEWTFILTER = 36, 37, 44
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400
NLM_F_ACK_TLVS = 0x200

IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_OPERSTATE = 1, 3, 4, 5, 16
IFLA_LINKINFO, IFLA_STATS64, IFLA_NET_NS_FD, IFLA_NUM_TX_QUEUES, IFLA_CARRIER = 18, 23, 28, 31, 33
IFLA_GSO_MAX_SIZE, IFLA_XDP, IFLA_TSO_MAX_SIZE, IFLA_GSO_IPV4_MAX_SIZE = 41, 43, 59, 63
IFLA_INFO_KIND, IFLA_INFO_DATA = 1, 2
IFLA_XDP_FD, IFLA_XDP_FLAGS = 1, 3
"""include/uapi/linux/if_link.h"""

_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLMSGERR_ATTR_MSG = 1
_NESTED = 0x8000
_SOL_NETLINK, _ADD_MEMBERSHIP, _CAP_ACK, _EXT_ACK = 270, 1, 10, 11
_RTNLGRP_LINK = 1
_MESSAGE_HEADER = "<IHHII"
_IFINFOMSG = "<BxHiII"
_TCMSG = "<BxxxiIII"

_LARGEST = 1 << 15
"""Bytes of a message: more than the kernel puts into one (netlink_dump() of net/netlink/af_netlink.c)."""

Attributes = dict[int, bytes]


class NetlinkRefused(OSError):
    """The kernel refused an rtnetlink request."""


class Device(NamedTuple):
    """What RTM_NEWLINK tells."""

    ifindex: int
    flags: int
    attributes: Attributes


def attribute(kind: int, payload: bytes, *, nested: bool = False) -> bytes:
    """struct nlattr with its payload, padded to 4 bytes."""
    head = struct.pack("<HH", 4 + len(payload), kind | (_NESTED if nested else 0))
    return (head + payload).ljust(4 + (len(payload) + 3 & ~3), b"\0")


def nest(kind: int, *attributes: bytes) -> bytes:
    """An attribute that holds others."""
    return attribute(kind, b"".join(attributes), nested=True)


def u32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("<I", value))


def s32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("<i", value))


def text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def parse(raw: bytes) -> Attributes:
    """Attributes by number, the last one of a number where it repeats."""
    found = {}
    at = 0
    while at + 4 <= len(raw):
        length, kind = struct.unpack_from("<HH", raw, at)
        if length < 4 or at + length > len(raw):
            raise ValueError(f"attribute {kind} of length {length} at byte {at} of {len(raw)}")
        found[kind & 0x3FFF] = raw[at + 4 : at + length]
        at += length + 3 & ~3
    return found


def change(namespace: Namespace, message: int, *attributes: bytes, index: int = 0, flags: int = 0) -> None:
    """Send RTM_SETLINK or RTM_NEWLINK for ``index`` (0: the device that attributes name) and take the answer.

    Raises NetlinkRefused with the kernel's errno; its text has the kernel's message.
    """
    with open_socket(namespace) as sock:
        change_through(sock, message, *attributes, index=index, flags=flags)


def change_through(
    sock: socket.socket, message: int, *attributes: bytes, index: int = 0, flags: int = 0, up: bool | None = None
) -> None:
    """``change`` through a socket that is open already, whoever opened it. ``up``: IFF_UP in the same request."""
    for _ in _talk(sock, message, flags | NLM_F_ACK, index, attributes, up):
        pass


def change_tc(
    namespace: Namespace,
    message: int,
    device: int,
    *attributes: bytes,
    parent: int,
    handle: int = 0,
    info: int = 0,
    flags: int = NLM_F_CREATE | NLM_F_EXCL,
) -> None:
    """Add a qdisc or filter (RTM_NEWQDISC, RTM_NEWTFILTER) of a kind that pyroute2 does not know, or do what flags say.

    ``info`` of a filter is its priority and protocol (TC_H_MAKE). Raises NetlinkRefused as ``change`` does.
    """
    body = struct.pack(_TCMSG, socket.AF_UNSPEC, device, handle, parent, info) + b"".join(attributes)
    with open_socket(namespace) as sock:
        request(sock, message, body, flags | NLM_F_ACK)


def request(sock: socket.socket, message: int, body: bytes, flags: int) -> None:
    """Send one message, of any family of netlink, and take the answer. Raises NetlinkRefused as ``change`` does."""
    for _ in _exchange(sock, message, flags, body):
        pass


def links(namespace: Namespace) -> dict[int, Attributes]:
    """A dump of all devices: attributes by ifindex."""
    with open_socket(namespace) as sock:
        return {device.ifindex: device.attributes for device in _talk(sock, RTM_GETLINK, NLM_F_DUMP, 0, ())}


def link(namespace: Namespace, index: int) -> Attributes:
    """One device's attributes. Raises NetlinkRefused ENODEV."""
    with open_socket(namespace) as sock:
        return find(sock, index=index).attributes


def find(sock: socket.socket, *attributes: bytes, index: int = 0) -> Device:
    """One device, through a socket that is open already. Raises NetlinkRefused ENODEV."""
    (device,) = _talk(sock, RTM_GETLINK, NLM_F_ACK, index, attributes)
    return device


def open_socket(namespace: Namespace | None = None) -> socket.socket:
    """An rtnetlink socket that asks for short acknowledgements with messages; without argument, where the thread is."""
    make = namespace.socket if namespace else socket.socket
    sock = make(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    sock.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)
    sock.setsockopt(_SOL_NETLINK, _EXT_ACK, 1)
    return sock


def join_links(sock: socket.socket) -> None:
    """Be told of every change of a device (RTNLGRP_LINK of rtnetlink(7))."""
    sock.bind((0, 0))  # one without an address is not told
    sock.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _RTNLGRP_LINK)


def notification(sock: socket.socket, seconds: float = 5.0) -> Attributes:
    """The attributes of the next device that a message tells of. Raises TimeoutError without one."""
    if not wait.readable(sock.fileno(), seconds):
        raise TimeoutError("no message of a device came")
    raw = sock.recv(1 << 17)
    _, kind, *_ = struct.unpack_from(_MESSAGE_HEADER, raw)
    assert kind == RTM_NEWLINK, f"a message of type {kind}"
    return parse(raw[32:])


def ifinfomsg(index: int = 0, up: bool | None = None) -> bytes:
    """struct ifinfomsg; ``up`` changes IFF_UP, and nothing else."""
    return struct.pack(_IFINFOMSG, socket.AF_UNSPEC, 0, index, up or 0, up is not None)


def _talk(
    sock: socket.socket,
    message: int,
    flags: int,
    index: int,
    attributes: tuple[bytes, ...],
    up: bool | None = None,
) -> Iterator[Device]:
    return _exchange(sock, message, flags, b"".join((ifinfomsg(index, up), *attributes)))


def _exchange(sock: socket.socket, message: int, flags: int, body: bytes) -> Iterator[Device]:
    sock.send(struct.pack(_MESSAGE_HEADER, 16 + len(body), message, flags | NLM_F_REQUEST, 1, 0) + body)
    while True:
        raw = sock.recv(_LARGEST)
        at = 0
        while at < len(raw):
            length, kind, answer_flags, _, _ = struct.unpack_from(_MESSAGE_HEADER, raw, at)
            payload = raw[at + 16 : at + length]
            at += length + 3 & ~3
            if kind == _NLMSG_ERROR:
                _judge(payload, answer_flags)
                return
            if kind == _NLMSG_DONE:
                return
            if kind == RTM_NEWLINK:
                _, _, index, state, _ = struct.unpack_from(_IFINFOMSG, payload)
                yield Device(index, state, parse(payload[16:]))


def _judge(payload: bytes, flags: int) -> None:
    (status,) = struct.unpack_from("<i", payload)
    if not status:
        return
    message = ""
    if flags & NLM_F_ACK_TLVS:
        message = parse(payload[4 + 16 :]).get(_NLMSGERR_ATTR_MSG, b"").rstrip(b"\0").decode()
    raise NetlinkRefused(-status, f"{os.strerror(-status)}: {message}")
