"""The nouns of the performance lab: frozen values, the same for exact counts and for times.

A *benchmark* has *rows*: states of a kernel (no hook, a chain, a rule …) in which the same workload is measured. A row
is measured in one or several boots. The first row is the one that the others are compared with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from statistics import fmean
from typing import Any, Literal

Mode = Literal["exact", "time"]
"""Instructions, counted by a guest whose clock they are; or nanoseconds of a clock."""


class Role(StrEnum):
    """What a row is for."""

    PLAIN = "plain"
    AGAIN = "again"
    """The first row once more: how far two measurements of the same thing are apart (A/A)."""
    CONTROL = "control"
    """A cost that is known beforehand: whether a difference is seen, and in its size."""


@dataclass(frozen=True)
class Measurement:
    """A row in one boot."""

    boot: int
    """From 0."""
    value: float
    """Of the table's quantity (instructions, nanoseconds), for one of its units (packet, transaction)."""
    samples: tuple[float, ...] = ()
    """Time mode: the single values that ``value`` is the median of, in the order in which they were taken."""
    resolution: float = 0.0
    """Smallest difference that this measurement can show."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """What else the guest told: packets, errors, its percentiles; numbers and texts only."""


@dataclass(frozen=True)
class KeyState:
    """A static key around a row: ``NOP`` or ``JMP`` at each of its sites, as ``NOP 0f1f440000 in __dev_queue_xmit``."""

    name: str
    before: tuple[str, ...]
    during: tuple[str, ...]
    after: tuple[str, ...]

    @property
    def flips(self) -> bool:
        """It is on in the row, and as it was afterwards."""
        return self.before != self.during and self.before == self.after


@dataclass(frozen=True)
class Row:
    """One state of the kernel, measured."""

    name: str
    measurements: tuple[Measurement, ...]
    """One for each boot; empty where the kernel cannot do this."""
    role: Role = Role.PLAIN
    absent: str = ""
    """Why the kernel cannot do this."""
    expected: float | None = None
    """Of a control: what it must cost more than the row ``against``."""
    against: str = ""
    """Of a control: the row that it must cost more than. Of another: its reference, where that is not the first row."""
    keys: tuple[KeyState, ...] = ()

    @property
    def values(self) -> tuple[float, ...]:
        """One for each boot."""
        return tuple(measurement.value for measurement in self.measurements)

    @property
    def value(self) -> float:
        """The mean over the boots. Raises ValueError for an absent row."""
        if not self.measurements:
            raise ValueError(f"the row {self.name!r} was not measured: {self.absent}")
        return fmean(self.values)

    @property
    def spread(self) -> float:
        """From the least to the greatest boot; 0 where they do not differ."""
        return max(self.values) - min(self.values) if self.measurements else 0.0

    @property
    def identical(self) -> bool:
        """All boots told the same number."""
        return len(set(self.values)) == 1


@dataclass(frozen=True)
class Subject:
    """The kernel that was measured."""

    release: str
    identity: str
    recipe: str


@dataclass(frozen=True)
class Table:
    """A benchmark's result on one kernel."""

    benchmark: str
    """Its name: ``egress``."""
    title: str
    mode: Mode
    quantity: str
    """``instructions`` or ``ns``."""
    unit: str
    """What they are counted for: ``packet``, ``transaction``, ``call``."""
    subject: Subject
    rows: tuple[Row, ...]
    source: str = ""
    """Where the same rows were published, and how they were measured."""
    seconds: float = 0.0
    """What all of it took on the host."""

    @property
    def first(self) -> Row:
        """The row that the others are compared with."""
        return self.rows[0]

    def row(self, name: str) -> Row:
        """Raises KeyError where there is none of that name."""
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)

    def reference(self, row: Row) -> Row:
        """The row that this one is compared with: the first, or another that it names. Controls have theirs apart."""
        return self.row(row.against) if row.against and row.role is not Role.CONTROL else self.first

    def delta(self, row: Row) -> float:
        """What a row costs more than its reference."""
        return row.value - self.reference(row).value

    @property
    def resolution(self) -> float:
        """The smallest difference that means anything: the coarsest of the rows' own, their spreads, and the A/A row's
        distance from the first.
        """
        measured = [row for row in self.rows if row.measurements]
        own = [one.resolution for row in measured for one in row.measurements]
        again = [abs(self.delta(row)) for row in measured if row.role is Role.AGAIN]
        return max([*own, *(row.spread for row in measured), *again], default=0.0)

    def control_holds(self, row: Row) -> bool:
        """Whether a control costs what it must, within the table's resolution. Raises ValueError for no control."""
        if row.expected is None:
            raise ValueError(f"the row {row.name!r} is no control")
        if not row.measurements or not self.row(row.against).measurements:
            return False
        return abs(row.value - self.row(row.against).value - row.expected) <= self.resolution

    def to_json(self) -> dict[str, Any]:
        """Numbers, texts, lists and objects: what results/RUN/bench.json has under ``tables``."""
        return {
            **{key: value for key, value in asdict(self).items() if key != "rows"},
            "resolution": self.resolution,
            "rows": [
                {
                    **asdict(row),
                    "role": str(row.role),
                    "value": row.value if row.measurements else None,
                    "delta": self.delta(row) if row.measurements and self.reference(row).measurements else None,
                    "spread": row.spread,
                    "control_holds": self.control_holds(row) if row.role is Role.CONTROL else None,
                }
                for row in self.rows
            ],
        }


class Verdict(StrEnum):
    """What a patch changes about a row."""

    SAME = "no difference"
    CHEAPER = "cheaper"
    DEARER = "dearer"
    ONLY_BASE = "only in base"
    ONLY_PATCHED = "only in patched"
    NEITHER = "in neither"
    UNDECIDED = "undecided"
    """Time mode: more runs would tell."""


@dataclass(frozen=True)
class Change:
    """A row in both kernels."""

    row: str
    base: float | None
    patched: float | None
    verdict: Verdict
    margin: float
    """What counts as no difference, fixed beforehand, in the table's quantity."""
    note: str = ""

    @property
    def difference(self) -> float | None:
        """What the patch adds; None where one of both has no such row."""
        return None if self.base is None or self.patched is None else self.patched - self.base


@dataclass(frozen=True)
class Comparison:
    """A benchmark on two kernels."""

    base: Table
    patched: Table
    changes: tuple[Change, ...]

    def to_json(self) -> dict[str, Any]:
        """As ``Table.to_json``."""
        return {
            "base": self.base.to_json(),
            "patched": self.patched.to_json(),
            "changes": [
                {**asdict(change), "verdict": str(change.verdict), "difference": change.difference}
                for change in self.changes
            ],
        }
