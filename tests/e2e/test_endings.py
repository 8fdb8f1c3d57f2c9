"""However kproof ends, no QEMU stays behind, and what was known is written down."""

from __future__ import annotations

import json
import signal
import subprocess
import time

import pytest

from tests.e2e.conftest import Project, wait_until

SLOW = """
import time
import pytest

@pytest.mark.parametrize("number", range(30))
def test_slow(number):
    time.sleep(1)
"""


def start_and_wait_for_the_first_outcome(project: Project) -> subprocess.Popen[str]:
    project.write("test_it.py", SLOW)
    process = project.start(*project.command(), "test_it.py")
    assert process.stdout
    for line in process.stdout:
        if "PASSED" in line:
            break
    assert len(project.guests()) == 2
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_an_interrupted_run_leaves_its_results_and_no_guest(project: Project, number: signal.Signals) -> None:
    process = start_and_wait_for_the_first_outcome(project)
    start = time.monotonic()
    process.send_signal(number)
    wait_until(lambda: not project.guests(), "the guests' end", limit=10)
    gone = time.monotonic() - start
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 130, output
    assert "Traceback" not in output
    results = set(project.outcomes().values())
    assert results == {"passed", "not run"}
    assert json.loads((project.latest / "run.json").read_text())["summary"]["passed"] >= 1
    print(f"guests were gone after {gone:.2f} s")


def test_a_killed_run_leaves_no_guest_and_does_not_disturb_the_next(project: Project) -> None:
    process = start_and_wait_for_the_first_outcome(project)
    process.kill()
    wait_until(lambda: not project.guests(), "the guests' end", limit=10)
    project.write("test_it.py", "def test_it():\n    pass\n")
    status, output = project.run("test_it.py")
    assert status == 0, output
    assert project.outcomes() == {"test_it": "passed"}
