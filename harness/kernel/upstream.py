"""Series from a user's clone of the kernel: the upstream commits that series.toml lists, as patches."""

from __future__ import annotations

from pathlib import Path

from harness import command
from harness.errors import UserError
from harness.kernel.memo import memo
from harness.kernel.series import Commit, Series
from harness.model import Patch, Version

LIMIT = 600.0
"""Seconds for one git command: searching a full clone by subject reads a million commits."""


class Missing(UserError):
    """The clone lacks a commit of the series."""


def check(clone: Path) -> None:
    """Raises UserError for a folder that is no clone."""
    if not clone.is_dir() or _git(clone, "rev-parse", "--git-dir").status != 0:
        raise UserError(f"--upstream {clone}: no git clone")


def patches(series: Series, clone: Path, version: Version, *, keep: Path) -> tuple[Patch, ...]:
    """The listed commits of ``series`` that a tree of ``version`` lacks, in order, from ``git format-patch``.

    Each is looked up by its id, and by its subject when the clone has no such id (a backport, a rebased branch).
    Answers are kept under ``keep``. Raises UserError for a folder that is no clone, Missing for a commit that is not in
    it, and for a series that lists none.
    """
    check(clone)
    if not series.commits:
        raise Missing(f"series {series.name} lists no upstream commits: it was never merged")
    wanted = [commit for commit in series.commits if commit.since is None or commit.since > version]
    found = []
    for commit in wanted:
        name = _find(clone, commit, keep)
        if not name:
            label = f"{commit.id} ({commit.subject})" if commit.id else repr(commit.subject)
            raise Missing(f"{clone} has no commit {label} of series {series.name}; fetch a newer mainline")
        found.append(Patch(f"upstream {name[:12]} ({commit.subject})", _format(clone, name)))
    return tuple(found)


def _find(clone: Path, commit: Commit, keep: Path) -> str:
    if commit.id and _subject(clone, commit.id) == commit.subject:
        return _git(clone, "rev-parse", f"{commit.id}^{{commit}}").text.strip()

    def search() -> str:
        argv = ["log", "--all", "--format=%H %s", "--fixed-strings", f"--grep={commit.subject}"]
        for line in _git(clone, *argv).text.splitlines():
            name, _, subject = line.partition(" ")
            if subject == commit.subject:
                return name
        raise LookupError

    key = [str(clone.resolve()), commit.subject]
    try:
        name = str(memo(keep, "upstream", key, search))
        if _subject(clone, name) == commit.subject:
            return name
        # it was there once: the clone has changed
        return search()
    except LookupError:
        return ""


def _subject(clone: Path, name: str) -> str:
    done = _git(clone, "show", "--no-patch", "--format=%s", f"{name}^{{commit}}")
    return done.text.strip() if done.status == 0 else ""


def _format(clone: Path, name: str) -> bytes:
    argv = ["format-patch", "--stdout", "-1", "--no-signature", "--full-index", "--binary", "--no-renames", name]
    done = _git(clone, *argv)
    if done.status != 0:
        raise UserError(f"{clone}: commit {name[:12]} cannot be made a patch: {done.complaint}")
    return done.out


def _git(clone: Path, *words: str) -> command.Completed:
    return command.run(["git", "-C", clone, *words], limit=LIMIT, check=False)
