"""A ``kproof`` of ours in a process of its own, so that what breaks there breaks nothing here."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from harness import command
from harness.errors import InfraError


class Child:
    """``python -m MODULE …`` that goes on while its starter does something else; what it says goes to a log."""

    def __init__(self, argv: Sequence[str], *, log: Path, cwd: Path) -> None:
        """``argv``: a module of ours and its arguments."""
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log = log
        self._what = argv[0]
        self._started = time.monotonic()
        self._process: subprocess.Popen[bytes] = command.beside([sys.executable, "-m", *argv], log=log, cwd=cwd)

    def wait(self, limit: float) -> int:
        """Its exit status. Raises InfraError after ``limit`` seconds; it has ended then, however this is left."""
        try:
            return self._process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            raise InfraError(f"{self._what} did not end within {limit:.0f} s: {self._log}") from None
        finally:
            self.end()

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self._started

    def end(self) -> None:
        """No process of it is left. Any thread may call it."""
        command.end(self._process)


def last_word(log: Path, status: int) -> str:
    """The error that ended a kproof, in a line, as it told it: of its log, else of its exit status."""
    said = [line for line in log.read_text(errors="replace").splitlines() if line.startswith("kproof: ")]
    return said[-1].removeprefix("kproof: ") if said else f"kproof ended with status {status}; see {log}"
