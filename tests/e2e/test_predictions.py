"""What versions are known to do, in real guests: failures, splats and deaths, predicted and not."""

from __future__ import annotations

import json

from tests.e2e.conftest import Project

PREDICTED = """
import pytest

LACKING = dict(mainline="99.0", stable={"98.1": "98.1.7"})
COMMIT = "1d47b55b36d2"

def say(*lines):
    for line in [*lines, "---[ end trace 0 ]---"]:
        with open("/dev/kmsg", "w") as log:
            log.write(f"<4>{line}\\n")

def warn(name):
    say(f"WARNING: CPU: 0 PID: 1 at net/x.c:1 {name}+0x1/0x2")

def oops(name):
    # as in another process: the kernel lives on, tainted
    say("BUG: kernel NULL pointer dereference, address: 0", "Oops: 0002 [#1] SMP", f"RIP: 0010:{name}+0x1/0x2")
    open("/proc/sys/kernel/tainted", "w").write("128")

def panic():
    open("/proc/sysrq-trigger", "w").write("c")

@pytest.mark.fixed_in(COMMIT, **LACKING, match="sysrq triggered crash", crash=True)
def test_panics():
    panic()

@pytest.mark.fixed_in(COMMIT, **LACKING, match="NULL pointer", crash=True)
def test_panics_otherwise():
    panic()

@pytest.mark.fixed_in(COMMIT, **LACKING, match="NULL pointer dereference.* in nk_xmit", crash=True)
def test_lives_on():
    oops("nk_xmit")
    assert not "the child was killed"

@pytest.mark.fixed_in(COMMIT, **LACKING, match="sysrq triggered crash", crash=True)
def test_lives():
    pass

@pytest.mark.fixed_in(COMMIT, mainline="6.12", match="sysrq triggered crash", crash=True)
def test_panics_with_the_fix():
    panic()

@pytest.fixture
def fatal():
    panic()

@pytest.mark.fixed_in(COMMIT, **LACKING, match="sysrq triggered crash", crash=True)
def test_panics_in_set_up(fatal):
    pass

@pytest.mark.fixed_in(COMMIT, **LACKING, match="one is two")
def test_fails():
    assert 1 == 2, "one is two"

@pytest.mark.fixed_in(COMMIT, **LACKING, match="one is two")
def test_panics_instead_of_failing():
    panic()

@pytest.mark.fixed_in(COMMIT, **LACKING, match="WARNING in nk_xmit")
def test_warns():
    warn("nk_xmit")

@pytest.mark.fixed_in(COMMIT, **LACKING, match="WARNING in nk_xmit")
def test_warns_otherwise():
    warn("nk_open")

@pytest.mark.known_bug("it is bypassed", evidence="netkit_xmit()", match="was not dropped")
def test_known():
    assert not "was not dropped"

@pytest.mark.since("99.0")
def test_later():
    panic()

@pytest.mark.since("6.12")
def test_today():
    import hypothesis
"""


def test_what_is_predicted_is_xfailed_and_nothing_else(project: Project) -> None:
    project.write("test_it.py", PREDICTED)
    status, output = project.run("test_it.py", "-n", "2")
    assert status == 1, output
    assert project.outcomes() == {
        "test_panics": "xfailed",
        "test_panics_otherwise": "crashed",
        "test_lives_on": "xfailed",
        "test_lives": "failed",
        "test_panics_with_the_fix": "crashed",
        "test_panics_in_set_up": "xfailed",
        "test_fails": "xfailed",
        "test_panics_instead_of_failing": "crashed",
        "test_warns": "xfailed",
        "test_warns_otherwise": "failed",
        "test_known": "xfailed",
        "test_later": "skipped",
        "test_today": "passed",
    }
    panic = project.detail("test_panics")
    why = f"{project.kernel.version} lacks 1d47b55b36d2, which is in 99.0, 98.1.7"
    assert panic["message"] == f"predicted: {why}; crashed: Kernel panic - not syncing: sysrq triggered crash"
    assert "Kernel panic - not syncing: sysrq triggered crash" in panic["kernel_log"]
    assert project.detail("test_fails")["message"] == f"predicted: {why}"
    assert f"predicted was 'NULL pointer': {why}" in project.detail("test_panics_otherwise")["detail"]
    assert project.detail("test_lives")["message"].startswith("predicted to crash with 'sysrq triggered crash', but")
    assert project.detail("test_later")["message"] == f"needs Linux 99.0, this is {project.kernel.version}"


def test_a_run_of_predictions_that_hold_is_green(project: Project) -> None:
    """A death that was predicted is no death outside of tests, and had a guest to itself; in any order."""
    names = ("test_panics_in_set_up", "test_panics", "test_fails", "test_known", "test_today")
    project.write("test_it.py", PREDICTED)
    status, output = project.run(*(f"test_it.py::{name}" for name in names), "-n", "1", "--random-order", "7")
    assert status == 0, output
    assert "4 xfailed" in output
    assert "random order: --random-order=7 repeats it" in output
    told = json.loads((project.latest / "run.json").read_text())
    guests = {outcome["nodeid"].partition("::")[2]: outcome["guest"] for outcome in told["outcomes"]}
    assert len(set(guests.values())) == 3
    assert guests["test_fails"] == guests["test_known"] == guests["test_today"]
    assert set(told["deaths"]) == {guests["test_panics"], guests["test_panics_in_set_up"]}
    assert "--random-order=7" in (project.latest / "repro.sh").read_text()
    kernel = f"kernel:{project.kernel.identity}"
    _, output = project.call("pytest", "--kernel", kernel, "--cold", "-n", "1", "test_it.py::test_panics")
    assert "1 xfailed" in output, "pytest itself has it so, too"


def test_a_marker_that_is_wrong_ends_the_run_and_names_the_test(project: Project) -> None:
    project.write("test_it.py", "import pytest\n\n@pytest.mark.since('6.x')\ndef test_it():\n    pass\n")
    status, output = project.run("test_it.py")
    assert status == 2, output
    assert output.splitlines()[-1].startswith(
        "kproof: test_it.py::test_it: marker since: '6.x' is not a kernel version"
    )
