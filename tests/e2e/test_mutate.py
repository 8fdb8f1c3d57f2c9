"""``kproof mutate`` on the real 6.12: mutants of the dummy driver, and a suite of two tests that knows one promise."""

from __future__ import annotations

import json
from typing import Any

import pytest

from harness.kernel.layout import Layout
from harness.kernel.store import Store

from .conftest import Project

TESTS = """
import subprocess
from pathlib import Path

import pytest

IFF_NOARP = 0x80


@pytest.fixture
def flags():
    subprocess.run(["ip", "link", "add", "d0", "type", "dummy"], check=True)
    yield int(Path("/sys/class/net/d0/flags").read_text(), 16)
    subprocess.run(["ip", "link", "delete", "d0"], check=True)


def test_it_is_down(flags):
    assert not flags & 1


def test_it_asks_nobody_for_addresses(flags):
    assert flags & IFF_NOARP
"""

PLACE = (
    " dev->needs_free_netdev = true;",
    "",
    " /* Fill in device structure with ethernet-generic values. */",
    "-dev->flags |= IFF_NOARP;",
    "+{change}",
    " dev->flags &= ~IFF_MULTICAST;",
    " dev->priv_flags |= IFF_LIVE_ADDR_CHANGE | IFF_NO_QUEUE;",
    " dev->lltx = true;",
)
"""Lines of dummy_setup() without their tabs."""

MUTANT = """\
Mutant: {name}

Breaks: a dummy asks nobody for addresses
Base:   >=6.12,<6.13
Killed by:
  selftests/toy/test_toy.py::{killer}

---
--- a/drivers/net/dummy.c
+++ b/drivers/net/dummy.c
@@ -107,7 +107,7 @@
{diff}"""

CHANGES = {
    "asks": ("dev->flags |= IFF_DEBUG;", "test_it_asks_nobody_for_addresses"),
    "asks-unnoticed": ("dev->flags |= IFF_NOARP | IFF_DEBUG;", "test_it_is_down"),
    "broken": ("dev->flags |= IFF_NOARQ;", "test_it_is_down"),
}


@pytest.fixture
def toy(project: Project) -> Project:
    for folder in ("selftests/toy", "patches/toy/mutants"):
        (project.folder / folder).mkdir(parents=True)
    project.write("selftests/toy/test_toy.py", TESTS)
    for name, (change, killer) in CHANGES.items():
        diff = "".join(f"{line[:1] or ' '}{chr(9) if line else ''}{line[1:]}\n" for line in PLACE).format(change=change)
        project.write(f"patches/toy/mutants/{name}.patch", MUTANT.format(name=name, killer=killer, diff=diff))
    return project


def facts(project: Project) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((project.latest / "mutants.json").read_text())
    return found


def test_one_is_killed_one_survives_one_does_not_build(toy: Project) -> None:
    store = Store(Layout.default().kernels)
    before = {kernel.identity for kernel, _, _ in store.kernels()}
    status, output = toy.call("mutate", "--rerun", limit=600)
    assert status == 3, output
    mutants = {one["name"]: one for one in facts(toy)["mutants"]}
    assert {name: one["verdict"] for name, one in mutants.items()} == {
        "toy/asks": "killed",
        "toy/asks-unnoticed": "survived",
        "toy/broken": "did not build",
    }
    assert mutants["toy/asks"]["by"] == ["selftests/toy/test_toy.py::test_it_asks_nobody_for_addresses"]
    assert "IFF_NOARQ" in mutants["toy/broken"]["text"]
    assert "drivers/net/dummy.c:" in mutants["toy/broken"]["text"]
    assert {kernel.identity for kernel, _, _ in store.kernels()} == before, "a mutant's kernel was left in the store"
    assert [case.get("name") for case in toy.junit().iterfind(".//testcase[failure]")] == ["asks-unnoticed"]
    # what is known is not found out again
    status, output = toy.call("mutate", "toy/asks", limit=60)
    assert status == 0, output
    assert "KILLED toy/asks by test_toy.py::test_it_asks_nobody_for_addresses" in output
    assert "(known)" in output
