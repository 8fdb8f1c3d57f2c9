"""What becomes of a recipe's kernel, found out without a download or a build."""

from __future__ import annotations

import os
from pathlib import Path
from statistics import median
from typing import Literal

from harness.errors import KproofError
from harness.kernel.files import read_json
from harness.kernel.layout import Layout
from harness.kernel.obtain import obtain, resolve
from harness.kernel.store import Store
from harness.matrix.cells import Cell
from harness.matrix.plan import BUILD_SECONDS, DOWNLOAD_SECONDS, Forecast, Machine, State
from harness.matrix.prepare import describe

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


def machine() -> Machine:
    """This one: the processors that we may use, and the memory that is free or can be made so (proc_meminfo(5))."""
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    return Machine(len(os.sched_getaffinity(0)), int(lines["MemAvailable"].split()[0]) >> 10)
