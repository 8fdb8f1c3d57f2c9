"""What measured times prove: pure functions on arrays, the last axis being the runs.

Times on a machine that others use drift and jump. So two rows, A and B, are measured in turn, in *quads* ABBA and BAAB,
in which a steady drift cancels; only ratios of neighbours count. A *run* is one boot of a guest; it gives one number,
the median of its quads' log-ratios. The runs have one interval of confidence for their mean, and that decides, by a
margin that was fixed beforehand:

    inside ±margin              equivalent (two one-sided tests, TOST: Schuirmann 1987)
    else, without zero          different by P %
    else                        undecided: needs N more runs

The interval is the bootstrap's, expanded for few runs: a percentile interval of 6 runs has 86 % where it promises 95 %
(Hesterberg 2015, "What Teachers Should Know about the Bootstrap", section 5.3). Student's t must agree.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from harness.errors import UserError

Floats = NDArray[np.float64]

CONFIDENCE = 0.95
"""Of the interval; so each one-sided test is at 2.5 %."""
POWER = 0.8
"""With this chance the advised number of runs decides, if the runs so far are typical."""
MARGIN = 0.01
RESAMPLES = 9999
FEWEST = 4
"""Runs below which nothing is decided: the spread itself is not known."""
MOST_STEAL = 0.01
"""Share of a run's processor time that other guests of the host may have taken (``steal`` of /proc/stat)."""
MOST = 100_000
"""Runs; more than these nobody makes."""


def order(quads: int) -> str:
    """So many quads, ``ABBA`` or ``BAAB`` each, as one text of A and B.

    Which one comes follows the Thue-Morse sequence, so that over two quads a drift that grows cancels, too.
    """
    if quads < 1:
        raise UserError(f"{quads} quads: there must be one or more")
    return "".join("BAAB" if index.bit_count() % 2 else "ABBA" for index in range(quads))


def log_ratios(sequence: str, times: Sequence[float] | Floats) -> Floats:
    """One log(B/A) for each quad of ``sequence`` (as ``order`` makes it); ``times`` has the measurements as last axis.

    Raises UserError when lengths differ, a quad has not two of each, or a time is not above zero.
    """
    measured = np.asarray(times, dtype=np.float64)
    quads = [sequence[start : start + 4] for start in range(0, len(sequence), 4)]
    if not quads or any(sorted(quad) != list("AABB") for quad in quads):
        raise UserError(f"{sequence!r} is no sequence of quads ABBA and BAAB")
    if measured.shape[-1:] != (len(sequence),):
        raise UserError(f"{len(sequence)} measurements were planned, {measured.shape[-1] if measured.ndim else 0} came")
    if not (measured > 0).all():
        raise UserError("a time of zero or less was measured")
    signs = np.array([0.5 if side == "B" else -0.5 for side in sequence])
    weighed: Floats = np.log(measured) * signs
    return np.asarray(weighed.reshape(*measured.shape[:-1], len(quads), 4).sum(axis=-1))


def run_ratio(quads: Floats) -> Floats:
    """A run's one number: the median, because a hiccup of the host spoils a quad and says nothing of the kernel."""
    return np.asarray(np.median(quads, axis=-1))


@dataclass(frozen=True)
class Interval:
    """Of a mean log-ratio, over runs. Arrays where several samples were given at once."""

    mean: Floats
    low: Floats
    high: Floats


def interval(runs: Floats, *, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """The expanded bootstrap interval of the mean over the last axis, at CONFIDENCE; at least two runs.

    Expanded: the percentiles are those of Phi(±t sqrt(n / (n - 1))), t being Student's quantile, and not 2.5 and 97.5.
    """
    runs = np.asarray(runs, dtype=np.float64)
    count = runs.shape[-1]
    widened = stats.t.ppf((1 + CONFIDENCE) / 2, count - 1) * math.sqrt(count / (count - 1))
    done = stats.bootstrap(
        (runs,),
        np.mean,
        axis=-1,
        vectorized=True,
        method="percentile",
        confidence_level=float(1 - 2 * stats.norm.sf(widened)),
        n_resamples=resamples,
        batch=max(1, 20_000_000 // max(1, runs.size)),
        rng=np.random.default_rng(seed),
    )
    found = done.confidence_interval
    return Interval(np.asarray(runs.mean(axis=-1)), np.asarray(found.low), np.asarray(found.high))


def p_equivalent(runs: Floats, margin: float = MARGIN) -> Floats:
    """TOST: the larger p of two one-sided t tests, that the ratio is above 1/(1 + margin), and below 1 + margin."""
    limit = math.log1p(margin)
    above = stats.ttest_1samp(runs, -limit, axis=-1, alternative="greater").pvalue
    below = stats.ttest_1samp(runs, limit, axis=-1, alternative="less").pvalue
    return np.maximum(above, below)


def p_different(runs: Floats) -> Floats:
    """p of the two-sided t test that the ratio is 1."""
    return np.asarray(stats.ttest_1samp(runs, 0.0, axis=-1).pvalue)


class Kind(StrEnum):
    EQUIVALENT = "equivalent"
    DIFFERENT = "different"
    UNDECIDED = "undecided"


def decide(
    runs: Floats, margin: float = MARGIN, *, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[NDArray[np.str_], Interval]:
    """The kind of verdict on each sample in ``runs`` (last axis: at least two runs), and the intervals."""
    runs = np.asarray(runs, dtype=np.float64)
    limit = math.log1p(margin)
    found = interval(runs, seed=seed, resamples=resamples)
    alpha = 1 - CONFIDENCE
    inside = (found.low > -limit) & (found.high < limit) & (p_equivalent(runs, margin) < alpha / 2)
    apart = ((found.low > 0) | (found.high < 0)) & (p_different(runs) < alpha)
    if runs.shape[-1] < FEWEST:
        inside = apart = np.zeros_like(inside)
    kinds = np.where(inside, Kind.EQUIVALENT, np.where(apart, Kind.DIFFERENT, Kind.UNDECIDED))
    return kinds, found


@dataclass(frozen=True)
class Judgement:
    """What the runs say of a row. Differences are relative: 0.02 is B two per cent slower than A."""

    kind: Kind
    difference: float
    low: float
    high: float
    """The interval's ends."""
    margin: float
    runs: int
    p_equivalent: float
    p_different: float
    more: int = 0
    """So many more runs would decide, with a chance of POWER; 0: decided."""

    @property
    def floor(self) -> float:
        """Of an A/A row: the difference that two measurements of the same thing may have, and no patch be to blame."""
        return max(abs(self.low), abs(self.high))

    def __str__(self) -> str:
        if self.kind is Kind.UNDECIDED:
            return f"undecided: needs {self.more} more run{'' if self.more == 1 else 's'}"
        return (
            f"different by {self.difference:+.1%}".replace("%", " %") if self.kind is Kind.DIFFERENT else "equivalent"
        )

    @property
    def explained(self) -> str:
        """The verdict with what it rests on."""
        ends = f"{CONFIDENCE:.0%} interval {self.low:+.2%} to {self.high:+.2%}, margin ±{self.margin:.2%}"
        return f"{self}; {ends}, {self.runs} runs"

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "kind": str(self.kind), "text": str(self)}


def judge(runs: Sequence[float] | Floats, margin: float = MARGIN, *, seed: int = 0) -> Judgement:
    """The verdict on a row from its log-ratios, one for each run. Raises UserError for less than two runs."""
    sample = np.asarray(runs, dtype=np.float64)
    if sample.ndim != 1 or sample.size < 2:
        raise UserError("time mode needs two runs or more: one says nothing of the next")
    kinds, found = decide(sample, margin, seed=seed)
    kind = Kind(kinds.item())
    return Judgement(
        kind=kind,
        difference=math.expm1(float(found.mean)),
        low=math.expm1(float(found.low)),
        high=math.expm1(float(found.high)),
        margin=margin,
        runs=sample.size,
        p_equivalent=float(p_equivalent(sample, margin)),
        p_different=float(p_different(sample)),
        more=more_runs(sample, margin) if kind is Kind.UNDECIDED else 0,
    )


def more_runs(runs: Floats, margin: float = MARGIN) -> int:
    """How many runs more would decide, either way, with a chance of POWER: at least one, at most MOST.

    The runs so far stand for the truth: of n runs like these, the mean is normal about theirs, and the interval's half
    has t(97.5 %) standard errors. They decide where the mean is farther from zero than that half, or than it from the
    margin.
    """
    mean, deviation = float(np.mean(runs)), float(np.std(runs, ddof=1))
    if not deviation:
        return max(1, FEWEST - len(runs))
    counts = np.unique(np.geomspace(FEWEST, MOST, 400).astype(int))
    error = deviation / np.sqrt(counts)
    half = stats.t.ppf((1 + CONFIDENCE) / 2, counts - 1) * error

    def within(bound: Floats) -> Floats:
        return np.asarray(np.diff(stats.norm.cdf((np.stack([-bound, bound]) - mean) / error), axis=0)[0])

    equivalent = np.maximum(math.log1p(margin) - half, 0)
    decided = np.where(equivalent < half, within(equivalent) + 1 - within(half), 1.0)
    enough = counts[decided >= POWER]
    return max(1, int(enough[0] if enough.size else MOST) - len(runs))


def stolen(before: str, after: str) -> float:
    """The share of processor time that was stolen between two readings of /proc/stat; 0 where no time passed.

    proc_stat(5): "cpu  user nice system idle iowait irq softirq steal guest guest_nice", in ticks; guest times are part
    of user and nice. Raises UserError for a text without that line.
    """

    def ticks(text: str) -> list[int]:
        line = next((line for line in text.splitlines() if line.startswith("cpu ")), "")
        found = [int(word) for word in line.split()[1:9]]
        if len(found) < 8:
            raise UserError(f"/proc/stat tells no stolen time: {line or text[:80]!r}")
        return found

    passed = [late - early for early, late in zip(ticks(before), ticks(after), strict=True)]
    return passed[7] / sum(passed) if sum(passed) else 0.0


def why_no_result(again: Judgement, control: Judgement, steals: Sequence[float]) -> str:
    """Empty when a table's own checks hold; else what is wrong with it: then its verdicts say nothing.

    ``again``: the A/A row; ``control``: a row that is known to be slower; ``steals``: ``stolen`` of each run.
    """
    if (worst := max(steals, default=0.0)) > MOST_STEAL:
        return f"other guests of the host took {worst:.1%} of a run's processor time: try again when it is idle"
    if again.kind is Kind.DIFFERENT:
        return f"A/A: two measurements of the same thing differ by {again.difference:+.1%}"
    if control.kind is not Kind.DIFFERENT or control.difference < 0:
        return f"the control, which is slower, was not seen to be: {control.explained}"
    return ""
