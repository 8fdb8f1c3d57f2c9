"""From mutants to verdicts: what is built and run, in which order, and what it means.

The suite runs without a mutant first. Then, for each mutant: the tests that its header names, until one fails; where
none does, all of the feature's. The next mutant is built while the tests of the one before run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from harness.errors import BootError, InfraError, UserError
from harness.events import Finding, Notice, Phase, Sink
from harness.kernel.mutants import Mutant, covers
from harness.model import Kernel, Result
from harness.mutate.kept import Kept
from harness.mutate.runner import Report
from harness.mutate.verdicts import GOOD, KEPT, Judged, Verdict

FORMAT = 1
"""Of what is kept of a verdict."""
ATTEMPTS = 3
"""Runs of a mutant's tests, where somebody changes the tests meanwhile."""
OUTSIDE = "no test (the kernel complained between two)"
UNMUTATED = "unmutated"


class Kernels(Protocol):
    """See kernels.py."""

    def build(self, mutant: Mutant) -> Kernel: ...
    def discard(self, kernel: Kernel) -> None: ...


class Running(Protocol):
    def wait(self) -> Report: ...
    def end(self) -> None: ...


class Runner(Protocol):
    """See runner.py."""

    def start(
        self, kernel: Kernel, tests: Sequence[str], folder: Path, *, guests: int, first: bool = False
    ) -> Running: ...


@dataclass(frozen=True)
class Suite:
    """What the tests of a folder do without a mutant."""

    contents: str
    """A hash of what they were then."""
    results: dict[str, Result]
    red: str
    """Why they prove nothing; empty: they are green."""


@dataclass
class _InHand:
    """A mutant that is built, and whose tests run."""

    mutant: Mutant
    kernel: Kernel
    build_seconds: float
    suites: list[Suite]
    running: Running
    rest: bool
    """All tests of the feature run, not only the named ones."""


class Campaign:
    """All mutants that were asked for, on one base."""

    def __init__(
        self,
        base: Kernel,
        *,
        root: Path,
        kernels: Kernels,
        runner: Runner,
        kept: Kept,
        contents: Callable[[Path, Iterable[str]], str],
        folder: Path,
        guests: int,
        events: Sink,
        shape: Sequence[str] = (),
        every: bool = False,
    ) -> None:
        """``folder`` takes the results of each run; ``shape`` is what guests are like; ``every``: run all tests."""
        self.base = base
        self.judged: list[Judged] = []
        """In order of their verdicts, also after an interrupt."""
        self.suites: dict[str, Suite] = {}
        """By folder of tests."""
        self._root = root
        self._kernels = kernels
        self._runner = runner
        self._kept = kept
        self._contents = contents
        self._folder = folder
        self._guests = guests
        self._events = events
        self._shape = list(shape)
        self._every = every
        self._total = 0

    def run(self, mutants: Sequence[Mutant], *, anew: bool = False) -> None:
        """Judge them all. ``anew``: as if nothing were known of them.

        Raises UserError for a header that names a test which is not there, BootError for a base that does not boot, and
        InfraError for a machine that fails.
        """
        self._total = len(mutants)
        if anew:
            self._forget(mutants)
        queue = [mutant for mutant in sorted(mutants, key=_order) if not self._judged_by_header(mutant)]
        self._settle(folder for mutant in queue for folder in self._folders(mutant))
        if errors := [error for mutant in queue for error in self._misnamed(mutant)]:
            raise UserError("\n".join(errors))
        queue = [mutant for mutant in queue if not (self._is_red(mutant) or self._is_known(mutant))]
        self._pipeline(queue)

    # -- without building --------------------------------------------------------------------------------------------

    def _judged_by_header(self, mutant: Mutant) -> bool:
        if mutant.equivalent:
            self._judge(Judged(mutant, Verdict.EQUIVALENT, text=mutant.equivalent))
        elif misfit := mutant.misfit(self.base):
            self._judge(Judged(mutant, Verdict.MISFIT, text=misfit))
        else:
            return False
        return True

    def _is_red(self, mutant: Mutant) -> bool:
        reds = self._reds(mutant)
        if reds:
            self._judge(Judged(mutant, Verdict.RED, text=f"without it, {reds[0]}"))
        return bool(reds)

    def _reds(self, mutant: Mutant) -> list[str]:
        return [self.suites[folder].red for folder in self._folders(mutant) if self.suites[folder].red]

    def _is_known(self, mutant: Mutant) -> bool:
        kept = self._kept.get(self._name(mutant), self._key(mutant))
        if kept is None:
            return False
        self._judge(
            Judged(mutant, **{**kept, "verdict": Verdict(kept["verdict"]), "by": tuple(kept["by"])}, known=True)
        )
        return True

    def _misnamed(self, mutant: Mutant) -> list[str]:
        """What is wrong with the tests that a header names, a line each."""
        tests = [test for folder in self._folders(mutant) for test in self.suites[folder].results]
        gone = [killer for killer in mutant.killers if not any(covers(killer, test) for test in tests)]
        return [str(mutant.error(killer, f"there is no test {killer}")) for killer in gone if not self._reds(mutant)]

    # -- the suite without a mutant ----------------------------------------------------------------------------------

    def _settle(self, folders: Iterable[str]) -> None:
        """Know what the tests of these folders do without a mutant, as they are now."""
        now = {folder: self._contents(self._root, [folder]) for folder in dict.fromkeys(folders)}
        missing = []
        for folder, contents in now.items():
            if (suite := self.suites.get(folder)) and suite.contents == contents:
                continue
            if kept := self._kept.get(self._suite_name(folder), [contents, self._shape]):
                self.suites[folder] = Suite(contents, {test: Result(result) for test, result in kept.items()}, "")
            else:
                missing.append(folder)
        if missing:
            self._events(Phase("without a mutant", ", ".join(missing)))
            running = self._runner.start(self.base, missing, self._folder / UNMUTATED, guests=self._guests)
            report = self._report(running)
            if report.no_boot:
                raise BootError(f"without a mutant, {report.no_boot}")
            if report.error:
                raise InfraError(f"the tests cannot be run without a mutant: {report.error}")
        for folder in missing:
            self._take(folder, now[folder], report)

    def _take(self, folder: str, contents: str, report: Report) -> None:
        results = {test: result for test, result in report.results.items() if test.startswith(f"{folder}/")}
        bad = [test for test in report.bad if test in results]
        red = f"{len(bad)} fail, the first is {bad[0]}: {report.told(bad[0])}" if bad else ""
        red = red or (f"the kernel complains: {report.outside[0]}" if report.outside else "")
        if Result.PASSED not in results.values():
            red = red or f"no test of {folder} passes"
        self.suites[folder] = Suite(contents, results, red)
        if red:
            self._events(Finding(f"{folder} is red without a mutant, which proves nothing: {red}", good=False))
        else:
            answer = {test: str(result) for test, result in results.items()}
            self._kept.put(self._suite_name(folder), [contents, self._shape], answer)

    # -- build and test ----------------------------------------------------------------------------------------------

    def _pipeline(self, queue: Sequence[Mutant]) -> None:
        """While the tests of one mutant run, the next is built."""
        hand: _InHand | None = None
        try:
            for mutant in queue:
                self._events(Phase("mutant", mutant.name))
                built = self._build(mutant)
                if hand:
                    last, hand = hand, None
                    self._finish(last)
                if isinstance(built, Judged):
                    self._judge(built)
                else:
                    hand = self._begin(mutant, *built)
            if hand:
                last, hand = hand, None
                self._finish(last)
        finally:
            if hand:
                hand.running.end()

    def _build(self, mutant: Mutant) -> tuple[Kernel, float] | Judged:
        started = time.monotonic()
        try:
            kernel = self._kernels.build(mutant)
        except UserError as error:
            said = str(error).replace(f"patch {mutant.path} ", "").replace("the kernel does not compile: ", "")
            return Judged(mutant, Verdict.NO_BUILD, text=said.partition("\n")[0], detail=str(error))
        return kernel, time.monotonic() - started

    def _begin(self, mutant: Mutant, kernel: Kernel, build_seconds: float) -> _InHand:
        """Start the tests that the header names, or all if that was asked for or none of them can fail."""
        self._settle(self._folders(mutant))
        suites = [self.suites[folder] for folder in self._folders(mutant)]
        able = [test for suite in suites for test, result in suite.results.items() if result is not Result.SKIPPED]
        named = [killer for killer in mutant.killers if any(covers(killer, test) for test in able)]
        rest = self._every or not named
        if rest:
            running = self._start(mutant, kernel, self._folders(mutant), first=not self._every)
        else:
            running = self._start(mutant, kernel, named, guests=1, first=True)
        return _InHand(mutant, kernel, build_seconds, suites, running, rest)

    def _start(
        self, mutant: Mutant, kernel: Kernel, tests: Sequence[str], *, first: bool, guests: int = 0, suffix: str = ""
    ) -> Running:
        folder = self._folder / mutant.feature / f"{mutant.path.stem}{suffix}"
        return self._runner.start(kernel, tests, folder, guests=guests or self._guests, first=first)

    def _finish(self, hand: _InHand) -> None:
        """Wait for the tests and judge; again where the tests were changed while they ran."""
        try:
            for _ in range(ATTEMPTS):
                verdict = self._verdict(hand)
                now = [self._contents(self._root, [folder]) for folder in self._folders(hand.mutant)]
                if now == [suite.contents for suite in hand.suites]:
                    break
                self._events(Notice(f"the tests were changed while {hand.mutant.name} was tested: again"))
                hand = self._begin(hand.mutant, hand.kernel, hand.build_seconds)
            else:
                hand.running.end()
                verdict = Judged(hand.mutant, Verdict.NOT_RUN, text="the tests are being changed all the time")
        finally:
            self._kernels.discard(hand.kernel)
        if not self._is_red(hand.mutant):  # by a change of the tests since they were green
            self._judge(replace(verdict, build_seconds=hand.build_seconds))

    def _verdict(self, hand: _InHand) -> Judged:
        mutant = hand.mutant
        report = self._report(hand.running)
        seconds = report.seconds
        if not (hand.rest or report.bad or report.outside or report.no_boot or report.error):
            running = self._start(mutant, hand.kernel, self._folders(mutant), first=True, suffix=".all")
            report = self._report(running)
            seconds += report.seconds
        found = Judged(mutant, Verdict.SURVIVED, test_seconds=seconds)
        if report.no_boot:
            return replace(found, verdict=Verdict.NO_BOOT, text=report.no_boot)
        if report.bad:
            named = any(mutant.names(test) for test in report.bad)
            return replace(
                found, verdict=Verdict.KILLED, by=report.bad, named=named, text=self._killers_word(mutant, report)
            )
        if report.outside:
            return replace(found, verdict=Verdict.KILLED, by=(OUTSIDE,), named=False, text=report.outside[0])
        if report.error:
            return replace(found, verdict=Verdict.NOT_RUN, text=report.error)
        return found

    def _killers_word(self, mutant: Mutant, report: Report) -> str:
        """What the first killer said; where all tests have run, also which named ones noticed nothing."""
        said = report.told(report.bad[0])
        idle = [killer for killer in mutant.killers if not any(covers(killer, test) for test in report.bad)]
        return f"{said}; not noticed by {', '.join(idle)}" if self._every and idle else said

    def _report(self, running: Running) -> Report:
        try:
            return running.wait()
        finally:
            running.end()

    # -- bookkeeping -------------------------------------------------------------------------------------------------

    def _judge(self, judged: Judged) -> None:
        self.judged.append(judged)
        mutant = judged.mutant
        if judged.verdict in KEPT and not judged.known:
            facts = ("by", "named", "text", "detail", "build_seconds", "test_seconds")
            answer = {fact: getattr(judged, fact) for fact in facts} | {"verdict": str(judged.verdict)}
            self._kept.put(self._name(mutant), self._key(mutant), answer)
        self._events(Finding(f"{len(self.judged)}/{self._total} {judged}", good=judged.verdict in GOOD))

    def _forget(self, mutants: Sequence[Mutant]) -> None:
        for mutant in mutants:
            self._kept.forget(self._name(mutant))
            for folder in self._folders(mutant):
                self._kept.forget(self._suite_name(folder))

    def _folders(self, mutant: Mutant) -> list[str]:
        """Where tests are that may notice: the feature's folder, and those of the tests that are named."""
        own = f"selftests/{mutant.feature}"
        named = (str(Path(killer.partition("::")[0]).parent) for killer in mutant.killers)
        return list(dict.fromkeys([*([own] if (self._root / own).is_dir() else []), *named]))

    def _name(self, mutant: Mutant) -> list[str]:
        return ["mutant", mutant.name, self.base.identity]

    def _key(self, mutant: Mutant) -> list[Any]:
        """All that a verdict depends on, besides the base."""
        suites = [self.suites[folder].contents for folder in self._folders(mutant)]
        return [FORMAT, mutant.sha256, suites, self._shape, self._every]

    def _suite_name(self, folder: str) -> list[str]:
        return ["suite", folder, self.base.identity]


def _order(mutant: Mutant) -> tuple[str, tuple[str, ...], str]:
    """Mutants of the same files in a row: going from one to the next, fewer objects are compiled."""
    return mutant.feature, mutant.touches, mutant.name
