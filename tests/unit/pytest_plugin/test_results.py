"""A run's folder: exactly one outcome per selected test, and files that their readers can read."""

from __future__ import annotations

import json
import subprocess
import xml.etree.ElementTree as ET
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.errors import InfraError
from harness.guest.accel import Host
from harness.model import GuestSpec, Kernel, Request, Result, SeriesState, SeriesStatus, Version
from harness.pytest_plugin.junit import printable
from harness.pytest_plugin.known_issues import KnownIssue, KnownIssues
from harness.pytest_plugin.results import Life, Run, open_folder, run_folder


@pytest.fixture
def run(tmp_path: Path) -> Run:
    series = (
        SeriesStatus("netkit", SeriesState.PRESENT, "drivers/net/Kconfig:1"),
        SeriesStatus("xps_bpf", SeriesState.ABSENT, "no patches for 6.12"),
    )
    kernel = Kernel("0123abcd", tmp_path / "k", Version(6, 12, 117), "6.12.117", "debian:6.12", series,
                    (("NETKIT", "y"), ("IO_URING", "n")), 123.4)  # fmt: skip
    spec = GuestSpec("image", "/k/vmlinux", "/c/root.erofs", str(tmp_path), "tcg", str(tmp_path / "guests"))
    folder = tmp_path / "run"
    folder.mkdir()
    host = Host("tcg", "no /dev/kvm", 1.0)
    run = Run(
        folder, request=Request(settings=("A=b c",)), kernel=kernel, spec=spec, host=host, count=2, tests=["selftests"]
    )
    run.boots = {"g0": 3.25}
    return run


def phase(nodeid: str, when: str, outcome: str = "passed", longrepr: Any = None, **more: Any) -> Any:
    """What results.py reads of a pytest report."""
    return SimpleNamespace(
        nodeid=nodeid, when=when, outcome=outcome, duration=0.1, longrepr=longrepr, longreprtext=str(longrepr or ""),
        sections=[("Captured stdout call", "bytes: \x00\x1b[1m\ufffe")], kproof_guest="g0",
        passed=outcome == "passed", failed=outcome == "failed", skipped=outcome == "skipped", **more,
    )  # fmt: skip


def take(run: Run, nodeid: str, *phases: tuple[str, str, Any]) -> None:
    run.selected([nodeid])
    for when, outcome, longrepr in phases:
        run.report(phase(nodeid, when, outcome, longrepr))


GOOD = (("setup", "passed", None), ("call", "passed", None), ("teardown", "passed", None))
SKIP = ("selftests/netkit/conftest.py", 7, "Skipped: kernel lacks netkit: CONFIG_NETKIT is n")


def everything(run: Run) -> None:
    """One test of every kind."""
    take(run, "selftests/netkit/test_a.py::test_good[x-1]", *GOOD)
    take(run, "selftests/netkit/test_a.py::test_bad", *GOOD[:1], ("call", "failed", "assert 1 == 2"), *GOOD[2:])
    take(run, "selftests/netkit/test_a.py::test_skip", ("setup", "skipped", SKIP), *GOOD[2:])
    take(run, "selftests/nf_egress/test_b.py::test_setup", ("setup", "failed", "no device"), *GOOD[2:])
    take(run, "selftests/nf_egress/test_b.py::test_down", *GOOD[:2], ("teardown", "failed", "leaked a netns"))
    crashes = "selftests/nf_egress/test_b.py::test_panic"
    run.selected([crashes, "selftests/nf_egress/test_b.py::test_never"])
    run.report(phase(crashes, "setup"))
    run.report(phase(crashes, "???", "failed", "console\x00\x1b", kproof_crash="Kernel panic"))
    run.deaths = {"g0": "Kernel panic", "g1": "the guest ended itself: Power down"}


def test_every_selected_test_has_one_outcome_and_the_right_one(run: Run) -> None:
    everything(run)
    run.finish(1)
    data = json.loads((run.folder / "run.json").read_text())
    assert {outcome["nodeid"].split("::")[1]: outcome["result"] for outcome in data["outcomes"]} == {
        "test_good[x-1]": "passed",
        "test_bad": "failed",
        "test_skip": "skipped",
        "test_setup": "error",
        "test_down": "error",
        "test_panic": "crashed",
        "test_never": "not run",
    }
    assert len(data["outcomes"]) == 7
    assert data["summary"] == {"crashed": 1, "error": 2, "failed": 1, "not run": 1, "passed": 1, "skipped": 1}
    assert data["request"] == "debian:6.12 'A=b c'"
    skip = next(outcome for outcome in data["outcomes"] if outcome["result"] == "skipped")
    assert skip["message"] == "kernel lacks netkit: CONFIG_NETKIT is n"


def test_junit_has_a_kernel_suite_and_one_per_feature_and_is_xml_whatever_a_console_said(run: Run) -> None:
    everything(run)
    run.finish(1)
    suites = {suite.get("name"): suite for suite in ET.parse(run.folder / "junit.xml").getroot()}
    assert list(suites) == ["kernel", "netkit", "nf_egress"]
    kernel = {case.get("name"): case for case in suites["kernel"].findall("testcase")}
    assert list(kernel) == [
        "source", "series netkit", "series xps_bpf", "config", "build", "boot g0", "guest g1 outside of any test",
        "run complete",
    ]  # fmt: skip
    assert kernel["build"].get("time") == "123.400000"
    assert "IO_URING=n" in (kernel["config"].findtext("system-out") or "")
    assert kernel["series xps_bpf"].find("skipped") is not None
    assert kernel["guest g1 outside of any test"].find("failure") is not None
    cases = {case.get("name"): case for suite in suites.values() for case in suite.findall("testcase")}
    assert len(cases) == 8 + 7
    crash = cases["test_panic"].find("error")
    assert crash is not None
    assert crash.get("message") == "Kernel panic"
    assert crash.text == "console\\x00\\x1b"
    failure = cases["test_bad"].find("failure")
    assert failure is not None
    assert "bytes: \\x00\\x1b[1m\\xfffe" in (failure.text or "")


def test_a_death_that_was_predicted_is_no_fault_of_the_run(run: Run) -> None:
    test = "selftests/nf_egress/test_b.py::test_recursion"
    run.selected([test])
    run.deaths = {"g0": "Kernel panic"}
    run.report(phase(test, "setup"))
    run.report(phase(test, "???", "skipped", "console", kproof_foretold="predicted: 6.12.8 lacks 1d47b55b36d2"))
    assert (run.outcomes[test].result, run.outcomes[test].message) == (
        Result.XFAILED,
        "predicted: 6.12.8 lacks 1d47b55b36d2",
    )
    assert run.deaths_outside_tests == {}


def test_a_crash_takes_the_place_of_what_was_reported_before(run: Run) -> None:
    nodeid = "selftests/netkit/test_a.py::test_late"
    take(run, nodeid, *GOOD)
    run.report(phase(nodeid, "???", "failed", "console", kproof_crash="Kernel panic"))
    assert [outcome.result for outcome in run.outcomes.values()] == [Result.CRASHED]


def test_repro_repeats_the_run_or_one_failure(run: Run, tmp_path: Path) -> None:
    """The script is run, with a ``kproof`` that prints how it was called."""
    everything(run)
    run.finish(1)
    stub = tmp_path / ".venv" / "bin" / "kproof"
    stub.parent.mkdir(parents=True)
    stub.write_text('#!/bin/sh\nprintf "%s|" "$@"\n')
    stub.chmod(0o755)

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["sh", run.folder / "repro.sh", *arguments], capture_output=True, text=True, check=False)

    whole = "run|--kernel|debian:6.12 'A=b c'|--root|image|-n|2|--memory|512|--cpus|1|--accel|tcg|"
    assert call().stdout == whole + "selftests|"
    assert call("1").stdout == whole + "selftests/netkit/test_a.py::test_bad|"
    assert call("4").stdout == whole + "selftests/nf_egress/test_b.py::test_panic|"
    nothing = call("5")
    assert nothing.returncode == 2
    assert nothing.stderr == "repro.sh: there is no failure 5; this run has 4\n"


def test_two_runs_in_one_second_have_two_folders_and_latest_is_the_newer(tmp_path: Path) -> None:
    folders = []
    for _ in range(3):
        folders.append(run_folder(tmp_path, None))
        open_folder(folders[-1], latest=True)
    assert len(set(folders)) == 3
    assert (tmp_path / "latest").resolve() == folders[-1]


def test_two_runs_that_chose_the_same_folder_do_not_share_it(tmp_path: Path) -> None:
    chosen = run_folder(tmp_path, None)
    assert open_folder(chosen, latest=True) == chosen
    second = open_folder(chosen, latest=True)
    assert second != chosen
    assert second.is_dir()
    assert (tmp_path / "latest").resolve() == second
    assert open_folder(tmp_path / "mine", latest=False) == open_folder(tmp_path / "mine", latest=False)


def test_outcomes_are_in_the_journal_at_once_and_run_json_takes_its_place(run: Run) -> None:
    ids = ["test_a.py::test_one", "test_a.py::test_\ud800"]
    run.selected(ids)
    run.selected(ids)  # as another guest collects them
    take(run, ids[0], *GOOD)
    journal = run.folder / "outcomes.jsonl"
    take(run, ids[1], *GOOD)
    first, *outcomes = [json.loads(line) for line in journal.read_text().splitlines()]
    assert first == {"selected": ids}
    assert [(outcome["nodeid"], outcome["result"]) for outcome in outcomes] == [(ids[0], "passed"), (ids[1], "passed")]
    run.finish(0)
    assert not journal.exists()


def test_an_outcome_that_cannot_be_written_down_ends_the_run(run: Run) -> None:
    (run.folder / "outcomes.jsonl").symlink_to("/dev/full")
    with pytest.raises(InfraError, match=r"the results cannot be written to .*: No space left on device"):
        run.selected(["test_a.py::test_one"])


def test_a_results_folder_that_cannot_be_made_is_the_machines_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InfraError, match="cannot be made"):
        open_folder(run_folder(tmp_path / "file", None), latest=True)


def test_printable_leaves_text_alone_and_loses_no_byte() -> None:
    assert printable("ü € 😀\ttab\r\n") == "ü € 😀\ttab\r\n"
    assert printable("\x00\x08\x1b\ud800\uffff") == r"\x00\x08\x1b\xd800\xffff"


def test_a_used_folder_keeps_no_result_of_the_earlier_run(tmp_path: Path) -> None:
    (tmp_path / "junit.xml").write_text("<all-green/>")
    (tmp_path / "guests" / "g0").mkdir(parents=True)
    open_folder(tmp_path, latest=False)
    assert list(tmp_path.iterdir()) == []


def test_repro_keeps_what_selected_and_judged_the_tests(run: Run) -> None:
    run.options = ["--require-feature=netkit", "-k", "policy and not L3"]
    everything(run)
    run.finish(1)
    script = (run.folder / "repro.sh").read_text()
    assert "--require-feature=netkit -k 'policy and not L3' selftests ;;" in script
    assert "--require-feature=netkit selftests/netkit/test_a.py::test_bad ;;" in script


def test_a_lacking_feature_that_was_required_is_a_failure_not_an_error(run: Run) -> None:
    nodeid = "selftests/netkit/test_a.py::test_it"
    run.selected([nodeid])
    run.report(phase(nodeid, "setup", "failed", "feature netkit is required: CONFIG_NETKIT is n", kproof_failed=True))
    run.report(phase(nodeid, "teardown"))
    assert run.outcomes[nodeid].result is Result.FAILED


def test_a_complaint_of_the_kernel_fails_a_test_whatever_else_became_of_it(run: Run) -> None:
    complained = ("teardown", "failed", "the kernel complained: WARNING in foo")
    for name, *phases in (
        ("test_passed", *GOOD[:2]),
        ("test_skipped", ("setup", "skipped", SKIP)),
        ("test_failed", *GOOD[:1], ("call", "failed", "assert 1 == 2")),
    ):
        run.selected([name])
        for when, outcome, longrepr in phases:
            run.report(phase(name, when, outcome, longrepr))
        run.report(phase(name, *complained, kproof_failed=True))
    assert {outcome.result for outcome in run.outcomes.values()} == {Result.FAILED}
    assert run.outcomes["test_skipped"].message == "the kernel complained: WARNING in foo"
    both = run.outcomes["test_failed"]
    assert both.message == "assert 1 == 2"
    assert both.detail.count("the kernel complained: WARNING in foo") == 1


def test_an_expected_failure_is_neither_a_skip_nor_a_pass(run: Run) -> None:
    for name, outcome, longrepr in (
        ("test_xfails", "skipped", "assert 0"),
        ("test_xpasses", "passed", None),
    ):
        run.selected([name])
        run.report(phase(name, "setup"))
        run.report(phase(name, "call", outcome, longrepr, wasxfail="reason: bug 7"))
        run.report(phase(name, "teardown"))
    assert run.outcomes["test_xfails"].result is Result.XFAILED
    assert run.outcomes["test_xfails"].message == "bug 7"
    assert run.outcomes["test_xpasses"].result is Result.PASSED
    assert run.outcomes["test_xpasses"].message == "passed, although a failure is expected: bug 7"
    run.finish(0)
    cases = {case.get("name"): case for case in ET.parse(run.folder / "junit.xml").getroot().iter("testcase")}
    skipped = cases["test_xfails"].find("skipped")
    assert skipped is not None
    assert skipped.get("message") == "xfailed: bug 7"
    assert "although a failure is expected: bug 7" in (cases["test_xpasses"].findtext("system-out") or "")


def test_a_random_order_is_told_and_can_be_repeated(run: Run) -> None:
    take(run, "test_a.py::test_good", *GOOD)
    assert run.remarks() == []
    run.seed, run.options = 77, ["--random-order=77"]
    run.finish(0)
    assert run.remarks() == ["random order: --random-order=77 repeats it"]
    assert json.loads((run.folder / "run.json").read_text())["random_order"] == 77
    assert "--random-order=77 selftests" in (run.folder / "repro.sh").read_text()
    names = [case.get("name") for case in ET.parse(run.folder / "junit.xml").iter("testcase")]
    assert "known issues" not in names


@pytest.mark.parametrize(("max_skips", "bad"), [(None, False), (1, False), (0, True)])
def test_too_many_skips_make_the_run_bad(run: Run, max_skips: int | None, bad: bool) -> None:
    run.max_skips = max_skips
    take(run, "test_good", *GOOD)
    take(run, "test_skip", ("setup", "skipped", SKIP), *GOOD[2:])
    assert run.is_bad == bad
    run.finish(int(bad))
    cases = ET.parse(run.folder / "junit.xml").getroot().iter("testcase")
    failures = [case.find("failure") for case in cases if case.get("name") == "run skips"]
    assert [failure.get("message") for failure in failures if failure is not None] == [
        "1 test was skipped, and --max-skips allows 0"
    ] * bad


def test_a_run_without_a_passed_test_is_bad_and_one_without_any_test_is_not_for_that(run: Run) -> None:
    assert run.objections() == {}
    take(run, "test_skip", ("setup", "skipped", SKIP), *GOOD[2:])
    assert run.objections() == {"passed": "not one test passed (1 skipped): such a run is never green"}
    take(run, "test_good", *GOOD)
    assert run.objections() == {}


def test_a_selected_test_that_did_not_run_makes_the_run_bad(run: Run) -> None:
    take(run, "test_good", *GOOD)
    run.selected(["test_never"])
    assert run.objections() == {"complete": "1 test was not run, the first is test_never"}


def test_all_evidence_is_in_the_json_and_in_the_junit_of_what_is_bad(run: Run) -> None:
    run.lives = {"g0": Life(3, True, 0.31, 228.5)}
    run.selected(["a.py::test_bad", "a.py::test_crash"])
    for when, outcome in (("setup", "passed"), ("call", "failed"), ("teardown", "passed")):
        more = {"kproof_taint": [0, 512], "kproof_kernel_log": "[ 1.0] hello"} if when == "teardown" else {}
        run.report(phase("a.py::test_bad", when, outcome, "assert 0" if outcome == "failed" else None, **more))
    run.report(phase("a.py::test_crash", "setup"))
    crash = {"kproof_crash": "Kernel panic", "kproof_kernel_log": "last words"}
    run.report(phase("a.py::test_crash", "???", "failed", "console", **crash))
    run.finish(1)
    data = json.loads((run.folder / "run.json").read_text())
    assert data["guests"] == {"g0": {"number": 3, "restored": True, "seconds": 0.31, "peak_mb": 228.5}}
    bad, crashed = data["outcomes"]
    assert [bad[key] for key in ("guest", "boot", "restored")] == ["g0", 3, True]
    assert bad["phases"] == {"setup": 0.1, "call": 0.1, "teardown": 0.1}
    assert (bad["taint"], bad["taint_letters"]) == ([0, 512], ["", "W"])
    assert crashed["phases"] == {"setup": 0.1}
    assert crashed["taint"] is None, "nobody lived to tell"
    root = ET.parse(run.folder / "junit.xml").getroot()
    texts = {case.get("name"): case.findtext("system-out") or "" for case in root.iter("testcase")}
    assert texts["test_bad"].splitlines() == [
        "guest g0, number 3, restored",
        "setup 0.100 s, call 0.100 s, teardown 0.100 s",
        "taint 0 -> 512 (W: kernel issued warning)",
        "kernel log of the test:",
        "[ 1.0] hello",
    ]
    assert "last words" in texts["test_crash"]
    assert [(one.get("name"), one.get("value")) for one in root.iter("property")] == [("guest peak resident MB", "228")]


def test_a_known_complaint_outside_of_any_test_is_told_and_fails_nothing(run: Run) -> None:
    issue = KnownIssue(1, "in foo$", "old", "https://example.org", date(2026, 12, 31))
    run.known = KnownIssues((issue,), date(2026, 11, 20))
    take(run, "test_good", *GOOD)
    run.outside_tests("g0", [["WARNING in foo", "text"]])
    assert not run.is_bad
    run.outside_tests("g0", [["WARNING in bar", "text"]])
    assert run.is_bad
    run.finish(1)
    data = json.loads((run.folder / "run.json").read_text())
    assert data["complaints_outside_tests"] == [["g0", "WARNING in bar", "text"]]
    assert data["known_issues"]["matched"][0]["titles"] == {"WARNING in foo": 1}
    names = [case.get("name") for case in ET.parse(run.folder / "junit.xml").getroot().iter("testcase")]
    assert "known issues" in names


def test_a_test_that_was_rescheduled_has_the_phases_of_its_own_run(run: Run) -> None:
    run.selected(["test_it"])
    run.report(phase("test_it", "???", "rescheduled", "guest g0 ended outside of any test"))
    take(run, "test_it", *GOOD)
    assert run.outcomes["test_it"].result is Result.PASSED
    assert run.outcomes["test_it"].phases == {"setup": 0.1, "call": 0.1, "teardown": 0.1}
