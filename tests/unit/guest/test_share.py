"""The project as a disk: what is on it, and when it is made anew."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from harness.errors import UserError
from harness.guest import share
from harness.guest.share import project_disk


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KPROOF_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "project"
    for name in (
        "tests/test_one.py",
        "tests/results/kept.py",
        ".git/HEAD",
        "results/1/run.json",
        "tests/__pycache__/x.pyc",
        "env/bin/python",
        "env/pyvenv.cfg",
        "pyproject.toml",
    ):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    os.utime(folder / "tests/test_one.py", ns=(0, 1_700_000_000_123_456_789))
    return folder


def unpacked(image: Path, target: Path) -> Path:
    subprocess.run(["fsck.erofs", f"--extract={target}", image], check=True, capture_output=True)
    return target


def test_what_guests_see(project: Path, tmp_path: Path) -> None:
    seen = unpacked(project_disk(project), tmp_path / "seen")
    files = sorted(str(path.relative_to(seen)) for path in seen.rglob("*") if path.is_file())
    assert files == ["pyproject.toml", "tests/results/kept.py", "tests/test_one.py"]
    assert (seen / "tests/test_one.py").read_text() == "tests/test_one.py"


def test_times_are_kept_to_the_nanosecond(project: Path, tmp_path: Path) -> None:
    """A restored guest tells by them which of its modules are old."""
    seen = unpacked(project_disk(project), tmp_path / "seen")
    for name in ("tests/test_one.py", "tests"):
        assert (seen / name).stat().st_mtime_ns == (project / name).stat().st_mtime_ns


def test_an_edit_makes_another_disk_of_the_same_size(project: Path) -> None:
    first = project_disk(project)
    assert project_disk(project) == first
    (project / "results/1/more").write_text("")
    assert project_disk(project) == first
    (project / "tests/test_one.py").write_text("another")
    second = project_disk(project)
    assert second != first
    assert first.stat().st_size == second.stat().st_size == share.SPAN
    assert second.stat().st_blocks * 512 < 1 << 20


def test_old_disks_go(project: Path) -> None:
    for number in range(share.KEPT + 2):
        (project / "tests/test_one.py").write_text("x" * number)
        newest = project_disk(project)
    kept = list(newest.parent.iterdir())
    assert len(kept) == share.KEPT
    assert newest in kept


def test_a_project_that_is_too_large(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(share, "SPAN", 40)
    with pytest.raises(UserError, match="begins with a dot"):
        project_disk(project)
