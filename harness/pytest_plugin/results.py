"""PYTEST_DONT_REWRITE: one run's folder: ``junit.xml``, ``run.json``, ``repro.sh``, ``guests/*/console.log``."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import __version__
from harness.errors import InfraError
from harness.model import BAD, GuestSpec, Kernel, Outcome, Request, Result

if TYPE_CHECKING:
    from junit_xml import TestCase, TestSuite

    from harness.guest.accel import Host

FILES = ("junit.xml", "run.json", "repro.sh")

# What XML 1.0 has no way to write (section 2.2).
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def run_folder(base: Path, wanted: str | None) -> Path:
    """The folder of a run that begins now: ``wanted``, or ``base/DATE-TIME``, which is not there yet."""
    if wanted:
        return Path(wanted).absolute()
    folder = base / datetime.now().strftime("%Y%m%d-%H%M%S")
    number = 1
    while folder.exists():  # two runs in one second
        number += 1
        folder = folder.with_name(f"{folder.name.partition('.')[0]}.{number}")
    return folder


def open_folder(folder: Path, *, latest: bool) -> None:
    """Make a run's folder, without the results of an earlier run in it; ``latest`` beside it points to it then.

    Raises InfraError when that cannot be done.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            (folder / name).unlink(missing_ok=True)
        shutil.rmtree(folder / "guests", ignore_errors=True)
        if latest:
            link = folder.parent / f".latest-{os.getpid()}"
            link.symlink_to(folder.name)
            link.replace(folder.parent / "latest")
    except OSError as error:
        raise InfraError(f"the results folder {folder} cannot be made: {error.strerror}") from None


class Run:
    """Takes in what is reported, holds exactly one outcome per selected test, and writes it all down at the end."""

    def __init__(
        self,
        folder: Path,
        *,
        request: Request,
        kernel: Kernel,
        spec: GuestSpec,
        host: Host,
        count: int,
        tests: list[str],
        options: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self.request = request
        self.kernel = kernel
        self.spec = spec
        self.host = host
        self.count = count
        self.tests = tests
        """The paths and test ids that were asked for, as a shell in the project's folder would write them."""
        self.options = list(options)
        """What else selects tests, or decides on them."""
        self.finished = False
        self.started = time.time()
        self._began = time.monotonic()
        self.ids: dict[str, None] = {}
        """Every selected test, in order of collection."""
        self.outcomes: dict[str, Outcome] = {}
        self.boots: dict[str, float] = {}
        """Seconds from power-on to ready, by guest."""
        self.boot_failure = ""
        self.deaths: dict[str, str] = {}
        """How guests ended that were not told to, by guest."""
        self.complaints: list[tuple[str, str, str]] = []
        """Guest, title and text of what kernels complained of outside of any test."""
        self._phases: dict[str, list[Any]] = {}

    # -- taking in ---------------------------------------------------------------------------------------------------

    def selected(self, ids: list[str]) -> None:
        self.ids.update(dict.fromkeys(ids))

    def record(self, outcome: Outcome) -> Outcome:
        self.outcomes[outcome.nodeid] = outcome
        return outcome

    def report(self, report: Any) -> Outcome | None:
        """Take a phase of a test (set-up, call, teardown) or a crash; returns the outcome once it is known."""
        guest = getattr(report, "kproof_guest", "")
        self.outside_tests(guest, getattr(report, "kproof_outside", []))
        for attribute, result in (("kproof_crash", Result.CRASHED), ("kproof_hung", Result.HUNG)):
            if title := getattr(report, attribute, ""):
                return self.record(Outcome(report.nodeid, result, report.duration, title, str(report.longrepr), guest))
        phases = self._phases.setdefault(report.nodeid, [])
        phases.append(report)
        if report.when != "teardown":
            return None
        del self._phases[report.nodeid]
        return self.record(_outcome(phases, guest))

    @property
    def seconds(self) -> float:
        """Since there was a kernel."""
        return time.monotonic() - self._began

    @property
    def deaths_outside_tests(self) -> dict[str, str]:
        ended = (Result.CRASHED, Result.HUNG)
        inside = {outcome.guest for outcome in self.outcomes.values() if outcome.result in ended}
        return {name: title for name, title in self.deaths.items() if name not in inside}

    def outside_tests(self, guest: str, complaints: list[list[str]]) -> None:
        """Take in what a guest's kernel complained of outside of any test: titles with their texts."""
        self.complaints += [(guest, title, text) for title, text in complaints]

    def counts(self) -> Counter[Result]:
        return Counter(outcome.result for outcome in self.outcomes.values())

    # -- writing down ------------------------------------------------------------------------------------------------

    def finish(self, exit_status: int) -> None:
        """Write the results; a test without an outcome is "not run". Raises InfraError when the disk is full."""
        self.finished = True
        for nodeid in self.ids:
            if nodeid not in self.outcomes:
                self.record(Outcome(nodeid, Result.NOT_RUN, message="the run ended before this test"))
        try:
            self._write("run.json", json.dumps(self._as_json(exit_status), indent=1) + "\n")
            self._write("junit.xml", self._junit())
            self._write("repro.sh", self._repro())
            (self.folder / "repro.sh").chmod(0o755)
        except OSError as error:
            raise InfraError(f"the results cannot be written to {self.folder}: {error.strerror}") from None

    def _write(self, name: str, text: str) -> None:
        scratch = self.folder / f".{name}"
        scratch.write_text(text, encoding="utf-8", errors="backslashreplace")
        scratch.replace(self.folder / name)

    def _as_json(self, exit_status: int) -> dict[str, Any]:
        return {
            "kproof": __version__,
            "started": datetime.fromtimestamp(self.started).astimezone().isoformat(timespec="seconds"),
            "seconds": round(self.seconds, 2),
            "exit_status": exit_status,
            "request": str(self.request),
            "kernel": {
                "identity": self.kernel.identity,
                "release": self.kernel.release,
                "folder": str(self.kernel.folder),
                "series": [asdict(status) for status in self.kernel.series],
                "build_seconds": self.kernel.seconds,
            },
            "host": {**asdict(self.host), "machine": platform.machine(), "cores": os.cpu_count()},
            "guest": {
                "launcher": self.spec.launcher,
                "root": Path(self.spec.root).stem,
                "memory_mb": self.spec.memory_mb,
                "cpus": self.spec.cpus,
                "count": self.count,
            },
            "boots": {name: round(seconds, 2) for name, seconds in self.boots.items()},
            "boot_failure": self.boot_failure,
            "deaths": self.deaths,
            "complaints_outside_tests": [list(complaint) for complaint in self.complaints],
            "summary": {str(result): number for result, number in sorted(self.counts().items())},
            "outcomes": [outcome.to_json() for outcome in self.outcomes.values()],
        }

    def _junit(self) -> str:
        from junit_xml import TestSuite, to_xml_report_string

        suites: list[TestSuite] = [self._kernel_suite()]
        by_feature: dict[str, list[TestCase]] = {}
        for outcome in self.outcomes.values():
            by_feature.setdefault(_feature(outcome.nodeid), []).append(_test_case(outcome))
        suites += [TestSuite(name, cases) for name, cases in sorted(by_feature.items())]
        return str(to_xml_report_string(suites, prettyprint=True))

    def _kernel_suite(self) -> TestSuite:
        from junit_xml import TestCase, TestSuite

        kernel = self.kernel
        request = printable(f"{self.request}\nkernel {kernel.identity}, release {kernel.release}")
        cases = [TestCase("source", "kernel", stdout=request)]
        for status in kernel.series:
            case = TestCase(f"series {status.name}", "kernel", stdout=f"{status.state}: {status.reason}")
            if status.state == "absent":
                case.add_skipped_info(f"absent: {status.reason}")
            cases.append(case)
        proof = "\n".join(f"{symbol}={value}" for symbol, value in kernel.config_proof)
        cases.append(TestCase("config", "kernel", stdout=f"every requested symbol is as requested:\n{proof}"))
        cases.append(TestCase("build", "kernel", kernel.seconds, stdout=f"log: {kernel.build_log}"))
        cases += [TestCase(f"boot {name}", "kernel", seconds) for name, seconds in self.boots.items()]
        if self.boot_failure:
            case = TestCase("boot", "kernel")
            case.add_failure_info(printable(self.boot_failure.splitlines()[0]), printable(self.boot_failure))
            cases.append(case)
        deaths = [
            (name, title, f"console: {self.folder / 'guests' / name / 'console.log'}")
            for name, title in self.deaths_outside_tests.items()
        ]
        for name, title, text in [*deaths, *self.complaints]:
            case = TestCase(f"guest {name} outside of any test", "kernel")
            case.add_failure_info(printable(title), printable(text))
            cases.append(case)
        return TestSuite("kernel", cases, hostname=platform.node(), timestamp=self.started)

    def _repro(self) -> str:
        """A script: without an argument it repeats the run, with a number one failure."""
        spec = self.spec
        command = ["kproof", "run", "--kernel", str(self.request), "--root", spec.launcher, "-n", str(self.count)]
        command += ["--memory", str(spec.memory_mb), "--cpus", str(spec.cpus), "--accel", spec.accel]
        failed = [outcome for outcome in self.outcomes.values() if outcome.result in BAD]
        features = [option for option in self.options if option.startswith("--require-feature")]
        lines = [
            "#!/bin/sh",
            "# Repeats this run; `repro.sh N` repeats only failure N:",
            *(f"#   {number}  {outcome.nodeid}" for number, outcome in enumerate(failed, 1)),
            f"cd {shlex.quote(self.spec.project)} || exit 3",
            'PATH="$PWD/.venv/bin:$PATH"',
            'case "${1-}" in',
            f'"") exec {shlex.join([*command, *self.options, *self.tests])} ;;',
            *(f"{n}) exec {shlex.join([*command, *features, o.nodeid])} ;;" for n, o in enumerate(failed, 1)),
            f'*) echo "repro.sh: there is no failure $1; this run has {len(failed)}" >&2; exit 2 ;;',
            "esac",
        ]
        return "\n".join(lines) + "\n"


def printable(text: str) -> str:
    r"""The text with every character that XML forbids as ``\xNN``, so that none of a console's bytes is lost."""
    return _NOT_XML.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


def _feature(nodeid: str) -> str:
    """The suite of a test: the folder that its file is in."""
    parts = nodeid.split("::")[0].split("/")
    return parts[-2] if len(parts) > 1 else parts[0]


def _test_case(outcome: Outcome) -> TestCase:
    from junit_xml import TestCase

    path, _, name = outcome.nodeid.partition("::")
    classname = path.removesuffix(".py").replace("/", ".")
    case = TestCase(printable(name or path), classname, outcome.seconds, file=path)
    message, detail = printable(outcome.message), printable(outcome.detail)
    if outcome.result in (Result.FAILED, Result.ERROR):
        before, after = outcome.taint
        case.stdout = printable(f"kernel log of the test (taint {before} -> {after}):\n{outcome.kernel_log}")
    match outcome.result:
        case Result.FAILED:
            case.add_failure_info(message, detail)
        case Result.CRASHED | Result.HUNG:
            case.add_error_info(message, detail, error_type=str(outcome.result))
        case Result.ERROR:
            case.add_error_info(message, detail)
        case Result.SKIPPED:
            case.add_skipped_info(message)
        case Result.NOT_RUN:
            case.add_skipped_info(f"not run: {message}")
    return case


def _outcome(phases: list[Any], guest: str) -> Outcome:
    """One outcome of a test's phases: the first that did not pass decides, set-up and teardown failures are errors.

    A complaint of the kernel comes with the teardown, when all is over, and makes a test that passed a failed one.
    """
    last = phases[-1]
    outcome = Outcome(
        phases[0].nodeid,
        Result.PASSED,
        round(sum(report.duration for report in phases), 3),
        guest=guest,
        kernel_log=getattr(last, "kproof_kernel_log", ""),
        taint=tuple(getattr(last, "kproof_taint", (0, 0))),
    )
    for report in phases:
        if report.passed:
            continue
        if report.skipped:
            expected = getattr(report, "wasxfail", None)
            reason = report.longrepr[2].removeprefix("Skipped: ") if isinstance(report.longrepr, tuple) else ""
            message = f"expected failure: {expected}" if expected is not None else reason
            return replace(outcome, result=Result.SKIPPED, message=message)
        failed = report.when == "call" or getattr(report, "kproof_failed", False)
        return replace(
            outcome,
            result=Result.FAILED if failed else Result.ERROR,
            message=_headline(report),
            detail=_full_text(report),
        )
    return outcome


def _headline(report: Any) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash else str(report.longrepr)
    return next((line for line in text.splitlines() if line.strip()), "failed")


def _full_text(report: Any) -> str:
    sections = "".join(f"\n--- {title} ---\n{content}" for title, content in report.sections)
    return f"{report.longreprtext}\n{sections}"
