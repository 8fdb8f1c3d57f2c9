"""What to judge next, how often to run a test, and how sure an answer is: pure functions of what was seen.

A range is a ``History``: its revisions are numbers, parents before children, the last one its *new* end; the *old* end
is its parent, ``OLD_END``. Exactly one revision is the first that differs from the old end (the *suspects* may still
be it). Of a test that fails now and then, a failure proves a broken revision, but a pass proves little: passes
are counted, and weighed with the rate at which broken revisions fail.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import or_

OLD_END = -1
"""The old end: no suspect."""
QUICK_DOUBT = 0.05
"""How doubtful a step's pass may stay while broken revisions have always failed: what decides is run again at the end.
Where they are known to pass now and then, a step must be as sure as the answer."""
FIRST_RUNS = 3
"""Runs of the broken end while each of them fails, and failures to be seen where not."""
MOST_RUNS = 400
"""Of one revision. What fails more seldom than that shows cannot be bisected."""


@dataclass(frozen=True)
class History:
    """The revisions of a range: for each its parents in it. One without any has only the old end."""

    parents: tuple[tuple[int, ...], ...]

    @classmethod
    def line(cls, count: int) -> History:
        """Each revision the child of the one before."""
        return cls(tuple((number - 1,) if number else () for number in range(count)))

    def __len__(self) -> int:
        return len(self.parents)

    @property
    def new_end(self) -> int:
        return len(self.parents) - 1

    @property
    def most_steps(self) -> int:
        """Steps that suffice for a line in which nothing is skipped."""
        return math.ceil(math.log2(len(self))) if len(self) else 0

    def within(self, revision: int) -> frozenset[int]:
        """A revision and all that it descends from, without the old end."""
        found: set[int] = set()
        waiting = [revision] if revision != OLD_END else []
        while waiting:
            one = waiting.pop()
            if one not in found:
                found.add(one)
                waiting += self.parents[one]
        return frozenset(found)

    def suspects(self, old: Iterable[int], new: Iterable[int]) -> frozenset[int]:
        """Who may be the first new one, when these revisions are known to be old and new."""
        found = self.within(self.new_end)
        for one in new:
            found &= self.within(one)
        for one in old:
            found -= self.within(one)
        return found


def choose(
    history: History, suspects: Collection[int], untestable: Collection[int], new: Collection[int]
) -> int | None:
    """The suspect whose verdict leaves the fewest in the worse case; None: none that is left can be judged.

    ``untestable`` ones are not counted: they cannot be told from their children. So, on a line, each verdict halves
    the answers that can be told apart, and each skip is one answer less: ceil(log2 N) steps and the skips suffice.
    ``new`` are known to be so.
    """
    counted = {one for one in suspects if one not in untestable}
    best: tuple[int, int] | None = None
    for one, weight in _weights(history, suspects, counted).items():
        if one in counted and one not in new:
            worth = min(weight, len(counted) - weight)
            if worth > 0 and (best is None or worth > best[0]):
                best = worth, one
    return best[1] if best else None


def _weights(history: History, suspects: Collection[int], counted: Collection[int]) -> dict[int, int]:
    """How many of ``counted`` each suspect descends from, itself included.

    Sets are integers, bit by bit; one is forgotten when the last child has it.
    """
    bits = {one: 1 << place for place, one in enumerate(sorted(counted))}
    known = set(suspects)
    children = Counter(parent for one in known for parent in history.parents[one] if parent in known)
    sets: dict[int, int] = {}
    weights: dict[int, int] = {}
    for one in sorted(known):
        parents = [parent for parent in history.parents[one] if parent in known]
        sets[one] = reduce(or_, (sets[parent] for parent in parents), bits.get(one, 0))
        weights[one] = sets[one].bit_count()
        for parent in parents:
            children[parent] -= 1
            if not children[parent]:
                del sets[parent]
    return weights


# -- tests that fail now and then ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tally:
    """Runs of the test on one kernel."""

    failures: int = 0
    passes: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.failures + other.failures, self.passes + other.passes)

    @property
    def runs(self) -> int:
        return self.failures + self.passes


def _log_likelihood(tally: Tally) -> float:
    """Of a tally on a broken kernel, when nothing is known of its rate but this: one half that it always fails, one
    half that every rate is as likely as any other (a beta distribution, integrated). The logarithm, because thousands
    of runs make it smaller than a float can be."""
    failures, passes = tally.failures, tally.passes
    sometimes = math.lgamma(failures + 1) + math.lgamma(passes + 1) - math.lgamma(failures + passes + 2)
    return math.log(0.5) + (sometimes if passes else math.log1p(math.exp(sometimes)))


def chance_of_passes(broken: Tally, passes: int) -> float:
    """How likely a broken kernel passes so often in a row, after what broken ones did."""
    return math.exp(_log_likelihood(broken + Tally(passes=passes)) - _log_likelihood(broken))


def doubt_of_a_step(broken: Tally, confidence: float) -> float:
    return 1 - confidence if broken.passes else max(QUICK_DOUBT, 1 - confidence)


def passes_needed(broken: Tally, doubt: float) -> int:
    """Passes in a row after which a revision is taken for whole; more than MOST_RUNS: it cannot be told."""
    needed = 1
    while needed <= MOST_RUNS and chance_of_passes(broken, needed) > doubt:
        needed += 1
    return needed


def rate(broken: Tally) -> float:
    """How often a broken kernel fails, as far as it was seen."""
    return broken.failures / broken.runs if broken.runs else 0.0


def shown(broken: Tally) -> bool:
    """Whether the broken end has shown enough of its rate."""
    return broken.failures >= FIRST_RUNS


# -- how sure an answer is -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """One kernel, and what the test did on it. Revisions of equal code have one kernel."""

    revisions: frozenset[int]
    tally: Tally


def posterior(history: History, seen: Iterable[Seen], *, breaks: bool) -> dict[int, float]:
    """How likely each revision is the first new one; ``OLD_END``: both ends are broken, and there is none.

    ``breaks``: the new ones are broken; else the old ones are. A failure on a revision that is whole cannot be.
    """
    kernels = [one for one in seen if one.tally.runs or len(one.revisions) > 1]
    inside = {revision: history.within(revision) for one in kernels for revision in one.revisions}
    logs: dict[int, float] = {}
    # suspects that no kernel tells apart are equally likely: one computation for each group
    groups: dict[tuple[bool, ...], float] = {}
    order = sorted(inside)
    for first in (OLD_END, *range(len(history))):
        key = tuple(_broken(first, revision, inside, breaks=breaks) for revision in order)
        if key not in groups:
            groups[key] = _log_weight(dict(zip(order, key, strict=True)), kernels)
        logs[first] = groups[key]
    greatest = max(logs.values())
    if greatest == -math.inf:
        return dict.fromkeys(logs, 0.0)
    weights = {first: math.exp(log - greatest) for first, log in logs.items()}
    total = sum(weights.values())
    return {first: weight / total for first, weight in weights.items()}


def _broken(first: int, revision: int, inside: Mapping[int, frozenset[int]], *, breaks: bool) -> bool:
    """Whether a revision is broken if ``first`` is the first new one."""
    return True if first == OLD_END else (first in inside[revision]) is breaks


def _log_weight(broken: Mapping[int, bool], kernels: Iterable[Seen]) -> float:
    """Minus infinity: it cannot be."""
    total = Tally()
    for one in kernels:
        states = {broken[revision] for revision in one.revisions}
        if len(states) > 1:
            return -math.inf
        if states == {True}:
            total += one.tally
        elif one.tally.failures:
            return -math.inf
    return _log_likelihood(total)


def most_doubtful(
    history: History, seen: Collection[Seen], likely: Mapping[int, float], *, breaks: bool
) -> Seen | None:
    """The kernel that passed and is the most likely to be broken nevertheless; None: none can be."""

    def chance(one: Seen) -> float:
        revision = next(iter(one.revisions))
        inside = {revision: history.within(revision)}
        return sum(weight for first, weight in likely.items() if _broken(first, revision, inside, breaks=breaks))

    passed = [one for one in seen if one.tally.passes and not one.tally.failures]
    found = max(passed, key=chance, default=None)
    return found if found and chance(found) > 0 else None
