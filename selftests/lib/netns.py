"""Network namespaces without names: made in this thread, held by a descriptor, gone when the last holder lets go.

Only the calling thread ever changes its namespace (unshare(2), setns(2)), and only within a ``with``.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

from selftests.lib.closing import Closing

if TYPE_CHECKING:
    from selftests.lib.nft import Nft
    from selftests.lib.rtnl import Rtnl

CLONE_NEWNET = 0x40000000
SO_NETNS_COOKIE = 71
"""include/uapi/asm-generic/socket.h, since Linux 5.14 (e8b9eab99232)."""

_OWN = "/proc/thread-self/ns/net"
_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def _set_loopback_up() -> None:
    """netdevice(7): SIOCSIFFLAGS with IFF_UP and IFF_RUNNING."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, 0x8914, struct.pack("16sH14x", b"lo", 0x1 | 0x40))


def _setns(fd: int) -> None:
    _checked(_libc.setns(fd, CLONE_NEWNET), "setns")


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


class Namespace(Closing):
    """A network namespace with its own netlink sockets, made when they are first used."""

    def __init__(self, fd: int, name: str) -> None:
        self.fd = fd
        self.name = name
        self._rtnl: Rtnl | None = None
        self._nft: Nft | None = None

    @classmethod
    def create(cls, name: str, *, quiet: bool = True) -> Self:
        """A new namespace with loopback up. ``quiet``: without IPv6, so that no device sends a packet on its own.

        ``name`` is for messages only. Raises OSError when the kernel refuses.
        """
        before = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _checked(_libc.unshare(CLONE_NEWNET), "unshare(CLONE_NEWNET)")
            namespace = cls(os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC), name)
            _set_loopback_up()
            if quiet:
                with suppress(FileNotFoundError):  # a kernel without IPv6
                    _write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1")  # and "default", ip-sysctl.rst
        finally:
            _setns(before)
            os.close(before)
        return namespace

    @classmethod
    def current(cls, name: str = "initial") -> Self:
        """The namespace that the calling thread is in."""
        return cls(os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC), name)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """The calling thread is in this namespace for the length of the block."""
        before = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _setns(self.fd)
            yield
        finally:
            _setns(before)
            os.close(before)

    def socket(self, family: int = socket.AF_INET, kind: int = socket.SOCK_DGRAM, protocol: int = 0) -> socket.socket:
        """A socket that belongs to this namespace for good."""
        with self.entered():
            return socket.socket(family, kind, protocol)

    @property
    def cookie(self) -> int:
        """The namespace's cookie as SO_NETNS_COOKIE tells it."""
        with self.socket() as sock:
            return netns_cookie(sock)

    @property
    def rtnl(self) -> Rtnl:
        """Links, addresses, neighbours, routes."""
        if self._rtnl is None:
            from selftests.lib.rtnl import Rtnl

            self._rtnl = Rtnl(self)
        return self._rtnl

    @property
    def nft(self) -> Nft:
        """nf_tables."""
        if self._nft is None:
            from selftests.lib.nft import Nft

            self._nft = Nft(self)
        return self._nft

    def read(self, path: str) -> str:
        """A file under /proc/net or /proc/sys/net as seen from this namespace."""
        with self.entered():
            return Path(path.replace("/proc/net/", "/proc/thread-self/net/")).read_text()

    def sysctl(self, key: str, value: int | str) -> None:
        """Write ``/proc/sys/<key>``, for example ``net/ipv4/ip_forward``."""
        with self.entered():
            _write(f"/proc/sys/{key}", str(value))

    def close(self) -> None:
        """Let go of the namespace. It lives on where sockets or another namespace's ``with`` still hold it."""
        if self._nft:
            self._nft.close()
            self._nft = None
        if self._rtnl:
            self._rtnl.close()
            self._rtnl = None
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __repr__(self) -> str:
        return f"<namespace {self.name}>"


def netns_cookie(sock: socket.socket) -> int:
    """SO_NETNS_COOKIE of a socket. Raises OSError ENOPROTOOPT before Linux 5.14.

    By getsockopt(2) itself: Python's takes no buffer for a socket of AF_VSOCK.
    """
    cookie, length = ctypes.c_uint64(), ctypes.c_uint32(8)
    told = _libc.getsockopt(
        sock.fileno(), socket.SOL_SOCKET, SO_NETNS_COOKIE, ctypes.byref(cookie), ctypes.byref(length)
    )
    _checked(told, "getsockopt(SO_NETNS_COOKIE)")
    return cookie.value
