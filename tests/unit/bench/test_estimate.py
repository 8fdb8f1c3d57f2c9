"""What one packet costs, from runs of different lengths."""

from __future__ import annotations

import pytest

from harness.bench.estimate import Point, slope


def line(
    cost: float, *, start: float = 700.0, quantum: float = 1.0, counts: range = range(100, 1600, 200)
) -> list[Point]:
    """Runs whose clock is read in steps."""
    return [Point(count, (start + cost * count) // quantum * quantum, quantum) for count in counts]


def test_slope_is_free_of_what_starts_a_run() -> None:
    assert [slope(line(1359, start=start)).value for start in (0, 700, 90_000)] == [1359, 1359, 1359]


def test_clock_of_nanoseconds_resolves_hundredths() -> None:
    estimate = slope(line(1359.25))
    assert estimate.value == pytest.approx(1359.25, abs=0.01)
    assert estimate.resolution == pytest.approx(1 / 1400 + 0.0136, rel=0.1)


def test_what_may_be_a_whole_number_is_one() -> None:
    assert slope(line(1359.0004)).value == 1359


def test_clock_that_is_a_few_millionths_off_counts_whole_instructions() -> None:
    assert slope(line(1359 * 1.000002)).value == 1359


def test_coarse_clock_states_its_resolution() -> None:
    """Microseconds over 1,400 packets leave less than an instruction open."""
    estimate = slope(line(1422, quantum=1000))
    assert abs(estimate.value - 1422) <= estimate.resolution
    assert 0.5 < estimate.resolution < 2


def test_coarse_clock_does_not_pretend_to_whole_instructions() -> None:
    value = slope(line(1422.4, quantum=1000)).value
    assert value != round(value)


def test_one_run_with_a_tick_in_it_changes_nothing() -> None:
    points = line(1359)
    points[3] = Point(points[3].count, points[3].ns + 9_000, 1)
    estimate = slope(points)
    assert (estimate.value, estimate.off) == (1359, 1)
    assert estimate.resolution < 0.02


def test_runs_that_are_on_no_line_are_not_called_exact() -> None:
    """Batches of work every so often: the resolution says how far off the runs are."""
    points = [Point(count, 1350 * count + 3_000 * (count // 130), 1) for count in range(50, 850, 100)]
    assert slope(points).resolution > 1


def test_runs_of_one_length_have_no_slope() -> None:
    with pytest.raises(ValueError, match="different lengths"):
        slope([Point(100, 5.0, 1), Point(100, 6.0, 1)])
