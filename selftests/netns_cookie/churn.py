"""Namespaces made and let go by the hundreds: as fast as the kernel can, on several processors at once."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selftests.lib import privileges, wait
from selftests.lib.netns import CLONE_NEWNET, SO_NETNS_COOKIE

_libc = ctypes.CDLL(None, use_errno=True)
_LIMIT = Path("/proc/sys/user/max_net_namespaces")
_ROOM_SECONDS = 30.0
"""How long the kernel may take to clean up what was let go before there is room for another (cleanup_net())."""


def cookies(count: int, *, processors: int = 1, alive: int = 200) -> list[list[int]]:
    """Cookies of ``count`` namespaces, made in turn by a thread on each processor, each left when the next is made.

    A list for each processor, in the order of creation. All begin at once. No more than ``alive`` are there at a time,
    together with those that await their end: a small machine has no memory for thousands.
    """

    def work() -> list[list[int]]:
        made: list[list[int]] = [[] for _ in range(processors)]
        start = threading.Barrier(processors)
        share = count // processors
        threads = [threading.Thread(target=_make, args=(share, cpu, start, own)) for cpu, own in enumerate(made)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return made

    with _at_most(alive):
        return privileges.in_child(work, seconds=600)


def _make(count: int, cpu: int, start: threading.Barrier, found: list[int]) -> None:
    os.sched_setaffinity(0, {cpu})
    value, length = ctypes.c_uint64(), ctypes.c_int(8)
    start.wait()
    for _ in range(count):
        if not _unshared():
            wait.until(_unshared, "room for another namespace", _ROOM_SECONDS)
        sock = _libc.socket(socket.AF_UNIX, socket.SOCK_DGRAM, 0)
        _libc.getsockopt(sock, socket.SOL_SOCKET, SO_NETNS_COOKIE, ctypes.byref(value), ctypes.byref(length))
        _libc.close(sock)
        found.append(value.value)


def _unshared() -> bool:
    """This thread has a namespace of its own; False where too many await their end (ENOSPC)."""
    if not _libc.unshare(CLONE_NEWNET):
        return True
    if ctypes.get_errno() != errno.ENOSPC:
        raise OSError(ctypes.get_errno(), f"unshare(CLONE_NEWNET): {os.strerror(ctypes.get_errno())}")
    return False


@contextmanager
def _at_most(namespaces: int) -> Iterator[None]:
    """A limit on how many namespaces there are: Documentation/admin-guide/sysctl/user.rst."""
    before = _LIMIT.read_text()
    _LIMIT.write_text(str(namespaces))
    try:
        yield
    finally:
        _LIMIT.write_text(before)
