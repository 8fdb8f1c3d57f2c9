"""ci/setup: on a machine without apt it names the packages and stops; what doctor reads is what it installs."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from harness import doctor
from harness.paths import project_root

TOOLS = ("sh", "dirname", "cat", "cksum", "sed", "awk", "tr", "id", "tail", "rm", "echo", "printf")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what the script reads, and a PATH with the few tools that every system has."""
    (tmp_path / "ci").mkdir()
    (tmp_path / "bin").mkdir()
    for name in ("ci/setup", "ci/packages.txt", "pyproject.toml"):
        shutil.copy(project_root() / name, tmp_path / name)
    for tool in TOOLS:
        if found := shutil.which(tool):
            (tmp_path / "bin" / tool).symlink_to(found)
    return tmp_path


def fake(checkout: Path, name: str, script: str) -> None:
    (checkout / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
    (checkout / "bin" / name).chmod(0o755)


def setup(checkout: Path, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": str(checkout / "bin"), **more}
    return subprocess.run(["sh", checkout / "ci/setup"], env=environment, capture_output=True, text=True, check=False)


def test_without_apt_it_prints_the_packages_and_stops_with_3(checkout: Path) -> None:
    done = setup(checkout)
    assert done.returncode == 3
    assert "has no apt" in done.stderr
    assert "qemu-system-x86" in done.stderr
    assert not (checkout / ".venv").exists()


def test_without_root_or_sudo_it_prints_the_command_and_stops_with_3(checkout: Path) -> None:
    fake(checkout, "dpkg-query", 'case "$*" in *clang*) exit 1 ;; *) printf installed ;; esac')
    fake(checkout, "apt-get", "exit 99")
    (checkout / "bin" / "id").unlink()
    fake(checkout, "id", "echo 1000")
    done = setup(checkout)
    assert done.returncode == 3
    assert "as root, run: apt install clang" in done.stderr


def test_packages_are_named_before_they_are_installed_and_a_failing_apt_is_one_clear_line(checkout: Path) -> None:
    fake(checkout, "dpkg-query", 'case "$*" in *clang*) exit 1 ;; *) printf installed ;; esac')
    fake(checkout, "apt-get", 'echo "E: no route to the archive"; exit 100')
    (checkout / "bin" / "id").unlink()
    fake(checkout, "id", "echo 0")
    done = setup(checkout)
    assert done.returncode == 3
    assert done.stdout == "kproof: installing clang\n"
    assert done.stderr.splitlines()[-1] == "kproof: apt could not install the packages; all it said is in .setup.log"


def test_a_python_that_is_named_is_taken_before_the_systems(checkout: Path) -> None:
    fake(checkout, "dpkg-query", "printf installed")
    fake(checkout, "apt-get", "exit 99")
    fake(checkout, "own", '[ "$1" = -c ] || { echo "own $*"; exit 7; }')
    done = setup(checkout, PYTHON="own")
    assert done.returncode == 7
    assert done.stdout == "kproof: making .venv\nown -m venv --clear .venv\n"


def test_a_python_that_is_none_is_told_and_not_replaced_by_another(checkout: Path) -> None:
    fake(checkout, "dpkg-query", "printf installed")
    fake(checkout, "apt-get", "exit 99")
    done = setup(checkout, PYTHON="pyhton3")
    assert done.returncode == 3
    assert done.stderr == "kproof: PYTHON=pyhton3 is none: Python 3.11 or newer with venv is needed\n"


def test_doctor_tells_what_is_missing_and_the_command_that_mends_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = [doctor.Finding("clang", "-", "missing"), doctor.Finding("gcc", "12", "ok")]
    monkeypatch.setattr(doctor, "_packages", lambda: missing)
    monkeypatch.setattr(doctor, "_machine", list)
    monkeypatch.setattr(doctor, "_programs", list)
    assert doctor.examine() == 3
    assert "run: apt install clang\n" in capsys.readouterr().out


def test_doctor_reads_every_package_that_setup_installs() -> None:
    names = {finding.name for finding in doctor._packages()}
    assert {"qemu-system-x86", "clang", "erofs-utils", "nftables", "python3-venv"} <= names
