"""A run's folder: exactly one outcome per selected test, and files that their readers can read."""

from __future__ import annotations

import json
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.errors import InfraError
from harness.guest.accel import Host
from harness.model import GuestSpec, Kernel, Request, Result, SeriesState, SeriesStatus, Version
from harness.pytest_plugin.results import Run, open_folder, printable, run_folder


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
    ]  # fmt: skip
    assert kernel["build"].get("time") == "123.400000"
    assert "IO_URING=n" in (kernel["config"].findtext("system-out") or "")
    assert kernel["series xps_bpf"].find("skipped") is not None
    assert kernel["guest g1 outside of any test"].find("failure") is not None
    cases = {case.get("name"): case for suite in suites.values() for case in suite.findall("testcase")}
    assert len(cases) == 7 + 7
    crash = cases["test_panic"].find("error")
    assert crash is not None
    assert crash.get("message") == "Kernel panic"
    assert crash.text == "console\\x00\\x1b"
    failure = cases["test_bad"].find("failure")
    assert failure is not None
    assert "bytes: \\x00\\x1b[1m\\xfffe" in (failure.text or "")


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
