"""Upstream commits out of a user's clone."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import UserError
from harness.kernel.series import Commit, Series
from harness.kernel.upstream import Missing, patches
from harness.model import Version

from .conftest import git, write


def series(*commits: Commit) -> Series:
    return Series("s", "t", Version(7, 1), (), commits, (), (), "")


@pytest.fixture
def grown(clone: Path) -> Path:
    """Three commits after v6.12.3; the second has a subject that contains the first's."""
    for number, subject in enumerate(("net: one", "Revert: net: one", "net: two"), 1):
        write(clone / "fs/namei.c", f"int namei(void) {{ return 1{number}; }}\n")
        git(clone, "commit", "-qam", subject)
    return clone


def names(found: object) -> list[str]:
    return [patch.name.split("(", 1)[1].rstrip(")") for patch in found]  # type: ignore[attr-defined]


def test_by_id_and_by_subject_in_the_listed_order(grown: Path, tmp_path: Path) -> None:
    two = git(grown, "rev-parse", "main").strip()
    wanted = series(Commit("net: two", two[:12]), Commit("net: one"))
    found = patches(wanted, grown, Version(6, 12), keep=tmp_path)
    assert names(found) == ["net: two", "net: one"]
    assert b"return 13" in found[0].text
    assert found[0].name.startswith(f"upstream {two[:12]}")


def test_an_id_with_another_subject_is_not_believed(grown: Path, tmp_path: Path) -> None:
    two = git(grown, "rev-parse", "main").strip()
    (found,) = patches(series(Commit("net: one", two)), grown, Version(6, 12), keep=tmp_path)
    assert b"+int namei(void) { return 11; }" in found.text


def test_a_rebased_clone_is_searched_again(grown: Path, tmp_path: Path) -> None:
    wanted = series(Commit("net: two"))
    patches(wanted, grown, Version(6, 12), keep=tmp_path)
    git(grown, "commit", "-q", "--amend", "-m", "net: two", "--date", "2020-01-01T00:00:00Z")
    git(grown, "reflog", "expire", "--expire=now", "--all")
    git(grown, "gc", "-q", "--prune=now")
    (found,) = patches(wanted, grown, Version(6, 12), keep=tmp_path)
    assert git(grown, "rev-parse", "main")[:12] in found.name


def test_commits_that_a_version_has_are_left_out(grown: Path, tmp_path: Path) -> None:
    wanted = series(Commit("net: one", since=Version(6, 12)), Commit("net: two", since=Version(6, 13)))
    assert names(patches(wanted, grown, Version(6, 12, 3), keep=tmp_path)) == ["net: two"]


def test_what_is_missing_is_said(grown: Path, tmp_path: Path) -> None:
    with pytest.raises(Missing, match=r"no commit 0123456789ab \(net: three\) of series s; fetch"):
        patches(series(Commit("net: three", "0123456789ab")), grown, Version(6, 12), keep=tmp_path)
    with pytest.raises(Missing, match="never merged"):
        patches(series(), grown, Version(6, 12), keep=tmp_path)
    with pytest.raises(UserError, match="no git clone"):
        patches(series(Commit("net: one")), tmp_path, Version(6, 12), keep=tmp_path)
