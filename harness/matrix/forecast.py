"""What becomes of a recipe's kernel and of its tests, found out without a download, a build or a run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from statistics import median
from typing import Literal

from harness.errors import KproofError, UserError
from harness.kernel.files import read_json
from harness.kernel.layout import Layout
from harness.kernel.obtain import obtain, resolve
from harness.kernel.store import Store
from harness.matrix.cells import Cell
from harness.matrix.collect import Test
from harness.matrix.definition import Skips
from harness.matrix.plan import (
    BETWEEN_SECONDS,
    BUILD_SECONDS,
    DOWNLOAD_SECONDS,
    TEST_SECONDS,
    Forecast,
    Machine,
    State,
)
from harness.matrix.prepare import Facts, describe
from harness.matrix.surprises import expect
from harness.model import Result, Version

FULL_BUILD = 120.0
"""Seconds: what took less was built on top of the objects of another kernel."""


class Forecaster:
    def __init__(self, launcher: Literal["image", "virtme"]) -> None:
        self._launcher = launcher
        self._layout = Layout.default()
        self._store = Store(self._layout.kernels)
        self._stored = self._store.kernels()

    def __call__(self, cell: Cell) -> Forecast:
        """What cannot be built is not told here: the cell tells it when it is its turn."""
        scheme, _, rest = cell.source.partition(":")
        if scheme == "kernel":
            return Forecast(State.STORED, describe(obtain(cell.request), self._launcher))
        if scheme == "image" and not any(kernel.request == cell.recipe for kernel, _, _ in self._stored):
            return Forecast(State.DOWNLOAD, seconds=DOWNLOAD_SECONDS)
        if scheme == "debian" and not self._is_unpacked(rest):
            return Forecast(State.FETCH_AND_BUILD, seconds=DOWNLOAD_SECONDS + self._build_seconds())
        try:
            kernel = self._store.get(resolve(cell.request).identity)
        except KproofError:
            return Forecast(State.BUILD)
        if kernel:
            return Forecast(State.STORED, describe(kernel, self._launcher))
        return Forecast(State.BUILD, seconds=self._build_seconds())

    def _is_unpacked(self, version: str) -> bool:
        """Whether the archive need not be asked for this version's source."""
        record = read_json(self._layout.root / "sources" / f"debian-{version}.json")
        if not isinstance(record, dict):
            return False
        return any(self._layout.trees.glob(f"debian-{record['version']}-*".replace("~", "-")))

    def _build_seconds(self) -> float:
        seen = [kernel.seconds for kernel, _, _ in self._stored if kernel.seconds > FULL_BUILD]
        return median(seen or [BUILD_SECONDS])


def seconds_of_tests(skips: Iterable[Skips], usual: Mapping[str, float]) -> Callable[[Cell, Facts | None, Test], float]:
    """What a test takes on a cell's kernel: nearly nothing where it is foretold to be skipped, else what is usual.

    A kernel that is not there yet is of the version that its recipe names, if it names one.
    """
    foretold = tuple(skips)

    def seconds(cell: Cell, facts: Facts | None, test: Test) -> float:
        version = facts.parsed if facts else _named(cell)
        if version and expect(test, cell.choice, version, foretold).result is Result.SKIPPED:
            return BETWEEN_SECONDS
        return BETWEEN_SECONDS + usual.get(test.nodeid, TEST_SECONDS)

    return seconds


def _named(cell: Cell) -> Version | None:
    try:
        return Version.parse(cell.source.rpartition(":")[2])
    except UserError:
        return None


def machine() -> Machine:
    """This one: the processors that we may use, and the memory that is free or can be made so (proc_meminfo(5))."""
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    return Machine(len(os.sched_getaffinity(0)), int(lines["MemAvailable"].split()[0]) >> 10)
