"""kproof bench: instructions are counted, by a guest that repeats exactly, and what cannot be counted is refused."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Project

SLEEPS = """
import time
from contextlib import nullcontext
from selftests.bench.benchmark import Benchmark, Row, nothing
from selftests.bench.timing import timed

BENCHMARK = Benchmark(
    title="sleep", unit="call", scene=nullcontext, rows=(Row("sleep", nothing),), sizes=(5, 10, 15),
    run=lambda scene, row, count: timed(count, lambda: time.sleep(0.001)),
)
"""
LOSES = """
from dataclasses import replace
from selftests.bench import egress

BENCHMARK = replace(egress.BENCHMARK, rows=(egress.nft("drop in secret", "drop"),))
"""


def bench(project: Project, *arguments: str) -> tuple[int, str]:
    return project.call("bench", *arguments, "--kernel", f"kernel:{project.kernel.identity}", "--results", "r")


def told(project: Project) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((project.folder / "r" / "bench.json").read_text())
    return data


def test_boots_of_one_kernel_count_the_same(project: Project) -> None:
    """Two guests at once: the same number in each row, a control of fifty instructions, and keys that flip."""
    status, output = bench(project, "egress", "--boots", "2")
    assert status == 0, output
    (table,) = told(project)["tables"]
    rows = {row["name"]: row for row in table["rows"]}
    values = {name: [one["value"] for one in row["measurements"]] for name, row in rows.items()}
    assert all(first == second for first, second in values.values()), values
    assert values["none"] == values["none, again"]
    assert values["tc accept and 50 additions"][0] - values["tc accept"][0] == 50
    assert rows["none"]["value"] < rows["nft on another device"]["value"] < rows["nft, empty chain"]["value"]
    assert table["resolution"] < 3
    hook = next(key for key in rows["nft, empty chain"]["keys"] if key["name"].startswith("nf_hooks_needed"))
    assert [[site[:3] for site in hook[when]] for when in ("before", "during", "after")] == [
        ["NOP", "NOP"],
        ["JMP", "JMP"],
        ["NOP", "NOP"],
    ]
    assert {site.partition(" in ")[2] for site in hook["during"]} == {"__dev_queue_xmit", "packet_xmit"}
    cases = [case.get("name") for case in ET.parse(project.folder / "r" / "junit.xml").iter("testcase")]
    assert cases == list(rows)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (SLEEPS, "sleep: the workload slept 5 times in 5: time passed that no instruction took"),
        (LOSES, "drop in secret: packets are lost: "),
    ],
    ids=["sleeps", "loses packets"],
)
def test_workload_that_says_nothing_of_instructions(project: Project, text: str, reason: str) -> None:
    path = Path(project.folder, "mine.py")
    path.write_text(text)
    status, output = bench(project, str(path), "--boots", "1")
    assert (status, reason in output.splitlines()[-1]) == (2, True), output
    assert "Traceback" not in output


def test_same_kernel_twice_is_no_comparison(project: Project) -> None:
    status, output = bench(project, "egress", "--base", f"kernel:{project.kernel.identity}")
    identity = project.kernel.identity
    assert (status, output.splitlines()[-1]) == (
        2,
        f"kproof: base and patched are the same kernel, {identity}: there is nothing to compare",
    )
