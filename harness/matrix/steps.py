"""The two things that are done for a cell, each in a process of its own: its kernel is made ready, its tests run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.child import Child, last_word
from harness.errors import InfraError, KproofError, UserError
from harness.matrix.cells import Cell
from harness.matrix.collect import Test
from harness.matrix.ledger import Found, read_run
from harness.matrix.prepare import Facts

PREPARE_LIMIT = 7200.0
"""Seconds: a full build with a debug flavour on one slow core, with room."""
TEST_LIMIT = 14400.0
"""Seconds for a cell's tests; each of them has a limit of its own."""
LOG = "kproof.log"
FACTS = "kernel.json"


@dataclass(frozen=True)
class Shape:
    """What guests are like."""

    launcher: Literal["image", "virtme"] = "image"
    memory_mb: int = 512
    cpus: int = 2
    accel: str = ""
    """Empty: the best that works here."""
    cold: bool = False
    """They boot, each of them, and are not restored from a snapshot: no part of what an outcome depends on."""

    @property
    def options(self) -> list[str]:
        """Of ``kproof run``: what outcomes depend on."""
        options = ["--root", self.launcher, "--memory", str(self.memory_mb), "--cpus", str(self.cpus)]
        return [*options, *(["--accel", self.accel] if self.accel else [])]


class Preparing:
    """A kernel that is being made ready."""

    def __init__(self, child: Child, folder: Path) -> None:
        self._child = child
        self._folder = folder

    def wait(self) -> Facts:
        """Raises UserError for what cannot be built, InfraError for a machine that fails."""
        status = self._child.wait(PREPARE_LIMIT)
        facts = Facts.read(self._folder / FACTS)
        if status == 0 and facts:
            return facts
        kind: type[KproofError] = UserError if status == UserError.exit_status else InfraError
        raise kind(last_word(self._folder / LOG, status))

    def end(self) -> None:
        self._child.end()


class Testing:
    """Selftests that run on a cell's kernel."""

    def __init__(self, child: Child, folder: Path) -> None:
        self._child = child
        self._folder = folder

    def wait(self) -> tuple[Found, str]:
        """What they found out, and why that is not all; empty: it is."""
        status = self._child.wait(TEST_LIMIT)
        found = read_run(self._folder)
        if found.boot_failure:
            return found, found.boot_failure.partition("\n")[0]
        return found, "" if found.whole and status in (0, 1) else last_word(self._folder / LOG, status)

    def end(self) -> None:
        self._child.end()


class Steps:
    """Starts them, in one project."""

    def __init__(self, root: Path, shape: Shape, guests: int) -> None:
        """``guests`` run a cell's tests: no part of what an outcome depends on."""
        self._root = root
        self._shape = shape
        self._guests = guests

    def prepare(self, cell: Cell, folder: Path) -> Preparing:
        """``folder`` takes log and facts."""
        (folder / FACTS).unlink(missing_ok=True)
        argv = ["harness.matrix.prepare", cell.recipe, str(folder / FACTS), self._shape.launcher]
        return Preparing(Child(argv, log=folder / LOG, cwd=self._root), folder)

    def test(self, cell: Cell, facts: Facts, tests: Sequence[Test], left: Sequence[Test], folder: Path) -> Testing:
        """Run those of a cell's tests that are left; ``folder`` takes their results."""
        argv = ["harness.cli", "run", "--kernel", kernel_of(cell, facts), "-n", str(self._guests)]
        argv += ["--cold"] if self._shape.cold else []
        argv += ["--results", str(folder), *self._shape.options, *arguments(cell.tests, tests, left)]
        return Testing(Child(argv, log=folder / LOG, cwd=self._root), folder)


def kernel_of(cell: Cell, facts: Facts) -> str:
    """The recipe that means exactly the kernel which was made ready."""
    return cell.recipe if cell.source.startswith("image:") else f"kernel:{facts.identity}"


def arguments(paths: Sequence[str], tests: Sequence[Test], left: Sequence[Test]) -> list[str]:
    """The fewest words that select the tests which are left: whole paths, whole files, or single tests."""
    wanted = {test.nodeid for test in left}
    if len(wanted) == len(tests):
        return list(paths)
    of_file: dict[str, list[str]] = {}
    for test in tests:
        of_file.setdefault(test.file, []).append(test.nodeid)
    words: list[str] = []
    for file, ids in of_file.items():
        mine = [nodeid for nodeid in ids if nodeid in wanted]
        # a file that the cell has not all of is never named as a whole
        words += [file] if len(mine) == len(ids) and any(Test(file).within(path) for path in paths) else mine
    return words
