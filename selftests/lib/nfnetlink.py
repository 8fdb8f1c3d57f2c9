"""netfilter's netlink messages, byte by byte: what nft would not send, the list of hooks, and logged packets.

Layouts: include/uapi/linux/netfilter/nfnetlink.h, nf_tables.h, nfnetlink_hook.h, nfnetlink_log.h.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from selftests.lib import wait
from selftests.lib.closing import Closing
from selftests.lib.netns import Namespace
from selftests.lib.rtnetlink import Attributes, attribute, nest, parse, text

NFPROTO_NETDEV = 5
NF_NETDEV_INGRESS, NF_NETDEV_EGRESS = 0, 1
"""include/uapi/linux/netfilter.h"""

_NETFILTER = 12
"""NETLINK_NETFILTER"""
_ULOG, _NFTABLES, _HOOK = 4, 10, 12
"""NFNL_SUBSYS_…"""

_REQUEST, _ACK, _DUMP, _CREATE = 0x1, 0x4, 0x300, 0x400
_ERROR, _DONE = 2, 3
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11


def _message(kind: int, flags: int, *attributes: bytes, family: int = NFPROTO_NETDEV, resource: int = 0) -> bytes:
    """struct nlmsghdr and nfgenmsg, and what follows them."""
    body = struct.pack("!BBH", family, 0, resource) + b"".join(attributes)
    return struct.pack("<IHHII", 16 + len(body), kind, flags | _REQUEST, 1, 0) + body


def _be32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("!I", value & 0xFFFFFFFF))


def _answers(sock: socket.socket) -> Iterator[tuple[int, bytes]]:
    """(type, payload) of each message that comes. Raises OSError for one that tells of a refusal."""
    while True:
        raw = sock.recv(1 << 17)
        at = 0
        while at < len(raw):
            length, kind = struct.unpack_from("<IH", raw, at)
            payload = raw[at + 16 : at + length]
            at += length + 3 & ~3
            (status,) = struct.unpack_from("<i", payload)
            if kind == _ERROR and status:
                raise OSError(-status, os.strerror(-status))
            yield kind, payload


def _ask(sock: socket.socket, request: bytes, *, acknowledgements: int = 1) -> None:
    """Send messages, so many of which are to be acknowledged. Raises OSError for a refusal.

    All answers are there when send(2) returns, and all are read: a batch that the kernel begins again, because it has
    looked for a module, may acknowledge what it then refuses, before "netfilter: nfnetlink: reset nlh pointer during
    batch replay" (6.17, 6.12.53).
    """
    sock.send(request)
    sock.setblocking(False)
    came = 0
    try:
        for _ in _answers(sock):
            came += 1
    except BlockingIOError:
        sock.setblocking(True)
    assert came >= acknowledgements, f"{acknowledgements} acknowledgements were asked for, {came} came"


def _dump(sock: socket.socket, request: bytes) -> Iterator[Attributes]:
    """What a request for a list is answered with."""
    sock.send(request)
    for kind, payload in _answers(sock):
        if kind == _DONE:
            return
        yield parse(payload[4:])


def _open(namespace: Namespace) -> socket.socket:
    return namespace.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETFILTER)


# --- chains --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ChainRequest:
    """NFT_MSG_NEWCHAIN, or with ``delete`` NFT_MSG_DELCHAIN, for a base chain ``rules`` in table ``kproof``.

    ``devices`` go into NFTA_HOOK_DEVS. To delete a chain that has devices takes these off it.
    """

    devices: Sequence[str]
    hook: int = NF_NETDEV_EGRESS
    kind: str = "filter"
    delete: bool = False

    def encode(self) -> bytes:
        names = [text(1, name) for name in self.devices]  # NFTA_DEVICE_NAME
        # NFTA_HOOK_HOOKNUM, _PRIORITY, _DEVS
        hook = nest(4, _be32(1, self.hook), _be32(2, 0), *([nest(4, *names)] if names else []))
        wanted = [text(1, "kproof"), text(3, "rules"), hook]  # NFTA_CHAIN_TABLE, _NAME, _HOOK
        if self.delete:
            return _message(_NFTABLES << 8 | 5, _ACK, *wanted)
        return _message(_NFTABLES << 8 | 3, _ACK | _CREATE, *wanted, text(7, self.kind))  # NFTA_CHAIN_TYPE


def change_chains(namespace: Namespace, *requests: ChainRequest) -> None:
    """Requests as one transaction; the table is made if need be. Raises OSError with the first refusal's errno."""
    table = _message(_NFTABLES << 8 | 0, _CREATE, text(1, "kproof"))
    messages = [
        _message(_BATCH_BEGIN, 0, family=socket.AF_UNSPEC, resource=_NFTABLES),
        table,
        *(request.encode() for request in requests),
        _message(_BATCH_END, 0, family=socket.AF_UNSPEC, resource=_NFTABLES),
    ]
    with _open(namespace) as sock:
        _ask(sock, b"".join(messages), acknowledgements=len(requests))


# --- hooks ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Hook:
    """One function at a hook, as NFNL_MSG_HOOK_GET tells of it."""

    hook: int
    priority: int
    function: str
    table: str
    chain: str


def hooks(namespace: Namespace, device: str | None, hook: int = NF_NETDEV_EGRESS) -> list[Hook]:
    """What is at a hook of a device, in the order in which packets meet it. Raises OSError."""
    wanted = [_be32(1, hook)]  # NFNLA_HOOK_HOOKNUM
    if device is not None:
        wanted.append(text(3, device))  # NFNLA_HOOK_DEV
    with _open(namespace) as sock:
        return [_hook(answer) for answer in _dump(sock, _message(_HOOK << 8, _DUMP, *wanted))]


def _hook(told: Attributes) -> Hook:
    described = parse(parse(told[6])[1]) if 6 in told else {}  # NFNLA_HOOK_CHAIN_INFO, NFNLA_HOOK_INFO_DESC
    (hook,), (priority,) = struct.unpack("!I", told[1]), struct.unpack("!i", told[2])
    return Hook(hook, priority, _text(told, 4), _text(described, 1), _text(described, 3))


def _text(told: Attributes, kind: int) -> str:
    return told.get(kind, b"").rstrip(b"\0").decode()


# --- logs ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Logged:
    """A packet that ``log group N`` sent."""

    prefix: str
    hook: int
    out_device: int
    in_device: int
    """Interface indices; 0 where there is none."""
    mark: int
    payload: bytes


class Log(Closing):
    """A listener to one group of a namespace's logs: NFNL_SUBSYS_ULOG. Each packet is told at once."""

    def __init__(self, namespace: Namespace, group: int) -> None:
        self._socket = _open(namespace)
        # NFULA_CFG_CMD: bind; NFULA_CFG_MODE: copy packets; NFULA_CFG_QTHRESH: tell of each
        for setting in (attribute(1, b"\x01"), attribute(2, struct.pack("!IBx", 0xFFFF, 2)), _be32(5, 1)):
            _ask(self._socket, _message(_ULOG << 8 | 1, _ACK, setting, family=socket.AF_UNSPEC, resource=group))

    def next(self, seconds: float = 5.0) -> Logged:
        """The next packet. Raises TimeoutError when none came within the limit."""
        if not wait.readable(self._socket.fileno(), seconds):
            raise TimeoutError("no packet was logged")
        told = parse(self._socket.recv(1 << 17)[20:])

        def number(kind: int) -> int:
            return int.from_bytes(told.get(kind, b""), "big")

        # NFULA_PACKET_HDR: protocol, hook; _MARK, _IFINDEX_INDEV, _IFINDEX_OUTDEV, _PAYLOAD, _PREFIX
        return Logged(_text(told, 10), told[1][2], number(5), number(4), number(2), told.get(9, b""))

    def close(self) -> None:
        self._socket.close()
