"""Faults of a run, not of a test: it is interrupted or killed, the disk is full, what it stands on is damaged."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import wait_until
from tests.e2e.faults.fault import FaultProject, Row, books

TESTS = [f"test_slow[{number}]" for number in range(30)]
SLOW = """
import time
import pytest

@pytest.mark.parametrize("number", range(30))
def test_slow(number):
    time.sleep({seconds})
"""
ONE = "def test_it():\n    pass\n"


def start_and_wait_for_the_first_outcome(project: FaultProject) -> subprocess.Popen[str]:
    project.write("test_it.py", SLOW.format(seconds=1))
    process = project.start(*project.command(), "test_it.py", "--cold")
    assert process.stdout
    for line in process.stdout:
        if "PASSED" in line:
            break
    assert len(project.guests()) == 2
    return process


def the_next_run_is_not_disturbed(project: FaultProject, *more: str) -> None:
    project.write("test_it.py", ONE)
    status, output = project.run("test_it.py", "-n", "1", *more)
    assert status == 0, output
    assert books(project.latest, {"test_it.py": ["test_it"]}) == []
    assert project.leftovers() == []


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGINT, id="SIGINT"),
        pytest.param(signal.SIGTERM, id="SIGTERM", marks=pytest.mark.slow),
    ],
)
def test_interrupted(project: FaultProject, row: Row, number: signal.Signals) -> None:
    row.fault, row.expected = f"kproof gets {number.name}", "status 130, results so far"
    process = start_and_wait_for_the_first_outcome(project)
    start = time.monotonic()
    process.send_signal(number)
    wait_until(lambda: not project.guests(), "the guests' end", limit=10)
    gone = time.monotonic() - start
    output, _ = process.communicate(timeout=30)
    summary = json.loads((project.latest / "run.json").read_text())["summary"]
    row.seen = f"status {process.returncode}, {summary}, guests gone in {gone:.1f} s"
    assert process.returncode == 130, output
    assert "Traceback" not in output
    assert summary.keys() == {"passed", "not run"}
    assert books(project.latest, {"test_it.py": TESTS}) == []
    assert project.leftovers() == []


def test_killed(project: FaultProject, row: Row) -> None:
    row.fault, row.expected = "kproof gets SIGKILL", "results so far, next run is well"
    process = start_and_wait_for_the_first_outcome(project)
    process.kill()
    wait_until(lambda: not project.guests(), "the guests' end", limit=10)
    process.wait()
    first, *outcomes = [json.loads(line) for line in (project.latest / "outcomes.jsonl").read_text().splitlines()]
    row.seen = f"{len(outcomes)} of {len(first['selected'])} outcomes"
    assert first["selected"] == [f"test_it.py::{test}" for test in TESTS]
    assert {outcome["result"] for outcome in outcomes} == {"passed"}
    told = [outcome["nodeid"] for outcome in outcomes]
    assert len(told) == len(set(told))
    wait_until(lambda: not project.leftovers(), "the end of what the run had started", limit=10)
    the_next_run_is_not_disturbed(project, "--cold")
    assert not (project.latest / "outcomes.jsonl").exists()
    row.seen += "; next run: passed"


@pytest.mark.slow
def test_killed_while_it_makes_a_snapshot(project: FaultProject, row: Row) -> None:
    row.fault, row.expected = "kproof gets SIGKILL, saving a guest", "next run is well"
    project.write("test_it.py", ONE)
    process = project.start(*project.command(), "test_it.py", "-n", "1")
    scratch = wait_until(lambda: list(project.cache.glob("snapshots/making-*")), "the snapshot's beginning")
    process.kill()
    wait_until(lambda: not project.guests(), "the guest's end", limit=10)
    process.wait()
    assert scratch[0].exists()
    the_next_run_is_not_disturbed(project)
    row.seen = "next run: passed, nothing left"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    if os.getuid():
        pytest.skip("only root may mount a file system")
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("when", [pytest.param("in the middle", marks=pytest.mark.slow), "at the end"])
def test_disk_full(project: FaultProject, row: Row, small_disk: Path, when: str) -> None:
    """In the middle: an outcome cannot be noted. At the end: no result can be written."""
    row.fault, row.expected = f"disk full {when}", "status 3, one clear line"
    folder = small_disk / "results"
    # the last one gives us time to fill the disk before the end
    project.write("test_it.py", SLOW.format(seconds="0.05 if number < 29 else 2"))
    process = project.start(*project.command(), "test_it.py", "-n", "1", "--cold", "--results", str(folder))
    assert process.stdout
    lines = []
    for line in process.stdout:
        lines.append(line)
        if f"{10 if when == 'in the middle' else 29}/30" in line:
            break
    with open(small_disk / "ballast", "wb", buffering=0) as ballast:
        room = os.statvfs(small_disk)
        # a journal's line still fits into the page that it has begun
        keep = 0 if when == "in the middle" else 1
        ballast.write(b"x" * room.f_bsize * (room.f_bfree - keep))
    output, _ = process.communicate(timeout=120)
    told = [line for line in (*lines, *output.splitlines()) if "PASSED" in line]
    row.seen = output.splitlines()[-1].replace(str(folder), "DIR")
    assert process.returncode == 3, output
    assert row.seen == "kproof: the results cannot be written to DIR: No space left on device"
    assert "Traceback" not in output
    assert len(told) == len(set(told)) >= (10 if when == "in the middle" else 29)
    assert not (folder / "run.json").exists() or json.loads((folder / "run.json").read_text())
    assert project.leftovers() == []


@pytest.mark.slow
def test_corrupt_snapshot(project: FaultProject, row: Row) -> None:
    row.fault, row.expected = "corrupt snapshot", "passed, made anew"
    project.write("test_it.py", ONE)
    before = set(snapshots(project))
    project.run("test_it.py", "-n", "1")
    (path,) = set(snapshots(project)) - before
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    status, output = project.run("test_it.py", "-n", "1")
    notes = [line.partition("note: ")[2] for line in output.splitlines() if "note:" in line]
    row.seen = f"status {status}, {notes}"
    assert status == 0, output
    assert notes == ["the snapshot of this kernel is damaged: booting once to make it anew"]
    assert books(project.latest, {"test_it.py": ["test_it"]}) == []
    assert project.leftovers() == []


def snapshots(project: FaultProject) -> list[Path]:
    return sorted(project.cache.glob("snapshots/*.snap"))


@pytest.mark.slow
def test_truncated_root(project: FaultProject, row: Row) -> None:
    row.fault, row.expected = "truncated root image", "passed, made anew"
    project.write("test_it.py", ONE)
    root = max((project.cache / "roots").glob("*.erofs"), key=lambda path: path.stat().st_mtime)
    data = root.read_bytes()
    root.unlink()  # the shared cache has another name of this file
    root.write_bytes(data[: len(data) // 2])
    status, output = project.run("test_it.py", "-n", "1", "--cold")
    row.seen = f"status {status}"
    assert status == 0, output
    assert root.stat().st_size == len(data)
    assert books(project.latest, {"test_it.py": ["test_it"]}) == []
    assert project.leftovers() == []


def test_truncated_kernel(project: FaultProject, row: Row) -> None:
    row.fault, row.expected = "truncated kernel image", "status 2, one clear line"
    project.write("test_it.py", ONE)
    image = project.cache / "kernels" / project.kernel.identity / project.kernel.boot_image.name
    whole = image.with_suffix(".whole")
    image.rename(whole)
    try:
        image.write_bytes(whole.read_bytes()[: 1 << 20])
        status, output = project.run("test_it.py", "-n", "1")
    finally:
        whole.replace(image)
    row.seen = output.strip().splitlines()[-1]
    assert status == 2, output
    assert row.seen == f"kproof: kernel:{project.kernel.identity}: the store has no such kernel; see kproof kernels"
    assert project.leftovers() == []


def test_two_runs_at_once(project: FaultProject, row: Row) -> None:
    row.fault, row.expected = "two runs at once", "both passed"
    project.write("test_it.py", SLOW.format(seconds=0.01))
    runs = [project.start(*project.command(), "test_it.py", "-n", "1", "--cold") for _ in range(2)]
    outputs = [run.communicate(timeout=300)[0] for run in runs]
    row.seen = ", ".join(f"status {run.returncode}" for run in runs)
    assert [run.returncode for run in runs] == [0, 0], outputs
    folders = [path for path in (project.folder / "results").iterdir() if not path.is_symlink()]
    assert len(folders) == 2
    for folder in folders:
        assert books(folder, {"test_it.py": TESTS}) == []
    assert project.leftovers() == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "statement", "option", "title"),
    [
        ("never ends", "time.sleep(3600)", "--cold", r"no end of the collection within \d+ s"),
        ("ends Python", "os._exit(7)", "--fresh", "the guest's Python ended with status 7"),
    ],
    ids=["never ends", "ends Python"],
)
def test_import(project: FaultProject, row: Row, what: str, statement: str, option: str, title: str) -> None:
    row.fault, row.expected = f"test file whose import {what}", "status 3, one clear line"
    project.write("test_it.py", f"import os, time\n{statement}\n{ONE}")
    status, output = project.run("test_it.py", option)
    row.seen = output.strip().splitlines()[-1].partition("; console")[0]
    assert status == 3, output
    assert re.fullmatch(f"kproof: guests end before they have collected the tests: {title}", row.seen)
    assert "Traceback" not in output
    assert ("collecting the tests" in output) == (option != "--cold"), "no snapshot, and why"
    assert project.leftovers() == []
