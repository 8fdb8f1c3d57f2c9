"""What a run on a mutant's kernel has found out, as its folder tells."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.mutate.runner import LOG, Report, read_report


def report(folder: Path, status: int, *, said: str = "", **facts: object) -> Report:
    run = {"outcomes": [], "deaths_outside_tests": {}, "complaints_outside_tests": [], "boot_failure": "", **facts}
    (folder / "run.json").write_text(json.dumps(run))
    (folder / LOG).write_text(f"[ 0.1] guests: 6.12\n{said}\n")
    return read_report(folder, status, 1.0)


def outcome(test: str, result: str, guest: str = "g0") -> dict[str, str]:
    return {"nodeid": test, "result": result, "message": "m", "guest": guest}


def test_outcomes_of_a_run(tmp_path: Path) -> None:
    found = report(tmp_path, 1, outcomes=[outcome("a", "passed"), outcome("b", "crashed"), outcome("c", "not run")])
    assert (found.bad, found.error, found.no_boot) == (("b",), "", "")
    assert found.told("b") == "crashed: m"


def test_deaths_are_told_once(tmp_path: Path) -> None:
    outcomes = [outcome("a", "crashed", "g0"), outcome("b", "passed", "g1")]
    complaints = [["g1", "W", "t"]]
    found = report(
        tmp_path, 1, outcomes=outcomes, deaths_outside_tests={"g1": "BUG"}, complaints_outside_tests=complaints
    )
    assert found.outside == ("W", "BUG")


@pytest.mark.parametrize(
    ("status", "facts", "no_boot", "error"),
    [
        (1, {"boot_failure": "no root\nconsole"}, "no root", ""),
        (3, {"deaths_outside_tests": {"g0": "panic"}}, "guests end before", ""),
        (3, {}, "", "guests end before"),
        (2, {}, "", "guests end before"),
    ],
)
def test_runs_in_which_no_test_ran(
    tmp_path: Path, status: int, facts: dict[str, object], no_boot: str, error: str
) -> None:
    found = report(tmp_path, status, said="kproof: guests end before", **facts)
    assert (found.no_boot, found.error) == (no_boot, error)


@pytest.mark.parametrize(("said", "error"), [("kproof: no QEMU", "no QEMU"), ("", "kproof ended with status 3; see")])
def test_a_run_that_left_no_results(tmp_path: Path, said: str, error: str) -> None:
    (tmp_path / LOG).write_text(said)
    assert read_report(tmp_path, 3, 1.0).error.startswith(error)
