"""PYTEST_DONT_REWRITE: what the kernel said and did during one test, read in the guest that ran it.

The log is cut by markers in the log itself (``kproof: begin (60 s) NODEID``, ``kproof: end NODEID``), so
that the console on the host shows which test a line belongs to even when the guest does not live to report it.
"""

from __future__ import annotations

import mmap
import os
from functools import cache
from pathlib import Path

BEGIN, SCAN, END = "kproof: begin ", "kproof: looks for leaks ", "kproof: end "
RECORD = 8192  # bytes: /dev/kmsg gives one record per read, and none is longer (Documentation/ABI/testing/dev-kmsg)
MARKER = 900  # characters of a test's name that one record takes
KERNEL_SECTION = "the kernel"  # of a report: the kernel's word on a test whose teardown has failed by itself
MOST = 256 * 1024  # bytes of a console that are kept as a test's part of it

# Bit, letter and reason of each taint flag: the table of Documentation/admin-guide/tainted-kernels.rst.
TAINT_FLAGS = (
    ("P", "proprietary module was loaded"),
    ("F", "module was force loaded"),
    ("S", "kernel running on an out of specification system"),
    ("R", "module was force unloaded"),
    ("M", "processor reported a Machine Check Exception (MCE)"),
    ("B", "bad page referenced or some unexpected page flags"),
    ("U", "taint requested by userspace application"),
    ("D", "kernel died recently, i.e. there was an OOPS or BUG"),
    ("A", "ACPI table overridden by user"),
    ("W", "kernel issued warning"),
    ("C", "staging driver was loaded"),
    ("I", "workaround for bug in platform firmware applied"),
    ("O", "externally-built (out-of-tree) module was loaded"),
    ("E", "unsigned module was loaded"),
    ("L", "soft lockup occurred"),
    ("K", "kernel has been live patched"),
    ("X", "auxiliary taint, defined for and used by distros"),
    ("T", "kernel was built with the struct randomization plugin"),
    ("N", "an in-kernel test has been run"),
    ("J", "userspace used a mutating debug operation in fwctl"),
)


class KernelLog:
    """Reads /dev/kmsg as it grows. Raises OSError when it cannot be read: no log is never "no complaint"."""

    def __init__(self) -> None:
        self._fd = os.open("/dev/kmsg", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def mark(self, text: str) -> None:
        os.write(self._fd, f"<5>{text[:MARKER]}\n".encode(errors="backslashreplace"))

    def read(self) -> list[str]:
        """The lines since the last read, without priorities: ``[12.345678] text``, continued lines indented."""
        lines: list[str] = []
        while True:
            try:
                record = os.read(self._fd, RECORD)
            except BlockingIOError:
                return lines
            except BrokenPipeError:  # EPIPE: records were overwritten before they were read; the next read goes on
                lines.append("[…] messages were lost: the kernel's log buffer went round")
                continue
            head, _, message = record.decode(errors="backslashreplace").partition(";")
            stamp = int(head.split(",")[2])
            first, *rest = message.rstrip("\n").split("\n")
            lines.append(f"[{stamp / 1e6:12.6f}] {first}")
            # what follows in a record is its dictionary (" KEY=value"), of which nobody speaks
            lines += [line for line in rest if not line.startswith(" ")]


def taint() -> int:
    """The kernel's taint flags (Documentation/admin-guide/tainted-kernels.rst)."""
    return int(os.pread(_tainted(), 32, 0))


@cache
def _tainted() -> int:
    """Open as long as this process lives: to find it in /proc/sys takes an emulated guest longer than to read it."""
    return os.open("/proc/sys/kernel/tainted", os.O_RDONLY | os.O_CLOEXEC)


def taint_letters(flags: int) -> str:
    """The flags as the kernel's own reports write them; a bit that has no letter yet as its number.

    >>> taint_letters(512 + 128)
    'DW'
    """
    bits = [bit for bit in range(flags.bit_length()) if flags >> bit & 1]
    return "".join(TAINT_FLAGS[bit][0] if bit < len(TAINT_FLAGS) else f"({bit})" for bit in bits)


def taint_text(before: int, after: int) -> str:
    """Both, and the reasons of what was added, in one line.

    >>> taint_text(0, 512)
    'taint 0 -> 512 (W: kernel issued warning)'
    """
    added = [bit for bit in range(after.bit_length()) if (after & ~before) >> bit & 1]
    reasons = [f"{flag[0]}: {flag[1]}" for bit, flag in enumerate(TAINT_FLAGS) if bit in added]
    return f"taint {before} -> {after}" + (f" ({'; '.join(reasons)})" if reasons else "")


def part_of_console(console: Path, nodeid: str) -> str:
    """What a console shows of a test that was the last of its guest: from its marker on; empty if it is not there.

    Of a part that is longer than MOST bytes, the middle is left out.
    """
    marker = nodeid.encode(errors="backslashreplace")[: MARKER // 2]  # BEGIN and the limit stand before it
    try:
        with open(console, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            start = data.rfind(BEGIN.encode())
            while start >= 0 and marker not in data[start : start + MARKER]:
                start = data.rfind(BEGIN.encode(), 0, start)
            if start < 0:
                return ""
            start = data.find(b"\n", start) + 1 or len(data)
            more, half = len(data) - start - MOST, MOST // 2
            if more <= 0:
                part = data[start:]
            else:  # a flood may be larger than our memory
                said = b"\n[... %d bytes more are in console.log]\n" % more
                part = data[start : start + half] + said + data[-half:]
    except (FileNotFoundError, ValueError):  # ValueError: nothing to map, it is empty
        return ""
    return part.decode(errors="backslashreplace").replace("\r", "")
