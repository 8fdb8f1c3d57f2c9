"""A project and a kernel tree in miniature, and a cache of their own for each test."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import paths
from harness.events import Event

FAKE_KERNEL = Path(__file__).parent / "fake_kernel"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("KPROOF_CACHE", str(folder))
    return folder


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with a base configuration, a feature, a debug flavour, and series in each state."""
    root = tmp_path / "project"
    fragments = {
        "base": "CONFIG_NET=y\nCONFIG_BPF_SYSCALL=y\nCONFIG_LOG_SHIFT=12\n",
        "netkit": "CONFIG_NETKIT=y\n",
        "slow": "CONFIG_DEBUG_FAKE=y\n",
    }
    for name, text in fragments.items():
        write(root / "kconfigs" / f"{name}.config", text)
    write(
        root / "patches/netkit/series.toml",
        """title = "netkit"
since = "6.7"
symbols = ["NETKIT"]
[[evidence]]
all = [{ file = "Kconfig", regex = '^config NETKIT$' }]
""",
    )
    write(
        root / "patches/queue/series.toml",
        """title = "a queue of choice"
symbols = []
[[evidence]]
all = [{ file = "net/core/dev.c", regex = 'queue_of_choice' }]
[[patches]]
versions = ">=6.12,<6.13"
files = ["6.12/0001-queue.patch"]
""",
    )
    write(root / "patches/queue/6.12/0001-queue.patch", QUEUE_PATCH)
    write(
        root / "patches/future/series.toml",
        """title = "not yet there"
since = "7.1"
symbols = []
[[commits]]
subject = "net: the future"
[[evidence]]
all = [{ file = "net/core/dev.c", regex = 'the_future' }]
""",
    )
    monkeypatch.setattr(paths, "project_root", lambda: root)
    return root


@pytest.fixture
def kernel_tree(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FAKE_KERNEL, tmp_path / "linux"))


@pytest.fixture
def clone(kernel_tree: Path) -> Path:
    """The fake kernel as a git clone with one commit, tagged v6.12.3."""
    for words in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-qm", "first"], ["tag", "v6.12.3"]):
        git(kernel_tree, *words)
    return kernel_tree


@pytest.fixture
def events() -> list[Event]:
    return []


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def gone(pid: int) -> bool:
    """Whether a process has ended, or does so within 10 s; nobody may have collected it yet."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], 10.0)[0])
    finally:
        os.close(descriptor)


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=tester", "-c", "user.email=tester@example.org", "-c", "commit.gpgsign=false"]
    argv = ["git", "-C", str(folder), *identity, *words]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def diff(tree: Path, path: str, change: Callable[[str], str]) -> str:
    """A patch that changes one file of ``tree``; the tree stays as it is."""
    import difflib

    old = (tree / path).read_text()
    lines = difflib.unified_diff(
        old.splitlines(keepends=True), change(old).splitlines(keepends=True), f"a/{path}", f"b/{path}"
    )
    return f"diff --git a/{path} b/{path}\n" + "".join(lines)


QUEUE_PATCH = """From 0123456789abcdef0123456789abcdef01234567 Mon Sep 17 00:00:00 2001
From: Tester <tester@example.org>
Date: Fri, 20 Nov 2026 09:00:00 +0000
Subject: [PATCH] net: a queue of choice

---
diff --git a/net/core/dev.c b/net/core/dev.c
--- a/net/core/dev.c
+++ b/net/core/dev.c
@@ -2,6 +2,6 @@
 int netdev_pick(int queues)
 {
-\tint index = 0;
+\tint index = 0; /* queue_of_choice */
\x20
 \tif (queues > 1)
 \t\tindex = queues - 1;
--\x20
2.39.5
"""
