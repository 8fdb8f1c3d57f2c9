"""What becomes of tests, and of commands in guests. What a guest can die of is in faults/."""

from __future__ import annotations

import subprocess

import pytest

from tests.e2e.conftest import Project

EVERY_KIND = """
import os
import pytest

@pytest.fixture
def broken():
    raise RuntimeError("no device")

@pytest.fixture
def leaky():
    yield
    raise RuntimeError("left a namespace behind")

def test_passes():
    assert os.getuid() == 0

def test_fails():
    print("bytes that XML forbids: \\x00\\x1b[31m")
    assert 1 + 1 == 3

def test_skips():
    pytest.skip("the kernel lacks it")

def test_setup_fails(broken):
    pass

def test_teardown_fails(leaky):
    pass

def test_process_exits():
    os._exit(7)

def test_segfaults():
    import ctypes
    ctypes.string_at(0)
"""


def test_every_kind_of_outcome_is_told_apart(project: Project) -> None:
    project.write("test_it.py", EVERY_KIND)
    status, output = project.run("test_it.py", "-n", "1")
    assert status == 1, output
    assert project.outcomes() == {
        "test_passes": "passed",
        "test_fails": "failed",
        "test_skips": "skipped",
        "test_setup_fails": "error",
        "test_teardown_fails": "error",
        "test_process_exits": "crashed",
        "test_segfaults": "crashed",
    }
    assert project.detail("test_process_exits")["message"] == "the guest's Python ended with status 7"
    assert project.detail("test_segfaults")["message"] == "the guest's Python ended by signal 11"
    assert project.detail("test_skips")["message"] == "the kernel lacks it"
    assert "assert (1 + 1) == 3" in project.detail("test_fails")["detail"]
    assert "\\x00\\x1b[31m" in (project.latest / "junit.xml").read_text()


def test_pytest_by_itself_runs_in_guests_too(project: Project) -> None:
    """``pytest --kernel RECIPE -n 2 DIR`` works without our command line."""
    project.write("test_it.py", "import os\n\ndef test_it():\n    assert os.path.exists('/proc/sysrq-trigger')\n")
    status, output = project.call(*project.pytest_command(), "-n", "2", ".")
    assert status == 0, output
    assert "1 passed" in output
    assert project.outcomes() == {"test_it": "passed"}


def test_a_file_that_cannot_be_imported_is_an_error_and_not_a_silence(project: Project) -> None:
    project.write("test_bad.py", "import no_such_module\n")
    project.write("test_good.py", "def test_it():\n    pass\n")
    status, output = project.run(".", "-n", "1")
    assert status == 1, output
    assert project.outcomes()["test_it"] in ("passed", "not run")
    assert "no_such_module" in output


def test_no_test_selected_is_said_and_is_status_5(project: Project) -> None:
    project.write("test_it.py", "def test_it():\n    pass\n")
    status, output = project.run("test_it.py", "-n", "1", "-k", "nothing_is_called_so")
    assert status == 5, output
    assert "no test was selected" in output


def test_a_test_id_that_does_not_exist_is_the_users_error(project: Project) -> None:
    project.write("test_it.py", "def test_it():\n    pass\n")
    status, output = project.run("test_it.py::test_other", "-n", "1")
    assert status == 2, output
    assert "test_it.py::test_other" in output
    assert "Traceback" not in output


@pytest.mark.parametrize("launcher", ["image", "virtme"])
def test_exec_gives_back_output_and_status(project: Project, launcher: str) -> None:
    recipe = f"kernel:{project.kernel.identity}"
    script = 'cat; echo to stderr >&2; uname -r; echo "$HOME"; ip -br link show lo | cut -c1-2; exit 42'
    process = project.start(
        "exec", "--root", launcher, recipe, "--", "sh", "-c", script, stdin=subprocess.PIPE, stderr=subprocess.PIPE
    )
    output, errors = process.communicate("to cat\n" * 50_000, timeout=300)
    assert process.returncode == 42, errors
    assert output == "to cat\n" * 50_000 + f"{project.kernel.release}\n/root\nlo\n"
    assert errors == "to stderr\n"


def test_exec_of_a_command_that_does_not_exist_and_of_one_that_kills_the_guest(project: Project) -> None:
    recipe = f"kernel:{project.kernel.identity}"
    status, output = project.call("exec", recipe, "--", "no-such-command")
    assert status == 127, output
    assert "no-such-command: not found" in output
    status, output = project.call("exec", recipe, "--", "sh", "-c", "echo c > /proc/sysrq-trigger")
    assert status == 3, output
    assert "the guest ended before the command did: Kernel panic - not syncing: sysrq triggered crash" in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("script", "status", "length"),
    [
        ("kill -9 $$", 137, 0),
        ("true", 0, 0),  # reads none of its input
        ("sed s/a/bbbbbbbbbbbbbbbbbbbb/g", 0, 20 * 300_000 + 5_000),  # writes far more than it reads
    ],
)
def test_exec_neither_blocks_nor_blames_the_guest(project: Project, script: str, status: int, length: int) -> None:
    command = ["exec", f"kernel:{project.kernel.identity}", "--", "sh", "-c", script]
    process = project.start(*command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    output, errors = process.communicate(("a" * 60 + "\n") * 5_000, timeout=300)
    assert process.returncode == status
    assert errors in ("", "Killed\n")  # a shell says how its child ended
    assert len(output) == length
