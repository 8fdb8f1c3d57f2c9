"""A tree that is patched in place: what changes, what keeps its time stamp, what a crash leaves."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from harness.errors import UserError
from harness.kernel.patching import Content
from harness.kernel.tree import Tree
from harness.model import Patch

from .conftest import FAKE_KERNEL, diff

OLD = 1_000_000_000
ONE = Patch("one", diff(FAKE_KERNEL, "fs/namei.c", lambda text: text.replace("1", "2")).encode())
TWO = Patch("two", diff(FAKE_KERNEL, "net/core/dev.c", lambda text: text.replace("42", "43")).encode())
NEW = Patch("new", b"--- /dev/null\n+++ b/fs/new/file.c\n@@ -0,0 +1 @@\n+int x;\n")
GONE = Patch("gone", b"--- a/drivers/net/netkit.c\n+++ /dev/null\n@@ -1 +0,0 @@\n-int netkit_run(void) { return 0; }\n")


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    tree = Tree(tmp_path / "tree")
    shutil.copytree(FAKE_KERNEL, tree.src)
    for path in tree.src.rglob("*"):
        os.utime(path, ns=(OLD, OLD))
    return tree


def contents(tree: Tree) -> dict[str, bytes]:
    return {str(path.relative_to(tree.src)): path.read_bytes() for path in tree.src.rglob("*") if path.is_file()}


def moved(tree: Tree) -> set[str]:
    """Files whose time stamp is not the old one."""
    return {
        str(path.relative_to(tree.src))
        for path in tree.src.rglob("*")
        if path.is_file() and path.stat().st_mtime_ns != OLD
    }


def test_only_what_differs_gets_a_new_time(tree: Tree) -> None:
    assert tree.switch([ONE]) == ("fs/namei.c",)
    assert moved(tree) == {"fs/namei.c"}
    before = (tree.src / "fs/namei.c").stat().st_mtime_ns
    # the first patch stays: its file is not written again
    assert tree.switch([ONE, TWO]) == ("net/core/dev.c",)
    assert (tree.src / "fs/namei.c").stat().st_mtime_ns == before
    assert tree.switch([ONE, TWO]) == ()


def test_the_way_back_is_exact(tree: Tree) -> None:
    before = contents(tree)
    tree.switch([ONE, TWO, NEW, GONE])
    assert contents(tree) != before
    tree.switch([NEW])
    tree.switch([])
    assert contents(tree) == before
    assert not any((tree.folder / "aside").rglob("*.c"))


def test_pristine_sees_through_patches(tree: Tree) -> None:
    before = tree.pristine("fs/namei.c")
    tree.switch([ONE, NEW, GONE])
    assert tree.pristine("fs/namei.c") == before
    assert tree.pristine("fs/new/file.c") is None
    assert tree.pristine("drivers/net/netkit.c") == Content(b"int netkit_run(void) { return 0; }\n")
    assert tree.pristine("Makefile") is not None


def test_a_patch_that_fails_changes_nothing(tree: Tree) -> None:
    tree.switch([ONE])
    before, state = contents(tree), tree.state()
    with pytest.raises(UserError, match="already in the tree"):
        tree.switch([TWO, NEW, TWO])
    assert contents(tree) == before
    assert tree.state() == state


@pytest.mark.parametrize("writes", range(10))
def test_a_crash_at_any_moment_is_healed(tree: Tree, writes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(tree)
    tree.switch([ONE, GONE])
    left = writes

    class Crash(BaseException):
        pass

    def put(self: Tree, path: Path, content: Content, real: object = Tree._put) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Crash
        real(self, path, content)  # type: ignore[operator]

    with monkeypatch.context() as patch:
        patch.setattr(Tree, "_put", put)
        try:
            tree.switch([TWO, NEW])
        except Crash:
            assert tree.state().moving
    # the next process finds the tree like this
    again = Tree(tree.folder)
    if writes % 2:
        again.switch([])
        assert contents(again) == before
    again.switch([NEW])
    assert contents(again) == before | {"fs/new/file.c": b"int x;\n"}
    again.switch([])
    assert contents(again) == before


def test_a_moving_source_keeps_patches_elsewhere(tree: Tree) -> None:
    tree.switch([ONE])
    stamp = (tree.src / "fs/namei.c").stat().st_mtime_ns
    tree.update(["Kconfig"], [("Kconfig", Content(b"config NEW\n"))])
    assert (tree.src / "fs/namei.c").stat().st_mtime_ns == stamp
    assert tree.switch([ONE]) == ()


def test_a_moving_source_takes_patches_out_where_it_moves(tree: Tree) -> None:
    tree.switch([ONE])
    tree.update(["fs/namei.c"], [("fs/namei.c", Content(b"int namei(void) { return 9; }\n"))])
    assert tree.pristine("fs/namei.c") == Content(b"int namei(void) { return 9; }\n")
    with pytest.raises(UserError, match="does not apply"):
        tree.switch([ONE])
