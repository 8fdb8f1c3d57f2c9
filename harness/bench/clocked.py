"""Time mode from kernels to verdicts: on the screen, in files and plots."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import command
from harness.bench import plot, sockperf, stats, timed
from harness.bench.native import workload
from harness.bench.sockperf import Percpu
from harness.bench.stats import Judgement
from harness.bench.timed import Station, Timed
from harness.errors import UserError
from harness.events import Sink
from harness.kernel.files import write_json
from harness.model import Kernel
from harness.paths import project_root

if TYPE_CHECKING:
    from rich.console import RenderableType

ROUND_TRIPS = {"rr": 2}
"""Benchmarks that sockperf measures as well, and for how many seconds: it takes one to begin."""


@dataclass(frozen=True)
class Wish:
    """What was asked for, besides kernels and benchmark."""

    runs: int = timed.RUNS
    margin: float = stats.MARGIN
    memory_mb: int = 512
    cpus: int = 1
    accel: str | None = None


def parse_margin(text: str) -> float:
    """``1%`` as 0.01. Raises UserError for anything else."""
    try:
        value = float(text.removesuffix("%")) / 100
    except ValueError:
        value = 0.0
    if not text.endswith("%") or not 0 < value < 1:
        raise UserError(f"--margin {text!r}: with --time a margin is a share, like 1%")
    return value


def measured(
    name: str, module: str, kernels: Sequence[Kernel], wish: Wish, folder: Path, events: Sink
) -> tuple[Timed, dict[str, Percpu]]:
    """Measure; ``kernels``: one, or base and patched. Raises as ``timed.measure``."""
    from harness.guest.spec import make_spec

    workload(module, project_root())
    extra = {}
    if seconds := ROUND_TRIPS.get(name):
        command.require(sockperf.PROGRAM)
        extra = {sockperf.PROGRAM: Path(str(shutil.which(sockperf.PROGRAM)))}
    specs = [
        make_spec(
            kernel,
            launcher="image",
            memory_mb=wish.memory_mb,
            cpus=wish.cpus,
            accel=wish.accel,
            project=project_root(),
            folder=folder,
            events=events,
            extra=extra,
        )[0]
        for kernel in kernels
    ]
    trips: dict[str, list[Any]] = {}

    def round_trips(_: int, there: Sequence[Station]) -> None:
        for label, station in zip(("", "") if len(kernels) == 1 else ("base: ", "patched: "), there, strict=False):
            for row in station.programme["rows"]:
                if seconds and not row["absent"] and row["role"] == "plain":
                    told = station.ask(ping_pong=row["name"], seconds=seconds)["clients"]
                    trips.setdefault(f"{label}{row['name']}", []).append(told)

    result = timed.measure(
        name,
        module,
        kernels,
        specs,
        folder=folder,
        runs=wish.runs,
        margin=wish.margin,
        events=events,
        after=round_trips,
    )
    return result, {row: sockperf.collected(told) for row, told in trips.items()}


def shown(found: Timed) -> RenderableType:
    """In the layout of published tables, a column for each run; then what the runs say."""
    from rich import box
    from rich.table import Table as Grid
    from rich.text import Text

    table = found.tables[-1]
    pair = len(found.tables) == 2
    about = [f"{one.subject.release}, {one.subject.recipe}" for one in found.tables]
    if pair:
        about = [f"base:    {about[0]}", f"patched: {about[1]}"]
    grid = Grid(
        title="\n".join([table.title, *about]), title_justify="left", caption_justify="left", box=box.SIMPLE_HEAD
    )
    grid.add_column("")
    grid.add_column("runs: median ns")
    grid.add_column("difference", justify="right")
    grid.add_column(f"{stats.CONFIDENCE:.0%} interval", justify="right")
    grid.add_column("verdict")
    for row in table.rows:
        values = ["  ".join(f"{value:,.0f}" for value in one.row(row.name).values) for one in found.tables
                  if row.name in {other.name for other in one.rows}]  # fmt: skip
        verdict = found.verdicts.get(row.name)
        grid.add_row(row.name, "\n".join(values) or "-", *_told(verdict), Text(_verdict(verdict) or row.absent))
    grid.caption = "\n".join(_caption(found))
    return grid


def _told(verdict: Judgement | None) -> tuple[str, str]:
    if not verdict:
        return "", ""
    return f"{verdict.difference:+.1%}", f"{verdict.low:+.1%} to {verdict.high:+.1%}"


def _verdict(verdict: Judgement | None) -> str:
    return str(verdict) if verdict else ""


def _caption(found: Timed) -> list[str]:
    """What the verdicts rest on."""
    table = found.tables[-1]
    return [
        f"ns per {table.unit}; equivalent: within ±{found.margin:.2%}, fixed beforehand",
        f"A/A: up to {found.again.floor:.2%} apart; control, {timed.CONTROL * found.margin:.0%} slower:"
        f" {found.control.difference:+.1%}, {found.control}; stolen: up to {max(found.stolen):.1%}",
        *([found.remark] if found.remark else []),
    ]


def shown_trips(trips: Mapping[str, Percpu]) -> str:
    """The published tables of request and response, one below the other."""
    return "\n\n".join(f"{row}: microseconds, transactions in a second\n{sockperf.percpu_text(told)}"
                       for row, told in trips.items())  # fmt: skip


def written(folder: Path, found: Timed, trips: Mapping[str, Percpu]) -> None:
    """``time.json`` with all that was judged, and the plots."""
    write_json(
        folder / "time.json", {**found.to_json(), "round_trips": {row: told.to_json() for row, told in trips.items()}}
    )
    table = found.tables[-1]
    figure = plot.kernels(found.comparison()) if len(found.tables) == 2 else plot.rows(table, found.verdicts)
    plot.save(figure, folder, table.benchmark)
    if trips:
        about = f"Linux {table.subject.release}; sockperf, ping-pong; {found.remark}".rstrip("; ")
        for protocol, curves in _by_protocol(trips).items():
            title = f"Request and response, {protocol}: latency of a round trip"
            plot.save(plot.latencies(title, about, curves), folder, f"{table.benchmark}-latency-{protocol.lower()}")


def _by_protocol(trips: Mapping[str, Percpu]) -> dict[str, dict[str, Sequence[float]]]:
    """``UDP, veth, redirect()`` and ``base: UDP, …`` are the row ``veth, redirect()`` of UDP."""
    found: dict[str, dict[str, Sequence[float]]] = {}
    for name, told in trips.items():
        kernel, colon, row = name.rpartition(": ")
        protocol, _, way = row.partition(", ")
        found.setdefault(protocol, {})[f"{kernel}{colon}{way}"] = told.curve
    return found
