"""A matrix in miniature: kernels and runs that are made up, and everything between them as it is."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from harness.errors import KproofError
from harness.matrix.cells import Cell, cells
from harness.matrix.collect import Test
from harness.matrix.definition import Definition, load
from harness.matrix.ledger import Found, Ledger, Pending, Record
from harness.matrix.plan import TEST_SECONDS, Forecast, Machine, Plan, State, plan
from harness.matrix.prepare import Facts
from harness.matrix.run import Done, Matrix, Stage
from harness.model import Result, Version
from harness.pytest_plugin.predictions import FixedIn, KnownBug, Since

ONE, TWO, NEW, BUG = (f"selftests/a/test_{name}.py::test_{name}" for name in ("one", "two", "new", "bug"))
FIXED = "selftests/b/test_fixed.py::test_fixed"
TESTS = (
    Test(ONE),
    Test(TWO, features=("netkit",)),
    Test(NEW, said=(Since("6.13"),)),
    Test(BUG, said=(KnownBug("it leaks", "seen", match="leak"),)),
    Test(FIXED, said=(FixedIn("1d47b55b36d2", "7.1", {"6.12": "6.12.100"}, match="boom"),)),
)


def facts(version: str, *, code: str = "", identity: str = "") -> Facts:
    return Facts(identity or f"id-{version}", version, version, code or f"code-{version}", "root", 5.0)


def as_foretold(version: str) -> dict[str, Record]:
    """What the tests above do on a kernel that has all features, if all is well."""
    parsed = facts(version).parsed
    done = {ONE: Result.PASSED, TWO: Result.PASSED}
    done[NEW] = Result.PASSED if parsed >= Version(6, 13) else Result.SKIPPED
    done[BUG] = Result.XFAILED
    done[FIXED] = Result.PASSED if parsed >= Version(6, 12, 100) else Result.XFAILED
    return {nodeid: Record(nodeid, result, 0.5) for nodeid, result in done.items()}


@dataclass(eq=False)
class Step:
    """What is done for a cell, and what comes of it."""

    world: World
    name: str
    answer: object
    over: threading.Event = field(default_factory=threading.Event)
    ended: bool = False

    def wait(self) -> object:
        self.world.log.append(f"wait {self.name}")
        if self.name in self.world.endless:
            self.world.waiting.set()
            assert self.over.wait(20), f"{self.name} was not ended"
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer

    def end(self) -> None:
        self.ended = True
        self.over.set()


@dataclass
class World:
    """A project, what is kept, and the machine."""

    root: Path
    text: str = 'kernel = ["debian:6.12.8", "debian:6.12.100"]\n'
    tests: Sequence[Test] = TESTS
    log: list[str] = field(default_factory=list)
    stored: dict[str, Facts] = field(default_factory=dict)
    """Kernels that are there, by recipe."""
    made: dict[str, Facts | KproofError] = field(default_factory=dict)
    """What becomes of others; else they are of the version in their name."""
    found: dict[str, tuple[Found, str]] = field(default_factory=dict)
    """What runs find out, by cell; else what is foretold."""
    endless: set[str] = field(default_factory=set)
    """Steps that only an end from outside ends."""
    waiting: threading.Event = field(default_factory=threading.Event)
    """One of them has begun."""
    hashes: dict[str, str] = field(default_factory=dict)
    """Of test files that are not as they were."""
    seen: list[tuple[str, Stage]] = field(default_factory=list)
    cores: int = 2
    planned: Plan | None = None
    """The last plan."""

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.root / "outcomes", self.root / "locks")

    @property
    def pending(self) -> Pending:
        return Pending(self.root / "pending")

    def define(self, text: str) -> Definition:
        path = self.root / "matrix.toml"
        path.write_text(text)
        return load(path)

    def matrix(self, *, anew: bool = False, jobs: int | None = None, number: int = 1) -> Matrix:
        definition = self.define(self.text)

        def known(seen: Facts, own: Sequence[Test]) -> Mapping[str, Record]:
            from harness.matrix.identity import place_of

            place = place_of(seen.code, seen.root, ["shape"])
            return {} if anew else self.ledger.known(place, {test.nodeid: self.of(test.file) for test in own})

        self.planned = plan(
            cells(definition.choices, self.root),
            self.tests,
            forecast=self.forecast,
            known=known,
            seconds=lambda cell, seen, test: TEST_SECONDS,
            machine=Machine(self.cores, 8000),
            guests=2,
            memory_mb=512,
            jobs=jobs,
        )
        return Matrix(
            self.planned,
            steps=self,  # type: ignore[arg-type]
            ledger=self.ledger,
            pending=self.pending,
            sources=lambda: self.of,
            shape=["shape"],
            folder=self.root / f"results{number}",
            watch=self.watch,
            anew=anew,
        )

    def run(self, **options: object) -> dict[str, Done]:
        self.log.clear()
        matrix = self.matrix(**options)  # type: ignore[arg-type]
        matrix.run()
        return {done.cell.id: done for done in matrix.cells}

    def of(self, file: str) -> str:
        return self.hashes.get(file, "hash")

    def watch(self, done: Done) -> None:
        self.seen.append((done.cell.id, done.stage))

    def forecast(self, cell: Cell) -> Forecast:
        there = self.stored.get(cell.recipe)
        return Forecast(State.STORED, there) if there else Forecast(State.BUILD, seconds=100.0)

    # -- harness.matrix.run.Steps

    def prepare(self, cell: Cell, folder: Path) -> Step:
        self.log.append(f"make {cell.id}")
        version = cell.choice.kernel.rpartition(":")[2].partition(" ")[0]
        return Step(self, f"make {cell.id}", self.made.get(cell.recipe, facts(version)))

    def test(self, cell: Cell, seen: Facts, tests: Sequence[Test], left: Sequence[Test], folder: Path) -> Step:
        self.log.append(f"test {cell.id}: {len(left)}")
        every = as_foretold(seen.version)
        asked = {test.nodeid: every[test.nodeid] for test in left if test.nodeid in every}
        answer = self.found.get(cell.id, (Found(asked, frozenset(), whole=True), ""))
        return Step(self, f"test {cell.id}", answer)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def define(world: World) -> Callable[[str], Definition]:
    return world.define
