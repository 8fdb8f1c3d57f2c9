"""PYTEST_DONT_REWRITE: from what pytest reports of a test's phases to the one outcome of the test."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from harness.model import Outcome, Result
from harness.pytest_plugin.evidence import KERNEL_SECTION

PHASES = ("setup", "call", "teardown")


def outcome_of(phases: list[Any], guest: str) -> Outcome:
    """One outcome of a test's phases: the first that failed decides, else a skip; set-up and teardown make errors.

    A complaint of the kernel comes with the teardown, when all is over, and makes a failed test of any other.
    """
    last = phases[-1]
    outcome = Outcome(
        phases[0].nodeid,
        Result.PASSED,
        round(sum(report.duration for report in phases), 3),
        guest=guest,
        kernel_log=getattr(last, "kproof_kernel_log", ""),
        taint=tuple(last.kproof_taint) if hasattr(last, "kproof_taint") else None,
        phases=durations(phases),
        known=tuple((regex, title) for regex, title in getattr(last, "kproof_known", [])),
    )
    if failed := [report for report in phases if report.failed]:
        first, *more = failed
        own = first.when == "call" or getattr(first, "kproof_failed", False)
        place = {"setup": "in set-up: ", "teardown": "in teardown: "}[first.when] if not own else ""
        return replace(
            outcome,
            result=Result.FAILED if own else Result.ERROR,
            message=place + _headline(first),
            detail="".join([_full_text(first), *map(_more_text, more)]),
        )
    for report in phases:
        expected = getattr(report, "wasxfail", None)
        if report.skipped and expected is not None:
            reason = expected.removeprefix("reason: ")  # so begins what pytest.xfail() says
            return replace(outcome, result=Result.XFAILED, message=reason, detail=_full_text(report))
        if report.skipped:
            reason = report.longrepr[2].removeprefix("Skipped: ") if isinstance(report.longrepr, tuple) else ""
            return replace(outcome, result=Result.SKIPPED, message=reason)
        if expected is not None:  # not strict, else it had failed
            reason = expected.removeprefix("reason: ")
            return replace(outcome, message=f"passed, although a failure is expected: {reason}")
    return outcome


def durations(phases: list[Any]) -> dict[str, float]:
    return {report.when: round(report.duration, 3) for report in phases}


def _headline(report: Any) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash else str(report.longrepr)
    return next((line for line in text.splitlines() if line.strip()), "failed")


def _full_text(report: Any) -> str:
    sections = "".join(f"\n--- {title} ---\n{content}" for title, content in report.sections)
    return f"{report.longreprtext}\n{sections}"


def _more_text(report: Any) -> str:
    """What a phase says that failed after another: without the captured output, which the first has shown."""
    sections = "".join(f"\n{content}" for title, content in report.sections if title == KERNEL_SECTION)
    return f"\n--- {report.when} ---\n{report.longreprtext}{sections}\n"
