"""What one packet costs, from runs of different lengths: their slope, which is free of what starts and ends a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median

SCALE = 1e-5
"""How far the guest's nanosecond may be from an instruction: its kernel measures one clock against another."""

WHOLE = 0.25
"""A resolution below which a value can be told from the whole number beside it."""


@dataclass(frozen=True)
class Point:
    """A run of the workload."""

    count: int
    ns: float
    quantum: float
    """The step that ``ns`` is told in."""


@dataclass(frozen=True)
class Estimate:
    """The cost of one."""

    value: float
    resolution: float
    """Half the width of what the runs leave open: their clock's step and scale, or how far they are off the line."""
    off: int
    """Runs that are off the line by more than they should: something else was at work in them."""


def slope(points: Sequence[Point]) -> Estimate:
    """The median of the slopes between all pairs (Theil 1950, Sen 1968), which one run in four cannot spoil.

    A whole number where that is within a fine resolution: instructions are. Raises ValueError where all runs are of one
    length.
    """
    pairs = [(a, b) for a, b in combinations(points, 2) if a.count != b.count]
    if not pairs:
        raise ValueError("runs of different lengths are needed")
    value = median((b.ns - a.ns) / (b.count - a.count) for a, b in pairs)
    start = median(point.ns - value * point.count for point in points)
    errors = [abs(point.ns - start - value * point.count) for point in points]
    step = max(point.quantum for point in points)
    reach = max(point.count for point in points) - min(point.count for point in points)
    resolution = max(step, 2 * median(errors)) / reach + SCALE * value
    if abs(value - round(value)) <= resolution < WHOLE:
        value = float(round(value))
    return Estimate(value, resolution, sum(error > max(2 * step, 4 * median(errors)) for error in errors))
