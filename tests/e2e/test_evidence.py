"""What the kernel says during a test."""

from __future__ import annotations

from tests.e2e.conftest import Project

COMPLAINTS = '''
import os
import pytest

def say(text):
    """Through the kernel's log, as the kernel would say it."""
    with open("/dev/kmsg", "w") as log:
        log.write(f"<4>{text}\\n")

def warn():
    say("------------[ cut here ]------------")
    say("WARNING: CPU: 0 PID: 42 at net/core/dev.c:1234 netif_kproof_test+0x12/0x40")
    say("Call Trace:")
    say(" <TASK>")
    say(" netif_kproof_test+0x12/0x40")
    say(" </TASK>")
    say("---[ end trace 0000000000000000 ]---")

def test_quiet():
    say("a driver says: warning, cable unplugged")
    print("BUG: this is only a test's own output")

def test_warns():
    warn()

@pytest.mark.expect_splat("WARNING.*netif_kproof_test")
def test_expected():
    warn()

@pytest.mark.expect_splat("KASAN")
def test_expected_but_silent():
    pass

@pytest.mark.expect_splat("KASAN")
def test_expected_another():
    warn()

def test_leaks_a_device():
    say("unregister_netdevice: waiting for dummy0 to become free. Usage count = 2")
'''


def test_a_complaint_of_the_kernel_fails_the_test_that_provoked_it_and_no_other(project: Project) -> None:
    project.write("test_it.py", COMPLAINTS)
    status, output = project.run("test_it.py", "-n", "1")
    assert status == 1, output
    assert project.outcomes() == {
        "test_quiet": "passed",
        "test_warns": "failed",
        "test_expected": "passed",
        "test_expected_but_silent": "failed",
        "test_expected_another": "failed",
        "test_leaks_a_device": "failed",
    }
    assert "cable unplugged" in project.detail("test_quiet")["kernel_log"]
    warned = project.detail("test_warns")
    assert warned["message"].startswith("the kernel complained: WARNING")
    assert "netif_kproof_test" in warned["message"]
    assert "cable unplugged" not in warned["kernel_log"]
    assert "no splat matches 'KASAN'" in project.detail("test_expected_but_silent")["message"]
    assert len(project.detail("test_warns")["taint"]) == 2
    failing = [case for case in project.junit().iter("testcase") if case.get("name") == "test_warns"]
    assert "net/core/dev.c:1234" in (failing[0].findtext("system-out") or "")


def test_a_complaint_between_tests_is_nobodys_and_fails_the_run(project: Project) -> None:
    project.write(
        "conftest.py",
        "def pytest_runtest_logfinish(nodeid):\n"
        "    if nodeid.endswith('test_a'):\n"
        "        with open('/dev/kmsg', 'w') as log:\n"
        "            log.write('<2>BUG: scheduling while atomic: kproof/42/0x00000002\\n')\n",
    )
    project.write("test_it.py", "def test_a():\n    pass\n\ndef test_b():\n    pass\n")
    status, output = project.run("test_it.py", "-n", "1")
    assert status == 1, output
    assert project.outcomes() == {"test_a": "passed", "test_b": "passed"}
    cases = [case for case in project.junit().iter("testcase") if "outside of any test" in str(case.get("name"))]
    assert len(cases) == 1
    failure = cases[0].find("failure")
    assert failure is not None
    assert "scheduling while atomic" in str(failure.get("message"))
