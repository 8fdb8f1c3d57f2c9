"""What one sees while a matrix runs: a grid of cells on a terminal, a line for each step elsewhere."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, TextIO

from harness.display import STYLES
from harness.matrix.run import Done, Stage
from harness.model import Result

if TYPE_CHECKING:
    from rich.console import Group
    from rich.text import Text

MARKS = {
    Stage.WAITING: ("·", "dim"),
    Stage.PREPARING: ("▶", "cyan"),
    Stage.QUEUED: ("…", "dim"),
    Stage.TESTING: ("▶", "cyan"),
    Stage.DONE: ("✓", "green"),
    Stage.BROKEN: ("✗", "bold red"),
}
BAR = 24
"""Characters."""

Surprised = Callable[[Done], int]
"""How many surprises a cell has that has come to its end."""


class View(Protocol):
    """A context manager that is told of cells."""

    def watch(self, done: Done) -> None: ...
    def __enter__(self) -> View: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def view_for(stream: TextIO, cells: Callable[[], Sequence[Done]], surprised: Surprised) -> View:
    """``cells()`` are those of the matrix, once there is one."""
    if stream.isatty() and os.environ.get("TERM") not in (None, "dumb"):
        return Grid(stream, cells, surprised)
    return Lines(stream, surprised)


class Lines:
    """A line for each step of a cell."""

    def __init__(self, stream: TextIO, surprised: Surprised) -> None:
        self._stream = stream
        self._surprised = surprised
        self._start = time.monotonic()

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stream.flush()

    def watch(self, done: Done) -> None:
        if done.stage in (Stage.DONE, Stage.BROKEN):
            self._say(f"{done.cell.id}: {ending(done, self._surprised(done))}")
        elif done.stage in (Stage.PREPARING, Stage.TESTING):
            left = sum(test.nodeid not in done.records for test in done.planned.tests)
            what = f"{left} tests on {done.facts.release}" if done.facts else f"kernel: {done.planned.forecast.state}"
            self._say(f"{done.cell.id}: {what}")

    def _say(self, text: str) -> None:
        try:
            print(f"[{time.monotonic() - self._start:6.1f}] {text}", file=self._stream, flush=True)
        except BrokenPipeError:  # nobody reads any more; the matrix goes on
            self._stream = open(os.devnull, "w")  # noqa: SIM115


def ending(done: Done, surprises: int) -> str:
    """``118 passed, 2 xfailed, 40 reused, no surprise; 34.2 s``."""
    if done.broken:
        return f"BROKEN: {done.broken.partition(chr(10))[0]}"
    counts = Counter(record.result for record in done.records.values())
    parts = [f"{count} {result}" for result, count in counts.most_common()] or ["no tests"]
    parts += [f"{len(done.reused)} reused"] if done.reused else []
    parts.append(f"{surprises or 'no'} surprise{'s' if surprises > 1 else ''}")
    same = "; its code is that of a kernel which was tested" if done.same_code else ""
    return f"{', '.join(parts)}; {done.kernel_seconds + done.test_seconds:.1f} s{same}"


class Journal:
    """How far a run is, read from its journal as that grows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0
        self.done = 0

    def look(self) -> int:
        """How many outcomes there are by now."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._at)
                new = file.read()
        except FileNotFoundError:  # not yet, or at its end
            return self.done
        whole = new.rpartition(b"\n")[0]
        self._at += len(whole) + 1 if whole else 0
        self.done += whole.count(b'"nodeid"')
        return self.done


class Grid:
    """A line for each cell: where it is, how far, and what came of it."""

    def __init__(self, stream: TextIO, cells: Callable[[], Sequence[Done]], surprised: Surprised) -> None:
        from rich.console import Console
        from rich.live import Live

        self._cells = cells
        self._surprised = surprised
        self._journals: dict[str, Journal] = {}
        self._since: dict[str, float] = {}
        self._ends: dict[str, Text] = {}
        self._live = Live(console=Console(file=stream), get_renderable=self._render, refresh_per_second=4)

    def __enter__(self) -> Grid:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, value, trace)

    def watch(self, done: Done) -> None:
        from harness.pytest_plugin.results import JOURNAL

        name = done.cell.id
        self._since[name] = time.monotonic()
        if done.stage is Stage.TESTING:
            self._journals[name] = Journal(done.results / JOURNAL)
        elif done.stage in (Stage.DONE, Stage.BROKEN):
            self._ends[name] = _counts(done, self._surprised(done))

    def _render(self) -> Group:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        cells = self._cells()
        table = Table.grid(padding=(0, 2))
        for done in cells:
            mark, style = MARKS[done.stage]
            release = done.facts.release if done.facts else ""
            table.add_row(Text(mark, style), Text(done.cell.id), Text(release, "dim"), self._state(done))
        over = sum(done.stage in (Stage.DONE, Stage.BROKEN) for done in cells)
        return Group(table, Text(f"{over} of {len(cells)} cells", "dim"))

    def _state(self, done: Done) -> Text:
        from rich.text import Text

        name = done.cell.id
        if name in self._ends:
            return self._ends[name]
        seconds = f"{time.monotonic() - self._since.get(name, time.monotonic()):.0f} s"
        if done.stage is Stage.TESTING and name in self._journals:
            total = sum(test.nodeid not in done.reused for test in done.planned.tests)
            so_far = self._journals[name].look()
            filled = round(BAR * so_far / total) if total else BAR
            return (
                Text("━" * filled, "cyan").append("━" * (BAR - filled), "dim").append(f" {so_far}/{total}  {seconds}")
            )
        if done.stage is Stage.PREPARING:
            return Text(f"{done.planned.forecast.state}  {seconds}", "cyan")
        return Text(str(done.stage), "dim")


def _counts(done: Done, surprises: int) -> Text:
    from rich.text import Text

    if done.broken:
        return Text(done.broken.partition("\n")[0], "bold red", no_wrap=True, overflow="ellipsis")
    counts = Counter(record.result for record in done.records.values())
    text = Text(no_wrap=True, overflow="ellipsis")
    for result in Result:
        if counts[result]:
            text.append(f"{counts[result]} {result}  ", STYLES[result])
    text.append(f"{len(done.reused)} reused  ", "dim") if done.reused else None
    text.append(f"{surprises} surprise{'s' if surprises > 1 else ''}", "bold red") if surprises else None
    return text.append(f"  {done.kernel_seconds + done.test_seconds:.0f} s", "dim")
