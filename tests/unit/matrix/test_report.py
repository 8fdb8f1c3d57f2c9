"""What a matrix leaves: its JSON, its JUnit, what the terminal gets, and one report of several."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from harness.errors import UserError
from harness.matrix.cells import cells
from harness.matrix.collect import Test
from harness.matrix.junit import junit
from harness.matrix.ledger import Found, Record, read_run
from harness.matrix.report import exit_status, merge, report, save, summary
from harness.matrix.surprises import Expectation, Kind, expect, judge
from harness.model import Result, Version

from .conftest import FIXED, ONE, TWO, World, as_foretold

SKIP = '[[skips]]\nfeatures = ["netkit"]\nversions = "<6.12.50"\nbecause = "35dfaad7188c"\n'


def made(world: World, *, interrupted: bool = False) -> dict[str, Any]:
    """The report of a run of the world's matrix."""
    matrix = world.matrix()
    matrix.run()
    data = report(
        matrix.cells,
        world.define(world.text).skips,
        folder=world.root / "results1",
        file="ci/matrix.toml",
        started=1.8e9,
        seconds=12.3,
        jobs=1,
        guests=2,
        shape=["--memory", "512"],
        interrupted=interrupted,
    )
    data["exit_status"] = exit_status(data)
    return data


def test_no_surprise_is_green(world: World) -> None:
    data = made(world)
    assert (data["exit_status"], data["surprises"]) == (0, [])
    first, second = data["cells"]
    assert (first["id"], first["release"], first["ran"], first["reused"]) == ("debian-6.12.8", "6.12.8", 5, 0)
    assert first["summary"] == {"passed": 2, "skipped": 1, "xfailed": 2}
    assert second["summary"] == {"passed": 3, "skipped": 1, "xfailed": 1}
    assert first["outcomes"][ONE] == {"result": "passed", "expected": "passed", "seconds": 0.5}
    assert first["outcomes"][FIXED]["why"] == "6.12.8 lacks 1d47b55b36d2, which is in 7.1, 6.12.100"
    assert summary(data)[-1].startswith("no surprise in 2 cells: 2 skipped, 3 xfailed, 5 passed; 0 reused")


def test_a_surprise_is_red_and_has_its_evidence(world: World) -> None:
    records = as_foretold("6.12.8")
    records[ONE] = Record(ONE, Result.FAILED, 0.5, "it broke", "traceback", "splat", "console")
    world.found = {"debian-6.12.8": (Found(records, frozenset(), whole=True), "")}
    data = made(world)
    assert data["exit_status"] == 1
    (surprise,) = data["surprises"]
    assert surprise == {
        "cell": "debian-6.12.8",
        "nodeid": ONE,
        "kind": "unexpected failure",
        "text": "it broke",
        "expected": "pass",
    }
    outcome = data["cells"][0]["outcomes"][ONE]
    assert (outcome["detail"], outcome["kernel_log"], outcome["console"]) == ("traceback", "splat", "console")
    assert outcome["repro"] == f"kproof run --kernel debian:6.12.8 --memory 512 {ONE}"
    assert f"UNEXPECTED FAILURE {ONE} on debian-6.12.8: it broke" in summary(data)


def test_foretold_skips(world: World) -> None:
    """A skip that is foretold is none; where it is foretold and does not come, that is one."""
    world.text = 'kernel = ["debian:6.12.8"]\n' + SKIP
    (surprise,) = made(world)["surprises"]
    assert (surprise["kind"], surprise["nodeid"]) == ("unexpected pass", TWO)
    assert surprise["expected"] == "be skipped: lacks netkit: 35dfaad7188c"
    records = as_foretold("6.12.8") | {TWO: Record(TWO, Result.SKIPPED, message="kernel lacks netkit")}
    world.found = {"debian-6.12.8": (Found(records, frozenset(), whole=True), "")}
    (world.root / "other").mkdir()
    assert made(World(world.root / "other", world.text, found=world.found))["surprises"] == []


@pytest.mark.parametrize(
    ("selftests", "result"),
    [("selftests", Result.SKIPPED), (ONE.partition("::")[0], Result.SKIPPED), (ONE, Result.PASSED)],
)
def test_slow_tests_are_skipped_unless_they_are_named(world: World, selftests: str, result: Result) -> None:
    (choice,) = world.define(f'kernel = ["debian:6.1"]\nselftests = ["{selftests}"]').choices
    assert expect(Test(ONE, slow=True), choice, Version(6, 1), ()).result is result


def test_brackets_in_a_pattern_of_tests_mean_themselves(world: World) -> None:
    definition = world.define('kernel = ["debian:6.1"]\n[[skips]]\ntests = ["*_one[1]"]\nbecause = "so"')
    tests = [Test(f"{ONE}[1]"), Test(f"{ONE}1"), Test(f"{ONE}[2]")]
    found = [expect(test, definition.choices[0], Version(6, 1), definition.skips).result for test in tests]
    assert found == [Result.SKIPPED, Result.PASSED, Result.PASSED]


@pytest.mark.parametrize("result", [Result.CRASHED, Result.HUNG, Result.ERROR])
def test_how_a_test_ended_is_told(result: Result) -> None:
    surprise = judge("cell", ONE, Expectation(Result.PASSED), Record(ONE, result, message="BUG: foo"))
    assert surprise is not None
    assert (surprise.kind, surprise.text) == (Kind.FAILURE, f"{result}: BUG: foo")


def test_what_is_unmet_is_told_as_pytest_does() -> None:
    """The words by which an unexpected pass is known are those of the plugin."""
    from harness.matrix.surprises import BUT_PASSED, UNMET
    from harness.pytest_plugin.predictions import Prediction, _unmet

    for crash in (True, False):
        text = _unmet([Prediction("why", "match", crash, "correct it")], "")
        assert text.startswith(UNMET)
        assert BUT_PASSED in text
    assert BUT_PASSED not in _unmet([Prediction("why", "match", True, "correct it")], "another failure")


def test_junit_has_a_suite_for_each_cell(world: World) -> None:
    records = as_foretold("6.12.8")
    records[ONE] = Record(ONE, Result.CRASHED, 0.5, "BUG: \x00 <foo>", "traceback \x1b[0m")
    del records[TWO]
    world.found = {"debian-6.12.8": (Found(records, frozenset(), (("WARNING in x", "text"),), whole=True), "")}
    root = ET.fromstring(junit(made(world)))
    first, second = root.findall("testsuite")
    assert (first.get("name"), second.get("name")) == ("debian-6.12.8", "debian-6.12.100")
    assert (second.get("failures"), second.get("errors"), second.get("tests")) == ("0", "0", "6")
    cases = {case.get("name"): case for case in first.findall("testcase")}
    assert cases["test_one"].get("classname") == "debian-6.12.8.selftests.a.test_one"
    error = cases["test_one"].find("error")
    assert error is not None
    assert error.get("message") == "unexpected failure: crashed: BUG: \\x00 <foo> (foretold: pass)"
    assert cases["test_two"].find("error") is not None
    assert cases["test_new"].find("skipped") is not None
    assert cases["test_fixed"].find("skipped") is not None
    kernel = cases["kernel"].find("error")
    assert kernel is not None
    assert kernel.get("message") == "outside of any test: WARNING in x"


def test_nothing_selected_is_not_green(world: World) -> None:
    world.tests = ()
    assert made(world)["exit_status"] == 5


def test_all_is_written(world: World, tmp_path: Path) -> None:
    save(tmp_path / "out", made(world))
    assert json.loads((tmp_path / "out" / "matrix.json").read_text())["kproof"]
    assert ET.parse(tmp_path / "out" / "junit.xml").getroot().tag == "testsuites"
    assert (tmp_path / "out" / "matrix.html").read_text().startswith("<!doctype html>")


def test_several_reports_make_one(world: World, tmp_path: Path) -> None:
    folders = []
    for version in ("6.12.8", "6.12.100"):
        world.text = f'kernel = ["debian:{version}"]'
        folders.append(tmp_path / version)
        save(folders[-1], made(world))
    wanted = cells(world.define('kernel = ["debian:6.12.8", "debian:6.12.100", "debian:7.1"]').choices, tmp_path)
    data = merge(folders, wanted)
    assert [cell["id"] for cell in data["cells"]] == ["debian-6.12.8", "debian-6.12.100", "debian-7.1"]
    (surprise,) = data["surprises"]
    assert (surprise["cell"], surprise["kind"], surprise["text"]) == (
        "debian-7.1",
        "missing outcome",
        "no job left its results",
    )
    save(tmp_path / "all", data)
    assert merge(folders)["surprises"] == []
    with pytest.raises(UserError, match="in more than one"):
        merge([folders[0], folders[0]])
    with pytest.raises(UserError, match="has no matrix"):
        merge([tmp_path])


def test_reading_a_run(tmp_path: Path) -> None:
    """Outcomes of a guest that complained, or died, outside of any test are told apart; bad ones have its console."""
    one = {"seconds": 1.0, "message": "", "detail": "", "kernel_log": "", "taint": [0, 0]}
    run = {
        "started": "2026-11-21T12:00:00+00:00",
        "boot_failure": "",
        "deaths_outside_tests": {"g1": "Kernel panic"},
        "complaints_outside_tests": [["g0", "WARNING in x", "text"]],
        "outcomes": [
            {"nodeid": "a", "result": "passed", "guest": "g0", **one},
            {"nodeid": "b", "result": "passed", "guest": "g1", **one},
            {"nodeid": "c", "result": "crashed", "guest": "g2", **one, "taint": None},
            {"nodeid": "d", "result": "xfailed", "guest": "g3", **one, "taint": None},
            {"nodeid": "e", "result": "passed", "guest": "g4", **one},
        ],
    }
    (tmp_path / "run.json").write_text(json.dumps(run))
    (tmp_path / "guests" / "g2").mkdir(parents=True)
    (tmp_path / "guests" / "g2" / "console.log").write_text("\n".join(map(str, range(500))))
    found = read_run(tmp_path)
    assert found.tainted == {"a", "b"}
    assert [title for title, _ in found.outside] == ["WARNING in x", "Kernel panic"]
    assert found.records["c"].console.splitlines() == [str(number) for number in range(300, 500)]
    assert found.records["e"] == Record("e", Result.PASSED, 1.0, when=run["started"])  # type: ignore[arg-type]
    assert found.whole


def test_markers_are_read_without_a_guest(tmp_path: Path) -> None:
    from harness.matrix.collect import collect

    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_x.py").write_text(
        "import pytest\n\n"
        "@pytest.mark.since('6.13')\n@pytest.mark.parametrize('n', [1, 2])\ndef test_new(n): pass\n\n"
        "def test_plain(): pass\n"
    )
    selftests = collect(tmp_path, ["test_x.py"])
    assert [test.nodeid for test in selftests.tests] == [
        "test_x.py::test_new[1]",
        "test_x.py::test_new[2]",
        "test_x.py::test_plain",
    ]
    assert [str(said) for said in selftests.tests[0].said] == ["since 6.13"]
    with pytest.raises(UserError, match="there are no selftests"):
        collect(tmp_path, ["gone"])
    (tmp_path / "test_y.py").write_text("import nothing_like_this\n")
    with pytest.raises(UserError, match="nothing_like_this"):
        collect(tmp_path, ["test_y.py"])
