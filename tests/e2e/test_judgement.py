"""How a run is judged: known issues, skips, nothing that passed, leaks; and the evidence of each outcome."""

from __future__ import annotations

import json
import re
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from harness.kernel.obtain import obtain
from harness.model import Request
from tests.e2e.conftest import Project

SAY = '''
import pytest

def say(text):
    """Through the kernel's log, as the kernel would say it."""
    with open("/dev/kmsg", "w") as log:
        log.write(f"<4>{text}\\n")

def warn(function):
    say("------------[ cut here ]------------")
    say(f"WARNING: CPU: 0 PID: 42 at net/core/dev.c:1234 {function}+0x12/0x40")
    say("---[ end trace 0000000000000000 ]---")
'''

ISSUE = """
[[issue]]
regex = "{regex}"
reason = "made up"
link = "https://example.org/1"
expires = {expires}
"""


def issues(project: Project, *entries: tuple[str, date]) -> None:
    text = "".join(ISSUE.format(regex=regex, expires=expires) for regex, expires in entries)
    project.write("known_issues.toml", text)


def told(project: Project) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((project.latest / "run.json").read_text())
    return data


def kernel_cases(project: Project) -> dict[str, str]:
    """The failures that JUnit's suite "kernel" has, by case."""
    failures = {case.get("name"): case.find("failure") for case in project.junit().iter("testcase")}
    return {str(name): str(failure.get("message")) for name, failure in failures.items() if failure is not None}


def test_a_known_issue_is_told_and_fails_nothing_until_its_day(project: Project) -> None:
    project.write("test_it.py", SAY + "def test_warns():\n    warn('kproof_known')\n")
    project.write(
        "conftest.py",
        "from test_it import warn\n\n\ndef pytest_runtest_logfinish(nodeid):\n    warn('kproof_between')\n",
    )
    today = date.today()
    entries = [("in kproof_known$", today), ("in kproof_between$", today + timedelta(days=9)), ("never", today)]
    issues(project, *entries)
    status, output = project.run("test_it.py", "-n", "1")
    assert status == 0, output
    assert project.outcomes() == {"test_warns": "passed"}
    assert project.detail("test_warns")["known"] == [["in kproof_known$", "WARNING in kproof_known"]]
    assert "known issue, 1 x: WARNING in kproof_known (made up; https://example.org/1; until" in output
    assert "known issue, 1 x: WARNING in kproof_between" in output
    assert "entry 3 ('never') matched nothing in this run" in output
    known = told(project)["known_issues"]
    assert [match["entry"] for match in known["matched"]] == [1, 2]
    assert (known["expired"], known["never_matched"]) == ([], [3])
    cases = {case.get("name"): case.findtext("system-out") or "" for case in project.junit().iter("testcase")}
    assert "WARNING in kproof_known" in cases["test_warns"]
    assert "WARNING in kproof_between" in cases["known issues"]

    issues(project, ("in kproof_known$", today - timedelta(days=1)), entries[1])
    status, output = project.run("test_it.py", "-n", "1")
    assert status == 1, output
    assert project.outcomes() == {"test_warns": "failed"}
    assert "entry 1 ('in kproof_known$') expired on" in output


def test_a_bad_file_of_known_issues_is_said_before_any_guest_boots(project: Project) -> None:
    project.write("test_it.py", "def test_it():\n    pass\n")
    project.write("known_issues.toml", '[[issue]]\nregex = "x"\nreason = "y"\nlink = "z"\n')
    status, output = project.run("test_it.py")
    assert status == 2, output
    assert output.splitlines()[-1].endswith(
        "known_issues.toml: entry 1: 'expires' is missing; an entry needs regex, reason, link, expires"
    )
    assert not (project.folder / "results").exists()


def test_too_many_skips_and_nothing_that_passed_are_red(project: Project) -> None:
    project.write(
        "test_it.py",
        "import pytest\n\ndef test_good():\n    pass\n\n@pytest.mark.parametrize('n', range(3))\n"
        "def test_skip(n):\n    pytest.skip('no such device')\n",
    )
    status, output = project.run("test_it.py", "-n", "1", "--max-skips", "3")
    assert status == 0, output
    status, output = project.run("test_it.py", "-n", "1", "--max-skips", "2")
    assert status == 1, output
    line = "3 tests were skipped, and --max-skips allows 2"
    assert line in output.splitlines()
    assert kernel_cases(project) == {"run skips": line}
    assert "--max-skips 2" in (project.latest / "repro.sh").read_text()

    # pytest by itself: the same run, the same exit status
    status, output = project.call(*project.pytest_command(), "-n", "1", "-k", "skip", ".")
    assert status == 1, output
    line = "not one test passed (3 skipped): such a run is never green"
    assert f"kproof: {line}" in output.splitlines()
    assert kernel_cases(project) == {"run passed": line}


EVERY_KIND = (
    SAY
    + """
import ctypes, os

@pytest.fixture
def broken():
    raise RuntimeError("no device")

@pytest.fixture
def leaky():
    yield
    raise RuntimeError("left a namespace behind")

def test_passes():
    pass

def test_fails():
    with open("/proc/sys/kernel/tainted", "w") as taint:
        taint.write("64")
    assert 1 + 1 == 3

def test_skips():
    pytest.skip("the kernel lacks it")

@pytest.mark.expect_splat("KASAN")
def test_skips_what_would_complain():
    pytest.skip("the kernel lacks it")

def test_skips_and_warns():
    warn("kproof_skipping")
    pytest.skip("the kernel lacks it")

@pytest.mark.xfail(reason="bug 7")
def test_xfails():
    assert 0

@pytest.mark.xfail(reason="bug 7")
def test_xfails_and_warns():
    warn("kproof_xfailing")
    assert 0

@pytest.mark.xfail(reason="bug 8")
def test_xpasses():
    pass

@pytest.mark.xfail(reason="bug 9", strict=True)
def test_xpasses_strictly():
    pass

def test_setup_fails(broken):
    pass

def test_teardown_fails(leaky):
    warn("kproof_before_teardown")

@pytest.mark.timeout_s(3)
def test_hangs():
    say("now I hang")
    ctypes.CDLL(None).pause()

def test_panics():
    say("my last words")
    with open("/proc/sysrq-trigger", "w") as trigger:
        trigger.write("c")

def test_after():
    os._exit(3)
"""
)


def test_every_kind_of_outcome_is_told_apart_with_its_evidence(project: Project) -> None:
    project.write("test_it.py", EVERY_KIND)
    status, output = project.run("test_it.py", "-n", "1")
    assert status == 1, output
    expected = {
        "test_passes": "passed",
        "test_fails": "failed",
        "test_skips": "skipped",
        "test_skips_what_would_complain": "skipped",
        "test_skips_and_warns": "failed",
        "test_xfails": "xfailed",
        "test_xfails_and_warns": "failed",
        "test_xpasses": "passed",
        "test_xpasses_strictly": "failed",
        "test_setup_fails": "error",
        "test_teardown_fails": "error",
        "test_hangs": "hung",
        "test_panics": "crashed",
        "test_after": "crashed",
    }
    assert project.outcomes() == expected
    detail = project.detail
    assert detail("test_setup_fails")["message"] == "in set-up: RuntimeError: no device"
    assert detail("test_teardown_fails")["message"] == "in teardown: RuntimeError: left a namespace behind"
    assert "the kernel complained: WARNING in kproof_before_teardown" in detail("test_teardown_fails")["detail"]
    assert detail("test_xpasses")["message"] == "passed, although a failure is expected: bug 8"

    failed = detail("test_fails")
    assert failed["taint"] == [0, 64]
    assert failed["taint_letters"] == ["", "U"]
    assert set(failed["phases"]) == {"setup", "call", "teardown"}
    assert (failed["guest"], failed["boot"], failed["restored"]) == ("g0", 1, False)
    panic = detail("test_panics")
    assert (panic["guest"], panic["boot"], panic["restored"]) == ("g1", 2, False)
    assert panic["taint"] is None
    assert panic["kernel_log"].startswith("my last words\n")
    assert "Kernel panic - not syncing: sysrq triggered crash" in panic["kernel_log"]
    assert "test_hangs" not in panic["kernel_log"], "its own part of the console, and no other's"
    hung = detail("test_hangs")
    assert hung["kernel_log"].startswith("now I hang\n")
    assert "my last words" not in hung["kernel_log"]

    lives = told(project)["guests"]
    assert [life["number"] for life in lives.values()] == list(range(1, len(lives) + 1))
    assert all(50 < lives[name]["peak_mb"] < 700 for name in ("g0", "g1", "g2"))
    assert " MB per guest; " in output

    found = {}
    for case in project.junit().iter("testcase"):
        child = next((child for child in case if child.tag in ("failure", "error", "skipped")), None)
        found[case.get("name")] = (child.tag, child.get("type"), child.get("message")) if child is not None else None
    assert found["test_passes"] is None
    assert found["test_skips"] == ("skipped", "skipped", "the kernel lacks it")
    assert found["test_xfails"] == ("skipped", "skipped", "xfailed: bug 7")
    assert found["test_fails"] == ("failure", "failure", "assert (1 + 1) == 3")
    assert found["test_setup_fails"] == ("error", "error", "in set-up: RuntimeError: no device")
    assert found["test_panics"] == ("error", "crashed", "Kernel panic - not syncing: sysrq triggered crash")
    assert found["test_hangs"] is not None
    assert found["test_hangs"][:2] == ("error", "hung")
    texts = {case.get("name"): case.findtext("system-out") or "" for case in project.junit().iter("testcase")}
    assert "taint 0 -> 64 (U: taint requested by userspace application)" in texts["test_fails"]
    assert "guest g1, number 2, booted" in texts["test_panics"]


def test_tests_that_did_not_run_are_told(project: Project) -> None:
    project.write("test_it.py", "def test_a():\n    assert 0\n\ndef test_b():\n    pass\n\ndef test_c():\n    pass\n")
    status, output = project.run("test_it.py", "-n", "1", "-x")
    assert status == 1, output
    outcomes = project.outcomes()
    assert outcomes["test_a"] == "failed"
    assert outcomes["test_c"] == "not run"
    assert "not run, the first is test_it.py::test_" in output
    case = next(case for case in project.junit().iter("testcase") if case.get("name") == "test_c")
    skipped = case.find("skipped")
    assert skipped is not None
    assert str(skipped.get("message")).startswith("not run: ")


def test_kmemleak_is_refused_on_a_kernel_without_it(project: Project) -> None:
    project.write("test_it.py", "def test_it():\n    pass\n")
    status, output = project.run("test_it.py", "--kmemleak")
    assert status == 2, output
    assert output.splitlines()[-1].endswith("choose one that was built with --flavour kmemleak")
    status, output = project.call("run", "--kmemleak", "test_it.py")
    assert status == 2, output
    assert output.splitlines()[-1].endswith("needs a kernel with the leak detector: add --flavour kmemleak")


LEAKS = """
import time
import pytest

def write(text, times=1):
    for _ in range(times):
        with open("/sys/kernel/kproof_leak", "w") as file:
            file.write(text)

def test_before():
    pass

def test_leaks_at_its_very_end():
    write("leak", 30)

def test_keeps():
    write("keep")

def test_leaks_again():
    write("leak", 30)

@pytest.mark.expect_splat("memory leak in kproof_allocate")
def test_expected():
    write("leak", 30)

def test_after():
    pass
"""


@pytest.fixture(scope="module")
def leaking() -> str:
    """A kernel with the leak detector that leaks on demand: built from nothing, it takes a quarter of an hour."""
    request = Request(flavours=("kmemleak",), patches=(str(Path(__file__).with_name("leak.patch")),))
    return f"kernel:{obtain(request).identity}"


@pytest.mark.slow
def test_a_leak_fails_the_test_that_provoked_it_and_no_other(project: Project, leaking: str) -> None:
    """Of 30 objects some may be hidden by stale pointers for a while: found later, they are no later test's."""
    project.write("test_it.py", LEAKS)
    status, output = project.call("run", "--kernel", leaking, "--cold", "--kmemleak", "-n", "1", "test_it.py")
    assert status == 1, output
    assert project.outcomes() == {
        "test_before": "passed",
        "test_leaks_at_its_very_end": "failed",
        "test_keeps": "passed",
        "test_leaks_again": "failed",
        "test_expected": "passed",
        "test_after": "passed",
    }
    leak = project.detail("test_leaks_at_its_very_end")
    assert leak["message"] == "the kernel complained: memory leak in kproof_allocate"
    assert "kproof_leak_store+0x" in leak["detail"]
    assert project.detail("test_leaks_again")["detail"].count("unreferenced object") > 10
    for _, title, text in told(project)["complaints_outside_tests"]:
        assert title == "memory leak in kproof_allocate"
        assert re.search(r"allocated during test_it.py::test_(leaks_at_its_very_end|leaks_again|expected):\n", text)
    assert "--kmemleak" in (project.latest / "repro.sh").read_text()
