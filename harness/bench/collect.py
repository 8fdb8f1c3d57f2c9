"""From what guests report (harness/bench/guest.py) to a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.bench.estimate import Point, slope
from harness.bench.model import KeyState, Measurement, Role, Row, Subject, Table
from harness.bench.symbols import Symbols, function
from harness.errors import InfraError, UserError
from harness.model import Kernel

Report = dict[str, Any]


def exact_table(name: str, kernel: Kernel, reports: Sequence[Report], seconds: float) -> Table:
    """One table of the reports of all boots of a kernel.

    Raises UserError where the first row is absent, and InfraError where the boots do not have the same rows.
    """
    first = reports[0]
    names = [row["name"] for row in first["rows"]]
    if any([row["name"] for row in report["rows"]] != names for report in reports):
        raise InfraError("the boots of one kernel did not measure the same rows")
    absent = {row["name"]: row["absent"] for row in first["rows"] if "absent" in row}
    if reason := absent.get(names[0]):
        raise UserError(f"the first row, {names[0]!r}, which others are compared with, cannot be measured: {reason}")
    symbols = Symbols(kernel.system_map.read_text())
    return Table(
        benchmark=name,
        title=first["title"],
        mode="exact",
        quantity="instructions",
        unit=first["unit"],
        subject=Subject(first["release"], kernel.identity, kernel.request),
        rows=tuple(_row([report["rows"][index] for report in reports], absent, symbols) for index in range(len(names))),
        source=first["source"],
        seconds=seconds,
    )


def _row(told: Sequence[dict[str, Any]], absent: Mapping[str, str], symbols: Symbols) -> Row:
    """A control, or a repetition, of a row that is ``absent`` (reasons by name) is as absent as that."""
    first = told[0]
    role = Role(first["role"])
    reason = absent.get(first["name"], "") or (absent.get(first["against"], "") if role is not Role.PLAIN else "")
    return Row(
        name=first["name"],
        measurements=() if reason else tuple(_measurement(boot, one) for boot, one in enumerate(told)),
        role=role,
        absent=reason,
        expected=first["expected"],
        against=first["against"],
        keys=tuple(
            KeyState(key, *(tuple(_site(site, symbols) for site in state) for state in states))
            for key, states in first.get("keys", {}).items()
        ),
    )


def _measurement(boot: int, told: dict[str, Any]) -> Measurement:
    points = [Point(*sample) for sample in told["samples"]]
    estimate = slope(points)
    return Measurement(
        boot=boot,
        value=estimate.value,
        resolution=estimate.resolution,
        details={"count": sum(point.count for point in points), "runs": len(points), "off": estimate.off},
    )


def _site(told: Sequence[str], symbols: Symbols) -> str:
    """``NOP 0f1f440000 in __dev_queue_xmit``"""
    state, address, instruction = told
    return f"{state} {instruction} in {function(symbols.at(int(address, 16)))}"
