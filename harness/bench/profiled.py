"""What ``--profile`` adds to a benchmark: the windows of one boot of a kernel, on the terminal and in ``profile/``.

The boot that is profiled is one of those that are measured. A plugin changes nothing about what a guest executes: its
row's numbers are those of the boots without it, to the instruction, or the table shows that they are not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.bench.flame import flame_graph
from harness.bench.guest import WARM_UP
from harness.bench.judge import Margin
from harness.bench.model import Change, Comparison, Role, Row, Table, Verdict
from harness.bench.profile import Profile, differences, folded, profile
from harness.bench.report import number, signed
from harness.bench.symbols import Symbols
from harness.bench.windows import read
from harness.errors import InfraError
from harness.kernel.files import write, write_json
from harness.model import Kernel

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table as Grid

TOP = 20
"""Functions that a table on the terminal has; the files have all."""
LEAST = 0.5
"""Instructions; smaller differences are counted and summed up, not listed."""


@dataclass(frozen=True)
class Profiled:
    """A kernel's table, and where the instructions of its rows are."""

    table: Table
    boot: int
    """Which of the table's boots they were counted in."""
    profiles: Mapping[str, Profile]
    """By the name of the row."""

    def clock(self, row: Row) -> float:
        """What that boot's clock said."""
        return row.measurements[self.boot].value

    def off(self, row: Row) -> float:
        """By how much the sum over all functions differs from it."""
        return self.profiles[row.name].total - self.clock(row)


def profiled(table: Table, boot: int, report: Mapping[str, Any], windows: Path, kernel: Kernel) -> Profiled:
    """The profiles of a boot: its report (harness/bench/guest.py) and the file of its plugin.

    Raises InfraError where the file does not go with the report.
    """
    symbols = Symbols(kernel.system_map.read_text())
    rest = iter(read(windows))
    profiles = {}
    for row in report["rows"]:
        runs = [count for count, *_ in row.get("samples", [])]
        if not runs:
            continue
        mine = [window for _, window in zip(range(WARM_UP + len(runs)), rest, strict=False)]
        if len(mine) != WARM_UP + len(runs):
            raise InfraError(f"{windows}: fewer windows than the guest says it has marked")
        profiles[row["name"]] = profile(zip(runs, mine[WARM_UP:], strict=True), symbols, report["thread"])
    if next(rest, None):
        raise InfraError(f"{windows}: more windows than the guest says it has marked")
    return Profiled(table, boot, profiles)


def objections(one: Profiled, margin: Margin) -> list[str]:
    """A line for each row whose functions do not sum up to what the clock says of it."""
    return [
        f"the functions of {row.name!r} sum up to {one.profiles[row.name].total:.1f}, its clock says"
        f" {one.clock(row):.1f}"
        for row in one.table.rows
        if row.name in one.profiles and abs(one.off(row)) > margin.of(one.clock(row))
    ]


def shown_rows(one: Profiled) -> Iterator[RenderableType]:
    """For each row that others are compared with, where it spends most; for the others, where the difference is."""
    for row in one.table.rows:
        reference = one.table.reference(row)
        if row.name not in one.profiles or row.role is Role.CONTROL:
            continue
        if reference is row or reference.name not in one.profiles:
            yield _costs(one, row)
        elif row.role is Role.PLAIN or abs(one.table.delta(row)) >= LEAST:
            yield _difference((row.name, reference.name), "", one, reference, one, row)


def shown_changes(base: Profiled, patched: Profiled, comparison: Comparison) -> Iterator[RenderableType]:
    """Where the difference is, for each row that has one."""
    for change in comparison.changes:
        if _both(change, base, patched) and change.verdict is not Verdict.SAME:
            rows = base.table.row(change.row), patched.table.row(change.row)
            yield _difference(("patched", "base"), f"{change.row}: ", base, rows[0], patched, rows[1])


def write_profiles(folder: Path, parts: Mapping[str, Profiled]) -> None:
    """``functions.json``, and for each row a flame graph ``ROW.svg`` and its stacks ``ROW.folded``.

    ``parts`` are those of one kernel, named "", or of ``base`` and ``patched``, whose names are put before.
    """
    told = {}
    for name, one in parts.items():
        for row in one.table.rows:
            if not (found := one.profiles.get(row.name)):
                continue
            stem = re.sub(r"[^A-Za-z0-9]+", "-", f"{name} {row.name}").strip("-").lower()
            title = ": ".join(filter(None, [one.table.benchmark, name, row.name]))
            against = _to_compare(parts, name, one, row)
            svg = flame_graph(found, title, unit=one.table.unit, base=against)
            write(folder / f"{stem}.svg", svg.encode())
            write(folder / f"{stem}.folded", folded(found).encode())
            told[": ".join(filter(None, [name, row.name]))] = {
                "clock": one.clock(row),
                "sum": found.total,
                "functions": dict(sorted(found.functions.items(), key=lambda item: -item[1])),
            }
    write_json(folder / "functions.json", told)


def _to_compare(parts: Mapping[str, Profiled], name: str, one: Profiled, row: Row) -> Profile | None:
    """The row of the other kernel; of one kernel alone, the row's reference."""
    if name:
        return None if name == next(iter(parts)) else next(iter(parts.values())).profiles.get(row.name)
    reference = one.table.reference(row)
    return None if reference is row else one.profiles.get(reference.name)


def _both(change: Change, base: Profiled, patched: Profiled) -> bool:
    return change.row in base.profiles and change.row in patched.profiles


def _costs(one: Profiled, row: Row) -> RenderableType:
    found = one.profiles[row.name]
    grid = _grid(f"{row.name}: where the {one.table.quantity} of one {one.table.unit} are", "", "share")
    ranked = sorted(found.functions.items(), key=lambda item: (-item[1], item[0]))
    for name, count in ranked[:TOP]:
        grid.add_row(name, number(round(count, 1)), f"{100 * count / found.total:.1f} %")
    if rest := ranked[TOP:]:
        count = sum(count for _, count in rest)
        grid.add_row(f"{len(rest)} others", number(round(count, 1)), f"{100 * count / found.total:.1f} %")
    grid.caption = f"in all {number(round(found.total, 1))}; by the clock, {number(round(one.clock(row), 1))}"
    return grid


def _difference(
    names: tuple[str, str], title: str, base: Profiled, before: Row, here: Profiled, row: Row
) -> RenderableType:
    found = differences(base.profiles[before.name], here.profiles[row.name])
    listed = [one for one in found if abs(one.more) >= LEAST][:TOP]
    rest = found[len(listed) :]
    grid = _grid(f"{title}what {names[0]} costs more than {names[1]}, by function", *names, "difference")
    for one in listed:
        values = (number(round(value, 1)) for value in (one.here, one.base))
        grid.add_row(one.function, *values, signed(round(one.more, 1)))
    if rest:
        grid.add_row(f"{len(rest)} others", "", "", signed(round(sum(one.more for one in rest), 1)))
    total, clock = sum(one.more for one in found), here.clock(row) - base.clock(before)
    grid.caption = f"in all {signed(round(total, 1))}; by the clock, {signed(round(clock, 1))}"
    return grid


def _grid(title: str, *columns: str) -> Grid:
    from rich import box
    from rich.table import Table

    grid = Table(title=title, title_justify="left", caption_justify="left", box=box.SIMPLE_HEAD)
    grid.add_column("function")
    for column in columns:
        grid.add_column(column, justify="right")
    return grid
