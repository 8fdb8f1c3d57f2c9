"""``kproof matrix`` on the real kernel: what was not foretold is told, what is known does not run again."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

from .conftest import Project, wait_until

TESTS = """# {unique}
import pytest

def test_passes():
    pass

@pytest.mark.since("99.0")
def test_needs_a_newer_kernel():
    raise AssertionError("must be skipped")

@pytest.mark.known_bug("two is no one", evidence="arithmetic", match="2 == 1")
def test_fails_as_foretold():
    assert 2 == 1
"""
SURPRISE = """# {unique}
def test_is_broken():
    with open("/dev/kmsg", "w") as log:
        log.write("<script>hostile</script>\\n")
    assert False, "it broke"
"""
SLOW = """# {unique}
import time

def test_first():
    pass

def test_second():
    time.sleep(4)
"""


def define(project: Project, **files: str) -> None:
    """A matrix of two cells on the same kernel; files are new to whoever keeps outcomes."""
    for name, text in files.items():
        project.write(f"{name}.py", text.format(unique=project.folder))
    tests = ", ".join(f'"{name}.py"' for name in files)
    project.write("matrix.toml", f'kernel = ["kernel:{project.kernel.identity}"]\nselftests = [{tests}]\n')


def matrix(project: Project, *arguments: str) -> tuple[int, str]:
    return project.call("matrix", "matrix.toml", "-n", "1", *project.options, *arguments)


def report(project: Project) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((project.latest / "matrix.json").read_text())
    return data


def test_surprises_and_what_is_known(project: Project) -> None:
    define(project, test_good=TESTS, test_bad=SURPRISE)
    status, output = matrix(project)
    assert status == 1, output
    assert "UNEXPECTED FAILURE test_bad.py::test_is_broken" in output
    data = report(project)
    (surprise,) = data["surprises"]
    assert (surprise["kind"], surprise["nodeid"]) == ("unexpected failure", "test_bad.py::test_is_broken")
    good, bad = data["cells"]
    assert good["summary"] == {"passed": 1, "skipped": 1, "xfailed": 1}
    assert "hostile" in bad["outcomes"]["test_bad.py::test_is_broken"]["kernel_log"]
    page = (project.latest / "matrix.html").read_text()
    assert "it broke" in page
    assert "<script>hostile" not in page
    assert [suite.get("name") for suite in project.junit()] == [good["id"], bad["id"]]

    project.write("test_bad.py", "def test_is_broken():\n    pass\n")
    status, output = matrix(project)
    assert status == 0, output
    good, bad = report(project)["cells"]
    assert (good["ran"], good["reused"], bad["ran"], bad["reused"]) == (0, 3, 1, 0)
    assert not Path(project.latest, good["folder"]).exists()


def test_an_interrupted_matrix_goes_on(project: Project) -> None:
    define(project, test_slow=SLOW)
    process = project.start("matrix", "matrix.toml", "-n", "1", *project.options)
    wait_until(
        lambda: any('"result"' in path.read_text() for path in project.folder.rglob("outcomes.jsonl")), "a test", 280
    )
    os.kill(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert report(project)["interrupted"]
    assert report(project)["surprises"] == []
    status, output = matrix(project)
    assert status == 0, output
    (cell,) = report(project)["cells"]
    assert (cell["ran"], cell["reused"]) == (1, 1)
