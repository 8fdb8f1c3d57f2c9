"""Selftests on a mutant's kernel: ``kproof run`` in a process of its own, beside the next build."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.child import Child, last_word
from harness.errors import InfraError
from harness.kernel.files import read_json
from harness.model import BAD, Kernel, Result

LIMIT = 7200.0
"""Seconds for one run; each of its tests has a limit of its own."""
LOG = "kproof.log"


@dataclass(frozen=True)
class Report:
    """What a run found out."""

    results: Mapping[str, Result] = field(default_factory=dict)
    messages: Mapping[str, str] = field(default_factory=dict)
    outside: tuple[str, ...] = ()
    """What the kernel complained of, or died of, outside of any test."""
    no_boot: str = ""
    """Why no test could run on this kernel."""
    error: str = ""
    """Why the run says nothing of the kernel."""
    seconds: float = 0.0

    @property
    def bad(self) -> tuple[str, ...]:
        return tuple(test for test, result in self.results.items() if result in BAD)

    def told(self, test: str) -> str:
        """The message of a bad test, with how it ended where that is more than a failure."""
        result, message = self.results[test], self.messages.get(test, "")
        return message if result is Result.FAILED else f"{result}: {message}".removesuffix(": ")


class Running:
    """A run that goes on."""

    def __init__(self, child: Child, folder: Path) -> None:
        self._child = child
        self._folder = folder

    def wait(self) -> Report:
        """Raises InfraError where it does not end in time."""
        status = self._child.wait(LIMIT)
        return read_report(self._folder, status, self._child.seconds)

    def end(self) -> None:
        """No process of it is left."""
        self._child.end()


class Runner:
    """Starts runs in one project."""

    def __init__(self, root: Path, options: Sequence[str]) -> None:
        """``options`` of ``kproof run`` say what guests are like."""
        self._root = root
        self._options = tuple(options)

    def start(self, kernel: Kernel, tests: Sequence[str], folder: Path, *, guests: int, first: bool = False) -> Running:
        """Run ``tests``; ``first``: only until one fails. The results go to ``folder``.

        Guests boot: a snapshot of a kernel that is used once costs more than it saves.
        """
        argv = ["harness.cli", "run", "--kernel", f"kernel:{kernel.identity}", "--cold"]
        argv += ["-n", str(guests), "--results", str(folder), *self._options, *(["-x"] if first else []), *tests]
        return Running(Child(argv, log=folder / LOG, cwd=self._root), folder)


def read_report(folder: Path, status: int, seconds: float) -> Report:
    """What ``kproof run`` left in its folder, and its exit status."""
    run: Any = read_json(folder / "run.json")
    last = last_word(folder / LOG, status)
    if not isinstance(run, dict):
        return Report(error=last, seconds=seconds)
    outcomes = run["outcomes"]
    results = {one["nodeid"]: Result(one["result"]) for one in outcomes}
    deaths = list(run["deaths_outside_tests"].values())
    outside = (*(title for _, title, _ in run["complaints_outside_tests"]), *deaths)
    no_boot = run["boot_failure"].partition("\n")[0]
    # guests that end while they collect: the kernel lives until then, and no test has run
    if status == InfraError.exit_status and deaths:
        no_boot = last
    return Report(
        results,
        {one["nodeid"]: one["message"] for one in outcomes},
        outside,
        no_boot,
        "" if no_boot or status in (0, 1) else last,
        seconds,
    )
