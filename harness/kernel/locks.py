"""Locks between processes: ``flock`` on files in the cache folder. A dead process holds none."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness import command
from harness.errors import InfraError
from harness.events import Notice, Sink

LIMIT = 7200.0
"""Seconds that another process may hold a lock: a full build with a debug flavour on one slow core, with room."""


@contextmanager
def locked(path: Path, *, what: str, events: Sink, shared: bool = False, limit: float = LIMIT) -> Iterator[bool]:
    """Hold ``path`` (shared or alone); the value says whether another process had to be waited for.

    ``what`` tells the user what is waited for. Raises InfraError after ``limit`` seconds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        waited = not _try(descriptor, shared)
        if waited:
            events(Notice(f"another kproof {what}; waiting for it"))
            _wait(descriptor, shared, what, limit)
        yield waited
    finally:
        os.close(descriptor)


def _try(descriptor: int, shared: bool) -> bool:
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait(descriptor: int, shared: bool, what: str, limit: float) -> None:
    """Wait without polling: flock(1) locks our own open file, and it has a limit, which flock(2) has not."""
    import subprocess

    command.require("flock")
    argv = ["flock", "--shared" if shared else "--exclusive", "--wait", str(limit), str(descriptor)]
    process = subprocess.Popen(argv, pass_fds=[descriptor], stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        status = process.wait(timeout=limit + command.GRACE)
    finally:
        command.end(process)
    if status != 0:
        raise InfraError(f"another kproof {what} for more than {limit:.0f} s; end it, or try again later")
