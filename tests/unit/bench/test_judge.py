"""What a table is worth, and what two of them say about a patch."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.bench.judge import Margin, compare, nothing_to_compare, objections
from harness.bench.model import Role, Verdict
from harness.errors import UserError

from .tables import JMP, NOP, control, good, key, row, table


def test_margin_is_the_larger_of_both() -> None:
    assert (Margin().of(1000), Margin().of(4000)) == (10, 20)


@pytest.mark.parametrize(
    ("text", "expected"), [("10", (10, 0)), ("0.5%", (0, 0.005)), ("10,0.5%", (10, 0.005)), ("1 %, 3", (3, 0.01))]
)
def test_margin_is_read(text: str, expected: tuple[float, float]) -> None:
    margin = Margin.parse(text)
    assert (margin.absolute, margin.relative) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["", "ten", "-3", "10;2", "10,5", "1%,2%"])
def test_margin_that_is_none(text: str) -> None:
    with pytest.raises(UserError, match="write it like 10"):
        Margin.parse(text)


def test_margin_says_what_it_is() -> None:
    assert [str(Margin()), str(Margin(3, 0)), str(Margin(0, 0.01))] == [
        "10 instructions or 0.5 %",
        "3 instructions",
        "1 %",
    ]


def test_good_table_has_nothing_against_it() -> None:
    assert objections(good(), Margin()) == []


def test_control_that_fails_spoils_the_table() -> None:
    again = row("none, again", 1000, role=Role.AGAIN)
    spoilt = table(row("none", 1000), row("accept", 1200), control("accept and 50", 1247, 50, "accept"), again)
    (objection,) = objections(spoilt, Margin())
    assert objection == "the control failed: 'accept and 50' costs 47.0 more than 'accept', not 50"


def test_table_without_its_checks_proves_nothing() -> None:
    assert objections(table(row("none", 1000)), Margin()) == [
        "no control was measured: a difference would not be known to be seen",
        "nothing was measured again: what two measurements of the same thing differ by is not known",
    ]


def test_first_row_that_does_not_repeat_spoils_the_table() -> None:
    spoilt = good(1000, 1200, row("none, at last", 1011, role=Role.AGAIN))
    assert objections(spoilt, Margin()) == ["'none, at last' is +11.0 from the first row, which it repeats"]


def test_key_that_stays_on_spoils_the_table() -> None:
    stuck = replace(row("nft", 1700), keys=(key("egress_needed_key", NOP, JMP, JMP),))
    assert objections(good(1359, 1618, stuck), Margin()) == [
        "egress_needed_key is not as before 'nft': JMP e956010000 in __dev_queue_xmit"
    ]


@pytest.mark.parametrize(
    ("patched", "verdict"),
    [
        (1359, Verdict.SAME),
        (1369, Verdict.SAME),
        (1370, Verdict.DEARER),
        (1349, Verdict.SAME),
        (1348, Verdict.CHEAPER),
    ],
)
def test_verdicts(patched: float, verdict: Verdict) -> None:
    """The margin itself is no difference yet."""
    first, _ = compare(good(1359), good(patched), Margin()).changes
    assert (first.verdict, first.difference) == (verdict, patched - 1359)


def test_relative_margin_is_of_the_base() -> None:
    first, _ = compare(good(10_000), good(10_050), Margin()).changes
    assert (first.verdict, first.margin) == (Verdict.SAME, 50)


def test_difference_below_the_resolution_is_none() -> None:
    base, patched = (good(1000, 1200, row("drop", value, resolution=4.0)) for value in (1400, 1403))
    change = compare(base, patched, Margin(1, 0)).changes[-1]
    assert (change.row, change.verdict, change.margin) == ("drop", Verdict.SAME, 4.0)


def test_controls_and_repetitions_are_not_compared() -> None:
    assert [change.row for change in compare(good(), good(), Margin()).changes] == ["none", "tc accept"]


def test_row_that_the_base_cannot_do_is_told_against_its_first() -> None:
    """With the hook compiled out, what the hook costs is what it costs more than nothing."""
    lacking = good(1000, 1200, row("nft", absent="kernel lacks it"))
    having = good(1001, 1201, row("nft", 1053))
    change = compare(lacking, having, Margin()).changes[-1]
    assert (change.verdict, change.difference) == (Verdict.ONLY_PATCHED, None)
    assert change.note == "+53 (+5.3%) to 'none' of the base"


def test_row_that_the_patch_took_away() -> None:
    lacking = good(1000, 1200, row("nft", absent="kernel lacks it"))
    having = good(1000, 1200, row("nft", 1053))
    assert compare(having, lacking, Margin()).changes[-1].verdict is Verdict.ONLY_BASE
    assert compare(lacking, lacking, Margin()).changes[-1].verdict is Verdict.NEITHER


def test_kernel_that_lacks_what_the_benchmark_is_about() -> None:
    """The row that the control rests on does not count."""
    lacking = row("nft", absent="kernel lacks it")
    assert nothing_to_compare(good(1000, 1200, lacking)) == "kernel lacks it"
    assert nothing_to_compare(good(1000, 1200, lacking, row("nft, drop", 1100))) == ""
    assert nothing_to_compare(good()) == ""
