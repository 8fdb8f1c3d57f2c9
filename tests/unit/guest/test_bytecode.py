"""The byte code of a project's tests: made once for the files as they are, where a guest finds it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.events import Event, ignore
from harness.guest.agent import PROJECT_BYTECODE
from harness.guest.bytecode import compile_tests


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose tests have a helper."""
    (tmp_path / "pyproject.toml").write_text("[tool.pytest.ini_options]\n")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "helper_of_it.py").write_text("answer = 42\n")
    (tmp_path / "tests" / "test_it.py").write_text(
        "from helper_of_it import answer\n\n\ndef test_it():\n    assert answer == 42\n"
    )
    return tmp_path


def made(project: Path) -> list[str]:
    """What is there of the project's own files, by module."""
    place = Path(f"{project / PROJECT_BYTECODE}{project}")
    return sorted(path.name.partition(".")[0] for path in place.rglob("*.pyc"))


def test_tests_and_helpers_are_compiled(project: Path) -> None:
    compile_tests(project, ["tests"], ignore)
    assert made(project) == ["helper_of_it", "test_it"]
    assert not list(project.rglob("__pycache__")), "nothing lies beside the sources"


def test_python_takes_it_from_there(project: Path) -> None:
    """As a guest does, from a place of the same paths, and without a source that could be compiled instead."""
    compile_tests(project, ["tests"], ignore)
    source = project / "tests" / "helper_of_it.py"
    info = source.stat()
    source.write_text("answer = 43\n")  # of the same size, and time
    os.utime(source, ns=(info.st_atime_ns, info.st_mtime_ns))
    prefix = str(project / PROJECT_BYTECODE)
    said = subprocess.run(
        [sys.executable, "-ISBX", f"pycache_prefix={prefix}", "-c", "import sys; sys.path.insert(0, sys.argv[1]);"
         " import helper_of_it; print(helper_of_it.answer)", str(source.parent)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert said.stdout == "42\n"


def test_nothing_is_done_twice(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compile_tests(project, ["tests"], ignore)
    monkeypatch.setattr("harness.command.run", lambda *words, **options: pytest.fail("compiled again"))
    compile_tests(project, ["tests"], ignore)


def test_an_edit_is_compiled(project: Path) -> None:
    compile_tests(project, ["tests"], ignore)
    (project / "tests" / "test_other.py").write_text("def test_other():\n    pass\n")
    compile_tests(project, ["tests"], ignore)
    assert made(project) == ["helper_of_it", "test_it", "test_other"]


def test_tests_that_cannot_be_collected_are_no_concern(project: Path) -> None:
    (project / "tests" / "test_it.py").write_text("import nothing_of_this_name\n")
    compile_tests(project, ["tests"], lambda event: pytest.fail(str(event)))


def test_a_folder_that_cannot_be_written_is_told(project: Path) -> None:
    told: list[Event] = []
    (project / "build").write_text("a file")
    compile_tests(project, ["tests"], told.append)
    assert "left to the guests" in str(told)
