"""Sources that move: what of a folder is source, and that an unchanged one is not read again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness.errors import UserError
from harness.events import Event
from harness.kernel import mirror
from harness.kernel.layout import Layout
from harness.kernel.mirror import Mirror, scan
from harness.kernel.patching import Content
from harness.kernel.source import locate

from .conftest import git, write

BUILT = ("vmlinux", ".config", "fs/namei.o", "fs/.namei.o.cmd", "include/generated/autoconf.h", "include/config/NET")


def test_what_a_build_leaves_is_no_source(kernel_tree: Path, tmp_path: Path, events: list[Event]) -> None:
    before = scan(kernel_tree, tmp_path / "scan.json", events.append)
    for path in BUILT:
        write(kernel_tree / path, "built")
    os.mkfifo(kernel_tree / "pipe")
    assert scan(kernel_tree, tmp_path / "scan.json", events.append) == before
    write(kernel_tree / "fs/new.c", "")
    assert set(scan(kernel_tree, tmp_path / "scan.json", events.append)) - set(before) == {"fs/new.c"}


def test_git_says_what_is_source(clone: Path, tmp_path: Path, events: list[Event]) -> None:
    write(clone / ".gitignore", "*.junk\n")
    write(clone / "x.junk", "")
    write(clone / "new.c", "")
    (clone / "fs/namei.c").unlink()
    (clone / "link").symlink_to("Makefile")
    files = scan(clone, tmp_path / "scan.json", events.append)
    assert {"new.c", ".gitignore", "Makefile"} <= set(files)
    assert not {"x.junk", "fs/namei.c"} & set(files)
    assert files["link"][0] == "120000"
    assert files["Makefile"][1] == git(clone, "rev-parse", "HEAD:Makefile").strip()


def test_an_unchanged_folder_is_not_read_again(
    kernel_tree: Path, tmp_path: Path, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = scan(kernel_tree, tmp_path / "scan.json", events.append)

    def refuse(path: Path) -> Content:
        raise AssertionError(f"{path} was read")

    monkeypatch.setattr(mirror, "read_content", refuse)
    assert scan(kernel_tree, tmp_path / "scan.json", events.append) == first
    write(kernel_tree / "fs/namei.c", "longer than it was, by far")
    with pytest.raises(AssertionError, match=r"namei\.c was read"):
        scan(kernel_tree, tmp_path / "scan.json", events.append)


@pytest.mark.usefixtures("cache")
def test_a_crash_while_mirroring_is_healed(clone: Path, events: list[Event], monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Layout.default()
    tree = locate(f"git:{clone}@v6.12.3", layout=layout, events=events.append).prepare(events.append)
    for path in ("fs/namei.c", "net/core/dev.c"):
        write(clone / path, "int changed;\n")
    git(clone, "commit", "-qam", "second")
    located = locate(f"git:{clone}@main", layout=layout, events=events.append)
    real = Mirror.contents

    def crash(self: Mirror, *args: object) -> object:
        yield next(iter(real(self, *args)))  # type: ignore[arg-type]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Mirror, "contents", crash)
        with pytest.raises(KeyboardInterrupt):
            located.prepare(events.append)
    # back at the first commit, nothing of the second is left
    locate(f"git:{clone}@v6.12.3", layout=layout, events=events.append).prepare(events.append)
    assert b"return 1" in (tree.src / "fs/namei.c").read_bytes()
    assert b"netdev_pick" in (tree.src / "net/core/dev.c").read_bytes()


@pytest.mark.usefixtures("cache")
def test_a_folder_that_changes_under_us_is_refused(kernel_tree: Path, events: list[Event]) -> None:
    located = locate(f"dir:{kernel_tree}", layout=Layout.default(), events=events.append)
    write(kernel_tree / "fs/namei.c", "int later;\n")
    with pytest.raises(UserError, match=r"fs/namei\.c changed while it was read; try again"):
        located.prepare(events.append)
