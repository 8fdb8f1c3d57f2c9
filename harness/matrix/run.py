"""From a plan to outcomes: kernels are made ready one after the other, and tests run beside each other.

A build has all cores for itself; a download disturbs nobody. What breaks in a cell ends that cell and nothing else.
What is known when somebody interrupts stays known.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from harness.errors import InfraError, KproofError
from harness.matrix.cells import Cell
from harness.matrix.collect import Test
from harness.matrix.identity import place_of
from harness.matrix.ledger import Found, Ledger, Pending, Record
from harness.matrix.plan import Plan, Planned, State
from harness.matrix.prepare import Facts


class Preparing(Protocol):
    def wait(self) -> Facts: ...
    def end(self) -> None: ...


class Testing(Protocol):
    def wait(self) -> tuple[Found, str]: ...
    def end(self) -> None: ...


class Steps(Protocol):
    """See steps.py."""

    def prepare(self, cell: Cell, folder: Path) -> Preparing: ...
    def test(self, cell: Cell, facts: Facts, tests: Sequence[Test], left: Sequence[Test], folder: Path) -> Testing: ...


class Stage(StrEnum):
    """Where a cell is."""

    WAITING = "waiting"
    PREPARING = "kernel"
    QUEUED = "queued"
    TESTING = "tests"
    DONE = "done"
    BROKEN = "broken"
    """Not all of its tests could run."""


@dataclass
class Done:
    """What became of a cell, and, until then, what is known of it."""

    planned: Planned
    folder: Path
    stage: Stage = Stage.WAITING
    facts: Facts | None = None
    records: dict[str, Record] = field(default_factory=dict)
    """The last word on each test, by id."""
    reused: frozenset[str] = frozenset()
    """Those of them that are from earlier calls."""
    trouble: tuple[tuple[str, str], ...] = ()
    """What its kernel complained of outside of any test: title and text."""
    broken: str = ""
    """Why not all of its tests have run."""
    stopped: bool = True
    """It did not come to an end of its own."""
    same_code: bool = False
    """Only after it was built was it seen that a kernel of the same code had been tested."""
    kernel_seconds: float = 0.0
    test_seconds: float = 0.0

    @property
    def cell(self) -> Cell:
        return self.planned.cell

    @property
    def results(self) -> Path:
        """Where its tests leave theirs."""
        return self.folder / "run"


INTERRUPTED = "interrupted"
Step = TypeVar("Step", "Preparing", "Testing")
Watch = Callable[[Done], None]
"""Told of each step of a cell; by any thread, one at a time."""


class Matrix:
    """One run of a plan."""

    def __init__(
        self,
        plan: Plan,
        *,
        steps: Steps,
        ledger: Ledger,
        pending: Pending,
        sources: Callable[[], Callable[[str], str]],
        shape: Sequence[str],
        folder: Path,
        watch: Watch,
        anew: bool = False,
    ) -> None:
        """``sources()`` looks at the tests as they are now, and gives the hash of a test file's sources.

        ``shape`` is what guests are like, as far as outcomes depend on it. ``anew``: nothing that is known is reused.
        """
        self.cells = [Done(planned, folder / "cells" / planned.cell.id) for planned in plan.cells]
        self._jobs = plan.jobs
        self._steps = steps
        self._ledger = ledger
        self._pending = pending
        self._sources = sources
        self._shape = tuple(shape)
        self._watch = watch
        self._anew = anew
        self._cores = Cores()
        self._telling = threading.Lock()
        self._live: set[Preparing | Testing] = set()
        self._stopped = False

    def run(self) -> None:
        """Run all cells. Raises KeyboardInterrupt when it was interrupted, after all has ended and is kept."""
        with ThreadPoolExecutor(self._jobs, "tests") as testers, ThreadPoolExecutor(1, "kernels") as makers:
            # an interrupt while a pool starts a thread would hide that from the pool: let it be there before any work
            makers.submit(int).result()
            try:
                making = [makers.submit(self._make, group, testers) for group in self._by_kernel()]
                for group in making:
                    for test in group.result():
                        test.result()
            except BaseException:
                self._stop()
                makers.shutdown(cancel_futures=True)
                testers.shutdown(cancel_futures=True)
                raise

    def _by_kernel(self) -> list[list[Done]]:
        groups: dict[str, list[Done]] = {}
        for done in self.cells:
            groups.setdefault(done.cell.recipe, []).append(done)
        return list(groups.values())

    # -- kernels -----------------------------------------------------------------------------------------------------

    def _make(self, group: list[Done], testers: ThreadPoolExecutor) -> list[Future[None]]:
        """Make a kernel ready and let the tests of its cells run; returns what to wait for."""
        facts = group[0].planned.forecast.facts or self._prepared(group)
        if facts is None:
            return []
        for done in group:
            done.facts = facts
            self._tell(done, Stage.QUEUED)
        return [testers.submit(self._guarded, done, facts) for done in group]

    def _prepared(self, group: list[Done]) -> Facts | None:
        """None: it could not be made, and its cells are broken."""
        first = group[0]
        builds = first.planned.forecast.state in (State.BUILD, State.FETCH_AND_BUILD)
        began = 0.0
        try:
            with self._cores.alone() if builds else self._cores.beside():
                began = time.monotonic()
                for done in group:
                    self._tell(done, Stage.PREPARING)
                with self._going(partial(self._steps.prepare, first.cell, first.folder)) as preparing:
                    return preparing.wait()
        except (KproofError, OSError) as error:
            for done in group:
                self._break(done, str(error))
            return None
        finally:
            first.kernel_seconds = time.monotonic() - began if began else 0.0

    # -- tests -------------------------------------------------------------------------------------------------------

    def _guarded(self, done: Done, facts: Facts) -> None:
        try:
            self._test(done, facts)
        except (KproofError, OSError) as error:
            self._break(done, str(error))

    def _test(self, done: Done, facts: Facts) -> None:
        """Run what is not known of a cell, now that its kernel is there, and keep what that finds out."""
        sources = self._hashes(done)
        place = place_of(facts.code, facts.root, self._shape)
        if not self._anew:
            done.records = self._ledger.known(place, sources)
            done.reused = frozenset(done.records)
            done.same_code = bool(done.reused) and done.planned.forecast.facts is None
        left = [test for test in done.planned.tests if test.nodeid not in done.records]
        if left:
            with self._cores.beside():
                self._tell(done, Stage.TESTING)
                began = time.monotonic()
                self._pending.begin(done.results, place, sources)
                try:
                    start = partial(self._steps.test, done.cell, facts, done.planned.tests, left, done.results)
                    with self._going(start) as testing:
                        found, done.broken = testing.wait()
                finally:
                    done.test_seconds = time.monotonic() - began
            now = self._hashes(done)
            unchanged = {nodeid: known for nodeid, known in sources.items() if now.get(nodeid) == known}
            self._ledger.put(place, found, unchanged)
            self._pending.over(done.results)
            done.records |= found.records
            done.trouble = found.outside
        if done.broken:
            self._break(done, done.broken)
        else:
            self._tell(done, Stage.DONE)

    def _hashes(self, done: Done) -> dict[str, str]:
        """Of the sources of each test, by id, as they are now."""
        of = self._sources()
        return {test.nodeid: of(test.file) for test in done.planned.tests}

    # -- bookkeeping -------------------------------------------------------------------------------------------------

    def _break(self, done: Done, why: str) -> None:
        done.broken = INTERRUPTED if self._stopped else why
        self._tell(done, Stage.BROKEN)

    def _tell(self, done: Done, stage: Stage) -> None:
        with self._telling:
            done.stage = stage
            done.stopped = self._stopped or stage not in (Stage.DONE, Stage.BROKEN)
            self._watch(done)

    @contextmanager
    def _going(self, start: Callable[[], Step]) -> Iterator[Step]:
        """A step that ends with us. Raises InfraError where it is too late to begin one."""
        with self._telling:
            if self._stopped:
                raise InfraError(INTERRUPTED)
            step = start()
            self._live.add(step)
        try:
            yield step
        finally:
            step.end()
            with self._telling:
                self._live.discard(step)

    def _stop(self) -> None:
        """End what goes on; the threads that wait for it keep what it has found out."""
        with self._telling:
            self._stopped = True
            live = list(self._live)
        for step in live:
            step.end()


class Cores:
    """Who may use them: tests of several cells beside each other, or one build."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._beside = 0
        self._alone = False

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Waits until nobody else has them."""
        with self._changed:
            self._changed.wait_for(lambda: not (self._beside or self._alone))
            self._alone = True
        try:
            yield
        finally:
            with self._changed:
                self._alone = False
                self._changed.notify_all()

    @contextmanager
    def beside(self) -> Iterator[None]:
        """Waits until no build has them."""
        with self._changed:
            self._changed.wait_for(lambda: not self._alone)
            self._beside += 1
        try:
            yield
        finally:
            with self._changed:
                self._beside -= 1
                self._changed.notify_all()
