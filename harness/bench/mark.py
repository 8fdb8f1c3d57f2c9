"""The guest's side of ``--profile``: marks that the plugin (harness/bench/plugin/insns.c) sees, and nothing else does.

A mark is a long NOP of user space with a displacement that means something to the plugin alone. Without the plugin it
is a NOP.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_NOP = b"\x0f\x1f\x84\x00%c\x72\x70\x6b"
"""``nopl DISPLACEMENT(%rax,%rax,1)``; the displacement is "kpr" and which mark it is."""
_RET = b"\xc3"
_START, _STOP = 1, 2


class Marks:
    """Two functions of nine bytes of machine code."""

    def __init__(self) -> None:
        self._code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        self._start = self._function(_START)
        self._stop = self._function(_STOP)

    @contextmanager
    def window(self) -> Iterator[None]:
        """What is executed in this block is counted."""
        self._start()
        try:
            yield
        finally:
            self._stop()

    def _function(self, number: int) -> Callable[[], None]:
        at = self._code.tell()
        self._code.write(_NOP % number + _RET)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._code, at))
        return ctypes.CFUNCTYPE(None)(address)
