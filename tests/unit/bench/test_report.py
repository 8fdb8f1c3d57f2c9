"""What a result looks like, on a terminal and in files."""

from __future__ import annotations

import io
import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from harness.bench.judge import Margin, compare
from harness.bench.model import Verdict
from harness.bench.report import WIDTH, number, runs, shown, shown_changes, signed, verdict_text, write_results

from .tables import good, key, row


def text(renderable: object, width: int = WIDTH) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width).print(renderable)
    return stream.getvalue()


@pytest.mark.parametrize(("value", "expected"), [(1359, "1,359"), (1359.001, "1,359"), (1359.26, "1,359.3"), (0, "0")])
def test_number(value: float, expected: str) -> None:
    assert number(value) == expected


@pytest.mark.parametrize(("value", "expected"), [(75, "+75"), (-3, "-3"), (0, "0"), (0.001, "0"), (-0.5, "-0.5")])
def test_signed(value: float, expected: str) -> None:
    assert signed(value) == expected


def test_runs() -> None:
    assert runs(row("none", 1359)) == "one boot"
    assert runs(row("none", 1359, 1359, 1359)) == "x3 identical"
    assert runs(row("none", 1359, 1361)) == "1,359  1,361"


def test_table() -> None:
    on = replace(row("nft", 1700, 1700), keys=(key("egress_needed_key"),))
    lines = text(shown(good(1359, 1618, on, row("fwd", absent="kernel lacks fwd")))).splitlines()
    line = {name: next(one for one in lines if name in one) for name in ("tc accept ", "nft", "and 50", "again", "fwd")}
    assert "+259" in line["tc accept "]
    assert "x2 identical" in line["tc accept "]
    assert "NOP JMP NOP" in line["nft"]
    assert "control holds: +50 of 50" in line["and 50"]
    assert "A/A: 0 apart" in line["again"]
    assert "absent" in line["fwd"]
    assert "absent: kernel lacks fwd" in "\n".join(lines)


def test_table_on_a_narrow_terminal() -> None:
    """The keys are apart, and nothing is cut off."""
    names = ("egress_needed_key", "nf_hooks_needed[26]")
    on = replace(row("nft, empty chain", 1700, 1700), keys=tuple(map(key, names)))
    said = text(shown(good(1359, 1618, on), 80), 80)
    assert "…" not in said
    numbers, keys = said.split("static keys: before, during and after the row")
    assert "NOP JMP NOP" not in numbers
    assert [line.count("NOP JMP NOP") for line in keys.splitlines() if "nft" in line] == [2]


def test_verdicts() -> None:
    before, after = good(1000, 1200, row("nft", absent="lacks it")), good(1001, 1251, row("nft", 1053))
    assert [verdict_text(change) for change in compare(before, after, Margin()).changes] == [
        "no difference (+1)",
        "dearer by 51 (4.2 %)",
        "only in patched: +53 (+5.3%) to 'none' of the base",
    ]
    told = text(shown_changes(compare(before, after, Margin()), str(Margin())))
    assert "no difference: up to 10 instructions or 0.5 %" in told


def test_files(tmp_path: Path) -> None:
    before, after = good(1000, 1200), good(1001, 1251)
    comparison = compare(before, after, Margin())
    write_results(tmp_path, [before, after], comparison, margin="m", objections=["no use"], fail_if=Verdict.DEARER)
    told = json.loads((tmp_path / "bench.json").read_text())
    assert [change["verdict"] for change in told["changes"]] == ["no difference", "dearer"]
    assert len(told["tables"]) == 2
    cases = {case.get("name"): [one.tag for one in case] for case in ET.parse(tmp_path / "junit.xml").iter("testcase")}
    assert "failure" in cases["tc accept"]
    assert "failure" not in cases["none"]
    assert "error" in cases["the measurement itself"]


def test_files_of_one_kernel(tmp_path: Path) -> None:
    table = good(1000, 1200, row("nft", absent="lacks it"))
    write_results(tmp_path, [table], None, margin="m", objections=[], fail_if=None)
    cases = {case.get("name"): [one.tag for one in case] for case in ET.parse(tmp_path / "junit.xml").iter("testcase")}
    assert "skipped" in cases["nft"]
    assert "skipped" not in cases["none"]
