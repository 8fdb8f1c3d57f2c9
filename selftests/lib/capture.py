"""Packets in and out at a device, through packet sockets (packet(7)).

To show that something did *not* arrive, send a second packet on a way that is open and take everything up to it:
``Capture.up_to`` returns what came before, in order, without guessing how long to wait.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass

from selftests.lib import packet, wait
from selftests.lib.closing import Closing
from selftests.lib.rtnl import Link

# include/uapi/linux/if_packet.h, linux/if_ether.h
SOL_PACKET = 263
PACKET_VNET_HDR = 15
PACKET_QDISC_BYPASS = 20
PACKET_IGNORE_OUTGOING = 23
ETH_P_ALL = 3
PACKET_HOST, PACKET_BROADCAST, PACKET_MULTICAST, PACKET_OTHERHOST, PACKET_OUTGOING = range(5)
SOL_SOCKET = socket.SOL_SOCKET
SO_PRIORITY, SO_MARK = 12, 36
SOL_IP, IP_RECVERR = 0, 11
"""include/uapi/asm-generic/socket.h, include/uapi/linux/in.h"""


@dataclass(frozen=True)
class Captured(packet.Frame):
    """A frame with the packet type that the kernel gave it (PACKET_HOST, …)."""

    packet_type: int = PACKET_HOST


class Capture(Closing):
    """Everything that a device receives, or (``outgoing``) everything that passes it in both directions."""

    def __init__(self, link: Link, *, outgoing: bool = False) -> None:
        self.link = link
        self._socket = link.namespace.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        if not outgoing:
            self._socket.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        self._socket.bind((link.name, ETH_P_ALL))
        self._socket.setblocking(False)

    def next(self, seconds: float = 5.0) -> Captured:
        """The next frame. Raises TimeoutError when none came within the limit."""
        if not wait.readable(self._socket.fileno(), seconds):
            raise TimeoutError(f"no packet came to {self.link.name} in {self.link.namespace.name}")
        raw, address = self._socket.recvfrom(1 << 17)
        return Captured(raw, address[2])

    def pending(self) -> list[Captured]:
        """All frames that are there by now."""
        frames: list[Captured] = []
        while True:
            try:
                raw, address = self._socket.recvfrom(1 << 17)
            except BlockingIOError:
                return frames
            frames.append(Captured(raw, address[2]))

    def up_to(self, marker: bytes, seconds: float = 5.0) -> list[Captured]:
        """All frames before the one that contains ``marker``. Raises TimeoutError, naming what came instead."""
        return self.until(lambda frame: marker in frame.raw, f"a packet with {marker!r}", seconds)[:-1]

    def until(self, wanted: Callable[[Captured], bool], what: str, seconds: float = 5.0) -> list[Captured]:
        """All frames up to and including the first that is ``wanted``."""
        frames: list[Captured] = []
        while True:
            try:
                frames.append(self.next(seconds))
            except TimeoutError as error:
                came = "\n".join(str(frame) for frame in frames) or "nothing at all"
                raise TimeoutError(f"{error}; waited for {what}, and this came:\n{came}") from None
            if wanted(frames[-1]):
                return frames

    def close(self) -> None:
        self._socket.close()


def send(
    link: Link,
    frame: bytes,
    *,
    mark: int = 0,
    priority: int = 0,
    bypass_qdisc: bool = False,
    offload: bytes = b"",
) -> None:
    """Transmit a frame through a device. Raises OSError: ENOBUFS where the transmit path answered NET_XMIT_DROP.

    ``offload`` is a struct virtio_net_hdr: what is left to the device to do (``tcp_segmentation``).
    """
    with link.namespace.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
        if bypass_qdisc:
            sock.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)
        if offload:
            sock.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        if mark:
            sock.setsockopt(socket.SOL_SOCKET, SO_MARK, mark)
        if priority:
            sock.setsockopt(socket.SOL_SOCKET, SO_PRIORITY, priority)
        ethertype = struct.unpack_from("!H", frame, 12)[0]
        # the protocol is given with the address, so that the socket itself never receives anything
        sock.sendto(offload + frame, (link.name, ethertype))


def tcp_segmentation(frame: bytes, size: int) -> bytes:
    """``offload`` of a TCP segment without IP options that is longer than a packet: to be cut into ``size`` bytes each.

    struct virtio_net_hdr of include/uapi/linux/virtio_net.h.
    """
    is_ipv6 = frame[12:14] == b"\x86\xdd"
    transport = 14 + (40 if is_ipv6 else 20)
    return struct.pack("<BBHHHH", 1, 4 if is_ipv6 else 1, transport + 20, size, transport, 16)


def frame_to(target: Link, source: Link, payload: bytes) -> bytes:
    """A frame of an ethertype that no protocol takes, between two devices' addresses."""
    return packet.ethernet(payload.ljust(46, b"."), dst=target.mac or packet.NO_MAC, src=source.mac or packet.NO_MAC)
