"""A cgroup of its own for each test: programs on it see the sockets that the test makes while it is in there."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from selftests.lib import wait
from selftests.lib.netns import Namespace

ROOT = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Cgroup:
    """A cgroup (version 2): its folder, and a descriptor of it for bpf(2)."""

    path: Path
    fd: int

    @contextmanager
    def entered(self) -> Iterator[None]:
        """This process is in the cgroup for the length of the block: sockets made in it belong to it."""
        own = Path("/proc/self/cgroup").read_text().strip().split("::", 1)[1]
        (self.path / "cgroup.procs").write_text(str(os.getpid()))
        try:
            yield
        finally:
            (ROOT / own.lstrip("/") / "cgroup.procs").write_text(str(os.getpid()))


@pytest.fixture
def cgroup() -> Iterator[Cgroup]:
    """An empty cgroup, removed when the test ends."""
    path = ROOT / f"kproof-{os.getpid()}"
    path.mkdir()
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield Cgroup(path, fd)
    finally:
        os.close(fd)

        def removed() -> bool:
            try:
                path.rmdir()
            except OSError:
                return False
            return True

        wait.until(removed, f"{path} to be empty")


@pytest.fixture
def initial_cookie() -> int:
    """SO_NETNS_COOKIE of the namespace that tests start in, which is the initial one."""
    with Namespace.current() as initial:
        return initial.cookie


@pytest.fixture
def elsewhere(new_namespace: Callable[..., Namespace]) -> Iterator[int]:
    """The test runs inside a namespace that is neither the initial one nor any of its own; the fixture is its cookie.

    What takes the task's namespace for the socket's, or for the initial one, tells this cookie.
    """
    place = new_namespace("elsewhere")
    cookie = place.cookie
    with place.entered():
        yield cookie
