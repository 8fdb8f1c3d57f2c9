"""What a run of the test says of a kernel: what failed there, and whether that is the failure that is hunted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.child import last_word
from harness.errors import InfraError, UserError
from harness.kernel.files import read_json
from harness.model import BAD, Result

LOG = "kproof.log"
"""What a run said, in its folder."""
NO_TESTS = 5
"""Exit status of a run that selected none."""


@dataclass(frozen=True, order=True)
class Failure:
    """How a test fails: the same in another run and on another kernel, so no message with numbers is in it."""

    test: str
    """Its id; empty: the kernel complained, or died, outside of any."""
    how: str
    """Its result: failed, error, crashed, hung."""
    title: str = ""
    """Of the first splat during the test; empty: the kernel did not complain."""

    def __str__(self) -> str:
        return f"{self.test or 'outside of any test'} {self.how}" + (f" ({self.title})" if self.title else "")


@dataclass(frozen=True)
class Sample:
    """What a run found out."""

    results: Mapping[str, Result] = field(default_factory=dict)
    failures: Mapping[Failure, str] = field(default_factory=dict)
    """Each with its message."""
    skips: Mapping[str, str] = field(default_factory=dict)
    """Why tests were skipped."""
    no_boot: str = ""
    """Why no test could run on this kernel."""
    seconds: float = 0.0


@dataclass(frozen=True)
class Judged:
    """What a run says of its revision."""

    failed: bool = False
    """As the hunted tests fail."""
    untestable: str = ""
    """Why it says nothing; else, without ``failed``, the hunted tests have passed."""
    message: str = ""


def compare(sample: Sample, hunted: Sequence[Failure]) -> Judged:
    """Tell the hunted failures from others, by test, kind and splat title."""
    if sample.no_boot:
        return Judged(untestable=f"does not boot: {sample.no_boot}")
    for failure in hunted:
        if failure in sample.failures:
            return Judged(failed=True, message=sample.failures[failure])
    for failure, message in sample.failures.items():
        if not failure.test or failure.test in {one.test for one in hunted}:
            return Judged(untestable=f"another failure: {failure}: {message}".removesuffix(": "))
    for test in dict.fromkeys(one.test for one in hunted if one.test):
        result = sample.results.get(test, Result.NOT_RUN)
        if result is not Result.PASSED:
            why = sample.skips.get(test, "")
            return Judged(untestable=f"{test} was {result}: {why}".removesuffix(": "))
    return Judged()


def read_sample(folder: Path, status: int, seconds: float) -> Sample:
    """What ``kproof run`` left in its folder, and its exit status. Raises what ended it, where that is no result."""
    run: Any = read_json(folder / "run.json")
    if status in (UserError.exit_status, NO_TESTS):
        raise UserError(last_word(folder / LOG, status))
    if not isinstance(run, dict):
        raise InfraError(last_word(folder / LOG, status))
    outcomes = run["outcomes"]
    deaths = list(run["deaths_outside_tests"].values())
    no_boot = run["boot_failure"].partition("\n")[0]
    # guests that end while they collect: the kernel lives until then, and no test has run
    if status == InfraError.exit_status and deaths:
        no_boot = deaths[0]
    if not no_boot and status not in (0, 1):
        raise InfraError(last_word(folder / LOG, status))
    failures = {_failure(one): one["message"] for one in outcomes if one["result"] in BAD}
    failures |= {Failure("", "complaint", title): "" for _, title, _ in run["complaints_outside_tests"]}
    failures |= {Failure("", "death", title): "" for title in deaths}
    return Sample(
        {one["nodeid"]: Result(one["result"]) for one in outcomes},
        failures,
        {one["nodeid"]: one["message"] for one in outcomes if one["result"] == Result.SKIPPED},
        no_boot,
        seconds,
    )


def _failure(outcome: Mapping[str, Any]) -> Failure:
    splats = [splat["title"] for splat in outcome["splats"]]
    # the message of a crash is the title of its end
    title = splats[0] if splats else outcome["message"] if outcome["result"] == Result.CRASHED else ""
    return Failure(outcome["nodeid"], outcome["result"], title)
