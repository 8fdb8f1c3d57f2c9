"""Which compiler and binutils build, as one text that is part of a kernel's identity."""

from __future__ import annotations

import shutil
from pathlib import Path

from harness import command
from harness.kernel.memo import memo

PROGRAMS = ("gcc", "ld")
NEEDED = ("make", "gcc", "ld", "flex", "bison", "bc", "perl")
"""What a kernel build starts, besides coreutils."""


def describe(keep: Path) -> str:
    """The first version lines of gcc and ld, asked once per binary. InfraError when one is missing."""
    command.require(*PROGRAMS)
    return ", ".join(_version(program, keep) for program in PROGRAMS)


def _version(program: str, keep: Path) -> str:
    path = Path(shutil.which(program) or program).resolve()
    status = path.stat()
    key = [str(path), status.st_size, status.st_mtime_ns]
    return str(memo(keep, "toolchain", key, lambda: command.run([path, "--version"], limit=30).text.splitlines()[0]))
