"""Real kernels in real guests. The kernel is the default one, built once; each test has a project folder of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from harness.kernel.obtain import obtain
from harness.model import Kernel, Request

KPROOF = [sys.executable, "-m", "harness.cli"]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes minutes; `make test` leaves it to `make faults`")


@pytest.fixture(scope="session")
def kernel() -> Kernel:
    """``debian:6.12`` with all series that apply: what ``kproof run`` builds."""
    return obtain(Request())


@dataclass
class Project:
    """A folder with tests for guests, and what a run in it left behind."""

    folder: Path
    kernel: Kernel
    processes: list[subprocess.Popen[str]] = field(default_factory=list)
    options: tuple[str, ...] = ("--cold", "--cpus", "1")
    """Given to each run: a snapshot for every test's folder would crowd out the ones that people use, and what becomes
    of a fault is foretold for one processor."""

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        command = [*KPROOF, *arguments] if arguments[0] != "pytest" else [sys.executable, "-m", *arguments]
        options = {"stdin": subprocess.DEVNULL, "stderr": subprocess.STDOUT, **options}
        process = subprocess.Popen(command, cwd=self.folder, text=True, stdout=subprocess.PIPE, **options)
        self.processes.append(process)
        return process

    def call(self, *arguments: str, limit: float = 300, **options: Any) -> tuple[int, str]:
        """Run kproof (or pytest) to its end; returns the exit status and all that it said."""
        process = self.start(*arguments, **options)
        output, _ = process.communicate(timeout=limit)
        return process.returncode, output

    def run(self, *arguments: str, **options: Any) -> tuple[int, str]:
        return self.call(*self.command(), *arguments, **options)

    def command(self) -> list[str]:
        return ["run", "--kernel", f"kernel:{self.kernel.identity}", *self.options]

    def pytest_command(self) -> list[str]:
        """The same for pytest itself, which has names of its own for what guests are like."""
        options = ("--guest-cpus" if word == "--cpus" else word for word in self.options)
        return ["pytest", "--kernel", f"kernel:{self.kernel.identity}", *options]

    @property
    def latest(self) -> Path:
        return self.folder / "results" / "latest"

    def outcomes(self) -> dict[str, str]:
        """Result by test name; fails when a test has two."""
        data = json.loads((self.latest / "run.json").read_text())
        pairs = [(outcome["nodeid"].partition("::")[2], outcome["result"]) for outcome in data["outcomes"]]
        assert len(dict(pairs)) == len(pairs)
        return dict(pairs)

    def detail(self, name: str) -> dict[str, Any]:
        data = json.loads((self.latest / "run.json").read_text())
        found: dict[str, Any] = next(o for o in data["outcomes"] if f"::{o['nodeid']}".endswith("::" + name))
        return found

    def junit(self) -> ET.Element:
        return ET.parse(self.latest / "junit.xml").getroot()

    def guests(self) -> list[int]:
        """Process ids of this project's QEMUs."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                try:
                    words = (entry / "cmdline").read_bytes()
                except OSError:  # it ended meanwhile
                    continue
                if b"qemu-system" in words.split(b"\0")[0] and str(self.folder).encode() in words:
                    found.append(int(entry.name))
        return found


def wait_until(condition: Callable[[], Any], what: str, limit: float = 120) -> Any:
    """Poll for something that another process does and tells nobody."""
    end = time.monotonic() + limit
    while not (value := condition()):
        assert time.monotonic() < end, f"{what} did not happen within {limit} s"
        time.sleep(0.05)
    return value


@pytest.fixture
def project(tmp_path: Path, kernel: Kernel) -> Iterator[Project]:
    project = Project(tmp_path, kernel)
    project.write("pytest.ini", "[pytest]\n")
    yield project
    for process in project.processes:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            process.communicate()
    assert project.guests() == [], "QEMU was left behind"
