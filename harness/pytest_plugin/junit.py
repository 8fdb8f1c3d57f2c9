"""PYTEST_DONT_REWRITE: a run as JUnit XML."""

from __future__ import annotations

import platform
import re
from typing import TYPE_CHECKING

from harness.model import BAD, Outcome, Result
from harness.pytest_plugin.evidence import taint_text

if TYPE_CHECKING:
    from junit_xml import TestCase, TestSuite

    from harness.pytest_plugin.results import Life, Run

# What XML 1.0 has no way to write (section 2.2).
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(run: Run) -> str:
    """A suite *kernel*, with what was made before the tests, and one for each feature."""
    from junit_xml import TestSuite, to_xml_report_string

    suites: list[TestSuite] = [_kernel_suite(run)]
    by_feature: dict[str, list[TestCase]] = {}
    for outcome in run.outcomes.values():
        case = _test_case(outcome, run.lives.get(outcome.guest))
        by_feature.setdefault(_feature(outcome.nodeid), []).append(case)
    suites += [TestSuite(name, cases) for name, cases in sorted(by_feature.items())]
    return str(to_xml_report_string(suites, prettyprint=True))


def _kernel_suite(run: Run) -> TestSuite:
    from junit_xml import TestCase, TestSuite

    kernel = run.kernel
    request = printable(f"{run.request}\nkernel {kernel.identity}, release {kernel.release}")
    cases = [TestCase("source", "kernel", stdout=request)]
    for status in kernel.series:
        case = TestCase(f"series {status.name}", "kernel", stdout=f"{status.state}: {status.reason}")
        if status.state == "absent":
            case.add_skipped_info(f"absent: {status.reason}")
        cases.append(case)
    proof = "\n".join(f"{symbol}={value}" for symbol, value in kernel.config_proof)
    cases.append(TestCase("config", "kernel", stdout=f"every requested symbol is as requested:\n{proof}"))
    cases.append(TestCase("build", "kernel", kernel.seconds, stdout=f"log: {kernel.build_log}"))
    cases += [TestCase(f"boot {name}", "kernel", seconds) for name, seconds in run.boots.items()]
    if run.boot_failure:
        case = TestCase("boot", "kernel")
        case.add_failure_info(printable(run.boot_failure.splitlines()[0]), printable(run.boot_failure))
        cases.append(case)
    deaths = [
        (name, title, f"console: {run.folder / 'guests' / name / 'console.log'}")
        for name, title in run.deaths_outside_tests.items()
    ]
    for name, title, text in [*deaths, *run.complaints]:
        case = TestCase(f"guest {name} outside of any test", "kernel")
        case.add_failure_info(printable(title), printable(text))
        cases.append(case)
    for name, line in run.objections().items():
        case = TestCase(f"run {name}", "kernel")
        case.add_failure_info(printable(line))
        cases.append(case)
    if remarks := run.known.remarks(whole=run.whole):
        cases.append(TestCase("known issues", "kernel", stdout=printable("\n".join(remarks))))
    properties = {"guest peak resident MB": round(run.peak_mb)} if run.peak_mb else {}
    properties |= {"random order": run.seed} if run.seed is not None else {}
    return TestSuite("kernel", cases, properties=properties or None, hostname=platform.node(), timestamp=run.started)


def printable(text: str) -> str:
    r"""The text with every character that XML forbids as ``\xNN``, so that none of a console's bytes is lost."""
    return _NOT_XML.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


def _feature(nodeid: str) -> str:
    """The suite of a test: the folder that its file is in."""
    parts = nodeid.split("::")[0].split("/")
    return parts[-2] if len(parts) > 1 else parts[0]


def _test_case(outcome: Outcome, life: Life | None) -> TestCase:
    from junit_xml import TestCase

    path, _, name = outcome.nodeid.partition("::")
    classname = path.removesuffix(".py").replace("/", ".")
    case = TestCase(printable(name or path), classname, outcome.seconds, file=path)
    message, detail = printable(outcome.message), printable(outcome.detail)
    case.stdout = printable(_evidence(outcome, life)) or None
    match outcome.result:
        case Result.FAILED:
            case.add_failure_info(message, detail)
        case Result.CRASHED | Result.HUNG:
            case.add_error_info(message, detail, error_type=str(outcome.result))
        case Result.ERROR:
            case.add_error_info(message, detail, error_type=str(outcome.result))
        case Result.XFAILED:
            case.add_skipped_info(f"xfailed: {message}", detail)
        case Result.SKIPPED:
            case.add_skipped_info(message)
        case Result.NOT_RUN:
            case.add_skipped_info(f"not run: {message}")
    return case


def _evidence(outcome: Outcome, life: Life | None) -> str:
    """For the standard output of a JUnit case: all that is known of a bad one, what was excused in any."""
    lines = [f"known issue {regex!r} excuses: {title}" for regex, title in outcome.known]
    if outcome.result is Result.PASSED and outcome.message:
        lines.append(outcome.message)
    if outcome.result in BAD:
        if life:
            lines.append(f"guest {outcome.guest}, number {life.number}, {'restored' if life.restored else 'booted'}")
        if outcome.phases:
            lines.append(", ".join(f"{when} {seconds:.3f} s" for when, seconds in outcome.phases.items()))
        lines.append(taint_text(*outcome.taint) if outcome.taint else "taint: not known, the guest did not tell")
        lines.append(f"kernel log of the test:\n{outcome.kernel_log}")
    return "\n".join(lines)
