"""What a bisect leaves, what it refuses, and how it reads a run."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from harness.bisect.decide import History
from harness.bisect.judge import command_test
from harness.bisect.report import Call, percent, repro, steps_table, summary_line, verdict_lines, write
from harness.bisect.samples import LOG, Failure, Sample, compare, read_sample
from harness.bisect.verb import Asked, _check, _from_root, _range
from harness.errors import InfraError, UserError
from harness.events import ignore
from harness.model import Request, Result

from .world import TEST, World

pytest_plugins = ["pytester"]

CALL = Call(["--good", "a", "--bad", "b", "--", TEST], [TEST], ["--cpus", "1"], Path("/project"))


def test_a_culprit(tmp_path: Path) -> None:
    world = World(tmp_path, History.line(16), 9, no_build=frozenset([7]), codes={8: "a", 4: "a"})
    search = world.search()
    answer = search.run()
    write(tmp_path, search, answer, call=CALL, status=0)
    facts: dict[str, Any] = json.loads((tmp_path / "bisect.json").read_text())
    assert facts["culprit"] == {"name": "r9", "title": "", "request": "git:/x@9"}
    assert facts["confidence"] >= 0.99
    assert facts["steps"] <= facts["most_steps"]
    assert {one["verdict"] for one in facts["judgements"]} == {"broken", "whole", "skipped"}
    assert verdict_lines(search, answer)[:2] == [
        "first broken commit: r9",
        f"  the last good one is r8; confidence {percent(answer.confidence)}",
    ]
    table = steps_table(search)
    assert "does not build: net/core/dev.c:1: no" in table
    assert table.splitlines()[1].startswith("end")
    assert "1 skipped" in summary_line(search, answer, "results/x")


def test_a_range(tmp_path: Path) -> None:
    world = World(tmp_path, History.line(16), 8, no_build=frozenset([7, 8, 9]))
    search = world.search()
    answer = search.run()
    lines = verdict_lines(search, answer)
    assert lines[0] == "inconclusive: one of these 4 commits breaks it, and no more can be judged"
    assert lines[1:5] == ["  r7", "  r8", "  r9", "  r10"]
    write(tmp_path, search, answer, call=CALL, status=4)
    facts: dict[str, Any] = json.loads((tmp_path / "bisect.json").read_text())
    assert facts["culprit"] is None
    assert [one["name"] for one in facts["suspects"]] == ["r7", "r8", "r9", "r10"]


@pytest.mark.parametrize("breaks", [True, False])
def test_a_script_for_either_side(tmp_path: Path, breaks: bool) -> None:
    world = World(tmp_path, History.line(16), 9, breaks=breaks)
    search = world.search()
    script = repro(search, search.run(), CALL)
    (tmp_path / "repro.sh").write_text(script)
    assert subprocess.run(["sh", "-n", str(tmp_path / "repro.sh")], check=False).returncode == 0
    assert "exec kproof bisect --rerun --good a --bad b -- " in script
    broken, whole = (9, 8) if breaks else (8, 9)
    for side, number in (("broken", broken), ("whole", whole)):
        assert f"{side}) exec kproof run --kernel git:/x@{number} -n 1 --cpus 1 {TEST} -- --runxfail ;;" in script


def test_nothing_is_certain() -> None:
    assert percent(0.999999) == "99.99 %"
    assert percent(0.99) == "99 %"


# -- samples ---------------------------------------------------------------------------------------------------------

HUNTED = [Failure(TEST, "failed", "WARNING in netkit_xmit")]


def sample(*failures: Failure, **results: Result) -> Sample:
    return Sample({TEST: Result.PASSED, **results}, dict.fromkeys(failures, "oh"))


def test_the_hunted_failure_is_told_by_its_splat() -> None:
    assert compare(sample(*HUNTED), HUNTED).failed
    assert "another failure" in compare(sample(Failure(TEST, "failed")), HUNTED).untestable
    assert "another failure" in compare(sample(Failure(TEST, "failed", "BUG in netkit_xmit")), HUNTED).untestable
    assert "another failure" in compare(sample(Failure(TEST, "crashed", HUNTED[0].title)), HUNTED).untestable


def test_another_test_says_nothing_of_the_hunted_one() -> None:
    other = Failure("selftests/toy/test_toy.py::test_other", "failed")
    assert compare(sample(other), HUNTED) == compare(sample(), HUNTED)
    assert not compare(sample(other), HUNTED).untestable


def test_what_was_skipped_or_is_gone_did_not_pass() -> None:
    skipped = Sample({TEST: Result.SKIPPED}, skips={TEST: "no netkit"})
    assert compare(skipped, HUNTED).untestable == f"{TEST} was skipped: no netkit"
    assert "not run" in compare(Sample({}), HUNTED).untestable


def test_a_death_between_tests_says_nothing() -> None:
    assert compare(sample(Failure("", "death", "Kernel panic")), HUNTED).untestable


def left(folder: Path, **facts: Any) -> Path:
    run = {"outcomes": [], "deaths_outside_tests": {}, "boot_failure": "", "complaints_outside_tests": [], **facts}
    (folder / "run.json").write_text(json.dumps(run))
    (folder / LOG).write_text("kproof: no memory\n")
    return folder


def outcome(result: str, message: str = "", *titles: str) -> dict[str, Any]:
    splats = [{"title": title} for title in titles]
    return {"nodeid": TEST, "result": result, "message": message, "guest": "g0", "splats": splats}


def test_a_run_is_read(tmp_path: Path) -> None:
    found = read_sample(left(tmp_path, outcomes=[outcome("failed", "assert 7 == 8", "A", "B")]), 1, 2.0)
    assert found.failures == {Failure(TEST, "failed", "A"): "assert 7 == 8"}
    found = read_sample(left(tmp_path, outcomes=[outcome("crashed", "Kernel panic in x")]), 1, 2.0)
    assert list(found.failures) == [Failure(TEST, "crashed", "Kernel panic in x")]
    found = read_sample(left(tmp_path, outcomes=[outcome("passed")]), 0, 2.0)
    assert (found.results, found.failures) == ({TEST: Result.PASSED}, {})


def test_a_kernel_that_does_not_boot(tmp_path: Path) -> None:
    assert read_sample(left(tmp_path, boot_failure="Kernel panic\nmore"), 1, 1.0).no_boot == "Kernel panic"
    assert read_sample(left(tmp_path, deaths_outside_tests={"g0": "BUG: x"}), 3, 1.0).no_boot == "BUG: x"


def test_a_run_that_says_nothing(tmp_path: Path) -> None:
    with pytest.raises(InfraError, match="no memory"):
        read_sample(left(tmp_path), 3, 1.0)
    with pytest.raises(UserError, match="no memory"):
        read_sample(left(tmp_path), 5, 1.0)


# -- what is refused -------------------------------------------------------------------------------------------------


def asked(**facts: Any) -> Asked:
    plain = {"good": "6.12.1", "bad": "6.12.9", "series": "", "base": Request(), "breaks": True}
    return Asked(**{**plain, "tests": ("t",), "command": "", "confidence": 0.99, **facts})


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"tests": ()}, "what decides?"),
        ({"command": "true"}, "not both"),
        ({"confidence": 1.0}, "--confidence 1: write a number"),
        ({"good": ""}, "between what?"),
        ({"series": "x.mbox"}, "leave --good and --bad out"),
    ],
)
def test_what_does_not_go_together(facts: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        _check(asked(**facts))


@pytest.mark.parametrize("end", ["dir:/x", "tar:/x.tar", "debian:6.12", "kernel:abc"])
def test_an_end_without_a_history(tmp_path: Path, end: str) -> None:
    with pytest.raises(UserError, match="has no history: an end is a version"):
        _range(asked(good=end), tmp_path, ignore)


def test_the_arguments_that_repeat_a_call() -> None:
    words = asked(breaks=False, base=Request(series=()), confidence=0.999).words(["--cpus", "1"])
    assert words == [
        *("--good", "6.12.1", "--bad", "6.12.9", "--find", "fixed", "--kernel", "debian:6.12 +none"),
        *("--confidence", "0.999", "--cpus", "1", "--", "t"),
    ]


def test_tests_are_named_as_from_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "selftests").mkdir()
    (tmp_path / "selftests" / "test_a.py").touch()
    monkeypatch.chdir(tmp_path / "selftests")
    assert _from_root(["test_a.py::test_b"], tmp_path) == ("selftests/test_a.py::test_b",)
    with pytest.raises(UserError, match="there are no selftests"):
        _from_root(["test_b.py"], tmp_path)
    with pytest.raises(UserError, match="is not in the project"):
        _from_root(["/bin/sh"], tmp_path)


@pytest.mark.parametrize(("command", "result"), [("true", "passed"), ("exit 125", "skipped"), ("exit 3", "failed")])
def test_a_command_is_a_test(pytester: pytest.Pytester, command: str, result: str) -> None:
    pytester.makeini("[pytest]\nmarkers = timeout_s(seconds): limit\n")
    path = command_test(pytester.path, command)
    found = pytester.runpytest_inprocess(path, "-p", "no:cacheprovider", "-p", "no:kproof")
    found.assert_outcomes(**{result: 1})
