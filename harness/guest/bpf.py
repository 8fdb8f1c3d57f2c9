"""Compile the BPF programs of selftests on the host, so that guests need no compiler.

An object is made again when its source, a header beside it, the command line or clang itself changed: all of that is
hashed into a key, which is kept beside the object as ``NAME.bpf.o.key``.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from harness.errors import InfraError, UserError

_ERROR_LINES = 6
"""How much of clang's complaint a person sees: the first error with its source line."""


def compile_objects(source: Path, out: Path) -> list[Path]:
    """Compile every ``*.bpf.c`` in folder ``source`` to ``NAME.bpf.o`` in ``out``; returns all objects, sorted.

    Only what is stale is compiled, each object appears at once and whole, and two processes may do it at the same
    time. Raises UserError with clang's first error lines, InfraError when clang is missing.
    """
    programs = sorted(source.glob("*.bpf.c"))
    if not programs:
        return []
    clang = shutil.which("clang")
    if not clang:
        raise InfraError("clang is missing: apt install clang")
    command = [clang, "-O2", "-g", "-Wall", "-Werror", "-target", "bpf", f"-I/usr/include/{_multiarch()}", "-c"]
    shared = _shared_key(source, command)
    out.mkdir(parents=True, exist_ok=True)
    with _locked(out):
        return [_compile(program, out, command, shared) for program in programs]


def _compile(program: Path, out: Path, command: Sequence[str], shared: bytes) -> Path:
    target = out / f"{program.name.removesuffix('.c')}.o"
    key = target.with_name(f"{target.name}.key")
    wanted = hashlib.sha256(shared + program.read_bytes()).hexdigest()
    if target.exists() and key.exists() and key.read_text() == wanted:
        return target
    with tempfile.TemporaryDirectory(dir=out) as folder:
        fresh = Path(folder, target.name)
        done = subprocess.run([*command, str(program), "-o", str(fresh)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise UserError(f"{program} does not compile:\n{_first_error(done.stderr)}")
        key.unlink(missing_ok=True)
        fresh.replace(target)
        key.write_text(wanted)
    return target


def _first_error(output: str) -> str:
    """From the first line that is an error, a few lines on; the beginning where no line is one."""
    lines = output.strip().splitlines()
    start = next((at for at, line in enumerate(lines) if "error:" in line), 0)
    return "\n".join(lines[start : start + _ERROR_LINES])


def _shared_key(source: Path, command: Sequence[str]) -> bytes:
    """What every object of the folder depends on: clang and its command line, and the headers beside the programs."""
    version = subprocess.run([command[0], "--version"], capture_output=True, check=False).stdout
    digest = hashlib.sha256(version + "\0".join(command).encode())
    for header in sorted(source.glob("*.h")):
        digest.update(header.name.encode() + b"\0" + header.read_bytes())
    return digest.digest()


def _multiarch() -> str:
    """Debian's name for the folder of <asm/types.h> (https://wiki.debian.org/Multiarch/Tuples)."""
    return f"{platform.machine()}-linux-gnu"


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
