"""PYTEST_DONT_REWRITE: asks the kernel's leak detector what has leaked until now (``--kmemleak``).

mm/kmemleak.c reports an object that nothing points to only when it is at least five seconds old (MSECS_MIN_AGE) at the
start of a scan, and its content is as it was in the scan before. So each question takes two scans with that time in
between, the second one five seconds after whatever is asked about. Reports can be false (the only pointer was in a
register, or in a list that was being changed): what a third scan finds referenced is dropped, as syzkaller does it
(check_leaks in executor/common_linux.h). And they can be late: a stale pointer to the object, on a stack or in a field
that nobody has written yet, hides it for a while. So a leak belongs to the test in which the object was allocated,
which the kernel tells in jiffies, and not to the one after which it was found.
"""

from __future__ import annotations

import ctypes
import os
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

DEBUGFS = Path("/sys/kernel/debug")
MIN_AGE = 5.2  # seconds: MSECS_MIN_AGE, and some ticks for the difference between our clock and jiffies
RECHECK = 1.0  # seconds before the third scan: time for what was on its way to arrive
LIMIT = 60.0  # seconds, times the host's speed factor, that one question may take
MOST = 20  # records that are shown: a leak on a hot path gives thousands of the same

# What each scan itself says of its finds in the kernel's log; the records say more.
FOUND = re.compile(r"kmemleak: \d+ new suspected memory leaks")
_RECORD = re.compile(r"^(?=unreferenced object )", re.M)
_BORN = re.compile(r"^  comm .*, pid \d+, jiffies (\d+)", re.M)


@dataclass(frozen=True)
class Leak:
    """One object that nothing points to."""

    born: int
    """When it was allocated, in jiffies."""
    text: str
    """The kernel's record of it, with the backtrace of the allocation."""


class Kmemleak:
    """The detector's control file. Every method raises OSError with a text that says what to do."""

    def __init__(
        self,
        control: Path = DEBUGFS / "kmemleak",
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        prepare: Callable[[], None] = lambda: _mount_debugfs(),
    ) -> None:
        self._control = control
        self._sleep = sleep
        self._clock = clock
        self._prepare = prepare

    def leaks(self) -> list[Leak]:
        """What was found to have leaked since the last question; each is told once.

        Takes MIN_AGE seconds and two or three scans.
        """
        self._prepare()
        asked = self._clock()
        self._write("scan")  # remembers each object's content
        self._sleep(max(0.0, asked + MIN_AGE - self._clock()))
        self._write("scan")
        if not self._read():
            return []
        self._sleep(RECHECK)
        self._write("scan")
        records = self._read()
        self._write("clear")
        found = [record.rstrip("\n") for record in _RECORD.split(records) if record]
        return [Leak(int(born[1]) if (born := _BORN.search(record)) else 0, record) for record in found]

    def _write(self, command: str) -> None:
        """One command for each write(2), as the kernel wants it."""
        try:
            fd = os.open(self._control, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, command.encode())
            finally:
                os.close(fd)
        except FileNotFoundError:
            raise OSError("this kernel has no kmemleak; build one with --flavour kmemleak") from None
        except PermissionError:  # EPERM: it has switched itself off
            raise OSError(
                "kmemleak has switched itself off (the kernel's log says why; mostly its memory ran out: raise"
                " DEBUG_KMEMLEAK_MEM_POOL_SIZE, or the guest's --memory)"
            ) from None

    def _read(self) -> str:
        return self._control.read_text(errors="backslashreplace")


def shown(leaks: Iterable[Leak]) -> str:
    """The records as one text, not too many of them; empty if there are none."""
    texts = [leak.text for leak in leaks]
    more = [f"… and {len(texts) - MOST} more"] if len(texts) > MOST else []
    return "\n".join(texts[:MOST] + more)


def jiffies() -> int:
    """The kernel's clock as leaks tell it (kernel/time/timer_list.c)."""
    with open("/proc/timer_list") as timers:
        return next(int(line.split()[1]) for line in timers if line.startswith("jiffies: "))


def _mount_debugfs() -> None:
    """Where nobody has done it."""
    if os.path.ismount(DEBUGFS):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"debugfs", str(DEBUGFS).encode(), b"debugfs", 0, None):
        number = ctypes.get_errno()
        raise OSError(f"debugfs cannot be mounted on {DEBUGFS}: {os.strerror(number)}")
