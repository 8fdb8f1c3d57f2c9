"""Time mode: ordinary guests that measure rows in turn, ABBA and BAAB within a boot, and over several boots.

A *duel* is what is compared: two rows of one guest, or one row of two guests that run side by side, each a kernel. In a
round every duel has its quad, so that what disturbs the host for a second disturbs a quad of each, and not all of one.
Two more duels come along, without which the others say nothing (harness/bench/stats.py): the first row with itself
(A/A), and with itself doing more than is counted, so that its cost is known to be higher by CONTROL.

Under emulation time says how long QEMU takes, which is no processor's time: information only, and labelled as such.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from harness.bench import stats
from harness.bench.model import Change, Comparison, Measurement, Role, Row, Subject, Table, Verdict
from harness.bench.stats import Judgement, Kind
from harness.errors import BootError, InfraError, UserError
from harness.events import Phase, Progress, Sink, ignore
from harness.guest.console import death_title, read_tail
from harness.guest.handshake import END_LIMIT, wait_ready
from harness.guest.launch import Guest, launch
from harness.model import GuestSpec, Kernel

RUNS = 6
"""Boots: as many as published tables have columns."""
QUADS = 3
"""Of each duel in each boot."""
SLICE_NS = 50e6
"""What one measurement takes, roughly: long against a tick, short against what disturbs a host."""
LIMIT = 60.0
"""Seconds for one answer of a guest, times the host's speed."""
CONTROL = 5
"""Margins that the control is slower by."""
TRIES = 3
"""Of a measurement that the guest refuses: a softirq that was put off, for example."""
FIRST_COUNT, MOST_COUNT = 64, 1 << 24

EMULATED = (
    "measured under emulation (TCG): such times are information only, they say what QEMU takes for an instruction"
)


@dataclass(frozen=True)
class Side:
    """A row in one of the guests that run side by side."""

    guest: int
    row: str
    more: float = 0.0
    """It does so much more than is counted: 0.05 is 5 % more packets."""


@dataclass(frozen=True)
class Duel:
    """B against A."""

    name: str
    a: Side
    b: Side


@dataclass(frozen=True)
class Run:
    """What one boot told."""

    samples: Mapping[Side, Sequence[float]]
    """Nanoseconds for one packet, transaction or call, in the order in which they were taken."""
    ratios: Mapping[str, float]
    """Of each duel: the median of its quads' log-ratios."""
    stolen: float
    """The largest share of processor time that a guest had to do without."""


@dataclass(frozen=True)
class Timed:
    """What time mode has found out."""

    tables: tuple[Table, ...]
    """One for each kernel."""
    verdicts: Mapping[str, Judgement]
    """Of each row: against the first row, or of two kernels, patched against base."""
    again: Judgement
    control: Judgement
    stolen: tuple[float, ...]
    emulated: bool
    margin: float

    @property
    def objection(self) -> str:
        """Why all of it says nothing; empty where the checks hold."""
        return stats.why_no_result(self.again, self.control, self.stolen)

    @property
    def remark(self) -> str:
        return EMULATED if self.emulated else ""

    def comparison(self) -> Comparison:
        """Of base and patched. Raises ValueError where there is one kernel."""
        base, patched = self.tables
        changes = []
        for name, verdict in self.verdicts.items():
            before, after = base.row(name).value, patched.row(name).value
            changes.append(Change(name, before, after, _verdict(verdict), self.margin * before, verdict.explained))
        return Comparison(base, patched, tuple(changes))

    def to_json(self) -> dict[str, Any]:
        """What results/RUN/bench.json has under ``time``."""
        return {
            "verdicts": {name: verdict.to_json() for name, verdict in self.verdicts.items()},
            "again": self.again.to_json(),
            "floor": self.again.floor,
            "control": self.control.to_json(),
            "stolen": list(self.stolen),
            "margin": self.margin,
            "emulated": self.emulated,
            "objection": self.objection,
            "remark": self.remark,
        }


def _verdict(judgement: Judgement) -> Verdict:
    if judgement.kind is Kind.DIFFERENT:
        return Verdict.DEARER if judgement.difference > 0 else Verdict.CHEAPER
    return Verdict.SAME if judgement.kind is Kind.EQUIVALENT else Verdict.UNDECIDED


class Station:
    """A guest that serves selftests/bench/by_time.py. Errors of ``ask`` say what became of the guest."""

    def __init__(self, guest: Guest, module: str) -> None:
        self._guest = guest
        self._limit = LIMIT * guest.spec.speed
        self._lines = guest.channel.makefile("rb")
        project = guest.spec.project
        program = f"import sys; sys.path.insert(0, {project!r}); "
        program += f"from selftests.bench.by_time import serve; serve({module!r})"
        guest.channel.settimeout(self._limit)
        self.programme = self._answer(repr(program).encode())

    def ask(self, **asked: object) -> dict[str, Any]:
        """One answer. Raises UserError for what the guest refuses, BootError where its kernel dies, InfraError."""
        return self._answer(json.dumps(asked).encode())

    def measure(self, row: str, count: int) -> tuple[int, float]:
        """(count, nanoseconds) of a row. Raises as ``ask``, for a refusal only when it is the last of TRIES."""
        for left in reversed(range(TRIES)):
            try:
                told = self.ask(measure=row, count=count)
                break
            except UserError:
                if not left:
                    raise
        return int(told["count"]), float(told["ns"])

    def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            self._guest.channel.sendall(line + b"\n")
            told = self._lines.readline()
        except TimeoutError:
            raise BootError(f"no answer within {self._limit:.0f} s; console: {self._guest.console}") from None
        except OSError:
            told = b""
        if not told.endswith(b"\n"):
            how = self._guest.end(END_LIMIT)
            title = death_title(read_tail(self._guest.console)) or how
            raise BootError(f"the guest ended while it was measured: {title}\n  whole console: {self._guest.console}")
        answer: dict[str, Any] = json.loads(told)
        if "refused" in answer:
            raise UserError(str(answer["refused"]))
        if "error" in answer:
            raise InfraError(f"the guest failed: {answer['error'].strip().splitlines()[-1]}\n{answer['error']}")
        return answer


@contextmanager
def stations(specs: Sequence[GuestSpec], module: str, folder: Path, boot: int) -> Iterator[list[Station]]:
    """A guest of each specification, side by side, gone at the end."""
    with ExitStack() as stack:
        guests = []
        for number, spec in enumerate(specs):
            name = f"g{boot}" + (f"-{number}" if len(specs) > 1 else "")
            guest = launch(replace(spec, folder=str(folder / "guests" / name)), name)
            stack.callback(guest.kill)
            guests.append(guest)
        for guest in guests:
            wait_ready(guest)
        yield [Station(guest, module) for guest in guests]


@dataclass
class Plan:
    """What is measured in each boot, made when the first guests have told what their kernels can."""

    duels: Sequence[Duel]
    again: Duel
    control: Duel
    counts: dict[str, int] = field(default_factory=dict)
    """How many of a row make a slice: found out once, so that all boots and both kernels do the same."""

    @property
    def all(self) -> list[Duel]:
        return list(dict.fromkeys([*self.duels, self.again, self.control]))


def one_kernel(programmes: Sequence[dict[str, Any]], margin: float) -> Plan:
    """Each row against the one that it names, or the first.

    Raises UserError where the first row, or the A/A row, cannot be measured.
    """
    first, *others = programmes[0]["rows"]
    if first["absent"]:
        raise UserError(f"the first row, {first['name']!r}, cannot be measured: {first['absent']}")
    there = {row["name"] for row in programmes[0]["rows"] if not row["absent"]}
    pairs = [(row["against"] or first["name"], row["name"]) for row in others]
    duels = [Duel(b, Side(0, a), Side(0, b)) for a, b in pairs if a != b and {a, b} <= there]
    names = [row["name"] for row in others if row["role"] == Role.AGAIN]
    reference = Side(0, first["name"])
    again = [duel for duel in duels if duel.name in names]
    if not again:
        raise UserError("time mode needs a row that is the first one again")
    return Plan(duels, again[0], _control(reference, margin))


def two_kernels(programmes: Sequence[dict[str, Any]], margin: float) -> Plan:
    """Each row of patched (guest 1) against base (guest 0); guest 2 is base again.

    Raises UserError where no row can be measured on both.
    """
    base, patched, _ = ([row["name"] for row in one["rows"] if not row["absent"]] for one in programmes)
    plain = {row["name"] for row in programmes[0]["rows"] if row["role"] == Role.PLAIN}
    both = [name for name in base if name in patched and name in plain]
    if not both:
        raise UserError("no row can be measured on both kernels")
    reference = Side(0, both[0])
    again = Duel(f"{both[0]}, again", reference, Side(2, both[0]))
    return Plan([Duel(name, Side(0, name), Side(1, name)) for name in both], again, _control(reference, margin))


def _control(reference: Side, margin: float) -> Duel:
    more = CONTROL * margin
    return Duel(f"{reference.row}, and {more:.0%} more", reference, replace(reference, more=more))


def measure(
    name: str,
    module: str,
    kernels: Sequence[Kernel],
    specs: Sequence[GuestSpec],
    *,
    folder: Path,
    runs: int = RUNS,
    quads: int = QUADS,
    margin: float = stats.MARGIN,
    events: Sink = ignore,
    after: Callable[[int, Sequence[Station]], None] = lambda boot, stations: None,
) -> Timed:
    """Boot ``runs`` times, measure all rows, judge. One kernel, or two: base and patched, each with its specification.

    ``after`` is called in each boot, with its number and its guests, when all rows are measured. Raises UserError for
    what cannot be measured, BootError for a kernel that dies of it, InfraError for a guest that fails.
    """
    began = time.monotonic()
    if runs < 2:
        raise UserError("time mode needs two boots or more: one says nothing of the next")
    pair = len(kernels) == 2
    guests = [specs[0], specs[1], specs[0]] if pair else list(specs)
    plan: Plan | None = None
    told: list[Run] = []
    programmes: list[dict[str, Any]] = []
    events(Phase("measure", f"{name}: {runs} boots" + (" of both kernels" if pair else "")))
    for boot in range(runs):
        with stations(guests, module, folder, boot) as there:
            if plan is None:
                programmes = [station.programme for station in there]
                plan = (two_kernels if pair else one_kernel)(programmes, margin)
            told.append(run_once(there, plan, quads))
            after(boot, there)
        events(Progress(boot + 1, runs, "boots"))
    assert plan is not None
    judged = {duel: stats.judge([run.ratios[duel.name] for run in told], margin) for duel in plan.all}
    seconds = time.monotonic() - began
    return Timed(
        tables=tuple(
            _table(name, kernel, programmes[index], index, told, seconds) for index, kernel in enumerate(kernels)
        ),
        verdicts={duel.name: judged[duel] for duel in plan.duels},
        again=judged[plan.again],
        control=judged[plan.control],
        stolen=tuple(run.stolen for run in told),
        emulated=specs[0].accel == "tcg",
        margin=margin,
    )


def run_once(there: Sequence[Station], plan: Plan, quads: int) -> Run:
    """Every duel's quads, round by round."""
    samples: dict[Side, list[float]] = {}
    quads_of: dict[str, list[float]] = {duel.name: [] for duel in plan.all}
    before = [station.ask(stat=True)["stat"] for station in there]
    sequence = stats.order(quads)
    for start in range(0, len(sequence), 4):
        quad = sequence[start : start + 4]
        for duel in plan.all:
            sides = [duel.a if letter == "A" else duel.b for letter in quad]
            times = [_timed(there, side, plan.counts) for side in sides]
            quads_of[duel.name].append(float(stats.log_ratios(quad, times)[0]))
            for side, value in zip(sides, times, strict=True):
                samples.setdefault(side, []).append(value)
    after = [station.ask(stat=True)["stat"] for station in there]
    return Run(
        samples=samples,
        ratios={name: median(ratios) for name, ratios in quads_of.items()},
        stolen=max(stats.stolen(early, late) for early, late in zip(before, after, strict=True)),
    )


def _timed(there: Sequence[Station], side: Side, counts: dict[str, int]) -> float:
    """Nanoseconds for one."""
    station = there[side.guest]
    if side.row not in counts:
        count = FIRST_COUNT
        while min(station.measure(side.row, count)[1] for _ in range(2)) < SLICE_NS and count < MOST_COUNT:
            count *= 2
        counts[side.row] = count
    count = counts[side.row]
    done, ns = station.measure(side.row, round(count * (1 + side.more)))
    return ns / (count if side.more else done)


def _table(
    name: str, kernel: Kernel, programme: Mapping[str, Any], guest: int, told: Sequence[Run], seconds: float
) -> Table:
    rows = []
    for row in programme["rows"]:
        side = Side(guest, row["name"])
        measurements = tuple(
            Measurement(
                boot=boot,
                value=median(run.samples[side]),
                samples=tuple(run.samples[side]),
                details={"stolen": run.stolen},
            )
            for boot, run in enumerate(told)
            if side in run.samples
        )
        if not measurements and not row["absent"] and row["role"] != Role.PLAIN:
            continue  # it is measured in another guest
        absent = row["absent"] or ("" if measurements else "the other kernel cannot do this")
        # what is a control for counts, a few instructions, is none for a clock
        role = Role.PLAIN if row["role"] == Role.CONTROL else Role(row["role"])
        rows.append(Row(row["name"], measurements, role, absent=absent, against=row["against"]))
    return Table(
        benchmark=name,
        title=programme["title"],
        mode="time",
        quantity="ns",
        unit=programme["unit"],
        subject=Subject(programme["release"], kernel.identity, kernel.request),
        rows=tuple(rows),
        source=programme["source"],
        seconds=seconds,
    )
