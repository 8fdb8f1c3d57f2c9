"""Faults that a test provokes in its guest. They cost that test, and nobody else."""

from __future__ import annotations

import re

import pytest

from tests.e2e.faults.conftest import Batch
from tests.e2e.faults.fault import Fault, Row
from tests.e2e.faults.in_guests import IN_GUESTS


@pytest.mark.parametrize(
    "fault",
    [pytest.param(fault, id=fault.name, marks=[pytest.mark.slow] if fault.slow else []) for fault in IN_GUESTS],
)
def test_fault(fault: Fault, batch: Batch, row: Row) -> None:
    row.fault, row.expected = fault.name, " or ".join(fault.expected)
    found = {name: batch.project.detail(name) for name in (f"{fault.file}::{test}" for test in TESTS)}
    before, outcome, after = found.values()
    seen = f"{outcome['result']}: {outcome['message']}".rstrip(": ")
    row.seen, row.seconds = "".join(c if c.isprintable() else "?" for c in seen), outcome["seconds"]
    assert outcome["result"] in fault.expected, outcome
    assert re.search(fault.title, outcome["message"]), outcome["message"]
    assert (before["result"], after["result"]) == ("passed", "passed"), found
    if fault.check:
        fault.check(batch.project, outcome)


TESTS = ("test_before", "test_fault", "test_after")


def test_every_selected_test_has_exactly_one_outcome(batch: Batch, row: Row) -> None:
    row.fault, row.expected = "(all of the above) outcomes", "one for each test"
    row.seen = "; ".join(batch.books) or row.expected
    assert batch.books == []
    assert batch.status == 1, batch.project.output
    told = batch.project.output
    assert "Traceback" not in told, told[told.index("Traceback") - 500 :][:5000]


def test_nothing_is_left(batch: Batch, row: Row) -> None:
    row.fault, row.expected = "(all of the above) left behind", "nothing"
    row.seen = "; ".join(batch.leftovers) or row.expected
    assert batch.leftovers == []
