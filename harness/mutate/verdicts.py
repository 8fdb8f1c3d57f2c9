"""What became of a mutant, and what that makes of the whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median
from typing import Any

from harness.errors import InfraError
from harness.kernel.mutants import Mutant


class Verdict(StrEnum):
    KILLED = "killed"
    SURVIVED = "survived"
    NO_BUILD = "did not build"
    NO_BOOT = "does not boot"
    """No test has noticed anything: none has run."""
    RED = "not proven"
    """The tests fail without the mutant."""
    NOT_RUN = "not run"
    """The machine failed."""
    EQUIVALENT = "equivalent"
    MISFIT = "not for this kernel"


KEPT = frozenset({Verdict.KILLED, Verdict.SURVIVED, Verdict.NO_BUILD, Verdict.NO_BOOT})
"""What a later call need not find out again."""
GOOD = frozenset({Verdict.KILLED, Verdict.EQUIVALENT, Verdict.MISFIT})
INCOMPLETE = frozenset({Verdict.NO_BUILD, Verdict.NOT_RUN})
UNTRIED = frozenset({Verdict.EQUIVALENT, Verdict.MISFIT})
NOTHING_TRIED = 5
"""Exit status, as of a run that selects no test."""


@dataclass(frozen=True)
class Judged:
    """A mutant with its verdict."""

    mutant: Mutant
    verdict: Verdict
    by: tuple[str, ...] = ()
    """The tests that noticed; the first ones, unless all were asked for."""
    named: bool = True
    """One of them is named in the header."""
    text: str = ""
    """One line: what the killer said, the compiler's first error, the reason why no test can notice."""
    detail: str = ""
    """All that was said of a build that failed."""
    build_seconds: float = 0.0
    test_seconds: float = 0.0
    known: bool = False
    """From an earlier call."""

    @property
    def seconds(self) -> float:
        return self.build_seconds + self.test_seconds

    def __str__(self) -> str:
        parts = [f"{self.verdict.upper()} {self.mutant.name}"]
        if self.by:
            parts.append(f" by {', '.join(short(test, self.mutant) for test in self.by)}")
        if not self.named:
            parts.append(", which the header does not name")
        if self.text:
            parts.append(f": {self.text}")
        if self.known:
            parts.append(" (known)")
        elif self.seconds:
            parts.append(f" ({self.build_seconds:.1f} s to build, {self.test_seconds:.1f} s to test)")
        return "".join(parts)

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.mutant.name,
            "file": str(self.mutant.path),
            "title": self.mutant.title,
            "breaks": self.mutant.breaks,
            "verdict": str(self.verdict),
            "by": list(self.by),
            "named": self.named,
            "text": self.text,
            "detail": self.detail,
            "build_seconds": round(self.build_seconds, 2),
            "test_seconds": round(self.test_seconds, 2),
            "known": self.known,
        }


def short(test: str, mutant: Mutant) -> str:
    """A test's id without the folder that the mutant's feature has anyway."""
    return test.removeprefix(f"selftests/{mutant.feature}/")


def exit_status(judged: Sequence[Judged]) -> int:
    """3: something was not built or not run; else 1: not every mutant was noticed; else 0. 5: none was tried."""
    verdicts = {one.verdict for one in judged}
    if verdicts & INCOMPLETE:
        return InfraError.exit_status
    if verdicts - GOOD:
        return 1
    return 0 if verdicts - UNTRIED else NOTHING_TRIED


def usual_seconds(judged: Sequence[Judged]) -> float:
    """The median of what a mutant took that was built and tested just now; 0: there is none."""
    return median([one.seconds for one in judged if one.test_seconds and not one.known] or [0.0])
