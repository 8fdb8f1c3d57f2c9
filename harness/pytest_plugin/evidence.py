"""PYTEST_DONT_REWRITE: what the kernel said and did during one test, read in the guest that ran it.

The log is cut by markers in the log itself (``kproof: begin (60 s) NODEID``, ``kproof: end NODEID``), so
that the console on the host shows which test a line belongs to even when the guest does not live to report it.
"""

from __future__ import annotations

import os
from pathlib import Path

BEGIN, END = "kproof: begin ", "kproof: end "
RECORD = 8192  # bytes: /dev/kmsg gives one record per read, and none is longer (Documentation/ABI/testing/dev-kmsg)
MARKER = 900  # characters of a test's name that one record takes


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
    return int(Path("/proc/sys/kernel/tainted").read_text())
