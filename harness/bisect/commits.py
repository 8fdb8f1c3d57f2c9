"""Commits between two of a git clone, with git's own bisect underneath.

It runs in a bare repository of ours that borrows the clone's objects: nothing in the clone is written, neither files
nor refs nor its own bisect. git proposes what to judge next; where commits must be skipped, decide.py does, which needs
fewer steps then.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from harness import command
from harness.bisect.decide import OLD_END, History
from harness.bisect.ranges import CannotProve, Range, Revision
from harness.bisect.sameness import Change, same_code
from harness.errors import InfraError, UserError
from harness.events import Notice, Sink
from harness.kernel.files import scratch, write
from harness.kernel.mirror import GIT_LIMIT, git
from harness.kernel.patching import load, touched
from harness.kernel.source import existing
from harness.model import Request

SCHEME = "git:"
SHORT = 12
REVERT = "proof.patch"
LOG = "git-bisect.log"


class Commits(Range):
    kind = "commit"

    def __init__(
        self, clone: Path, old: str, new: str, *, base: Request, folder: Path, breaks: bool, events: Sink
    ) -> None:
        """``old`` and ``new`` are refs; ``folder`` takes our repository; ``base`` is what all kernels have in common.

        Raises UserError for refs that are none, or of which the old one is no ancestor of the new one.
        """
        command.require("git")
        self._clone = clone
        self._base = base
        self._git = folder / "git"
        self._terms = {"old": "good", "new": "bad"} if breaks else {"old": "broken", "new": "fixed"}
        self._old, self._new = self._commit(old), self._commit(new)
        if self._old == self._new:
            raise UserError(f"{old} and {new} are the same commit, {self._old[:SHORT]}: there is nothing to bisect")
        if not self._is_ancestor(self._old, self._new):
            if not self._is_ancestor(self._new, self._old):
                raise UserError(f"neither of {old} and {new} descends from the other; begin at their git merge-base")
            hint = "what mended the test is looked for with --find fixed" if breaks else "leave --find fixed out"
            raise UserError(f"{old} is newer than {new}: {hint}")
        self._commits = self._list()
        self._places = {commit: number for number, (commit, _) in enumerate(self._commits)}
        self.history = History(
            tuple(
                tuple(self._places[parent] for parent in parents if parent in self._places)
                for _, parents in self._commits
            )
        )
        self._titles: dict[str, str] = {}
        # git status writes the index that it has refreshed, unless it is told not to
        alone = {"GIT_OPTIONAL_LOCKS": "0"}
        if git(clone, "status", "--porcelain", "--untracked-files=no", check=False, env=alone).text.strip():
            events(Notice(f"{clone} has changes that are not committed: commits are bisected, and none has them"))

    @classmethod
    def parse(cls, good: str, bad: str) -> tuple[Path, str, str]:
        """Clone and refs of two texts ``git:PATH@REF``. UserError where they are not, or of two clones."""
        found = []
        for text in (good, bad):
            path, at, ref = text.removeprefix(SCHEME).rpartition("@")
            if not text.startswith(SCHEME) or not at or not path or not ref:
                raise UserError(
                    f"{text!r} names no ref; write both ends as git:PATH@REF, for example git:~/linux@v6.12"
                )
            found.append((existing(path, text, folder=True), ref))
        (clone, one), (other_clone, other) = found
        if clone.resolve() != other_clone.resolve():
            raise UserError(f"both ends must be refs of one clone; these are {clone} and {other_clone}")
        return clone, one, other

    @property
    def key(self) -> list[str]:
        return [self.kind, str(self._clone.resolve()), self._old, self._new, str(self._base)]

    def revision(self, number: int) -> Revision:
        commit = self.commit(number)
        if commit not in self._titles:
            self._titles[commit] = git(self._clone, "show", "-s", "--format=%s", commit).text.strip()
        request = replace(self._base, source=f"{SCHEME}{self._clone}@{commit}")
        return Revision(commit[:SHORT], self._titles[commit], request)

    def commit(self, number: int) -> str:
        return self._old if number == OLD_END else self._commits[number][0]

    # -- git's own bisect --------------------------------------------------------------------------------------------

    def begin(self) -> None:
        self._borrow()
        self._bisect("reset")
        terms = (
            [f"--term-{side}={term}" for side, term in self._terms.items()] if "bad" not in self._terms["new"] else []
        )
        self._bisect("start", "--no-checkout", *terms, self._new, self._old)

    def note(self, number: int, verdict: str) -> None:
        self._bisect(self._terms.get(verdict, verdict), self.commit(number))

    def next(self, suspects: Collection[int], untestable: Collection[int], new: Collection[int]) -> int | None:
        if not set(suspects) & set(untestable):
            proposed = git(self._git, "rev-parse", "--verify", "--quiet", "BISECT_HEAD", check=False).text.strip()
            number = self._places.get(proposed)
            if number in suspects and number not in new:
                return number
        return super().next(suspects, untestable, new)

    def leave(self, folder: Path) -> list[str]:
        write(folder / LOG, git(self._git, "bisect", "log").out)
        return [LOG]

    def _bisect(self, *words: str) -> None:
        done = git(self._git, "bisect", *words, check=False)
        # 2: only skipped ones are left
        if done.status not in (0, 2):
            raise InfraError(f"git bisect {' '.join(words)[:80]}: {done.complaint}")

    def _borrow(self) -> None:
        """A bare repository that has no object of its own, unless it is there."""
        if (self._git / "HEAD").exists():
            return
        shutil.rmtree(self._git, ignore_errors=True)
        self._git.parent.mkdir(parents=True, exist_ok=True)
        shape = git(self._clone, "rev-parse", "--show-object-format").text.strip()
        common = Path(git(self._clone, "rev-parse", "--path-format=absolute", "--git-common-dir").text.strip())
        command.run(
            ["git", "init", "--quiet", "--bare", f"--object-format={shape}", self._git],
            limit=GIT_LIMIT,
            env={"GIT_TEMPLATE_DIR": ""},
        )
        write(self._git / "objects" / "info" / "alternates", os.fsencode(f"{common / 'objects'}\n"))
        if (common / "shallow").exists():
            shutil.copyfile(common / "shallow", self._git / "shallow")
        # git bisect wants to know where it began
        git(self._git, "update-ref", "--no-deref", "HEAD", self._new)

    # -- what need not be built ------------------------------------------------------------------------------------

    def same_code(self, number: int, judged: Mapping[int, Collection[str] | None]) -> tuple[int, str] | None:
        patched = {path for file in self._base.patches for patch in load(Path(file)) for path in touched(patch.text)}
        for other, read in judged.items():
            changes = self._changes(self.commit(other), self.commit(number))
            # a comment may be what a patch looks for
            if patched.isdisjoint(change.path for change in changes) and (why := same_code(changes, read)):
                return other, why
        return None

    def _changes(self, one: str, other: str) -> list[Change]:
        """In what two commits differ."""
        fields = git(self._clone, "diff", "--raw", "--no-renames", "--no-abbrev", "-z", one, other).out.split(b"\0")
        found = []
        for facts, path in zip(fields[::2], fields[1::2], strict=False):
            mode, other_mode, blob, other_blob, status = facts.decode().lstrip(":").split()
            contents = partial(self._contents, blob, other_blob)
            found.append(Change(os.fsdecode(path), status == "M" and mode == other_mode, contents))
        return found

    def _contents(self, one: str, other: str) -> tuple[bytes, bytes]:
        return git(self._clone, "cat-file", "blob", one).out, git(self._clone, "cat-file", "blob", other).out

    # -- the proof ---------------------------------------------------------------------------------------------------

    def proof(self, culprit: int, *, breaks: bool, folder: Path) -> Request:
        commit = self.commit(culprit)
        parents = self._commits[culprit][1]
        if len(parents) != 1:
            raise CannotProve(f"{commit[:SHORT]} is a merge: it has no single change to undo")
        broken = self._new if breaks else self._old
        sides = (commit, parents[0]) if breaks else (parents[0], commit)
        self._borrow()
        change = git(self._git, "diff", "--full-index", "--binary", *sides).out
        if not change:
            raise CannotProve(f"{commit[:SHORT]} changes nothing")
        with scratch(folder, "index") as aside:
            env = {"GIT_INDEX_FILE": str(aside / "index")}
            git(self._git, "read-tree", broken, env=env)
            done = git(self._git, "apply", "--cached", "--3way", "-", env=env, stdin=change, check=False)
            if done.status != 0:
                what = "cannot be undone" if breaks else "cannot be applied"
                raise CannotProve(f"it {what} on {broken[:SHORT]}: {_conflict(done)}")
            adapted = git(self._git, "diff-index", "--cached", "-p", "--full-index", "--binary", broken, env=env).out
        if not adapted:
            raise CannotProve(f"{broken[:SHORT]} has that change already")
        write(folder / REVERT, adapted)
        source = f"{SCHEME}{self._clone}@{broken}"
        return replace(self._base, source=source, patches=(*self._base.patches, str(folder / REVERT)))

    # -- the clone ---------------------------------------------------------------------------------------------------

    def _commit(self, ref: str) -> str:
        if git(self._clone, "rev-parse", "--git-dir", check=False).status != 0:
            raise UserError(f"{self._clone} is no git clone")
        found = git(self._clone, "rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}", check=False)
        if found.status != 0:
            raise UserError(f"{self._clone} has no commit {ref!r}; see git -C {self._clone} branch -a, or fetch it")
        return found.text.strip()

    def _is_ancestor(self, one: str, other: str) -> bool:
        return git(self._clone, "merge-base", "--is-ancestor", one, other, check=False).status == 0

    def _list(self) -> list[tuple[str, list[str]]]:
        """All candidates with their parents, parents first."""
        words = ("rev-list", "--topo-order", "--reverse", "--parents", self._new, f"^{self._old}")
        return [(line.split()[0], line.split()[1:]) for line in git(self._clone, *words).text.splitlines()]


def _conflict(done: command.Completed) -> str:
    said = [line.removeprefix("error: ") for line in done.err.decode(errors="replace").splitlines()]
    return next((line for line in said if ": patch does not apply" in line or "conflict" in line), done.complaint)
