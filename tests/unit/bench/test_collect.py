"""From a guest's report to a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.bench.collect import exact_table
from harness.bench.judge import Margin, objections
from harness.bench.model import Role
from harness.errors import InfraError, UserError
from harness.model import Kernel, Version

SYSTEM_MAP = """\
ffffffff81000000 T _text
ffffffff81405f00 T __dev_queue_xmit
ffffffff81406100 t packet_xmit.constprop.0
ffffffff81500000 D egress_needed_key
"""


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    (tmp_path / "System.map").write_text(SYSTEM_MAP)
    return Kernel("0" * 16, tmp_path, Version(6, 12), "6.12.1", "debian:6.12", (), (), 0.0)


def told(name: str, cost: float, **more: Any) -> dict[str, Any]:
    """A row of a report."""
    samples = [[count, 700 + cost * count, 1] for count in (100, 500, 900)]
    return {"name": name, "role": "plain", "expected": None, "against": "", "samples": samples, "keys": {}, **more}


def report(*rows: dict[str, Any]) -> dict[str, Any]:
    return {"release": "6.12.1", "title": "t", "unit": "packet", "source": "s", "rows": list(rows)}


def test_boots_of_a_row_stand_together(kernel: Kernel) -> None:
    table = exact_table("egress", kernel, [report(told("none", cost)) for cost in (1359, 1359, 1361)], 9.0)
    assert (table.first.values, table.first.spread, table.first.identical) == ((1359, 1359, 1361), 2, False)
    assert (table.unit, table.quantity, table.subject.release) == ("packet", "instructions", "6.12.1")
    assert table.resolution == 2


def test_absent_row(kernel: Kernel) -> None:
    lacking = {"name": "nft", "role": "plain", "expected": None, "against": "", "absent": "kernel lacks it"}
    table = exact_table("egress", kernel, [report(told("none", 1359), lacking)], 9.0)
    assert (table.row("nft").absent, table.row("nft").measurements) == ("kernel lacks it", ())
    with pytest.raises(ValueError, match="was not measured: kernel lacks it"):
        _ = table.row("nft").value


def test_control_of_an_absent_row(kernel: Kernel) -> None:
    lacking = {"name": "nft", "role": "plain", "expected": None, "against": "", "absent": "kernel lacks it"}
    control = told("nft and 50", 1409, role="control", expected=50, against="nft")
    table = exact_table("egress", kernel, [report(told("none", 1359), lacking, control)], 9.0)
    assert (table.row("nft and 50").absent, table.row("nft and 50").measurements) == ("kernel lacks it", ())
    assert any("no control was measured" in line for line in objections(table, Margin()))


def test_first_row_is_absent(kernel: Kernel) -> None:
    lacking = {"name": "nft", "role": "plain", "expected": None, "against": "", "absent": "kernel lacks it"}
    with pytest.raises(UserError, match=r"the first row, 'nft', .* cannot be measured: kernel lacks it"):
        exact_table("egress", kernel, [report(lacking, told("none", 1359))], 9.0)


def test_control_holds(kernel: Kernel) -> None:
    control = told("and 50", 1409, role="control", expected=50, against="none")
    table = exact_table("egress", kernel, [report(told("none", 1359), control)], 9.0)
    assert table.rows[1].role is Role.CONTROL
    assert table.control_holds(table.rows[1])


def test_sites_have_the_names_of_their_functions(kernel: Kernel) -> None:
    states = [[["NOP", "ffffffff81405fd3", "0f1f440000"]], [["JMP", "ffffffff81406104", "eb53"]], []]
    table = exact_table("egress", kernel, [report(told("none", 1, keys={"egress_needed_key": states}))], 9.0)
    (key,) = table.first.keys
    assert key.before == ("NOP 0f1f440000 in __dev_queue_xmit",)
    assert key.during == ("JMP eb53 in packet_xmit",)
    assert key.after == ()


def test_boots_that_measured_different_rows(kernel: Kernel) -> None:
    with pytest.raises(InfraError, match="did not measure the same rows"):
        exact_table("egress", kernel, [report(told("none", 1)), report(told("one", 1))], 9.0)


def test_table_as_json(kernel: Kernel) -> None:
    control = told("and 50", 1409, role="control", expected=50, against="none")
    rows = exact_table("egress", kernel, [report(told("none", 1359), control)], 9.0).to_json()["rows"]
    assert [(row["name"], row["value"], row["delta"], row["control_holds"]) for row in rows] == [
        ("none", 1359, 0, None),
        ("and 50", 1409, 50, True),
    ]
