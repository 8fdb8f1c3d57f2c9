"""Verdicts as a table, as ``mutants.json`` and as ``junit.xml``."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import __version__
from harness.errors import InfraError
from harness.kernel.mutants import Mutant
from harness.model import Kernel, Request, Result
from harness.mutate.campaign import Suite
from harness.mutate.verdicts import Judged, Verdict, short, usual_seconds
from harness.tables import table

if TYPE_CHECKING:
    from junit_xml import TestCase

WORST_FIRST = (
    *(Verdict.NOT_RUN, Verdict.NO_BUILD, Verdict.RED, Verdict.NO_BOOT, Verdict.SURVIVED),
    *(Verdict.MISFIT, Verdict.EQUIVALENT, Verdict.KILLED),
)


def listing(mutants: Sequence[Mutant]) -> str:
    """What there is, without trying anything."""
    rows = []
    for mutant in mutants:
        base = " ".join([mutant.versions.text, *(f"+{name}" for name in mutant.series)])
        first, *more = [short(test, mutant) for test in mutant.killers] or ["equivalent"]
        rows.append((mutant.name, base, f"{first} and {len(more)} more" if more else first, mutant.breaks))
    return table(("MUTANT", "BASE", "KILLED BY", "PROMISE"), rows)


def verdicts_table(judged: Sequence[Judged]) -> str:
    """One line for each mutant, by name."""
    rows = []
    for one in sorted(judged, key=lambda one: one.mutant.name):
        by = ", ".join(short(test, one.mutant) for test in one.by) or one.text or "-"
        seconds = f"{one.seconds:.1f}" if one.seconds else "-"
        rows.append((one.mutant.name, str(one.verdict), seconds, by, one.mutant.breaks))
    return table(("MUTANT", "VERDICT", "SECONDS", "BY", "PROMISE"), rows)


def summary_line(judged: Sequence[Judged], seconds: float, folder: str) -> str:
    """The counts, the worst first, and what it took."""
    counts = Counter(one.verdict for one in judged)
    told = ", ".join(f"{counts[verdict]} {verdict}" for verdict in WORST_FIRST if counts[verdict]) or "nothing judged"
    usual = f", {usual_seconds(judged):.1f} s for the usual one" if usual_seconds(judged) else ""
    return f"{told}; {seconds:.1f} s in all{usual}; {folder}"


def write(
    folder: Path,
    judged: Sequence[Judged],
    *,
    suites: Mapping[str, Suite],
    request: Request,
    base: Kernel,
    started: float,
    seconds: float,
    status: int,
    left: int,
) -> None:
    """Leave both files in ``folder``; ``left`` mutants were not judged. InfraError when they cannot be written."""
    facts = {
        "kproof": __version__,
        "started": datetime.fromtimestamp(started).astimezone().isoformat(timespec="seconds"),
        "seconds": round(seconds, 2),
        "usual_seconds": round(usual_seconds(judged), 2),
        "exit_status": status,
        "not_judged": left,
        "request": str(request),
        "kernel": {"identity": base.identity, "release": base.release},
        "unmutated": {
            name: {"red": suite.red, **Counter(str(result) for result in suite.results.values())}
            for name, suite in sorted(suites.items())
        },
        "summary": dict(Counter(str(one.verdict) for one in judged)),
        "mutants": [one.to_json() for one in judged],
    }
    try:
        _write(folder / "mutants.json", json.dumps(facts, indent=1) + "\n")
        _write(folder / "junit.xml", junit(judged, suites))
    except OSError as error:
        raise InfraError(f"the results cannot be written to {folder}: {error.strerror}") from None


def _write(path: Path, text: str) -> None:
    scratch = path.with_name(f".{path.name}")
    scratch.write_text(text, encoding="utf-8", errors="backslashreplace")
    scratch.replace(path)


def junit(judged: Sequence[Judged], suites: Mapping[str, Suite]) -> str:
    """A suite *unmutated* with a case for each folder of tests, and one for each feature, its cases the mutants."""
    from junit_xml import TestSuite, to_xml_report_string

    cases: dict[str, list[TestCase]] = {}
    for one in sorted(judged, key=lambda one: one.mutant.name):
        cases.setdefault(one.mutant.feature, []).append(_case(one))
    found = [TestSuite("unmutated", [_suite_case(name, suite) for name, suite in sorted(suites.items())])]
    found += [TestSuite(feature, of_it) for feature, of_it in sorted(cases.items())]
    return str(to_xml_report_string(found, prettyprint=True))


def _suite_case(name: str, suite: Suite) -> TestCase:
    from junit_xml import TestCase

    from harness.pytest_plugin.junit import printable

    passed = sum(result is Result.PASSED for result in suite.results.values())
    case = TestCase(name, "unmutated", stdout=f"{passed} of {len(suite.results)} tests pass")
    if suite.red:
        case.add_failure_info(printable(suite.red))
    return case


def _case(judged: Judged) -> TestCase:
    from junit_xml import TestCase

    from harness.pytest_plugin.junit import printable

    mutant = judged.mutant
    case: Any = TestCase(mutant.path.stem, f"mutants.{mutant.feature}", judged.seconds, file=str(mutant.path))
    case.stdout = printable(f"{mutant.title}\nbreaks: {mutant.breaks}\n{judged}")
    message = printable(f"{judged.verdict}: {judged.text}" if judged.text else f"{judged.verdict}: {mutant.breaks}")
    match judged.verdict:
        case Verdict.SURVIVED | Verdict.NO_BOOT:
            case.add_failure_info(message)
        case Verdict.NO_BUILD | Verdict.NOT_RUN | Verdict.RED:
            case.add_error_info(message, printable(judged.detail), error_type=str(judged.verdict))
        case Verdict.EQUIVALENT | Verdict.MISFIT:
            case.add_skipped_info(message)
    return case
