"""What a table is worth, and what two of them say about a patch: rules that are fixed before anything is measured."""

from __future__ import annotations

import re
from dataclasses import dataclass

from harness.bench.model import Change, Comparison, Role, Row, Table, Verdict
from harness.errors import UserError


@dataclass(frozen=True)
class Margin:
    """A difference up to the larger of both is none: a compiler that arranges a function anew makes as much."""

    absolute: float = 10.0
    """Instructions."""
    relative: float = 0.005

    def of(self, value: float) -> float:
        """For a row that costs ``value`` in the base."""
        return max(self.absolute, self.relative * value)

    @classmethod
    def parse(cls, text: str) -> Margin:
        """``10``, ``0.5%``, or ``10,0.5%``; what is not written is nothing. Raises UserError for anything else."""
        values: dict[str, float] = {}
        for part in text.split(","):
            match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(%?)\s*", part)
            if not match or match[2] in values:
                raise UserError(f"--margin {text!r} is not understood; write it like 10, 0.5% or 10,0.5%")
            values[match[2]] = float(match[1])
        return cls(values.get("", 0.0), values.get("%", 0.0) / 100)

    def __str__(self) -> str:
        parts = [f"{self.absolute:g} instructions"] if self.absolute or not self.relative else []
        return " or ".join([*parts, *([f"{self.relative * 100:g} %"] if self.relative else [])])


def objections(table: Table, margin: Margin) -> list[str]:
    """Why a table's numbers mean nothing, a line each; empty for one that can be relied on."""
    said = []
    limit = margin.of(table.first.value)
    for row in table.rows:
        if row.role is Role.CONTROL and not row.absent and not table.control_holds(row):
            cost = row.value - table.row(row.against).value
            said.append(
                f"the control failed: {row.name!r} costs {cost:.1f} more than {row.against!r}, not {row.expected}"
            )
        if row.role is Role.AGAIN and not row.absent and abs(table.delta(row)) > limit:
            said.append(f"{row.name!r} is {table.delta(row):+.1f} from the first row, which it repeats")
        said += [
            f"{key.name} is not as before {row.name!r}: {', '.join(key.after)}"
            for key in row.keys
            if key.before != key.after
        ]
    measured = {row.role for row in table.rows if not row.absent}
    if Role.CONTROL not in measured:
        said.append("no control was measured: a difference would not be known to be seen")
    if Role.AGAIN not in measured:
        said.append("nothing was measured again: what two measurements of the same thing differ by is not known")
    return said


def nothing_to_compare(table: Table) -> str:
    """Why a kernel can do nothing of what the benchmark is about; empty where it can."""
    plain = [row for row in table.rows[1:] if row.role is Role.PLAIN and row.name not in _references(table)]
    return plain[0].absent if plain and all(row.absent for row in plain) else ""


def _references(table: Table) -> set[str]:
    """Rows that are there for a control."""
    return {row.against for row in table.rows if row.role is Role.CONTROL}


def compare(base: Table, patched: Table, margin: Margin) -> Comparison:
    """Row by row, in the order of the patched kernel's table. Controls and repetitions are not compared."""
    others = {row.name: row for row in base.rows}
    changes = [
        _change(others[row.name], row, base, patched, margin)
        for row in patched.rows
        if row.role is Role.PLAIN and row.name in others
    ]
    return Comparison(base, patched, tuple(changes))


def _change(before: Row, after: Row, base: Table, patched: Table, margin: Margin) -> Change:
    if before.absent and after.absent:
        return Change(after.name, None, None, Verdict.NEITHER, 0.0, after.absent)
    if before.absent:
        more = after.value - base.first.value
        note = f"{more:+.0f} ({more / base.first.value:+.1%}) to {base.first.name!r} of the base"
        return Change(after.name, None, after.value, Verdict.ONLY_PATCHED, 0.0, note)
    if after.absent:
        return Change(after.name, before.value, None, Verdict.ONLY_BASE, 0.0, after.absent)
    allowed = max(margin.of(before.value), base.resolution, patched.resolution)
    difference = after.value - before.value
    verdict = Verdict.DEARER if difference > allowed else Verdict.CHEAPER if difference < -allowed else Verdict.SAME
    return Change(after.name, before.value, after.value, verdict, allowed)
