"""Less than root: a thread without some capabilities, and children, in user namespaces of their own where wanted."""

from __future__ import annotations

import ctypes
import os
import pickle
import platform
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import NoReturn, TypeVar

from selftests.lib import wait

T = TypeVar("T")

CLONE_NEWNET = 0x40000000
CLONE_NEWUSER = 0x10000000

_libc = ctypes.CDLL(None, use_errno=True)
_VERSION_3 = 0x20080522
_NUMBERS = {"x86_64": (125, 126), "aarch64": (90, 91)}
"""capget(2) and capset(2), by machine."""


class Capability(IntEnum):
    """include/uapi/linux/capability.h"""

    NET_ADMIN = 12
    SYS_ADMIN = 21
    BPF = 39


def _call(number: int, *arguments: object) -> None:
    if _libc.syscall(ctypes.c_long(number), *arguments):
        raise OSError(ctypes.get_errno(), f"system call {number}: {os.strerror(ctypes.get_errno())}")


@contextmanager
def without(*capabilities: Capability) -> Iterator[None]:
    """The calling thread lacks these capabilities in effect for the length of the block; it stays root otherwise."""
    get, put = _NUMBERS[platform.machine()]
    header = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
    # two struct __user_cap_data_struct: effective, permitted, inheritable
    data = (ctypes.c_uint32 * 6)()
    _call(get, header, data)
    fewer = (ctypes.c_uint32 * 6)(*data)
    for capability in capabilities:
        fewer[3 * (capability // 32)] &= ~(1 << capability % 32)
    _call(put, header, fewer)
    try:
        yield
    finally:
        _call(put, header, data)


def unshare(flags: int) -> None:
    """unshare(2); for a user namespace the caller must be the only thread of its process."""
    if _libc.unshare(flags):
        raise OSError(ctypes.get_errno(), f"unshare: {os.strerror(ctypes.get_errno())}")


def in_child(work: Callable[[], T], seconds: float = 20.0) -> T:
    """What ``work`` returns (it is pickled) in a child process, which has ended by then, with its descriptors.

    Raises AssertionError with the child's traceback where it raised, TimeoutError where it did not end.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        _work(work, writing)
    os.close(writing)
    try:
        answer = b""
        while True:
            if not wait.readable(reading, seconds):
                os.kill(child, 9)
                raise TimeoutError(f"the child did not end within {wait.limit(seconds):g} s")
            part = os.read(reading, 1 << 16)
            if not part:
                break
            answer += part
    finally:
        os.close(reading)
        os.waitpid(child, 0)
    assert answer, "the child ended without an answer"
    good, value = pickle.loads(answer)
    assert good, f"in the child:\n{value}"
    result: T = value
    return result


def _work(work: Callable[[], T], writing: int) -> NoReturn:
    """The child's life: nothing of the parent's is run or flushed at its end."""
    status = 1
    try:
        try:
            answer = (True, work())
        except BaseException:
            answer = (False, traceback.format_exc())  # type: ignore[assignment]
        os.write(writing, pickle.dumps(answer))
        status = 0
    finally:
        os._exit(status)


def errno_of(action: Callable[[], object]) -> int:
    """The errno with which an action is refused, 0 where it is not: what a child can tell its parent."""
    try:
        action()
    except OSError as error:
        return error.errno or -1
    return 0
