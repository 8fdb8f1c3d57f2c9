"""Which compiler and binutils build, as one text that is part of a kernel's identity."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from harness import command
from harness.errors import InfraError
from harness.kernel.memo import memo

PROGRAMS = ("gcc", "ld")
OPTIONAL = ("pahole",)
"""Whether it is there, and its version, is written into every configuration."""
NEEDED = ("make", "gcc", "ld", "flex", "bison", "bc", "perl")
"""What a kernel build starts, besides coreutils."""


def describe(keep: Path) -> str:
    """The first version lines of the programs, asked once per binary. InfraError when one that is needed is missing."""
    command.require(*PROGRAMS)
    optional = [f"{name} {_version(name, keep)}" if shutil.which(name) else f"no {name}" for name in OPTIONAL]
    return ", ".join([*(_version(program, keep) for program in PROGRAMS), *optional])


def _version(program: str, keep: Path) -> str:
    path = _real(program)
    status = path.stat()
    key = [str(path), status.st_size, status.st_mtime_ns]
    return str(memo(keep, "toolchain", key, lambda: command.run([path, "--version"], limit=30).text.splitlines()[0]))


def _real(program: str) -> Path:
    """The program itself: a folder of links to ccache may stand before it in PATH."""
    for folder in os.get_exec_path():
        found = shutil.which(program, path=folder)
        if found and Path(found).resolve().name != "ccache":
            return Path(found).resolve()
    raise InfraError(f"{program}: PATH has only a link to ccache; install it with: apt install {program}")
