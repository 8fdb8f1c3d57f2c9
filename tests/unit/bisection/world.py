"""A range without kernels, and a test that fails as it is told: what a search does is seen in milliseconds."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from harness.bisect.decide import History
from harness.bisect.kernels import Made, Untestable
from harness.bisect.ranges import CannotProve, Range, Revision
from harness.bisect.samples import Failure, Sample
from harness.bisect.search import Search
from harness.bisect.state import State
from harness.errors import InfraError
from harness.events import Event
from harness.model import Request, Result

TEST = "selftests/toy/test_toy.py::test_it"
HUNTED = Failure(TEST, "failed")


class FakeRange(Range):
    kind = "commit"

    def __init__(self, history: History) -> None:
        self.history = history
        self.notes: list[tuple[int, str]] = []
        self.same: dict[int, int] = {}
        self.unprovable = ""

    @property
    def key(self) -> list[str]:
        return ["fake"]

    def revision(self, number: int) -> Revision:
        return Revision(f"r{number}", "", Request(source=f"git:/x@{number}"))

    def note(self, number: int, verdict: str) -> None:
        self.notes.append((number, verdict))

    def begin(self) -> None:
        self.notes.clear()

    def same_code(self, number: int, judged: object) -> tuple[int, str] | None:
        other = self.same.get(number)
        return (other, "no file that is built differs") if other is not None and other in judged else None  # type: ignore[operator]

    def proof(self, culprit: int, *, breaks: bool, folder: Path) -> Request:
        if self.unprovable:
            raise CannotProve(self.unprovable)
        return Request(source="git:/x@proof")


@dataclass
class World:
    """``first``: the first new revision. What the test does on each revision, and what happened."""

    folder: Path
    history: History
    first: int
    breaks: bool = True
    rate: float = 1.0
    confidence: float = 0.99
    seed: int = 0
    no_build: frozenset[int] = frozenset()
    no_boot: frozenset[int] = frozenset()
    other: frozenset[int] = frozenset()
    """Another failure than the hunted one."""
    codes: Mapping[int, str] = field(default_factory=dict)
    infra: int = 0
    """So many runs fail for want of a machine."""
    die_after: int = 10**9
    """Runs, until the process is killed."""
    proof_fails: bool = False
    forgetful: bool = False
    """Nothing is saved: the disk is slower than all else."""
    built: list[int] = field(default_factory=list)
    runs: list[int] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.range = FakeRange(self.history)

    def search(self) -> Search:
        state = State.load(self.folder, ["key"])
        if self.forgetful:
            state.save = lambda: None  # type: ignore[method-assign]
        return Search(
            self.range,
            kernels=self,
            judge=self,
            state=state,
            folder=self.folder / "runs",
            breaks=self.breaks,
            confidence=self.confidence,
            events=self.events.append,
        )

    def broken(self, number: int) -> bool:
        return (self.first in self.history.within(number)) is self.breaks

    # -- harness.bisect.search.Making

    def make(self, request: Request) -> Made:
        name = request.source.partition("@")[2]
        if name == "proof":
            return Made("proof", "kernel:proof", "", 1.0)
        number = int(name)
        self.built.append(number)
        if number in self.no_build:
            raise Untestable("does not build: net/core/dev.c:1: no")
        return Made(name, name, self.codes.get(number, ""), 1.0)

    def read(self, identity: str) -> None:
        return None

    def alike(self, one: Request, other: Request) -> bool:
        return True

    # -- harness.bisect.search.Running

    def run(self, made: Made, folder: Path, *, runs: int) -> Sample:
        kernel = made.recipe
        assert runs >= 1
        if self.infra:
            self.infra -= 1
            raise InfraError("no memory")
        if kernel == "kernel:proof":
            return self.failed(HUNTED) if self.proof_fails else Sample({TEST: Result.PASSED})
        number = int(kernel)
        if len(self.runs) >= self.die_after:
            raise KeyboardInterrupt
        self.runs.append(number)
        if number in self.no_boot:
            return Sample(no_boot="Kernel panic - not syncing: no")
        if number in self.other:
            return self.failed(Failure(TEST, "failed", "WARNING in other"))
        if self.broken(number) and self.random.random() < self.rate:
            return self.failed(HUNTED)
        return Sample({TEST: Result.PASSED})

    def failed(self, failure: Failure) -> Sample:
        return Sample({TEST: Result.FAILED}, {failure: "assert 1 == 2"})
