"""The guest's side of time mode: measures a row when the host says so (harness/bench/timed.py), by the guest's clock.

``serve(MODULE)`` tells, in a line of JSON on standard output, what the benchmark of that module is; then it answers
each line of standard input with one:

    {"measure": ROW, "count": N}        {"count": N, "ns": NS}
    {"ping_pong": ROW, "seconds": N}    {"clients": [{"cpu": 0, "said": TEXT, "curve": [NS, …]}, …]}  (latency.py)
    {"stat": true}                      {"stat": TEXT}, of /proc/stat
    any of them                         {"refused": REASON}, {"error": TRACEBACK}

A row's state stays until another row is asked for: to set it up takes longer than to measure. What is run first in a
state finds cold caches; so all of them begin with a run that is not told.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from selftests.bench.benchmark import Benchmark, Refused, Row
from selftests.bench.latency import ping_pong
from selftests.lib.features import PROBES

CPU = 0
"""Where all is measured: pktgen's first thread is there."""
NICE = -20
"""As the published measurements have it."""


def serve(module: str) -> None:
    """Return at the end of standard input."""
    os.nice(NICE)
    everywhere = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {CPU})
    try:
        benchmark: Benchmark[Any] = importlib.import_module(module).BENCHMARK
        for feature in benchmark.needs:
            if reason := PROBES[feature]():
                _tell({"refused": reason})
                return
        with benchmark.scene() as scene, _Stage(benchmark, scene, sorted(everywhere)) as stage:
            _tell(stage.programme())
            for line in sys.stdin:
                _tell(stage.answer(json.loads(line)))
    except Refused as error:
        _tell({"refused": str(error)})
    except Exception:
        _tell({"error": traceback.format_exc()})


class _Stage:
    """The benchmark's scene, and the row whose state it is in."""

    def __init__(self, benchmark: Benchmark[Any], scene: Any, cpus: list[int]) -> None:
        self._benchmark = benchmark
        self._scene = scene
        self._cpus = cpus
        self._rows = {row.name: row for row in benchmark.rows}
        self._now: Row[Any] | None = None
        self._state = ExitStack()

    def __enter__(self) -> _Stage:
        return self

    def __exit__(self, *_: object) -> None:
        self._state.close()

    def programme(self) -> dict[str, Any]:
        return {
            "release": os.uname().release,
            "title": self._benchmark.title,
            "unit": self._benchmark.unit,
            "source": self._benchmark.source,
            "rows": [
                {"name": row.name, "role": row.role, "absent": _lacks(row), "against": row.against}
                for row in self._benchmark.rows
            ],
        }

    def answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        try:
            if "stat" in asked:
                return {"stat": Path("/proc/stat").read_text()}
            if "measure" in asked:
                row, fresh = self._set_up(asked["measure"])
                if fresh:
                    self._benchmark.run(self._scene, row, asked["count"])
                sample = self._benchmark.run(self._scene, row, asked["count"])
                return {"count": sample.count, "ns": sample.ns}
            self._set_up(asked["ping_pong"])
            client, server = self._scene.sockets
            return {"clients": ping_pong(client, server, self._cpus, asked["seconds"])}
        except Refused as error:
            return {"refused": f"{self._now.name if self._now else 'the scene'}: {error}"}

    def _set_up(self, name: str) -> tuple[Row[Any], bool]:
        """The row, and whether its state is new."""
        row = self._rows[name]
        if row is self._now:
            return row, False
        self._now = None
        self._state.close()
        self._state.enter_context(row.state(self._scene))
        self._now = row
        return row, True


def _lacks(row: Row[Any]) -> str:
    return next((reason for feature in row.needs if (reason := PROBES[feature]())), "")


def _tell(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
