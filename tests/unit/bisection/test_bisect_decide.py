"""The mathematics of a bisect, over many draws."""

from __future__ import annotations

import math
import random
from itertools import combinations

import pytest

from harness.bisect.decide import (
    OLD_END,
    History,
    Seen,
    Tally,
    chance_of_passes,
    choose,
    most_doubtful,
    passes_needed,
    posterior,
)


def steps(history: History, first: int, untestable: frozenset[int]) -> tuple[frozenset[int], int, int]:
    """Bisect with a test that never errs: the suspects that are left, steps and skips."""
    old: set[int] = set()
    new = {history.new_end}
    skipped: set[int] = set()
    count = 0
    while True:
        suspects = history.suspects(old, new)
        number = choose(history, suspects, skipped, new) if len(suspects) > 1 else None
        if number is None:
            return suspects, count, len(skipped)
        assert number not in old | new | skipped, "judged twice"
        count += 1
        if number in untestable:
            skipped.add(number)
        elif first in history.within(number):
            new.add(number)
        else:
            old.add(number)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 31, 32, 33, 100])
def test_a_line_takes_no_more_steps_than_its_logarithm(count: int) -> None:
    history = History.line(count)
    for first in range(count):
        suspects, taken, _ = steps(history, first, frozenset())
        assert suspects == {first}
        assert taken <= math.ceil(math.log2(count)) == history.most_steps


def test_every_skip_costs_at_most_one_step() -> None:
    history = History.line(9)
    for number in range(4):
        for skips in combinations(range(8), number):
            for first in range(9):
                suspects, taken, skipped = steps(history, first, frozenset(skips))
                assert first in suspects
                assert taken <= history.most_steps + skipped
                # what is left cannot be told apart: all but the last are skipped
                assert suspects - {max(suspects)} <= set(skips)


def test_thousands_of_lines_with_skips() -> None:
    draw = random.Random(1)
    for _ in range(2000):
        count = draw.randint(2, 100)
        skips = frozenset(draw.sample(range(count - 1), draw.randint(0, min(count - 1, 12))))
        first = draw.randrange(count)
        history = History.line(count)
        suspects, taken, skipped = steps(history, first, skips)
        assert first in suspects
        assert taken <= math.ceil(math.log2(count)) + skipped, (count, first, skips)
        assert len(suspects) == 1 or suspects - {max(suspects)} <= skips


def merged() -> History:
    """0 to 4 in a row, 5 to 9 in a row from 1, then a merge and two more."""
    return History(((), (0,), (1,), (2,), (3,), (1,), (5,), (6,), (7,), (8,), (4, 9), (10,), (11,)))


def test_a_merge_is_bisected_on_the_side_that_has_it() -> None:
    history = merged()
    for first in range(len(history)):
        suspects, taken, _ = steps(history, first, frozenset())
        assert suspects == {first}
        assert taken <= history.most_steps + 1


def test_the_first_choice_halves_a_history_with_a_merge() -> None:
    history = merged()
    number = choose(history, history.suspects((), (history.new_end,)), (), (history.new_end,))
    assert number is not None
    assert max(len(history.within(number)), len(history) - len(history.within(number))) == 7


def test_nothing_is_chosen_where_all_that_is_left_is_skipped() -> None:
    history = History.line(4)
    assert choose(history, history.suspects((), (3,)), {0, 1, 2}, {3}) is None


def test_what_always_fails_is_taken_for_whole_after_one_pass() -> None:
    assert passes_needed(Tally(failures=3), 0.05) == 1
    assert passes_needed(Tally(failures=3), 0.01) > 1


def test_more_failures_need_fewer_passes() -> None:
    needed = [passes_needed(Tally(failures=number, passes=10), 0.01) for number in (1, 3, 10, 30)]
    assert needed == sorted(needed, reverse=True)
    # for a rate that is known, ln(0.01) / ln(1 - rate)
    assert passes_needed(Tally(3000, 7000), 0.01) == math.ceil(math.log(0.01) / math.log(0.7))


def test_a_pass_on_a_broken_kernel_is_never_forgotten() -> None:
    always, once = Tally(failures=30), Tally(failures=30, passes=1)
    assert chance_of_passes(once, 1) > 5 * chance_of_passes(always, 1)


def line_of(count: int, *seen: tuple[int, int, int]) -> tuple[History, list[Seen]]:
    return History.line(count), [Seen(frozenset([number]), Tally(bad, good)) for number, bad, good in seen]


def test_certainty_grows_with_passes_below_the_culprit() -> None:
    sure = []
    for passes in (1, 3, 10):
        history, seen = line_of(8, (7, 3, 0), (3, 1, 0), (2, 0, passes), (OLD_END, 0, passes))
        likely = posterior(history, seen, breaks=True)
        assert max(likely, key=lambda one: likely[one]) == 3
        assert sum(likely.values()) == pytest.approx(1)
        assert likely[5] == 0  # 3 has failed
        sure.append(likely[3])
    assert sure == sorted(sure)
    assert sure[-1] > 0.999


def test_the_repair_is_found_on_the_other_side() -> None:
    history, seen = line_of(8, (OLD_END, 3, 0), (2, 1, 0), (3, 0, 5), (7, 0, 5))
    likely = posterior(history, seen, breaks=False)
    assert likely[3] > 0.99
    assert likely[2] == 0


def test_the_most_doubtful_is_the_last_that_passed() -> None:
    history, seen = line_of(8, (7, 3, 7), (3, 1, 0), (2, 0, 5), (1, 0, 5), (OLD_END, 0, 5))
    likely = posterior(history, seen, breaks=True)
    doubtful = most_doubtful(history, seen, likely, breaks=True)
    assert doubtful is not None
    assert doubtful.revisions == {2}


def test_one_kernel_of_two_revisions_has_no_culprit_between_them() -> None:
    history = History.line(4)
    seen = [
        Seen(frozenset([3]), Tally(3, 0)),
        Seen(frozenset([0, 1]), Tally(0, 1)),
        Seen(frozenset([OLD_END]), Tally(0, 1)),
    ]
    likely = posterior(history, seen, breaks=True)
    assert likely[1] == 0
    assert likely[2] == likely[3] > 0
