"""A tun device: packets of layer 3 come from and go to a file descriptor (Documentation/networking/tuntap.rst)."""

from __future__ import annotations

import fcntl
import os
import struct

from selftests.lib import wait
from selftests.lib.closing import Closing
from selftests.lib.netns import Namespace
from selftests.lib.rtnl import Link

# include/uapi/linux/if_tun.h
_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x1, 0x1000


class Tun(Closing):
    """A tun, up. It goes with its descriptor."""

    def __init__(self, namespace: Namespace, name: str) -> None:
        with namespace.entered():
            self._fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            fcntl.ioctl(self._fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
        self.link: Link = namespace.rtnl.find(name)
        self.link.up()

    def write(self, packet: bytes) -> None:
        """An IP packet comes in at the device."""
        os.write(self._fd, packet)

    def packet_with(self, marker: bytes, seconds: float = 5.0) -> bytes:
        """The next IP packet that leaves through the device and contains ``marker``. Raises TimeoutError."""
        return wait.until(lambda: self._find(marker), f"a packet with {marker!r} to leave through the tun", seconds)

    def _find(self, marker: bytes) -> bytes | None:
        while True:
            try:
                packet = os.read(self._fd, 1 << 17)
            except BlockingIOError:
                return None
            if marker in packet:
                return packet

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
