"""A benchmark's result on the terminal, as ``bench.json`` and as ``junit.xml``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import __version__
from harness.bench.model import Change, Comparison, KeyState, Role, Row, Table, Verdict
from harness.kernel.files import write, write_json

if TYPE_CHECKING:
    from rich.console import RenderableType

KEYS = "static keys: before, during and after the row"
STYLES = {Verdict.SAME: "green", Verdict.CHEAPER: "bold green", Verdict.DEARER: "bold red"}
WIDTH = 150
"""Of what is not written to a terminal: enough for all tables. On a narrower one, static keys have a table apart."""


def number(value: float) -> str:
    """``1,359``; with a decimal where there is one."""
    return f"{value:,.1f}".removesuffix(".0")


def signed(value: float) -> str:
    """``+75``, ``-3``, ``0``."""
    size = number(abs(value))
    return size if size == "0" else f"{'+' if value > 0 else '-'}{size}"


def runs(row: Row) -> str:
    """``x3 identical``, or the number of each boot."""
    if len(row.values) == 1:
        return "one boot"
    return f"x{len(row.values)} identical" if row.identical else "  ".join(number(value) for value in row.values)


def key_text(key: KeyState) -> str:
    """``NOP JMP NOP``: before, during and after; a key whose sites differ has them all."""
    return " ".join("/".join(sorted({site.partition(" ")[0] for site in state})) or "-"
                    for state in (key.before, key.during, key.after))  # fmt: skip


def role_text(table: Table, row: Row) -> str:
    """What a row that is no ordinary one shows."""
    if row.role is Role.AGAIN and row.measurements:
        return f"A/A: {number(abs(table.delta(row)))} apart"
    if row.role is Role.CONTROL and row.measurements and row.expected is not None:
        cost = row.value - table.row(row.against).value
        held = "control holds" if table.control_holds(row) else "CONTROL FAILS"
        return f"{held}: {signed(cost)} of {row.expected:g}"
    if row.absent:
        return "absent"
    reference = table.reference(row)
    return "" if reference in (row, table.first) else f"to {reference.name}"


def absences(table: Table) -> list[str]:
    """Why rows are absent, each reason once."""
    return list(dict.fromkeys(f"absent: {row.absent}" for row in table.rows if row.absent))


def shown(table: Table, width: int = WIDTH) -> RenderableType:
    """A table as published ones are laid out: rows of one workload, the runs of each, and what they have more."""
    from rich import box
    from rich.console import Group
    from rich.table import Table as Grid

    every = list(dict.fromkeys(key.name for row in table.rows for key in row.keys))
    keys = every if width >= WIDTH else []
    grid = Grid(
        title=f"{table.title}\n{table.subject.release}, {table.subject.recipe}",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    grid.add_column("", no_wrap=True)
    grid.add_column(f"{table.quantity}\nper {table.unit}", justify="right", no_wrap=True)
    grid.add_column("difference", justify="right", no_wrap=True)
    grid.add_column("boots", min_width=max((len(runs(row)) for row in table.rows if row.identical), default=0))
    for name in keys:
        grid.add_column(name, min_width=len(name))
    grid.add_column("")
    apart = Grid("", *every, title=KEYS, title_justify="left", box=box.SIMPLE_HEAD)
    for row in table.rows:
        states = {key.name: key_text(key) for key in row.keys}
        apart.add_row(row.name, *(states.get(name, "") for name in every))
        grid.add_row(
            row.name,
            number(row.value) if row.measurements else "-",
            _difference(table, row),
            runs(row) if row.measurements else "",
            *(states.get(name, "") for name in keys),
            role_text(table, row),
        )
    keys_told = f"; {KEYS}" if keys else ""
    resolution = f"resolution: {table.resolution:.2g} {table.quantity}{keys_told}"
    grid.caption = "\n".join([resolution, *absences(table)])
    grid.caption_justify = "left"
    return Group(grid, apart) if every and not keys else grid


def _difference(table: Table, row: Row) -> str:
    reference = table.reference(row)
    return "" if reference is row or not row.measurements or not reference.measurements else signed(table.delta(row))


def verdict_text(change: Change) -> str:
    """``no difference``, ``dearer by 53 (3.9 %)``, or why there is none."""
    if change.difference is None or change.base is None:
        return f"{change.verdict}: {change.note}" if change.note else str(change.verdict)
    if change.verdict is Verdict.SAME:
        return f"{change.verdict} ({signed(change.difference)})" if change.difference else str(change.verdict)
    size = abs(change.difference)
    return f"{change.verdict} by {number(size)} ({size / change.base * 100:.1f} %)"


def shown_changes(comparison: Comparison, margin: str) -> RenderableType:
    """The verdicts, a line for each row."""
    from rich import box
    from rich.table import Table as Grid
    from rich.text import Text

    base, patched = comparison.base.subject, comparison.patched.subject
    grid = Grid(
        title=f"{comparison.patched.title}\nbase:    {base.release}, {base.recipe}\npatched: {patched.release},"
        f" {patched.recipe}",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    for name in ("", "base", "patched"):
        grid.add_column(name, justify="right" if name else "left")
    grid.add_column("verdict")
    for change in comparison.changes:
        values = ["-" if value is None else number(value) for value in (change.base, change.patched)]
        grid.add_row(change.row, *values, Text(verdict_text(change), style=STYLES.get(change.verdict, "")))
    grid.caption = f"{comparison.base.quantity} per {comparison.base.unit}; no difference: up to {margin}"
    grid.caption_justify = "left"
    return grid


def write_results(
    folder: Path,
    tables: Sequence[Table],
    comparison: Comparison | None,
    *,
    margin: str,
    objections: Sequence[str],
    fail_if: Verdict | None,
) -> None:
    """``bench.json`` with everything, and ``junit.xml``: a case for each row, or for each verdict."""
    told: dict[str, Any] = {
        "kproof": __version__,
        "margin": margin,
        "objections": list(objections),
        "tables": [table.to_json() for table in tables],
        "changes": comparison.to_json()["changes"] if comparison else [],
    }
    write_json(folder / "bench.json", told)
    write(folder / "junit.xml", junit(tables, comparison, objections, fail_if).encode())


def junit(
    tables: Sequence[Table], comparison: Comparison | None, objections: Sequence[str], fail_if: Verdict | None
) -> str:
    """A suite *bench NAME*. A verdict that must not be is a failure, a table that means nothing an error."""
    from junit_xml import TestCase, TestSuite, to_xml_report_string

    table = tables[-1]
    suite = f"bench {table.benchmark}"
    cases = []
    for change in comparison.changes if comparison else ():
        case = TestCase(change.row, suite, stdout=f"{change.base} -> {change.patched}: {verdict_text(change)}")
        if change.verdict is fail_if:
            case.add_failure_info(verdict_text(change))
        elif change.difference is None:
            case.add_skipped_info(verdict_text(change))
        cases.append(case)
    for row in () if comparison else table.rows:
        case = TestCase(row.name, suite, stdout=f"{row.values} {table.quantity} per {table.unit}")
        if row.absent:
            case.add_skipped_info(row.absent)
        cases.append(case)
    for objection in objections:
        case = TestCase("the measurement itself", suite)
        case.add_error_info(objection)
        cases.append(case)
    return str(to_xml_report_string([TestSuite(suite, cases)], prettyprint=True))
