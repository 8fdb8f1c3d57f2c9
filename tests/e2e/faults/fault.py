"""What a fault is, what was seen of it, and the books of a run: every selected test has exactly one outcome."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.e2e.conftest import Project


@dataclass(frozen=True)
class Fault:
    """A fault that a test provokes in its guest, between two tests that have nothing to do with it."""

    name: str
    code: str
    """Body of the test. ``provoke.py`` (in_guests.py) is imported."""
    expected: tuple[str, ...]
    """The results that are right; more than one only where the kernel decides."""
    title: str = ""
    """Regular expression: the outcome's message names the fault. Empty: it has no message."""
    marks: str = ""
    """Decorators of the test."""
    signal: int = 0
    """What the host sends to the guest's QEMU when the test asks for it on the console."""
    slow: bool = False
    check: Callable[[FaultProject, dict[str, Any]], None] | None = None
    """More that must be true of the outcome."""

    @property
    def file(self) -> str:
        return f"test_{re.sub(r'[^a-zA-Z0-9]+', '_', self.name)}.py"

    @property
    def source(self) -> str:
        body = "\n".join("    " + line for line in self.code.strip().splitlines())
        return (
            "import ctypes, os, signal, time\nimport pytest\nfrom provoke import *\n\n"
            f"def test_before():\n    pass\n\n{self.marks}\ndef test_fault():\n{body}\n\ndef test_after():\n    pass\n"
        )


@dataclass
class Row:
    """One line of the table."""

    fault: str
    expected: str
    seen: str = "nothing"
    seconds: float = 0.0
    ok: bool = False


@dataclass
class FaultProject(Project):
    """A project with a cache and a temporary folder of its own, so that whatever a run leaves there is its own."""

    cache: Path = field(default_factory=Path)
    options: tuple[str, ...] = ()
    peak_mb: float = 0.0
    """The most memory that a kproof of it had resident, as far as it was looked at."""
    output: str = ""
    """Of its last run."""

    def weigh(self) -> None:
        for process in self.processes:
            with suppress(OSError):
                status = Path(f"/proc/{process.pid}/status").read_text()
                if peak := re.search(r"VmHWM:\s+(\d+) kB", status):
                    self.peak_mb = max(self.peak_mb, int(peak[1]) / 1024)

    @property
    def scratch(self) -> Path:
        return self.folder / "tmp"

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        self.scratch.mkdir(exist_ok=True)
        environment = {**os.environ, "KPROOF_CACHE": str(self.cache), "TMPDIR": str(self.scratch)}
        return super().start(*arguments, **{"env": environment, **options})

    def leftovers(self) -> list[str]:
        """Processes, sockets and files of runs that are over."""
        found = [f"QEMU {pid}" for pid in self.guests()]
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                try:
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                    here = os.readlink(entry / "cwd") == str(self.folder)
                except OSError:  # it ended meanwhile
                    continue
                if here and b"harness.guest.worker" in words:
                    found.append(f"worker {entry.name}")
        pids = {process.pid for process in self.processes}
        sockets = re.findall(r"@kproof-(\d+)-\w+", Path("/proc/net/unix").read_text())
        found += [f"socket of {pid}" for pid in sockets if int(pid) in pids]
        found += [f"file {path}" for path in self.scratch.rglob("*")]
        found += [f"file {path}" for path in Path("/dev/shm").iterdir() if "kproof" in path.name]
        for pattern in ("*/making-*", "*/.incoming-*", "*/.doomed-*"):
            found += [f"file {path}" for path in self.cache.glob(pattern)]
        found += [f"file {path}" for path in self.folder.glob("results/**/.*")]
        return found


def own_cache(folder: Path, shared: Path, identity: str) -> Path:
    """A cache that has one kernel, the roots and what is known of this host from the shared one."""
    (folder / "kernels").mkdir(parents=True)
    shutil.copytree(shared / "kernels" / identity, folder / "kernels" / identity, copy_function=_link)
    for name in ("roots", "host.json"):
        source = shared / name
        if source.is_dir():
            # hashes.json is written anew, in place of the old one; the images are never written
            shutil.copytree(source, folder / name, copy_function=_link, ignore=shutil.ignore_patterns("making-*"))
        elif source.exists():
            shutil.copy2(source, folder / name)
    return folder


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def books(results: Path, tests: dict[str, list[str]]) -> list[str]:
    """What does not balance: selected tests (by file) against outcomes in run.json and cases in the JUnit."""
    selected = Counter(f"{file}::{name}" for file, names in tests.items() for name in names)
    data = json.loads((results / "run.json").read_text())
    outcomes = Counter(outcome["nodeid"] for outcome in data["outcomes"])
    root = ET.parse(results / "junit.xml").getroot()
    cases = Counter(
        f"{case.get('file')}::{case.get('name')}"
        for suite in root.iter("testsuite")
        if suite.get("name") != "kernel"
        for case in suite.iter("testcase")
    )
    problems = []
    for where, found in (("run.json", outcomes), ("junit.xml", cases)):
        problems += [f"{where} has {found[test]} of {test}" for test in selected | found if found[test] != 1]
        problems += [f"{where} has {test}, which nobody selected" for test in found - selected]
    if sum(data["summary"].values()) != len(selected):
        problems.append(f"the summary counts {data['summary']}, {len(selected)} tests were selected")
    return problems


def table(rows: list[Row]) -> list[str]:
    """The rows as text, a heading first."""
    lines = [("FAULT", "EXPECTED", "SEEN", "SECONDS", "OK")]
    lines += [(r.fault, r.expected, r.seen, f"{r.seconds:.1f}", "yes" if r.ok else "NO") for r in rows]
    widths = [max(len(line[column]) for line in lines) for column in range(5)]
    widths[2] = min(widths[2], 100)
    return [
        f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c[: widths[2]]:<{widths[2]}}  {d:>{widths[3]}}  {e}"
        for a, b, c, d, e in lines
    ]
