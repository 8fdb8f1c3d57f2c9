"""What patches make of files, and what is said of one that does not apply."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from harness.errors import UserError
from harness.kernel import patching
from harness.kernel.patching import Content, load, patched, read_content, touched
from harness.model import Patch

from .conftest import FAKE_KERNEL, diff, write


def read(path: str) -> Content | None:
    return read_content(FAKE_KERNEL / path)


def patch(path: str, change: Callable[[str], str], name: str = "p.patch") -> Patch:
    return Patch(name, diff(FAKE_KERNEL, path, change).encode())


def apply(*patches: Patch, workspace: Path) -> dict[str, Content | None]:
    return patched(patches, read, workspace=workspace)


def test_patches_build_on_each_other(tmp_path: Path) -> None:
    first = patch("fs/namei.c", lambda text: text.replace("1", "2"))
    second = Patch("q", first.text.replace(b"return 2", b"return 3").replace(b"return 1", b"return 2"))
    result = apply(first, second, workspace=tmp_path)
    assert result == {"fs/namei.c": Content(b"int namei(void) { return 3; }\n")}
    assert list(tmp_path.iterdir()) == []


def test_a_hunk_may_have_moved(tmp_path: Path) -> None:
    one = patch("net/core/dev.c", lambda text: text.replace("return 42", "return 43"))
    moved = Patch("moved", one.text.replace(b"@@ -1", b"@@ -9"))
    assert b"return 43" in (apply(moved, workspace=tmp_path)["net/core/dev.c"] or Content(b"")).data


def test_files_appear_move_and_go(tmp_path: Path) -> None:
    text = b"""diff --git a/fs/new.c b/fs/new.c
new file mode 100755
--- /dev/null
+++ b/fs/new.c
@@ -0,0 +1 @@
+new
diff --git a/fs/namei.c b/fs/name.c
similarity index 100%
rename from fs/namei.c
rename to fs/name.c
diff --git a/drivers/net/netkit.c b/drivers/net/netkit.c
deleted file mode 100644
--- a/drivers/net/netkit.c
+++ /dev/null
@@ -1 +0,0 @@
-int netkit_run(void) { return 0; }
"""
    assert apply(Patch("p", text), workspace=tmp_path) == {
        "drivers/net/netkit.c": None,
        "fs/name.c": read("fs/namei.c"),
        "fs/namei.c": None,
        "fs/new.c": Content(b"new\n", executable=True),
    }


def test_a_mismatch_names_file_hunk_and_what_is_there(tmp_path: Path) -> None:
    old = patch(
        "net/core/dev.c",
        lambda text: text.replace("int index = 0", "int index = 1").replace("return 42", "return 43"),
        "fix.patch",
    )
    # the tree says 42 where the patch expects 41
    text = old.text.replace(b"-\treturn 42", b"-\treturn 41")
    with pytest.raises(UserError) as caught:
        apply(Patch("fix.patch", text), workspace=tmp_path)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("patch fix.patch does not apply: net/core/dev.c, hunk 2 of 2, @@ -")
    assert lines[1].startswith("nearest place in the tree: net/core/dev.c:")
    assert "  - \treturn 41;" in lines
    assert "  + \treturn 42;" in lines


def test_an_applied_patch_is_recognised(tmp_path: Path) -> None:
    one = patch("fs/namei.c", lambda text: text.replace("1", "2"))
    with pytest.raises(UserError, match=r"p\.patch is already in the tree"):
        apply(one, one, workspace=tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    one = patch("fs/namei.c", lambda text: text.replace("1", "2"))
    with pytest.raises(UserError, match=r"no file fs/none\.c"):
        apply(Patch("p", one.text.replace(b"namei.c", b"none.c")), workspace=tmp_path)


def test_a_file_that_is_there_cannot_be_added(tmp_path: Path) -> None:
    text = b"--- /dev/null\n+++ b/fs/namei.c\n@@ -0,0 +1 @@\n+new\n"
    with pytest.raises(UserError, match=r"adds fs/namei\.c, which the tree has already"):
        apply(Patch("p", text), workspace=tmp_path)


@pytest.mark.parametrize("path", ["../outside", "fs/../../outside", ".git/config"])
def test_nothing_outside_the_tree(path: str, tmp_path: Path) -> None:
    text = f"--- a/{path}\n+++ b/{path}\n@@ -0,0 +1 @@\n+new\n"
    with pytest.raises(UserError, match="outside the kernel tree"):
        apply(Patch("p", text.encode()), workspace=tmp_path)


def test_a_cut_patch_is_refused(tmp_path: Path) -> None:
    one = patch("net/core/dev.c", lambda text: text.replace("return 42", "return 43"))
    with pytest.raises(UserError, match="does not apply: corrupt patch at line"):
        apply(Patch("p", one.text[:-20]), workspace=tmp_path)


def test_the_workspace_may_be_inside_a_repository(clone: Path) -> None:
    # git apply in a subfolder of a repository would silently skip every file
    one = patch("fs/namei.c", lambda text: text.replace("1", "2"))
    assert apply(one, workspace=clone / "build")["fs/namei.c"] == Content(b"int namei(void) { return 2; }\n")


@pytest.mark.parametrize(("text", "words"), [("", "is empty"), ("hello\nworld\n", "holds no diff")])
def test_a_file_without_a_diff(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        load(write(tmp_path / "p", text))


MAIL = """From 0123456789abcdef0123456789abcdef01234567 Mon Sep 17 00:00:00 2001
From: T <t@example.org>
Subject: [PATCH] one
MIME-Version: 1.0
Content-Type: text/plain; charset=UTF-8
Content-Transfer-Encoding: {encoding}

{body}
--\x20
2.39.5

"""


def test_an_mbox_is_one_patch_per_mail(tmp_path: Path) -> None:
    first = diff(FAKE_KERNEL, "fs/namei.c", lambda text: text.replace("1", "2"))
    second = first.replace("return 2", "return 3").replace("return 1", "return 2")
    mails = [
        MAIL.format(encoding="8bit", body="This series has two patches."),
        MAIL.format(encoding="8bit", body=first),
        MAIL.format(encoding="quoted-printable", body=second.replace("=", "=3D").replace("3", "=33")),
    ]
    patches = load(write(tmp_path / "s.mbox", "".join(mails)))
    assert [one.name for one in patches] == [f"{tmp_path}/s.mbox (mail {n} of 3)" for n in (2, 3)]
    assert apply(*patches, workspace=tmp_path)["fs/namei.c"] == Content(b"int namei(void) { return 3; }\n")


def test_touched_paths_are_all_kinds() -> None:
    text = b"--- a/x/y.c\t2026-01-01\n+++ b/x/z.c\nrename from old name\ndiff --git a/bin b/bin\n--- /dev/null\n"
    assert touched(text) == ("bin", "old name", "x/y.c", "x/z.c")


def test_applies_gives_one_line(tmp_path: Path) -> None:
    one = patch("fs/namei.c", lambda text: text.replace("1", "2"))
    assert patching.applies([one], read, workspace=tmp_path) == ""
    assert "\n" not in patching.applies([one, one], read, workspace=tmp_path)
