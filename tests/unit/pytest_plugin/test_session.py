"""A guest's session that stands by: whose tests it runs, and when it makes way for a new one.

Each case runs in a process of its own, as in a guest: the main thread stands by, another brings the job.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = """
import json, os, sys, threading
from execnet.gateway_base import get_execmodel
from harness.pytest_plugin import session
from harness.pytest_plugin.guest import GuestSide
from harness.pytest_plugin.packed import PACKED

given = json.loads(sys.argv[1])
GuestSide.__init__ = lambda self: None  # it would read this host's kernel log
for name in [name for name in vars(GuestSide) if name.startswith("pytest_")]:
    delattr(GuestSide, name)
events = []

class Channel:
    execmodel = get_execmodel("thread")
    _io = None
    gateway = property(lambda self: self)
    def send(self, event):
        events.append(event)
    def setcallback(self, callback, endmarker):
        ids = next(data["ids"] for name, data in events if name == "collectionfinish")
        callback(("runtests", {"indices": list(range(len(ids)))}))
        callback(endmarker)

def bring():
    workerinput = {
        "workerid": "gw0", "workercount": 1, "testrunuid": "1", "mainargv": ["kproof"],
        "kproof_folder": given["folder"],
    }
    try:
        session.run(Channel(), workerinput, given["args"])
    except BaseException as error:
        events.append(["error", {"text": f"{type(error).__name__}: {error}"}])

thread = threading.Thread(target=bring)

def park(rest):
    events.append(["parked", {"rest": rest}])
    if given["edit"]:
        with open(given["edit"], "a") as file:
            file.write("\\ndef test_new(): pass\\n")
        del sys.modules["test_b"]
    thread.start()
    return not given["edit"]

session.stand_by(given["tests"], park)
thread.join()
out = [[name, {key: value for key, value in data.items() if key in ("ids", "text", "rest")}] for name, data in events]
reports = [json.loads(data["data"][PACKED]) for name, data in events if name == "testreport"]
out += [["report", [one["nodeid"], one["outcome"]]] for one in reports if one["when"] == "call"]
print("\\n" + json.dumps(out))
"""

A = """
import pytest

@pytest.mark.parametrize("number", range(2))
def test_a(number): pass

class TestC:
    def test_c(self): pass
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    tests = tmp_path / "tests"
    (tests / "deep").mkdir(parents=True)
    (tests / "test_a.py").write_text(A)
    (tests / "deep" / "test_b.py").write_text("def test_b():\n    assert 1 == 2\n")
    (tests / "conftest.py").write_text(
        "def pytest_sessionstart():\n    with open('sessions', 'a') as file:\n        file.write('x')\n"
    )
    return tmp_path


def stand_by(project: Path, *args: str, tests: tuple[str, ...] = ("tests",), edit: str = "") -> dict[str, Any]:
    """The events by name, the reports, and how many sessions there were."""
    given = {"folder": str(project), "args": args, "tests": tests, "edit": edit}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(given)], cwd=project, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    events = json.loads(done.stdout.splitlines()[-1])
    seen: dict[str, Any] = dict(events)
    seen["reports"] = dict(event for name, event in events if name == "report")
    sessions = project / "sessions"
    seen["sessions"] = len(sessions.read_text()) if sessions.exists() else 0
    return seen


def test_all_that_was_collected(project: Path) -> None:
    seen = stand_by(project, "tests")
    assert seen["reports"] == {
        "tests/deep/test_b.py::test_b": "failed",
        "tests/test_a.py::test_a[0]": "passed",
        "tests/test_a.py::test_a[1]": "passed",
        "tests/test_a.py::TestC::test_c": "passed",
    }
    assert seen["sessions"] == 1
    assert "workerfinished" in seen
    assert {str(project / "tests"), str(project / "tests/deep"), str(project / "pytest.ini")} == set(
        seen["parked"]["rest"]
    )


@pytest.mark.parametrize(
    ("args", "ids"),
    [
        (["tests/deep"], ["tests/deep/test_b.py::test_b"]),
        (["tests/test_a.py::test_a"], ["tests/test_a.py::test_a[0]", "tests/test_a.py::test_a[1]"]),
        (["tests/test_a.py::test_a[1]"], ["tests/test_a.py::test_a[1]"]),
        (["tests/test_a.py::TestC"], ["tests/test_a.py::TestC::test_c"]),
        (["tests", "-k", "test_c or test_b"], ["tests/deep/test_b.py::test_b", "tests/test_a.py::TestC::test_c"]),
        (["tests/test_a.py::test_a[1]", "tests/test_a.py::test_a[1]"], ["tests/test_a.py::test_a[1]"]),
        (["--kernel", "debian:6.12", "-n", "2", "tests/deep"], ["tests/deep/test_b.py::test_b"]),
        (["-p", "no:terminal", "tests/deep"], ["tests/deep/test_b.py::test_b"]),
        (["--random-order=7", "tests/deep"], ["tests/deep/test_b.py::test_b"]),
    ],
)
def test_a_selection(project: Path, args: list[str], ids: list[str]) -> None:
    seen = stand_by(project, *args)
    assert seen["collectionfinish"]["ids"] == ids
    assert seen["sessions"] == 1


def test_absolute_paths_are_the_same(project: Path) -> None:
    seen = stand_by(project, str(project / "tests" / "deep"))
    assert list(seen["reports"]) == ["tests/deep/test_b.py::test_b"]
    assert seen["sessions"] == 1


@pytest.mark.parametrize("args", [["--import-mode=importlib", "tests"], ["-o", "python_functions=nothing*", "tests"]])
def test_an_option_that_matters_earlier_begins_anew(project: Path, args: list[str]) -> None:
    assert stand_by(project, *args)["sessions"] == 2


def test_an_edited_file_begins_anew(project: Path) -> None:
    seen = stand_by(project, "tests/deep", edit=str(project / "tests/deep/test_b.py"))
    assert seen["reports"] == {"tests/deep/test_b.py::test_b": "failed", "tests/deep/test_b.py::test_new": "passed"}
    assert seen["sessions"] == 2


def test_a_test_that_does_not_exist_is_an_error(project: Path) -> None:
    seen = stand_by(project, "tests/test_a.py::test_typo")
    assert "not found" in seen["error"]["text"]


def test_what_cannot_be_collected_is_told_by_the_run(project: Path) -> None:
    (project / "tests" / "test_broken.py").write_text("import nothing_of_that_name\n")
    seen = stand_by(project, "tests")
    assert "collectreport" in seen
    assert seen["sessions"] == 2


def test_a_broken_conftest_is_told_by_the_run(project: Path) -> None:
    (project / "tests" / "conftest.py").write_text("import nothing_of_that_name\n")
    assert "nothing_of_that_name" in stand_by(project, "tests")["error"]["text"]
