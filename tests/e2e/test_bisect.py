"""``kproof bisect`` on the real 6.12: which of two patches of the dummy driver breaks a test."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from harness.kernel.layout import Layout
from harness.kernel.store import Store

from .conftest import Project

TEST = """
import subprocess
from pathlib import Path


def test_it_asks_nobody_for_addresses():
    subprocess.run(["ip", "link", "add", "d0", "type", "dummy"], check=True)
    flags = int(Path("/sys/class/net/d0/flags").read_text(), 16)
    subprocess.run(["ip", "link", "delete", "d0"], check=True)
    assert flags & 0x80
"""

MAIL = """\
From 0000000000000000000000000000000000000000 Mon Sep 17 00:00:00 2001
From: A <a@b>
Subject: [PATCH {number}/2] dummy: {title}

---
--- a/drivers/net/dummy.c
+++ b/drivers/net/dummy.c
{hunk}
"""

HUNKS = {
    "ask for addresses": """\
@@ -110,5 +110,5 @@
 \t/* Fill in device structure with ethernet-generic values. */
-\tdev->flags |= IFF_NOARP;
+\tdev->flags |= IFF_DEBUG;
 \tdev->flags &= ~IFF_MULTICAST;
 \tdev->priv_flags |= IFF_LIVE_ADDR_CHANGE | IFF_NO_QUEUE;
 \tdev->lltx = true;""",
    "have a comment": """\
@@ -112,5 +112,6 @@
 \tdev->flags &= ~IFF_MULTICAST;
 \tdev->priv_flags |= IFF_LIVE_ADDR_CHANGE | IFF_NO_QUEUE;
+\t/* no lock is needed */
 \tdev->lltx = true;
 \tdev->features\t|= NETIF_F_SG | NETIF_F_FRAGLIST;
 \tdev->features\t|= NETIF_F_GSO_SOFTWARE;""",
}


@pytest.fixture
def toy(project: Project) -> Project:
    (project.folder / "selftests" / "toy").mkdir(parents=True)
    project.write("selftests/toy/test_toy.py", TEST)
    mails = [MAIL.format(number=number, title=title, hunk=HUNKS[title]) for number, title in enumerate(HUNKS, 1)]
    project.write("series.mbox", "".join(mails))
    return project


def facts(project: Project) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((project.latest / "bisect.json").read_text())
    return found


def test_the_patch_that_breaks_it_is_found_and_proven(toy: Project) -> None:
    store = Store(Layout.default().kernels)
    before = {kernel.identity for kernel, _, _ in store.kernels()}
    arguments = ("bisect", "--series", "series.mbox", "--cpus", "1")
    status, output = toy.call(*arguments, "--", "selftests/toy/test_toy.py", limit=600)
    assert status == 0, output
    assert "first broken patch: 1/2 dummy: ask for addresses" in output
    found = facts(toy)
    assert found["culprit"]["title"] == "dummy: ask for addresses"
    assert found["confidence"] >= 0.99
    assert found["steps"] == 1
    assert found["proof"]["proven"], found["proof"]
    judged = {one["kernel"] for one in found["judgements"]}
    left = (judged - before) & {kernel.identity for kernel, _, _ in store.kernels()}
    assert not left, "kernels of the search were left in the store"
    # it is known: nothing is built or run again
    status, output = toy.call(*arguments, "--", "selftests/toy/test_toy.py", limit=60)
    assert status == 0, output
    # a script for either side of the answer
    script = subprocess.run(["sh", "-n", str(toy.latest / "repro.sh")], capture_output=True, check=False)
    assert script.returncode == 0, script.stderr
