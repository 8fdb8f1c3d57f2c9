"""What a benchmark is, in a guest: a scene, rows, and a workload that each row is measured with.

A benchmark is one file of this folder that has a ``BENCHMARK``; ``kproof bench NAME`` runs it. The same rows serve
both ways of measuring: exact (a guest whose clock counts instructions, driven by ``harness/bench/guest.py``) and time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from selftests.lib.static_key import Key

S = TypeVar("S")
"""A benchmark's scene: its devices, namespaces, sockets."""


class Refused(Exception):
    """The measurement means nothing, and why, in one line: packets were lost, the workload slept."""


@dataclass(frozen=True)
class Sample:
    """One run of the workload."""

    count: int
    """Packets, transactions or calls."""
    ns: float
    """By the guest's clock; in exact mode, instructions."""
    quantum: float = 1.0
    """The step (ns) that ``ns`` is told in."""


@contextmanager
def nothing(scene: object) -> Iterator[None]:
    """The state of a row that adds nothing."""
    yield


@dataclass(frozen=True)
class Row(Generic[S]):
    """A state of the kernel that is measured."""

    name: str
    state: Callable[[S], AbstractContextManager[Any]]
    """Makes the state, for the length of a ``with`` block."""
    needs: tuple[str, ...] = ()
    """Features (selftests.lib.features); without one, the row is absent, and says why."""
    drops: bool = False
    """All packets are dropped, and shall be."""
    role: Literal["plain", "again", "control"] = "plain"
    """As harness.bench.model.Role has it."""
    expected: float | None = None
    """Of a control: the instructions that it must cost more than the row ``against``."""
    against: str = ""
    """Of another row: what it is compared with, where that is not the first row."""


@dataclass(frozen=True)
class Benchmark(Generic[S]):
    """All that ``kproof bench NAME`` has to know."""

    title: str
    unit: str
    """What ``Sample.count`` counts, in the singular: ``packet``."""
    scene: Callable[[], AbstractContextManager[S]]
    rows: tuple[Row[S], ...]
    """The first is what the others are compared with."""
    run: Callable[[S, Row[S], int], Sample]
    """``run(scene, row, count)``: that many packets, measured. Raises Refused."""
    sizes: tuple[int, ...]
    """The counts of the runs of a row in exact mode: their slope is what one costs, without what starts and ends a run.
    All runs together should mostly fit between two ticks (4 ms, 4,000,000 instructions).
    """
    needs: tuple[str, ...] = ()
    """Features without which no row can be measured."""
    keys: tuple[Callable[[], Key], ...] = ()
    """Static keys whose jump sites are looked at before, during and after each row; LookupError for one that the kernel
    has not.
    """
    symbols: tuple[str, ...] = ()
    """The kernel's symbols that ``keys`` look up."""
    source: str = ""
    """Where such rows were published."""
    thread: str = ""
    """The function of the kernel that the thread which does the work is in: a profile leaves out all other threads."""

    def __post_init__(self) -> None:
        """Raises ValueError for what cannot be measured, or judged."""
        if not self.rows:
            raise ValueError("a benchmark has a row to compare others with")
        if len(set(self.sizes)) < 2:
            raise ValueError(f"sizes {self.sizes}: runs of different lengths are needed")
        names: set[str] = set()
        for row in self.rows:
            if row.name in names:
                raise ValueError(f"two rows are called {row.name!r}")
            names.add(row.name)
        for row in self.rows:
            if row.role == "control" and (row.expected is None or not row.against):
                raise ValueError(f"the control {row.name!r} needs `expected`, and the row `against` which that is")
            if row.against and row.against not in names:
                raise ValueError(f"{row.name!r} is compared with {row.against!r}, which is no row")
