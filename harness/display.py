"""What a run looks like: a live display on a terminal, plain lines elsewhere, and the same summary at the end."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, TextIO

from harness.events import Event, Finding, GuestEvent, Notice, Phase, Progress, TestEvent
from harness.model import BAD, Outcome, Result

if TYPE_CHECKING:
    from rich.console import RenderableType

STYLES = {
    Result.PASSED: "green",
    Result.FAILED: "bold red",
    Result.CRASHED: "bold red",
    Result.HUNG: "bold red",
    Result.ERROR: "bold red",
    Result.SKIPPED: "yellow",
    Result.XFAILED: "yellow",
    Result.NOT_RUN: "yellow",
}
WORST_FIRST = (
    *(Result.CRASHED, Result.HUNG, Result.FAILED, Result.ERROR),
    *(Result.NOT_RUN, Result.SKIPPED, Result.XFAILED, Result.PASSED),
)
DETAIL_LINES = 40
SHOWN_PHASES = 12
"""Of the live display: the last ones."""


class Display(Protocol):
    """A context manager that takes events."""

    def sink(self, event: Event) -> None: ...
    def __enter__(self) -> Display: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def display_for(stream: TextIO) -> Display:
    """Live where a person watches, plain lines in a pipe, a file or a dumb terminal."""
    if stream.isatty() and os.environ.get("TERM") not in (None, "dumb"):
        return LiveDisplay(stream)
    return PlainDisplay(stream)


class PlainDisplay:
    """One line for each thing that happened; progress once in ten seconds."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._start = time.monotonic()
        self._quiet_until = 0.0
        self._done = 0

    def __enter__(self) -> PlainDisplay:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stream.flush()

    def sink(self, event: Event) -> None:
        now = time.monotonic()
        match event:
            case Phase():
                self._say(f"{event.name}: {event.detail}" if event.detail else event.name)
                self._quiet_until = now + 10
            case Progress():
                if now < self._quiet_until:
                    return
                self._quiet_until = now + 10
                self._say(f"  {event.done}{f' of {event.total}' if event.total else ''} {event.unit}".rstrip())
            case Notice():
                self._say(f"note: {event.text}")
            case GuestEvent():
                self._say(f"guest {event.name} {event.state}" + (f" ({event.seconds:.1f} s)" if event.seconds else ""))
            case TestEvent():
                self._done += 1
                outcome = event.outcome
                reason = f": {outcome.message}" if outcome.message else ""
                self._say(f"{self._done}/{event.selected} {outcome.result.upper()} {outcome.nodeid}{reason}")
            case Finding():
                self._say(event.text)

    def _say(self, text: str) -> None:
        try:
            print(f"[{time.monotonic() - self._start:6.1f}] {text}", file=self._stream, flush=True)
        except BrokenPipeError:  # nobody reads any more (`kproof run | head`); the run and its results go on
            self._stream = open(os.devnull, "w")  # noqa: SIM115


class LiveDisplay:
    """Phases with their times, a bar for what can be counted, the guests, and the tests' counts, in a few lines."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.live import Live

        self.console = Console(file=stream)
        self._phases: list[tuple[Phase, float]] = []
        self._progress: Progress | None = None
        self._progress_since = 0.0
        self._guests: dict[str, str] = {}
        self._counts: Counter[Result] = Counter()
        self._selected = 0
        # last: it renders at once
        self._live = Live(console=self.console, get_renderable=self._render, refresh_per_second=8, transient=True)

    def __enter__(self) -> LiveDisplay:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, value, trace)

    def sink(self, event: Event) -> None:
        match event:
            case Phase():
                self._phases.append((event, time.monotonic()))
                self._progress = None
                self._progress_since = time.monotonic()
            case Progress():
                self._progress = event
            case Notice():
                self.console.print(f"note: {event.text}", style="dim", markup=False, highlight=False)
            case GuestEvent():
                self._guests[event.name] = event.state + (f" in {event.seconds:.1f} s" if event.seconds else "")
            case TestEvent():
                self._counts[event.outcome.result] += 1
                self._selected = event.selected
                if event.outcome.result in BAD:
                    self.console.print(_line(event.outcome), style="red", markup=False, highlight=False)
            case Finding():
                style = "green" if event.good else "bold red"
                self.console.print(event.text, style=style, markup=False, highlight=False)

    def _render(self) -> RenderableType:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        now = time.monotonic()
        table = Table.grid(padding=(0, 2))
        phases = self._phases[-SHOWN_PHASES:]
        for index, (phase, since) in enumerate(phases):
            running = index == len(phases) - 1
            end = now if running else phases[index + 1][1]
            mark = Text("▶", style="cyan") if running else Text("✓", style="green")
            table.add_row(mark, Text(phase.name), Text(phase.detail, style="dim"), Text(f"{end - since:.1f} s"))
        rows: list[RenderableType] = [table]
        if self._progress and self._progress.total:
            done, total = self._progress.done, self._progress.total
            left = (now - self._progress_since) / done * (total - done) if done else 0.0
            bar = Table.grid(padding=(0, 2))
            told = f"{done} of {total} {self._progress.unit}" + (f", {left:.0f} s left" if done else "")
            bar.add_row("", ProgressBar(total=total, completed=done, width=40), Text(told, style="dim"))
            rows.append(bar)
        alive = {
            name: state
            for name, state in self._guests.items()
            if state in ("booting", "ready") or state.startswith("ready ")
        }
        if alive:
            rows.append(
                Text("  guests  " + "   ".join(f"{name} {state}" for name, state in alive.items()), style="dim")
            )
        if self._selected:
            counted = [(f"{self._counts[result]} {result}", STYLES[result]) for result in self._counts]
            text = Text(f"  tests   {self._counts.total()} of {self._selected}   ")
            for part, style in counted:
                text.append(part + "  ", style=style)
            rows.append(text)
        return Group(*rows)


def _line(outcome: Outcome) -> str:
    return f"{outcome.result.upper()} {outcome.nodeid}: {outcome.message}"


def summary(
    outcomes: list[Outcome],
    *,
    seconds: float,
    folder: str,
    remarks: Sequence[str] = (),
    objections: Sequence[str] = (),
    peak_mb: float = 0.0,
) -> None:
    """The end of a run: failures with their evidence, skips by reason, the counts, and where everything is.

    ``remarks`` are told and ``objections`` say why the run is not good, a line each; ``peak_mb`` is the most
    memory that a guest had resident, 0 if that is not known.
    """
    from rich.console import Console
    from rich.text import Text

    console = Console(soft_wrap=True, highlight=False)
    for outcome in outcomes:
        if outcome.result in BAD:
            console.print(Text(f"\n{outcome.result.upper()} {outcome.nodeid}", style="bold red"))
            lines = outcome.detail.rstrip().splitlines()
            if len(lines) > DETAIL_LINES:
                console.print(Text(f"    … {len(lines) - DETAIL_LINES} lines before are in junit.xml", style="dim"))
            for line in lines[-DETAIL_LINES:]:
                console.print(Text(f"    {line}"))
    reasons = Counter(outcome.message for outcome in outcomes if outcome.result is Result.SKIPPED)
    for reason, number in reasons.most_common():
        console.print(Text(f"skipped {number}: {reason}", style="yellow"))
    for remark in remarks:
        console.print(Text(remark, style="dim"))
    for objection in objections:
        console.print(Text(objection, style="bold red"))
    counts = Counter(outcome.result for outcome in outcomes)
    text = Text()
    for result in WORST_FIRST:
        if counts[result]:
            text.append(f"{counts[result]} {result}", style=STYLES[result]).append(", ")
    text.append(f"in {seconds:.1f} s; {f'up to {peak_mb:.0f} MB per guest; ' if peak_mb else ''}{folder}")
    console.print(text)
