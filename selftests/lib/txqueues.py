"""Transmit queues of a device: which one each packet took, how many there are, and the XPS maps."""

from __future__ import annotations

import array
import ctypes
import fcntl
import os
import select
import socket
import struct
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from selftests.lib import wait
from selftests.lib.capture import ETH_P_ALL, PACKET_OUTGOING, SOL_PACKET
from selftests.lib.closing import Closing
from selftests.lib.netns import Namespace
from selftests.lib.rtnl import Link

# include/uapi/linux/if_packet.h
_PACKET_FANOUT, _PACKET_FANOUT_QM = 18, 5

# include/uapi/linux/sockios.h, linux/ethtool.h
_SIOCETHTOOL = 0x8946
_GCHANNELS, _SCHANNELS = 0x3C, 0x3D

_libc = ctypes.CDLL(None, use_errno=True)


class TxQueues(Closing):
    """The packets that leave a device, each with the queue that was chosen for it.

    One packet socket for each queue, in a fanout group that goes by ``skb->queue_mapping`` (PACKET_FANOUT_QM of
    packet(7)). The device must be up and stay up: a socket that comes back into its group changes its place.
    """

    def __init__(self, link: Link, queues: int) -> None:
        self._sockets: list[socket.socket] = []
        self._poll = select.poll()
        self._queue_of = {}
        for queue in range(queues):
            sock = link.namespace.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            self._sockets.append(sock)
            sock.bind((link.name, ETH_P_ALL))
            sock.setsockopt(SOL_PACKET, _PACKET_FANOUT, link.index & 0xFFFF | _PACKET_FANOUT_QM << 16)
            sock.setblocking(False)
            self._poll.register(sock, select.POLLIN)
            self._queue_of[sock.fileno()] = queue

    def of(self, marker: bytes, seconds: float = 5.0) -> tuple[int, bytes]:
        """(queue, frame) of the next outgoing frame that contains ``marker``. Raises TimeoutError without one."""
        return wait.until(lambda: self._find(marker), f"a packet with {marker!r} to leave", seconds)

    def drain(self) -> None:
        """Forget what has left so far: a socket that is full takes nothing more."""
        for _ in self._pending():
            pass

    def _find(self, marker: bytes) -> tuple[int, bytes] | None:
        return next((found for found in self._pending() if marker in found[1]), None)

    def _pending(self) -> Iterator[tuple[int, bytes]]:
        """What is there by now: the queue and the frame of each packet that left."""
        for fd, _ in self._poll.poll(0):
            queue = self._queue_of[fd]
            while True:
                try:
                    frame, address = self._sockets[queue].recvfrom(1 << 17)
                except BlockingIOError:
                    break
                if address[2] == PACKET_OUTGOING:
                    yield queue, frame

    def close(self) -> None:
        for sock in self._sockets:
            sock.close()


def set_real(link: Link, queues: int) -> None:
    """``ethtool -L``: use ``queues`` of the transmit queues that the device has. Raises OSError."""
    # struct ethtool_channels: cmd, max_{rx,tx,other,combined}, {rx,tx,other,combined}_count
    channels = array.array("I", [_GCHANNELS, *[0] * 8])
    request = struct.pack("16sQ16x", link.name.encode(), channels.buffer_info()[0])
    with link.namespace.socket() as sock:
        fcntl.ioctl(sock, _SIOCETHTOOL, request)
        channels[0], channels[6] = _SCHANNELS, queues
        fcntl.ioctl(sock, _SIOCETHTOOL, request)


def processors() -> int:
    """How many processors the machine has."""
    return os.sysconf("SC_NPROCESSORS_CONF")


RESELECTION = Path("/proc/sys/net/core/txq_reselection_ms")
"""Came with ooo_okay for all sockets that have no packet in a queue of the host (skb_set_owner_w())."""


def never_reselect(namespace: Namespace) -> None:
    """A flow in flight keeps its queue however long, where the kernel would have it choose anew after a second."""
    with namespace.entered():
        if RESELECTION.exists():
            RESELECTION.write_text("0")


@contextmanager
def pinned(cpu: int) -> Iterator[None]:
    """The calling thread runs on this processor only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class XpsMaps(Closing):
    """The maps of a namespace's devices, in a sysfs of its own: Documentation/networking/scaling.rst."""

    def __init__(self, namespace: Namespace) -> None:
        self._root = tempfile.mkdtemp(prefix="sysfs-")
        with namespace.entered():
            if _libc.mount(b"sysfs", self._root.encode(), b"sysfs", 0, None):
                raise OSError(ctypes.get_errno(), f"mount sysfs: {os.strerror(ctypes.get_errno())}")

    def set_cpus(self, link: Link, masks: Sequence[int]) -> None:
        """``xps_cpus`` of the first queues: bit masks of processors. Raises OSError."""
        for queue, mask in enumerate(masks):
            Path(self._root, "class/net", link.name, f"queues/tx-{queue}/xps_cpus").write_text(f"{mask:x}")

    def close(self) -> None:
        if self._root:
            if _libc.umount2(self._root.encode(), 0):
                raise OSError(ctypes.get_errno(), f"umount sysfs: {os.strerror(ctypes.get_errno())}")
            os.rmdir(self._root)
            self._root = ""
