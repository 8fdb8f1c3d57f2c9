"""PYTEST_DONT_REWRITE: the guest's side. Cuts the kernel's log per test, and fails a test whose kernel complained."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Generator
from typing import Any

import pytest

from harness.guest.splats import splats
from harness.model import Splat
from harness.pytest_plugin import kmemleak
from harness.pytest_plugin.evidence import BEGIN, END, KERNEL_SECTION, MOST, SCAN, KernelLog, taint
from harness.pytest_plugin.features import Lacking
from harness.pytest_plugin.known_issues import first_match
from harness.pytest_plugin.predictions import place_of

DEFAULT_LIMIT = 60.0
DIED = 1 << 7
"""The taint of a kernel that has met an oops or a BUG (Documentation/admin-guide/tainted-kernels.rst)."""


class GuestSide:
    """Adds to each report where it was made, and to a test's last one what the kernel said meanwhile.

    A complaint outside of any test (at boot, between tests) is nobody's: it travels with the next report, or with the
    worker's end, and the host makes it a failure of its own.
    """

    def __init__(self) -> None:
        self.log = KernelLog()
        self.outside: list[list[str]] = []
        """Title and text of each complaint outside of any test that is not reported yet."""
        self.taint_before = 0
        self.died = False
        """The kernel lives on after an oops, with whatever that left locked or half done."""
        self.called = False
        """Whether the running test has come to the end of its call, and passed it."""
        self.detector: kmemleak.Kmemleak | None = None
        self.began: list[tuple[int, str]] = []
        """When tests began, in jiffies; with the leak detector only."""

    @pytest.hookimpl(wrapper=True)
    def pytest_collection(self, session: pytest.Session) -> Any:
        """A test id that does not exist: xdist would report no tests and no reason."""
        try:
            return (yield)
        except pytest.UsageError as error:
            session.config.workeroutput["kproof_usage_error"] = str(error)  # type: ignore[attr-defined]
            raise

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, Any]:
        while self.died:  # no test shall suffer from another one's oops: the host ends this guest
            time.sleep(1)
        if item.config.workerinput.get("kproof_kmemleak") and not self.detector:  # type: ignore[attr-defined]
            self._start_detector(item)
        self._look_outside()
        self.taint_before = taint()
        self.called = False
        if self.detector:
            self.began.append((kmemleak.jiffies(), item.nodeid))
        self.log.mark(f"{BEGIN}({limit_of(item):g} s) {item.nodeid}")
        try:
            return (yield)
        finally:
            self.log.mark(END + item.nodeid)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
        report: Any = yield  # xdist sends every attribute of a report
        report.sections = [(title, shortened(text)) for title, text in report.sections]
        report.kproof_guest = os.environ.get("KPROOF_GUEST", "")
        if call.excinfo and call.excinfo.errisinstance(Lacking):  # a failure that comes early, not an error
            report.kproof_failed = True
        if self.outside:
            report.kproof_outside, self.outside = self.outside, []
        if report.when == "call":
            self.called = report.passed
        if report.when == "teardown":
            self._judge(item, report)
        return report

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        self._look_outside()
        session.config.workeroutput["kproof_outside"] = self.outside  # type: ignore[attr-defined]

    def _start_detector(self, first: pytest.Item) -> None:
        """What leaked before the first test is no test's leak."""
        self.detector = kmemleak.Kmemleak()
        self.log.mark(f"{SCAN}({kmemleak.LIMIT:g} s) {first.nodeid}")
        with contextlib.suppress(OSError):  # each test will ask, and say it
            self._note_outside(splats(kmemleak.shown(self.detector.leaks())))
        self._note_outside(splats("\n".join(_without_finds(self.log.read()))))

    def _look_outside(self) -> None:
        self._note_outside(splats("\n".join(self.log.read())))

    def _note_outside(self, found: list[Splat]) -> None:
        self.outside += [[splat.title, splat.text] for splat in found]

    def _judge(self, item: pytest.Item, report: Any) -> None:
        """The kernel's word on a test that is otherwise over."""
        lines = [line for line in self.log.read() if BEGIN not in line]
        leaks, trouble = self._leaks(self.detector, item, lines) if self.detector else ("", "")
        found = splats("\n".join(lines)) + splats(leaks)
        report.kproof_kernel_log = "\n".join([*lines, leaks] if leaks else lines)
        report.kproof_taint = [self.taint_before, taint()]
        report.kproof_died = self.died = bool(report.kproof_taint[1] & DIED)
        markers = [marker.args[0] for marker in item.iter_markers("expect_splat")]
        known = item.config.workerinput.get("kproof_known_issues", [])  # type: ignore[attr-defined]
        complaint, report.kproof_known = verdict(found, markers, known, complete=self.called)
        surprises = [place_of(splat) for splat in found if first_match([*markers, *known], splat.title) is None]
        report.kproof_complaints = list(filter(None, (*(surprises or [complaint]), trouble)))
        problem = "\n\n".join(filter(None, (complaint, trouble)))
        if problem and report.passed:
            report.outcome = "failed"
            report.longrepr = problem
            report.kproof_failed = bool(complaint)
        elif problem:
            report.sections.append((KERNEL_SECTION, problem))

    def _leaks(self, detector: kmemleak.Kmemleak, item: pytest.Item, lines: list[str]) -> tuple[str, str]:
        """The leaks of this test, and why they could not be looked for. Adds what the kernel says meanwhile.

        What was allocated before this test is not its leak, and it is too late to blame the one that it is of.
        """
        self.log.mark(f"{SCAN}({kmemleak.LIMIT:g} s) {item.nodeid}")
        leaks: list[kmemleak.Leak] = []
        trouble = ""
        try:
            leaks = detector.leaks()
        except OSError as error:
            trouble = f"leaks cannot be looked for: {error}"
        lines += [line for line in _without_finds(self.log.read()) if SCAN not in line]
        start, _ = self.began[-1]
        for leak in leaks:
            if leak.born < start:
                before = [test for begin, test in self.began if begin <= leak.born]
                where = f"during {before[-1]}" if before else "before any test"
                said = f"found after {item.nodeid}, allocated {where}:\n{leak.text}"
                self.outside += [[splat.title, said] for splat in splats(leak.text)]
        return kmemleak.shown(leak for leak in leaks if leak.born >= start), trouble


def _without_finds(lines: list[str]) -> list[str]:
    """The log without what our own scans add to it: the records that they found say it better."""
    return [line for line in lines if not kmemleak.FOUND.search(line)]


def shortened(text: str) -> str:
    """What a test has printed, without the middle if it is more than MOST characters: it goes through the channel."""
    if (more := len(text) - MOST) <= 0:
        return text
    return f"{text[: MOST // 2]}\n[... {more} characters more]\n{text[-MOST // 2 :]}"


def limit_of(item: pytest.Item) -> float:
    """Seconds that a test may take on a host of speed 1, from ``@pytest.mark.timeout_s(30)``."""
    marker = item.get_closest_marker("timeout_s")
    return float(marker.args[0]) if marker else DEFAULT_LIMIT


def verdict(
    found: list[Splat], expected: list[str], known: list[str], *, complete: bool = True
) -> tuple[str, list[list[str]]]:
    """What is wrong with a test's splats, empty if nothing, and which of them are excused: regex and title of each.

    ``expected`` and ``known`` are regular expressions on titles: of the test's markers, and of known_issues.toml. Only
    a test whose call was ``complete`` need have provoked what it expects.
    """
    excused: list[list[str]] = []
    surprises: list[Splat] = []
    for splat in found:
        if first_match(expected, splat.title) is not None:
            continue
        if (regex := first_match(known, splat.title)) is not None:
            excused.append([regex, splat.title])
        else:
            surprises.append(splat)
    if surprises:
        titles = "; ".join(dict.fromkeys(splat.title for splat in surprises))
        texts = "\n\n".join(splat.text for splat in surprises)
        return f"the kernel complained: {titles}\n\n{texts}", excused
    missing = [regex for regex in expected if not any(re.search(regex, splat.title) for splat in found)]
    if missing and complete:
        return f"the kernel did not complain as expected: no splat matches {missing[0]!r}", excused
    return "", excused
