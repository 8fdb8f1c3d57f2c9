"""What a test must do on a kernel, and whether it did: only what was not foretold is worth a word."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase

from harness.matrix.collect import Test
from harness.matrix.definition import Choice, Skips
from harness.matrix.ledger import Record
from harness.model import BAD, Result, Version

UNMET = ("predicted to fail with ", "predicted to crash with ")
BUT_PASSED = ", but passed"
"""What the message of a test says that should have failed and passed (pytest_plugin/predictions.py)."""


class Kind(StrEnum):
    FAILURE = "unexpected failure"
    PASS = "unexpected pass"
    SKIP = "unexpected skip"
    MISSING = "missing outcome"


@dataclass(frozen=True)
class Expectation:
    """What is foretold of a test on a kernel."""

    result: Result
    """PASSED, SKIPPED or XFAILED."""
    why: str = ""
    """What foretells it; empty for a pass, which nothing need foretell."""

    def __str__(self) -> str:
        word = {Result.PASSED: "pass", Result.SKIPPED: "be skipped", Result.XFAILED: "fail as foretold"}[self.result]
        return f"{word}: {self.why}" if self.why else word


@dataclass(frozen=True)
class Surprise:
    """One thing that was not foretold."""

    cell: str
    """Its id."""
    nodeid: str
    """Empty: it is of the cell as a whole."""
    kind: Kind
    text: str
    """One line: what happened."""
    expected: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.nodeid or 'the whole cell'} on {self.cell}: {self.text}"


def expect(test: Test, choice: Choice, version: Version, skips: Iterable[Skips]) -> Expectation:
    """What markers and the matrix foretell. A skip comes before all else: a test that is skipped cannot fail."""
    from harness.pytest_plugin.predictions import Limit
    from harness.pytest_plugin.slow import REASON as SLOW

    if test.slow and not any("::" in path and test.within(path) for path in choice.selftests.split()):
        return Expectation(Result.SKIPPED, SLOW)
    for said in test.said:
        if isinstance(said, Limit) and (lacking := said.lacking(version)):
            return Expectation(Result.SKIPPED, lacking)
    for each in skips:
        if each.holds(choice, version):
            if lacking_feature := next((name for name in test.features if name in each.features), ""):
                return Expectation(Result.SKIPPED, f"lacks {lacking_feature}: {each.because}")
            if any(fnmatchcase(test.nodeid, _escaped(pattern)) for pattern in each.tests):
                return Expectation(Result.SKIPPED, each.because)
    for said in test.said:
        if not isinstance(said, Limit) and (prediction := said.predict(version)):
            return Expectation(Result.XFAILED, prediction.why)
    return Expectation(Result.PASSED)


def _escaped(pattern: str) -> str:
    """Brackets mean themselves: they are a test id's parameters."""
    return pattern.replace("[", "[[]")


def judge(cell: str, test: str, expected: Expectation, record: Record | None) -> Surprise | None:
    """None: it did what was foretold."""
    if record is None or record.result is Result.NOT_RUN:
        text = record.message if record else "it was selected, and has no outcome"
        return Surprise(cell, test, Kind.MISSING, text, str(expected))
    if record.result is expected.result:
        return None
    match record.result:
        case Result.PASSED:
            return Surprise(cell, test, Kind.PASS, "it passed", str(expected))
        case Result.SKIPPED:
            return Surprise(cell, test, Kind.SKIP, record.message, str(expected))
        case Result.FAILED if record.message.startswith(UNMET) and BUT_PASSED in record.message:
            return Surprise(cell, test, Kind.PASS, record.message, str(expected))
        case Result.FAILED | Result.XFAILED:
            return Surprise(cell, test, Kind.FAILURE, record.message, str(expected))
        case _:
            return Surprise(cell, test, Kind.FAILURE, f"{record.result}: {record.message}", str(expected))


def of_cell(
    cell: str,
    expected: Mapping[str, Expectation],
    records: Mapping[str, Record],
    *,
    broken: str,
    trouble: Iterable[tuple[str, str]],
) -> list[Surprise]:
    """All surprises of a cell, those of the whole first. ``expected`` has every test that was selected.

    Where not all could run, that is one surprise, and not one for each test that has no outcome.
    """
    missing = [test for test in expected if test not in records or records[test].result is Result.NOT_RUN]
    found = [Surprise(cell, "", Kind.FAILURE, f"outside of any test: {title}") for title, _ in trouble]
    if broken:
        found.insert(
            0, Surprise(cell, "", Kind.MISSING, f"{len(missing)} of {len(expected)} tests did not run: {broken}")
        )
    for test, expectation in expected.items():
        if broken and test in missing:
            continue
        if surprise := judge(cell, test, expectation, records.get(test)):
            found.append(surprise)
    # what cannot be collected in a guest has an outcome of its own
    strangers = [record for nodeid, record in records.items() if nodeid not in expected and record.result in BAD]
    return found + [Surprise(cell, one.nodeid, Kind.FAILURE, one.message) for one in strangers]
