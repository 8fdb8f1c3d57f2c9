"""The kernel that can be made to fail, projects with a cache of their own, and the table at the end."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator, Iterator
from pathlib import Path
from threading import Event, Thread

import pytest

from harness.kernel.obtain import obtain
from harness.model import Kernel, Request
from harness.paths import cache_root
from tests.e2e.faults.fault import Fault, FaultProject, Row, books, own_cache, table
from tests.e2e.faults.in_guests import PROVOKE

PATCH = Path(__file__).with_name("lkdtm-softirq.patch")
LKDTM = Request(settings=("DEBUG_KERNEL=y", "RUNTIME_TESTING_MENU=y", "LKDTM=y"), patches=(str(PATCH),))
ROWS = pytest.StashKey[list[Row]]()
ROW = pytest.StashKey[Row]()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if rows := config.stash.get(ROWS, []):
        terminalreporter.write_sep("=", "faults")
        for line in table(rows):
            terminalreporter.write_line(line)


def pytest_runtest_setup(item: pytest.Item) -> None:
    item.stash[ROW] = Row(item.name, "")
    item.config.stash.setdefault(ROWS, []).append(item.stash[ROW])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A fault is as it must be if its test passes, from set-up to teardown."""
    report = yield
    row = item.stash[ROW]
    row.ok = report.passed and (row.ok or report.when == "setup")
    if report.skipped:
        row.seen, row.ok = "skipped", True
    if report.when == "call":
        row.seconds = row.seconds or report.duration
    return report


@pytest.fixture
def row(request: pytest.FixtureRequest) -> Row:
    """This fault's line of the table. The test says what it saw."""
    return request.node.stash[ROW]  # type: ignore[no-any-return]


@pytest.fixture(scope="session")
def kernel() -> Kernel:
    """The default kernel with LKDTM, whose crash types are most of the kernel's faults."""
    return obtain(LKDTM)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory, kernel: Kernel) -> Path:
    return own_cache(tmp_path_factory.mktemp("cache") / "kproof", cache_root(), kernel.identity)


@pytest.fixture
def project(tmp_path: Path, kernel: Kernel, cache: Path) -> Iterator[FaultProject]:
    """For the faults that are a run's, not a test's."""
    project = FaultProject(tmp_path, kernel, cache=cache)
    project.write("pytest.ini", "[pytest]\n")
    try:
        yield project
    finally:
        _end(project)


def _end(project: FaultProject) -> None:
    for process in project.processes:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            process.communicate()


class Batch:
    """One run of many faults, each between two tests that have nothing to do with it."""

    def __init__(self, project: FaultProject, faults: list[Fault]) -> None:
        self.project = project
        project.write("pytest.ini", "[pytest]\n")
        project.write("provoke.py", PROVOKE)
        for fault in faults:
            project.write(fault.file, fault.source)
        over = Event()
        signaller = Thread(target=_signal_those_that_ask, args=(project, faults, over))
        signaller.start()
        files = [fault.file for fault in faults]
        try:
            self.status, project.output = project.run(*files, "-n", "2", limit=3600)
        finally:
            over.set()
            signaller.join()
        project.write("output.txt", project.output)
        self.books = books(project.latest, {file: ["test_before", "test_fault", "test_after"] for file in files})
        self.leftovers = project.leftovers()


def _signal_those_that_ask(project: FaultProject, faults: list[Fault], over: Event) -> None:
    """Send QEMU the signal that a test asks for on its console; weigh kproof meanwhile."""
    waiting = {f"fault: {fault.name}".encode(): fault.signal for fault in faults if fault.signal}
    while not over.wait(0.2):
        project.weigh()
        for console in project.folder.glob("results/2*/guests/*/console.log") if waiting else []:
            with open(console, "rb") as file:
                text = file.read(1 << 20)
            for request in [request for request in waiting if request in text]:
                number = waiting.pop(request)
                for pid in project.guests():
                    if f"{console.parent}/".encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                        os.kill(pid, number)


@pytest.fixture(scope="session")
def batch(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, kernel: Kernel, cache: Path
) -> Iterator[Batch]:
    """The run of all selected faults of guests."""
    chosen = [item.callspec.params["fault"] for item in request.session.items if "batch" in _fixtures(item) and
              hasattr(item, "callspec")]  # fmt: skip
    project = FaultProject(tmp_path_factory.mktemp("guests"), kernel, cache=cache)
    try:
        yield Batch(project, chosen)
    finally:
        _end(project)


def _fixtures(item: pytest.Item) -> list[str]:
    return getattr(item, "fixturenames", [])
