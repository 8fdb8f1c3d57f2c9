"""The three kinds of range: real small git repositories, patches and lists of versions."""

from __future__ import annotations

import copy
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.bisect.commits import Commits
from harness.bisect.decide import OLD_END
from harness.bisect.patches import Patches
from harness.bisect.ranges import CannotProve
from harness.bisect.versions import Image, Versions
from harness.errors import UserError
from harness.events import Event, Notice, ignore
from harness.model import Request, Version

ENV = {
    **os.environ,
    "GIT_AUTHOR_NAME": "A",
    "GIT_AUTHOR_EMAIL": "a@b",
    "GIT_COMMITTER_NAME": "A",
    "GIT_COMMITTER_EMAIL": "a@b",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_AUTHOR_DATE": "2020-01-01T00:00:00Z",
    "GIT_COMMITTER_DATE": "2020-01-01T00:00:00Z",
}


class Clone:
    """A repository with a file of 320 lines; ``commit`` changes one of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.git("init", "-q", "-b", "main")
        self.lines = [f"line {number}" for number in range(320)]
        self.commits = [self.commit(0, "base")]

    def git(self, *words: str) -> str:
        done = subprocess.run(["git", *words], cwd=self.folder, env=ENV, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def commit(self, line: int, text: str) -> str:
        self.lines[line] = text
        (self.folder / "file.c").write_text("\n".join(self.lines) + "\n")
        self.git("add", "file.c")
        self.git("commit", "-q", "-m", f"change {text}")
        return self.git("rev-parse", "HEAD")

    def copy(self, folder: Path) -> Clone:
        shutil.copytree(self.folder, folder)
        other = copy.copy(self)
        other.folder, other.lines, other.commits = folder, [*self.lines], [*self.commits]
        return other

    def grow(self, count: int) -> None:
        self.commits += [self.commit(number * 9 % 320, f"step {number}") for number in range(1, count + 1)]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    made = Clone(tmp_path_factory.mktemp("bisect") / "clone")
    made.grow(32)
    return made


@pytest.fixture
def clone(template: Clone, tmp_path: Path) -> Clone:
    return template.copy(tmp_path / "clone")


Open = Callable[..., Commits]


@pytest.fixture
def open_range(clone: Clone, tmp_path: Path) -> Open:
    def opened(old: str = "", new: str = "main", *, breaks: bool = True, events: list[Event] | None = None) -> Commits:
        return Commits(
            clone.folder,
            old or clone.commits[0],
            new,
            base=Request(series=(), settings=("NETKIT=y",)),
            folder=tmp_path / "state",
            breaks=breaks,
            events=events.append if events is not None else ignore,
        )

    return opened


def walk(found: Commits, first: int, skips: frozenset[int] = frozenset()) -> tuple[frozenset[int], int]:
    """Bisect with a test that never errs."""
    old, new, skipped = set[int](), {found.new_end}, set[int]()
    found.begin()
    steps = 0
    while True:
        suspects = found.history.suspects(old, new)
        number = found.next(suspects, skipped, new) if len(suspects) > 1 else None
        if number is None:
            return suspects, steps
        steps += 1
        side = skipped if number in skips else new if first in found.history.within(number) else old
        side.add(number)
        found.note(number, "skip" if number in skips else "new" if side is new else "old")


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_git_itself_finds_it_and_its_log_can_be_replayed(open_range: Open, clone: Clone, tmp_path: Path) -> None:
    before = snapshot(clone.folder)
    found = open_range()
    suspects, steps = walk(found, 20)
    assert suspects == {20}
    assert steps <= 5
    assert found.commit(20) == clone.commits[21]
    assert found.leave(tmp_path) == ["git-bisect.log"]
    assert snapshot(clone.folder) == before, "the user's clone was written to"
    log = (tmp_path / "git-bisect.log").read_text()
    assert f"# first bad commit: [{clone.commits[21]}] change step 21" in log
    clone.git("bisect", "replay", str(tmp_path / "git-bisect.log"))
    assert clone.git("rev-parse", "refs/bisect/bad") == clone.commits[21]


def test_git_proposes_where_nothing_is_skipped(open_range: Open, clone: Clone) -> None:
    found = open_range()
    found.begin()
    proposed = found.next(found.history.suspects((), {found.new_end}), (), {found.new_end})
    clone.git("bisect", "start", "main", clone.commits[0])
    assert found.commit(proposed or 0) == clone.git("rev-parse", "HEAD")


@pytest.mark.parametrize("first", [3, 15, 16, 31])
def test_skips_cost_a_step_each(open_range: Open, first: int) -> None:
    skips = frozenset({15, 16, 17, 7}) - {first}
    suspects, steps = walk(open_range(), first, skips)
    assert first in suspects
    assert suspects - {max(suspects)} <= skips
    assert steps <= 5 + len(skips)


def test_a_repair_has_terms_of_its_own(open_range: Open, clone: Clone, tmp_path: Path) -> None:
    found = open_range(breaks=False)
    assert walk(found, 9)[0] == {9}
    found.leave(tmp_path)
    assert "# first fixed commit: " in (tmp_path / "git-bisect.log").read_text()


def test_begun_again_it_knows_nothing(open_range: Open) -> None:
    found = open_range()
    walk(found, 20)
    assert walk(found, 3)[0] == {3}


def test_a_revision_is_a_recipe(open_range: Open, clone: Clone) -> None:
    found = open_range()
    assert str(found.revision(4).request) == f"git:{clone.folder}@{clone.commits[5]} +none NETKIT=y"
    assert found.told(4) == f"{clone.commits[5][:12]} change step 5"
    assert found.revision(OLD_END).name == clone.commits[0][:12]


def test_a_merge_is_a_history(clone: Clone, open_range: Open) -> None:
    clone.git("checkout", "-q", "-b", "side", clone.commits[10])
    (clone.folder / "other.c").write_text("x\n")
    clone.git("add", "other.c")
    clone.git("commit", "-q", "-m", "side")
    clone.git("checkout", "-q", "main")
    clone.git("merge", "-q", "--no-edit", "side")
    found = open_range()
    assert len(found.history) == 34
    for first in (5, 11, 33):
        assert walk(found, first)[0] == {first}
    with pytest.raises(CannotProve, match="is a merge"):
        found.proof(found.new_end, breaks=True, folder=clone.folder)


def test_the_culprit_is_undone_on_the_broken_end(open_range: Open, clone: Clone, tmp_path: Path) -> None:
    found = open_range()
    request = found.proof(20, breaks=True, folder=tmp_path)
    assert request.source == f"git:{clone.folder}@{clone.commits[32]}"
    patch = (tmp_path / "proof.patch").read_text()
    assert request.patches == (str(tmp_path / "proof.patch"),)
    assert "-step 21" in patch
    assert "+line 189" in patch
    clone.git("apply", "--check", str(tmp_path / "proof.patch"))


def test_a_repair_is_applied_to_the_broken_end(open_range: Open, clone: Clone, tmp_path: Path) -> None:
    request = open_range(breaks=False).proof(20, breaks=False, folder=tmp_path)
    assert request.source == f"git:{clone.folder}@{clone.commits[0]}"
    assert "+step 21" in (tmp_path / "proof.patch").read_text()


def test_what_was_changed_since_cannot_be_undone(open_range: Open, clone: Clone, tmp_path: Path) -> None:
    clone.commit(189, "changed once more")
    with pytest.raises(CannotProve, match="cannot be undone on"):
        open_range().proof(20, breaks=True, folder=tmp_path)


def test_refs_that_cannot_be(open_range: Open, clone: Clone, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no commit 'v9.99'"):
        open_range("v9.99")
    with pytest.raises(UserError, match=r"is newer than .*: what mended the test is looked for with --find fixed"):
        open_range("main", clone.commits[0])
    with pytest.raises(UserError, match="leave --find fixed out"):
        open_range("main", clone.commits[0], breaks=False)
    with pytest.raises(UserError, match="are the same commit"):
        open_range("main", "main")
    clone.git("checkout", "-q", "-b", "side", clone.commits[10])
    clone.commit(300, "elsewhere")
    with pytest.raises(UserError, match="neither of main and side descends from the other"):
        open_range("main", "side")
    with pytest.raises(UserError, match="names no ref"):
        Commits.parse("git:/x", "git:/x@main")
    with pytest.raises(UserError, match="refs of one clone"):
        Commits.parse(f"git:{clone.folder}@main", f"git:{tmp_path}@main")


def test_changes_that_are_not_committed_are_told_and_left_alone(open_range: Open, clone: Clone) -> None:
    (clone.folder / "file.c").write_text("dirty\n")
    events: list[Event] = []
    walk(open_range(events=events), 20)
    assert [event.text for event in events if isinstance(event, Notice)] == [
        f"{clone.folder} has changes that are not committed: commits are bisected, and none has them"
    ]
    assert (clone.folder / "file.c").read_text() == "dirty\n"


def test_a_shallow_clone(clone: Clone, tmp_path: Path) -> None:
    shallow = tmp_path / "shallow"
    clone.git("clone", "-q", "--depth", "9", f"file://{clone.folder}", str(shallow))
    found = Commits(shallow, "HEAD~8", "HEAD", base=Request(), folder=tmp_path / "state", breaks=True, events=ignore)
    assert walk(found, 5)[0] == {5}


# -- patches ---------------------------------------------------------------------------------------------------------

MAIL = """From {id:040} Mon Sep 17 00:00:00 2001
From: A <a@b>
Subject: [PATCH {number}/5] net: step {number}
 of many

---
diff --git a/{file} b/{file}
--- a/{file}
+++ b/{file}
@@ -1 +1 @@
-a
+b
"""


def mails() -> list[str]:
    return [MAIL.format(id=number, number=number, file=f"net/{number}.c") for number in range(1, 6)]


def test_patches_are_added_one_by_one(tmp_path: Path) -> None:
    (tmp_path / "series.mbox").write_text("".join(mails()))
    found = Patches(Request(series=()), tmp_path / "series.mbox", tmp_path / "state")
    assert len(found.history) == 5
    assert found.revision(OLD_END).request == Request(series=())
    files = found.revision(1).request.patches
    assert found.told(2) == "3/5 net: step 3 of many"
    assert [f"net/{number}.c" in Path(file).read_text() for number, file in enumerate(files, 1)] == [True, True]
    assert len(found.proof(1, breaks=True, folder=tmp_path).patches) == 4
    assert len(found.proof(1, breaks=False, folder=tmp_path).patches) == 1


def test_a_folder_of_patches_without_its_cover_letter(tmp_path: Path) -> None:
    for number, mail in enumerate(["Subject: [PATCH 0/5] cover\n\nwords\n", *mails()]):
        (tmp_path / f"{number:04}-x.patch").write_text(mail)
    found = Patches(Request(), tmp_path, tmp_path / "state")
    assert len(found.history) == 5


def test_series_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no \*\.patch"):
        Patches(Request(), tmp_path, tmp_path / "state")
    with pytest.raises(UserError, match=r"patch .*gone\.mbox: No such file"):
        Patches(Request(), tmp_path / "gone.mbox", tmp_path / "state")
    with pytest.raises(UserError, match="kernel:abc is a finished kernel"):
        Patches(Request(source="kernel:abc"), tmp_path, tmp_path / "state")


# -- versions --------------------------------------------------------------------------------------------------------

IMAGES = [
    Image(f"{release}-1", Version.parse(release), ("sid",))
    for release in ("6.1.90", "6.12.85", "6.12.94", "6.12.94", "6.12.107", "6.12.117", "6.16.3")
]


def test_versions_between_two(tmp_path: Path) -> None:
    found = Versions(IMAGES, "6.12.85", "6.12.117", breaks=True)
    assert len(found.history) == 4
    assert found.revision(OLD_END).request == Request(source="image:debian:6.12.85-1")
    assert found.told(3) == "6.12.117-1 sid"
    with pytest.raises(CannotProve, match="ready-made"):
        found.proof(2, breaks=True, folder=tmp_path)


def test_a_series_is_its_oldest_or_newest(tmp_path: Path) -> None:
    found = Versions(IMAGES, "6.1", "6.12", breaks=True)
    assert [found.revision(end).name for end in (OLD_END, found.new_end)] == ["6.1.90-1", "6.12.117-1"]


def test_versions_that_cannot_be() -> None:
    with pytest.raises(UserError, match=r"no image of 6\.12\.99; the nearest are 6\.12\.85, 6\.12\.94, .*6\.12\.107"):
        Versions(IMAGES, "6.12.99", "6.16.3", breaks=True)
    with pytest.raises(UserError, match=r"'linux' is not a kernel version"):
        Versions(IMAGES, "linux", "6.16.3", breaks=True)
    with pytest.raises(UserError, match=r"6\.16\.3 is not older than 6\.12\.85: what mended .* --find fixed"):
        Versions(IMAGES, "6.16.3", "6.12.85", breaks=True)
    with pytest.raises(UserError, match=r"no image between 6\.12\.107-1 and 6\.12\.117-1"):
        Versions(IMAGES, "6.12.107", "6.12.117", breaks=True)


def test_a_commit_that_changes_a_comment_is_the_one_before(open_range: Open, clone: Clone) -> None:
    clone.commit(300, "line 300 /* a comment */")
    clone.commit(301, "line 301 // more of it")
    clone.commit(302, "code();")
    found = open_range()
    assert found.same_code(33, {20: None, 31: None}) == (31, "differs only in comments")
    assert found.same_code(34, {33: None}) is None
    assert found.same_code(34, {33: {"other.c"}}) == (33, "differs only in files that are not built")
