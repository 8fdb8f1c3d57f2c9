"""Run a program: bounded, captured, in a process group of its own that never outlives the call."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from harness.errors import InfraError

PACKAGES = {
    "gcc": "gcc",
    "ld": "binutils",
    "objcopy": "binutils",
    "addr2line": "binutils",
    "make": "make",
    "flex": "flex",
    "bison": "bison",
    "bc": "bc",
    "perl": "perl",
    "ccache": "ccache",
    "git": "git",
    "tar": "tar",
    "xz": "xz-utils",
    "flock": "util-linux",
    "setpriv": "util-linux",
    "apt-get": "apt",
    "apt-cache": "apt",
    "/usr/lib/apt/apt-helper": "apt",
    "dpkg-deb": "dpkg",
    "depmod": "kmod",
    "modprobe": "kmod",
    "mkfs.erofs": "erofs-utils",
    "pkg-config": "pkgconf",
}
"""Program to the Debian package that brings it; a program that is not listed is its own package."""

GRACE = 5.0
"""Seconds between SIGTERM and SIGKILL to a process group."""


@dataclass(frozen=True)
class Completed:
    """What a program said. ``out`` and ``err`` are as it wrote them."""

    argv: tuple[str, ...]
    status: int
    out: bytes
    err: bytes

    @property
    def text(self) -> str:
        return self.out.decode(errors="replace")

    @property
    def complaint(self) -> str:
        """Its first line that says something, of standard error or else of standard output."""
        for line in (self.err or self.out).decode(errors="replace").splitlines():
            if line.strip():
                return line.strip()
        return f"exit status {self.status}"


def require(*programs: str) -> None:
    """Raise InfraError that names the Debian packages of those programs that are not in PATH."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        packages = sorted({PACKAGES.get(program, program) for program in missing})
        raise InfraError(f"{', '.join(missing)}: not found; install it with: apt install {' '.join(packages)}")


def run(
    argv: Sequence[str | Path],
    *,
    limit: float,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: bytes = b"",
    check: bool = True,
) -> Completed:
    """Run ``argv`` for at most ``limit`` seconds; ``env`` is laid over the environment.

    Raises InfraError when the program is missing, takes longer, or (with ``check``) exits other than 0.
    """
    words = tuple(str(word) for word in argv)
    process = _start(words, cwd=cwd, env=env, stdout=subprocess.PIPE)
    try:
        out, err = process.communicate(stdin, timeout=limit)
    except subprocess.TimeoutExpired:
        raise InfraError(f"{words[0]} did not end within {limit:.0f} s: {' '.join(words)[:200]}") from None
    finally:
        end(process)
    done = Completed(words, process.returncode, out, err)
    if check and done.status != 0:
        raise InfraError(f"{Path(words[0]).name} failed: {done.complaint}")
    return done


def follow(
    argv: Sequence[str | Path],
    *,
    limit: float,
    on_line: Callable[[str], None],
    log: IO[bytes] | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> int:
    """Run ``argv``; give each line of its merged output to ``on_line`` and, unchanged, to ``log``; return its status.

    Raises InfraError when the program is missing or takes longer than ``limit`` seconds. However this function is
    left (an interrupt, too), the program and what it started are gone.
    """
    import threading

    words = tuple(str(word) for word in argv)
    process = _start(words, cwd=cwd, env=env, stdout=subprocess.PIPE, merge=True)
    overdue = threading.Event()

    def expire() -> None:
        overdue.set()
        _signal(process, signal.SIGTERM)

    timer = threading.Timer(limit, expire)
    timer.daemon = True
    timer.start()
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if log is not None:
                log.write(line)
            on_line(line.decode(errors="replace").rstrip("\n"))
        process.wait(timeout=GRACE + limit)
    finally:
        timer.cancel()
        end(process)
    if overdue.is_set():
        raise InfraError(f"{words[0]} did not end within {limit:.0f} s: {' '.join(words)[:200]}")
    return process.returncode


def beside(argv: Sequence[str | Path], *, log: Path, cwd: Path | None = None) -> subprocess.Popen[bytes]:
    """Start a program that runs while the caller does something else; its output goes to ``log``.

    The caller waits for it and calls ``end``. If he is killed outright, it gets SIGTERM (where setpriv is installed).
    """
    guard = ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []
    with log.open("wb") as output:
        return _start((*guard, *map(str, argv)), cwd=cwd, env=None, stdout=output.fileno(), merge=True)


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process group: SIGTERM, then SIGKILL after ``GRACE`` seconds; nothing when it has ended by itself."""
    if process.poll() is None:
        _signal(process, signal.SIGTERM)
        try:
            process.wait(timeout=GRACE)
        except subprocess.TimeoutExpired:
            pass
        finally:
            # children that ignored the first signal go with the group
            _signal(process, signal.SIGKILL)
            process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with suppress(BrokenPipeError):
                stream.close()


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _start(
    argv: tuple[str, ...],
    *,
    cwd: Path | None,
    env: Mapping[str, str] | None,
    stdout: int,
    merge: bool = False,
) -> subprocess.Popen[bytes]:
    require(argv[0])
    return subprocess.Popen(
        argv,
        cwd=cwd,
        # messages are parsed, so they must be in one language
        env={**os.environ, "LC_ALL": "C", **(env or {})},
        stdin=subprocess.DEVNULL if merge else subprocess.PIPE,
        stdout=stdout,
        stderr=subprocess.STDOUT if merge else subprocess.PIPE,
        start_new_session=True,
    )
