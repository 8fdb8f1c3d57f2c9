"""From judgement to judgement: both ends first, then between them, then what the answer rests on, once more."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from harness.bisect import decide
from harness.bisect.decide import OLD_END, Seen, Tally
from harness.bisect.kernels import Made, Untestable, again
from harness.bisect.ranges import Range
from harness.bisect.samples import Judged, Sample, compare
from harness.bisect.state import Judgement, State
from harness.errors import InfraError, UserError
from harness.events import Finding, Notice, Phase, Sink
from harness.model import Request, Result

ATTEMPTS = 16
"""Runs of the broken end before one believes that it is whole: of a test that fails 3 times of 10, 3 of 1,000 searches
end there by mistake."""
ODD = 3
"""Runs that say nothing, of a revision that others have said something of, until that is told."""


class Making(Protocol):
    """See kernels.py."""

    def make(self, request: Request) -> Made: ...
    def read(self, identity: str) -> Collection[str] | None: ...
    def alike(self, one: Request, other: Request) -> bool: ...


class Running(Protocol):
    """See judge.py."""

    def run(self, made: Made, folder: Path, *, runs: int) -> Sample: ...


@dataclass(frozen=True)
class Answer:
    """What was found."""

    suspects: tuple[int, ...]
    """One: it is the first new revision. Several: one of them is, and no more can be told."""
    confidence: float
    """How likely that is true."""
    steps: int
    """Revisions that were judged between the ends."""
    skips: int
    """Of these."""

    @property
    def culprit(self) -> int | None:
        return self.suspects[0] if len(self.suspects) == 1 else None


class Search:
    """One bisect."""

    def __init__(
        self,
        range_: Range,
        *,
        kernels: Making,
        judge: Running,
        state: State,
        folder: Path,
        breaks: bool,
        confidence: float,
        events: Sink,
    ) -> None:
        """``breaks``: the new end is the broken one. ``folder`` takes the results of each run."""
        self.range = range_
        self.history = range_.history
        self.state = state
        self.breaks = breaks
        self.confidence = confidence
        self._kernels = kernels
        self._judge = judge
        self._folder = folder
        self._events = events
        self._made: dict[int, Made] = {}
        self._runs = 0

    @property
    def broken_end(self) -> int:
        return self.history.new_end if self.breaks else OLD_END

    @property
    def whole_end(self) -> int:
        return OLD_END if self.breaks else self.history.new_end

    def run(self) -> Answer:
        """Raises UserError for an end that is not what it is said to be, InfraError for a machine that fails."""
        self._prove_broken_end()
        self._prove_whole_end()
        self._replay()
        while True:
            answer = self._narrow()
            if self._confirm(answer):
                return self._answer(answer)

    # -- the ends ----------------------------------------------------------------------------------------------------

    def _prove_broken_end(self) -> None:
        """Run it until it has failed often enough: how it does is what is hunted."""
        end = self.broken_end
        told = f"the broken end, {self.range.told(end)}"
        one = self._open(end, told)
        odd = 0
        while not decide.shown(one.tally):
            if one.passes >= ATTEMPTS and not one.failures:
                raise UserError(f"{told}, passes: {one.passes} of {one.passes} runs; what is said to be bad is good")
            if one.passes >= decide.MOST_RUNS:
                raise UserError(f"{told}, fails in {one.failures} of {one.tally.runs} runs: too seldom to bisect")
            if why_not := self._hunt(one):
                odd += 1
                if odd >= ODD or not one.tally.runs:
                    raise UserError(f"{told}, cannot be judged: {why_not}")
        one.settled = True
        self._tell(one)

    def _hunt(self, one: Judgement) -> str:
        """One run of the broken end; why it says nothing."""
        sample = self._run(one, runs=decide.FIRST_RUNS - one.failures)
        if sample.no_boot:
            return f"does not boot: {sample.no_boot}"
        if sample.failures:
            self.state.hunted = sorted({*self.state.hunted, *sample.failures})
            one.failures += 1
            one.message = one.message or next(iter(sample.failures.values()))
        elif Result.PASSED not in sample.results.values():
            return "; ".join(f"{test} was skipped: {why}" for test, why in sample.skips.items()) or "no test has run"
        else:
            one.passes += 1
        self.state.save()
        return ""

    def _prove_whole_end(self) -> None:
        end = self.whole_end
        told = f"the whole end, {self.range.told(end)}"
        one = self._open(end, told)
        if not one.settled and not one.tally.runs:
            self._drop_what_always_fails(one)
        self._settle(one)
        if one.failures:
            raise UserError(
                f"{told}, fails in {one.failures} of {one.tally.runs} runs, too ({one.message}):"
                " what is said to be good is bad"
            )
        if one.untestable:
            raise UserError(f"{told}, cannot be judged: {one.untestable}")
        self._tell(one)

    def _drop_what_always_fails(self, one: Judgement) -> None:
        """Of several failures only those are hunted that the whole end does not have."""
        sample = self._run(one, runs=self._needed())
        left = [failure for failure in self.state.hunted if failure not in sample.failures]
        if left and left != self.state.hunted:
            gone = ", ".join(str(failure) for failure in self.state.hunted if failure not in left)
            self._events(Notice(f"fails at both ends, and is not hunted: {gone}"))
            self.state.hunted = left
        self._take(one, sample)

    def _open(self, end: int, told: str) -> Judgement:
        """The judgement of an end, with its kernel. UserError where it has none."""
        one = self.state.judgements.setdefault(end, Judgement(end))
        if not one.settled:
            self._events(Phase("end", told))
            self._make(one)
            if one.untestable:
                raise UserError(f"{told}: {one.untestable}")
        return one

    # -- between them ------------------------------------------------------------------------------------------------

    def _narrow(self) -> tuple[int, ...]:
        """Judge revisions until one suspect is left, or none that can be judged."""
        while True:
            old, new = self._sides()
            suspects = self.history.suspects(old, new)
            untestable = {number for number, one in self.state.judgements.items() if self._of(one).untestable}
            number = self.range.next(suspects, untestable, new) if len(suspects) > 1 else None
            if number is None:
                return tuple(sorted(suspects))
            at_most = (len(suspects) - len(untestable & suspects) - 1).bit_length()
            steps = f"{len(suspects)} {self.range.kinds} left, at most {at_most} more to judge"
            self._events(Phase("step", f"{self.range.told(number)} ({steps})"))
            one = self._judge_revision(number)
            self._tell(one)
            self._note(one)

    def _judge_revision(self, number: int) -> Judgement:
        one = self.state.judgements.setdefault(number, Judgement(number))
        others = [
            other.number for other in self.state.judgements.values() if other is not one and other.same_as is None
        ]
        read = {other: self._kernels.read(self.state.judgements[other].kernel) for other in others}
        same = self.range.same_code(number, read) if not one.tally.runs else None
        if same and self._kernels.alike(*(self.range.revision(each).request for each in (number, same[0]))):
            one.same_as, one.why_same = same
        else:
            self._make(one)
            twin = next((other for other in others if one.code and self.state.judgements[other].code == one.code), None)
            if twin is not None and not one.tally.runs:
                one.same_as, one.why_same = twin, "its kernel has the same code"
            elif not one.untestable:
                self._settle(one)
        self.state.save()
        return one

    def _settle(self, one: Judgement) -> None:
        """Run until it fails, has passed often enough, or says nothing."""
        needed = self._needed()
        while not (one.failures or one.untestable or one.settled or one.passes >= needed):
            self._sample(one, runs=needed - one.passes)
        one.settled = not one.untestable
        self.state.save()

    def _needed(self) -> int:
        """Passes in a row that make a step's revision whole."""
        broken = self.broken_tally()
        return decide.passes_needed(broken, decide.doubt_of_a_step(broken, self.confidence))

    # -- how sure ----------------------------------------------------------------------------------------------------

    def _confirm(self, answer: tuple[int, ...]) -> bool:
        """Run what the answer rests on until it is sure enough; False: a revision that had passed has failed."""
        odd = 0
        while self._confidence(answer) < self.confidence and odd < ODD:
            likely = decide.posterior(self.history, self._seen(), breaks=self.breaks)
            doubtful = decide.most_doubtful(self.history, self._seen(), likely, breaks=self.breaks)
            if doubtful is None or doubtful.tally.passes >= decide.MOST_RUNS:
                break
            one = next(
                self.state.judgements[number]
                for number in doubtful.revisions
                if self.state.judgements[number].same_as is None
            )
            self._events(Phase("once more", f"{self.range.told(one.number)}, on which the answer rests"))
            needed = decide.passes_needed(self.broken_tally(), 1 - self.confidence)
            self._sample(one, runs=max(1, needed - one.passes))
            if one.failures:
                self._events(Notice(f"{self.range.told(one.number)} had passed {one.passes} times, and fails now"))
                self._replay()
                if one.number == self.whole_end:
                    self.state.judgements[one.number].settled = False
                    self._prove_whole_end()
                return False
            if one.untestable:  # it was not before
                odd += 1
                one.untestable = ""
        return True

    def _answer(self, suspects: tuple[int, ...]) -> Answer:
        between = [
            one for number, one in self.state.judgements.items() if number not in (OLD_END, self.history.new_end)
        ]
        skips = sum(bool(self._of(one).untestable) for one in between)
        return Answer(suspects, self._confidence(suspects), len(between), skips)

    def _confidence(self, suspects: tuple[int, ...]) -> float:
        likely = decide.posterior(self.history, self._seen(), breaks=self.breaks)
        return sum(likely[one] for one in suspects)

    def _seen(self) -> list[Seen]:
        kernels: dict[int, set[int]] = {}
        for one in self.state.judgements.values():
            kernels.setdefault(self._of(one).number, set()).add(one.number)
        judgements = self.state.judgements
        return [Seen(frozenset(revisions), judgements[number].tally) for number, revisions in kernels.items()]

    def broken_tally(self) -> Tally:
        """All runs of revisions that are known to be broken."""
        total = Tally()
        for one in self.state.judgements.values():
            if one.failures:
                total += one.tally
        return total

    def _of(self, one: Judgement) -> Judgement:
        """Where what is known of its kernel is kept."""
        return one if one.same_as is None else self.state.judgements[one.same_as]

    def _sides(self) -> tuple[set[int], set[int]]:
        """The revisions that are known to be old and new."""
        broken = {number for number, one in self.state.judgements.items() if self._of(one).failures}
        whole = {number for number, one in self.state.judgements.items() if self._is_whole(one)}
        if self.breaks:
            # what has failed is broken for sure, and so is what came after it, however often that has passed
            after = {one for one in whole if one != OLD_END and broken & self.history.within(one)}
            return whole - after, broken
        before = set().union(*(self.history.within(one) for one in broken if one != OLD_END))
        return broken, whole - before

    def _is_whole(self, one: Judgement) -> bool:
        known = self._of(one)
        return known.settled and not known.failures and not known.untestable

    # -- runs --------------------------------------------------------------------------------------------------------

    def _make(self, one: Judgement) -> None:
        """Have its kernel; where there is none, it is untestable."""
        if one.number in self._made or one.untestable:
            return
        try:
            made = self._kernels.make(self.range.revision(one.number).request)
        except Untestable as error:
            one.untestable = str(error)
            self.state.save()
            return
        self._made[one.number] = made
        one.kernel, one.code = made.identity, made.code
        one.build_seconds += made.seconds
        self.state.save()

    def _sample(self, one: Judgement, *, runs: int) -> Judged:
        """One more run of so many that lie ahead, compared with what is hunted."""
        return self._take(one, self._run(one, runs=runs))

    def _take(self, one: Judgement, sample: Sample) -> Judged:
        judged = compare(sample, self.state.hunted)
        if judged.failed:
            one.failures += 1
            one.message = judged.message
        elif judged.untestable:
            one.untestable = judged.untestable
        else:
            one.passes += 1
        self.state.save()
        return judged

    def _run(self, one: Judgement, *, runs: int) -> Sample:
        self._make(one)
        if one.number not in self._made:  # it had a kernel once
            raise InfraError(f"{self.range.told(one.number)}: {one.untestable}")
        sample = self.sample(self._made[one.number], runs=runs)
        one.test_seconds += sample.seconds
        return sample

    def sample(self, made: Made, *, runs: int) -> Sample:
        """One run on a kernel, of so many that lie ahead; again where the machine fails, or seems to: a guest that does
        not come up in time may be one of too many."""
        sample = self._run_once(made, runs)
        return self._run_once(made, runs) if sample.no_boot else sample

    def _run_once(self, made: Made, runs: int) -> Sample:
        self._runs += 1
        folder = self._folder / f"{int(time.time())}-{self._runs}-{made.identity}"
        return again(partial(self._judge.run, made, folder, runs=runs), self._events)

    # -- telling -----------------------------------------------------------------------------------------------------

    def verdict(self, number: int) -> str:
        """``broken``, ``whole`` or ``skipped``."""
        known = self._of(self.state.judgements[number])
        if known.failures:
            return "broken"
        return "skipped" if known.untestable else "whole"

    def _tell(self, one: Judgement) -> None:
        known = self._of(one)
        runs = f", {known.failures} of {known.tally.runs} runs fail" if known.tally.runs > 1 else ""
        reason = one.why_same or known.untestable or known.message
        if one.same_as is not None:
            reason = f"{self.range.revision(one.same_as).name} again: {one.why_same}"
        verdict = self.verdict(one.number)
        text = f"{verdict.upper()} {self.range.told(one.number)}{runs}" + (f": {reason}" if reason else "")
        self._events(Finding(text, good=verdict == "whole"))

    def _note(self, one: Judgement) -> None:
        verdict = self.verdict(one.number)
        if verdict == "skipped":
            self.range.note(one.number, "skip")
        else:
            self.range.note(one.number, "new" if (verdict == "broken") is self.breaks else "old")

    def _replay(self) -> None:
        """Tell the range all verdicts, as they are now."""
        self.range.begin()
        for number, one in list(self.state.judgements.items()):
            if number not in (OLD_END, self.history.new_end) and (self._of(one).settled or self._of(one).untestable):
                self._note(one)
