"""Verdicts on synthetic times whose truth is known: how often each is right, over 1,000 draws of a measurement."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.bench import stats
from harness.bench.stats import Floats, Kind
from harness.errors import UserError

DRAWS = 1000
RUNS, QUADS = 6, 6
MARGIN = 0.01
# A rate p over 1,000 draws is seen within p ± 3.3 sqrt(p (1 - p) / 1000) in 999 of 1,000 seeds; ours is fixed.
ALLOWED_FALSE = 0.05 + 0.023


def times(true: float, *, noise: float, between: float, seed: int, hiccups: float = 0.02, runs: int = RUNS) -> Floats:
    """Log-ratios of DRAWS measurements of ``runs`` runs, from times as a busy machine has them.

    B takes ``true`` more than A. Each time has lognormal noise and, with the chance ``hiccups``, up to half as much on
    top; the machine gets 10 % slower within a run; the layout of a boot changes B against A by ``between``.
    """
    random = np.random.default_rng(seed)
    sequence = stats.order(QUADS)
    is_b = np.array([side == "B" for side in sequence])
    shape = (DRAWS, runs, len(sequence))
    layout = random.normal(0, between, (DRAWS, runs, 1))
    drift = 1 + 0.1 * np.arange(len(sequence)) / len(sequence)
    base = 1500 * drift * np.exp(random.normal(0, noise, shape))
    base *= 1 + (random.random(shape) < hiccups) * random.uniform(0, 0.5, shape)
    measured = base * np.where(is_b, (1 + true) * np.exp(layout), 1.0)
    return stats.run_ratio(stats.log_ratios(sequence, measured))


def rates(true: float, seed: int, *, noise: float = 0.005, between: float = 0.002) -> dict[Kind, float]:
    kinds, _ = stats.decide(times(true, noise=noise, between=between, seed=seed), MARGIN, resamples=1999)
    return {kind: float((kinds == kind).mean()) for kind in Kind}


@pytest.mark.parametrize(
    ("true", "noise", "right", "wrong", "most_wrong", "least_right"),
    [
        pytest.param(0.0, 0.005, Kind.EQUIVALENT, Kind.DIFFERENT, ALLOWED_FALSE, 0.95, id="nothing, quiet"),
        pytest.param(0.0, 0.05, Kind.UNDECIDED, Kind.DIFFERENT, ALLOWED_FALSE, 0.85, id="nothing, noisy"),
        pytest.param(MARGIN, 0.005, Kind.DIFFERENT, Kind.EQUIVALENT, ALLOWED_FALSE, 0.90, id="the margin, quiet"),
        pytest.param(MARGIN, 0.05, Kind.UNDECIDED, Kind.EQUIVALENT, ALLOWED_FALSE, 0.80, id="the margin, noisy"),
        pytest.param(0.02, 0.005, Kind.DIFFERENT, Kind.EQUIVALENT, 0.001, 0.99, id="2 %, quiet"),
        pytest.param(0.02, 0.01, Kind.DIFFERENT, Kind.EQUIVALENT, 0.001, 0.90, id="2 %, less quiet"),
        pytest.param(-0.02, 0.005, Kind.DIFFERENT, Kind.EQUIVALENT, 0.001, 0.99, id="2 % cheaper, quiet"),
    ],
)
def test_rates(
    true: float,
    noise: float,
    right: Kind,
    wrong: Kind,
    most_wrong: float,
    least_right: float,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The false verdict comes no more often than it may; the right one as often as so many runs can give it."""
    found = rates(true, seed=1, noise=noise)
    with capsys.disabled():
        told = ", ".join(f"{kind} {rate:6.1%}" for kind, rate in found.items())
        print(f"\n  truth {true:+.1%}, noise {noise:.1%}, {RUNS} runs, {DRAWS} draws: {told}", end="")
    assert found[wrong] <= most_wrong
    assert found[right] >= least_right


def test_the_interval_covers_the_truth_as_often_as_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    """And the plain percentile interval does not: that is why ours is expanded."""
    runs = np.random.default_rng(2).normal(0.003, 0.01, (DRAWS, RUNS))
    found = stats.interval(runs, resamples=1999)
    covered = float(((found.low <= 0.003) & (found.high >= 0.003)).mean())
    with capsys.disabled():
        print(f"\n  the 95 % interval of {RUNS} runs covers the truth in {covered:.1%} of {DRAWS} draws", end="")
    assert 0.93 <= covered <= 0.98


def test_the_advised_number_of_runs_decides(capsys: pytest.CaptureFixture[str]) -> None:
    """Samples like the one that was undecided, with so many more runs, are decided in about POWER of the draws."""
    random = np.random.default_rng(3)
    for true, deviation in ((0.0, 0.012), (0.004, 0.012), (0.03, 0.05)):
        typical = random.normal(0, 1, RUNS)
        typical = true + deviation * (typical - typical.mean()) / typical.std(ddof=1)
        verdict = stats.judge(typical, MARGIN)
        assert verdict.kind is Kind.UNDECIDED
        more = random.normal(true, deviation, (DRAWS, RUNS + verdict.more))
        kinds, _ = stats.decide(more, MARGIN, resamples=999)
        decided = float((kinds != Kind.UNDECIDED).mean())
        with capsys.disabled():
            print(f"\n  {verdict}: then {decided:.1%} of {DRAWS} draws are decided", end="")
        assert 0.7 <= decided <= 0.95


def test_quads_alternate_so_that_a_growing_drift_cancels_too() -> None:
    assert stats.order(4) == "ABBABAABBAABABBA"
    position = np.arange(16)
    signs = np.where(np.array(list(stats.order(4))) == "B", 1, -1)
    assert [int((signs * position**power).sum()) for power in (0, 1, 2)] == [0, 0, 0]


def test_a_steady_drift_cancels_within_a_quad() -> None:
    drifting = 1000 * np.exp(0.03 * np.arange(8))
    measured = drifting * np.where(np.array(list(stats.order(2))) == "B", 1.05, 1.0)
    assert stats.log_ratios(stats.order(2), measured) == pytest.approx([math.log(1.05)] * 2)
    # block by block, the same drift would be taken for a difference of 18 %
    assert np.log(measured[4:].mean() / measured[:4].mean()) > 0.1


def test_a_spoilt_quad_does_not_move_the_run() -> None:
    assert stats.run_ratio(np.array([0.01, 0.012, 0.9, 0.011, 0.009])) == pytest.approx(0.011)


def test_one_sample_verdicts() -> None:
    same = stats.judge([0.001, -0.001, 0.0005, -0.0005, 0.001, -0.001])
    assert str(same) == "equivalent"
    assert same.floor < 0.002
    slower = stats.judge(np.log1p([0.049, 0.051, 0.05, 0.052, 0.048, 0.05]))
    assert str(slower) == "different by +5.0 %"
    assert 0.045 < slower.low < slower.difference < slower.high < 0.055
    unsure = stats.judge([0.05, -0.04, 0.03, -0.02, 0.06, -0.05])
    assert str(unsure) == f"undecided: needs {unsure.more} more runs"
    assert unsure.more > 6
    assert "6 runs" in unsure.explained


def test_few_runs_decide_nothing() -> None:
    """Three runs may agree by chance."""
    assert str(stats.judge([0.0001, 0.0, -0.0001])) == "undecided: needs 1 more run"
    assert stats.judge([0.0, 0.0]).more == 2
    with pytest.raises(UserError, match="two runs or more"):
        stats.judge([0.1])


def test_hopeless_noise_has_a_number_too() -> None:
    assert stats.judge([40.0, -40.0, 39.0, -39.0]).more == stats.MOST - 4


def test_the_same_runs_give_the_same_verdict() -> None:
    runs = np.random.default_rng(4).normal(0.01, 0.01, 8)
    assert stats.judge(runs) == stats.judge(list(runs))


@pytest.mark.parametrize(
    ("sequence", "measured", "says"),
    [
        ("ABBA", [1.0, 2.0, 3.0], "4 measurements were planned, 3 came"),
        ("ABBA", [1.0, 2.0, 0.0, 1.0], "zero or less"),
        ("ABAA", [1.0, 2.0, 1.0, 1.0], "no sequence of quads"),
        ("", [], "no sequence of quads"),
    ],
)
def test_refused(sequence: str, measured: list[float], says: str) -> None:
    with pytest.raises(UserError, match=says):
        stats.log_ratios(sequence, measured)


def test_no_quads() -> None:
    with pytest.raises(UserError, match="one or more"):
        stats.order(0)


def test_stolen_time() -> None:
    """proc_stat(5): guest time (ninth) is part of user time and does not count twice."""
    before = "cpu  100 0 100 700 0 0 0 50 30 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n"
    after = "cpu  180 0 105 710 0 0 0 55 90 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n"
    assert stats.stolen(before, after) == pytest.approx(0.05)
    assert stats.stolen(before, before) == 0
    with pytest.raises(UserError, match="no stolen time"):
        stats.stolen("intr 5\n", "intr 5\n")


def test_what_spoils_a_table() -> None:
    same = stats.judge([0.001, -0.001, 0.0005, -0.0005])
    slower = stats.judge([0.1, 0.101, 0.099, 0.1])
    faster = stats.judge([-0.1, -0.101, -0.099, -0.1])
    assert stats.why_no_result(same, slower, [0.0, 0.001]) == ""
    assert "took 3.0% of a run's processor time" in stats.why_no_result(same, slower, [0.0, 0.03])
    assert "A/A" in stats.why_no_result(slower, slower, [])
    assert "the control" in stats.why_no_result(same, same, [])
    assert "the control" in stats.why_no_result(same, faster, [])
