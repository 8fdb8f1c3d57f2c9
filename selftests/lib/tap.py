"""A tap device with several queues: each file descriptor is one (Documentation/networking/tuntap.rst)."""

from __future__ import annotations

import fcntl
import os
import struct

from selftests.lib import wait
from selftests.lib.bpf import Program
from selftests.lib.closing import Closing
from selftests.lib.netns import Namespace
from selftests.lib.rtnl import Link

# include/uapi/linux/if_tun.h
_TUNSETIFF = 0x400454CA
_TUNSETSTEERINGEBPF = 0x800454E0
_IFF_TAP, _IFF_NO_PI, _IFF_MULTI_QUEUE = 0x2, 0x1000, 0x100


class Tap(Closing):
    """A tap, up, with as many queues in use as it has descriptors; it may have 256. It goes with them."""

    def __init__(self, namespace: Namespace, name: str, queues: int, *, multi_queue: bool = True) -> None:
        self.fds: list[int] = []
        self._namespace = namespace
        self._request = struct.pack(
            "16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI | (_IFF_MULTI_QUEUE if multi_queue else 0)
        )
        for _ in range(queues):
            self.add_queue()
        self.link: Link = namespace.rtnl.find(name)
        self.link.up()

    def add_queue(self) -> None:
        """One more descriptor, and with it one more queue in use."""
        with self._namespace.entered():
            fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            self.fds.append(fd)
            fcntl.ioctl(fd, _TUNSETIFF, self._request)

    def queue_of(self, marker: bytes, seconds: float = 5.0) -> int:
        """The queue whose descriptor gives the next frame that contains ``marker``. Raises TimeoutError."""
        return wait.until(lambda: self._find(marker), f"a packet with {marker!r} from a queue of the tap", seconds) - 1

    def _find(self, marker: bytes) -> int | None:
        """The queue plus one."""
        for queue, fd in enumerate(self.fds):
            while True:
                try:
                    frame = os.read(fd, 1 << 16)
                except BlockingIOError:
                    break
                if marker in frame:
                    return queue + 1
        return None

    def frame_with(self, marker: bytes, seconds: float = 5.0) -> bytes:
        """The next frame from the first queue that contains ``marker``: what a wire would carry. Raises TimeoutError.

        The device has no offloads: the kernel has finished checksums and cut large packets before it gives them out.
        """
        frames: list[bytes] = []

        def look() -> bytes | None:
            while True:
                try:
                    frames.append(os.read(self.fds[0], 1 << 17))
                except BlockingIOError:
                    return None
                if marker in frames[-1]:
                    return frames[-1]

        return wait.until(look, f"a packet with {marker!r} from the tap", seconds)

    def write(self, queue: int, frame: bytes) -> None:
        """A frame comes in at a queue."""
        os.write(self.fds[queue], frame)

    def set_steering(self, program: Program | None) -> None:
        """The tap's own steering program (TUNSETSTEERINGEBPF): its result modulo the queues in use is the queue."""
        fcntl.ioctl(self.fds[0], _TUNSETSTEERINGEBPF, struct.pack("i", program.fd if program else -1))

    def close(self) -> None:
        while self.fds:
            os.close(self.fds.pop())
