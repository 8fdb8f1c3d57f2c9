"""What every selftest gets: namespaces that go away, BPF objects that are closed, and a check that nothing is left."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack

import pytest

from selftests.lib import bpf, wait
from selftests.lib.leaks import Snapshot
from selftests.lib.netns import Namespace


def pytest_configure(config: pytest.Config) -> None:
    """These tests make and break network devices as root: that is for a guest, never for the host."""
    if not (config.getoption("--kernel") or config.option.collectonly or hasattr(config, "workerinput")):
        raise pytest.UsageError("selftests run in guests: kproof run, or pytest --kernel debian:6.12 -n 2 selftests")


def pytest_kproof_features() -> Mapping[str, Callable[[], str | None]]:
    from selftests.lib.features import PROBES

    return PROBES


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    """A test that leaves a descriptor, a BPF object, a device or a named namespace behind is in error.

    Objects that the kernel frees in the background (a namespace's devices and their programs) get a moment.
    """
    before = Snapshot.take()
    yield

    def left() -> list[str]:
        return Snapshot.take().left_behind(before)

    if not left():
        return
    gc.collect()
    try:
        wait.until(lambda: not left(), "the test's kernel objects to go")
    except TimeoutError:
        pytest.fail("the test left behind:\n" + "\n".join(left()), pytrace=False)


@pytest.fixture
def cleanup() -> Iterator[ExitStack]:
    """Things that are closed when the test ends, the last one first."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def new_namespace(cleanup: ExitStack) -> Callable[..., Namespace]:
    """``new_namespace("pod")``: a namespace with loopback up, closed when the test ends."""

    def create(name: str = "test", *, quiet: bool = True) -> Namespace:
        return cleanup.enter_context(Namespace.create(name, quiet=quiet))

    return create


@pytest.fixture
def namespace(new_namespace: Callable[..., Namespace]) -> Namespace:
    """One namespace for a test that needs no second one."""
    return new_namespace("host")


@pytest.fixture
def counters(cleanup: ExitStack) -> bpf.Counters:
    """Eight slots of 64 bits that BPF programs count into."""
    return cleanup.enter_context(bpf.Counters())
