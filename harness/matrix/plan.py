"""What will happen: which cells run, in which order, how many at once, what is known already, how long that takes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from harness.matrix.cells import Cell
from harness.matrix.collect import Test
from harness.matrix.definition import BASE
from harness.matrix.ledger import Record
from harness.matrix.prepare import Facts
from harness.tables import table

TEST_SECONDS = 0.1
"""Of a test whose time nobody knows."""
BETWEEN_SECONDS = 0.02
"""Before and after a test, and all that there is of one that is skipped."""
START_SECONDS = 15.0
"""Of a run: its snapshot, and what is between the guests' first and last test."""
DOWNLOAD_SECONDS = 20.0
BUILD_SECONDS = 540.0
"""Of a kernel whose build nobody has seen, on two cores."""
RESIDENT = 0.8
"""Of a guest's memory, how much its QEMU has resident: 0.76 were seen, for the plain kernel."""


class State(StrEnum):
    """What becomes of a kernel before tests can run on it."""

    STORED = "stored"
    BUILD = "build"
    DOWNLOAD = "download"
    FETCH_AND_BUILD = "download, build"


@dataclass(frozen=True)
class Forecast:
    """What is known of a recipe's kernel before it is there."""

    state: State
    facts: Facts | None = None
    """Where it is there."""
    seconds: float = 0.0


@dataclass(frozen=True)
class Planned:
    """One cell of the plan."""

    cell: Cell
    forecast: Forecast
    tests: tuple[Test, ...]
    known: Mapping[str, Record]
    """Outcomes that are kept, by test id."""
    seconds: float
    """That its tests will take."""

    @property
    def left(self) -> list[Test]:
        """The tests that will run, as far as one can know."""
        return [test for test in self.tests if test.nodeid not in self.known]


@dataclass(frozen=True)
class Machine:
    cores: int
    free_mb: int

    def guests(self, cells: int, memory_mb: int, asked: int | None) -> int:
        """How many guests each of these cells gets: what was asked for, else its share of the cores; and memory.

        Kernels are made ready, booted and saved by one core each: more cells at once leave less of the others idle
        than more guests for one.
        """
        by_memory = int(self.free_mb // (memory_mb * RESIDENT))
        return asked or max(1, min(self.cores, by_memory) // max(1, min(cells, self.cores)))

    def jobs(self, guests: int, memory_mb: int, asked: int | None) -> int:
        """How many cells run at once: what was asked for, else one for as many guests as there are cores; and memory.

        Asked for more than memory allows, fewer run.
        """
        by_memory = int(self.free_mb // (guests * memory_mb * RESIDENT))
        return max(1, min(asked or self.cores // guests, by_memory))


@dataclass(frozen=True)
class Plan:
    cells: tuple[Planned, ...]
    """In the order in which they are begun."""
    jobs: int
    guests: int
    """Of each cell."""

    @property
    def seconds(self) -> float:
        """An estimate: kernels are made one after the other, tests run beside each other."""
        kernels = {planned.cell.recipe: planned.forecast.seconds for planned in self.cells if planned.left}
        return sum(kernels.values()) + sum(planned.seconds for planned in self.cells) / self.jobs

    def __str__(self) -> str:
        rows = []
        for number, one in enumerate(self.cells, 1):
            total, left = len(one.tests), len(one.left)
            reused = f"{total - left} of {total}" if total - left else "-"
            kernel = f"{one.forecast.state} {one.forecast.facts.release if one.forecast.facts else ''}".rstrip()
            seconds = about(one.seconds + one.forecast.seconds) if left else "-"
            rows.append((str(number), one.cell.id, kernel, str(left), reused, seconds))
        left = sum(len(one.left) for one in self.cells)
        counts = {state: len({one.cell.recipe for one in self.cells if one.forecast.state is state}) for state in State}
        kernels = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
        known = sum(len(one.known) for one in self.cells)
        at_once = f"{self.jobs} at once, with {self.guests} guest{'s' * (self.guests > 1)} each"
        return (
            table(("#", "CELL", "KERNEL", "TO RUN", "REUSED", "ABOUT"), rows)
            + f"\n{len(self.cells)} cells; kernels: {kernels}; tests: {left} to run, {known} reused;"
            + f" {at_once}; about {about(self.seconds)}"
        )


def plan(
    cells: Sequence[Cell],
    tests: Sequence[Test],
    *,
    forecast: Callable[[Cell], Forecast],
    known: Callable[[Facts, Sequence[Test]], Mapping[str, Record]],
    seconds: Callable[[Cell, Facts | None, Test], float],
    machine: Machine,
    guests: int | None,
    memory_mb: int,
    jobs: int | None,
) -> Plan:
    """Plan these cells. ``seconds`` tells what a test will take there."""
    forecasts: dict[str, Forecast] = {}
    planned = []
    for cell in cells:
        if cell.recipe not in forecasts:
            forecasts[cell.recipe] = forecast(cell)
        seen = forecasts[cell.recipe]
        own = tuple(test for test in tests if any(test.within(path) for path in cell.tests))
        kept = known(seen.facts, own) if seen.facts else {}
        left = [seconds(cell, seen.facts, test) for test in own if test.nodeid not in kept]
        planned.append(Planned(cell, seen, own, kept, sum(left)))
    each = machine.guests(sum(bool(one.left) for one in planned), memory_mb, guests)
    planned = [
        replace(one, seconds=one.seconds / each + START_SECONDS if one.left else 0.0) for one in _ordered(planned)
    ]
    return Plan(tuple(planned), machine.jobs(each, memory_mb, jobs), each)


def _ordered(planned: Sequence[Planned]) -> list[Planned]:
    """What is quick to have first, and of that what takes longest: so no core is left alone with much at the end. Then
    cells of a tree side by side, its plain kernels before those of flavours, whose objects are others; and cells of a
    kernel side by side. What is equal stays as it was written.
    """
    quick = {State.STORED: 0, State.DOWNLOAD: 1, State.BUILD: 2, State.FETCH_AND_BUILD: 2}
    first: dict[str, int] = {}
    total: dict[tuple[State, str], float] = defaultdict(float)
    for number, one in enumerate(planned):
        first.setdefault(one.cell.source, number)
        first.setdefault(one.cell.recipe, number)
        if quick[one.forecast.state] < quick[State.BUILD]:
            total[one.forecast.state, one.cell.source] += one.seconds
    return sorted(
        planned,
        key=lambda one: (
            quick[one.forecast.state],
            -total[one.forecast.state, one.cell.source],
            first[one.cell.source],
            one.cell.choice.flavour != BASE,
            one.cell.choice.flavour,
            first[one.cell.recipe],
        ),
    )


def about(seconds: float) -> str:
    """``45 s``, ``12 min``, ``1 h 20 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
