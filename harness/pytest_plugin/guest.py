"""PYTEST_DONT_REWRITE: the guest's side. Cuts the kernel's log per test, and fails a test whose kernel complained."""

from __future__ import annotations

import os
import re
from collections.abc import Generator
from typing import Any

import pytest

from harness.guest.splats import splats
from harness.model import Splat
from harness.pytest_plugin.evidence import BEGIN, END, KernelLog, taint
from harness.pytest_plugin.features import Lacking

DEFAULT_LIMIT = 60.0


class GuestSide:
    """Adds to each report where it was made, and to a test's last one what the kernel said meanwhile.

    A complaint outside of any test (at boot, between tests) is nobody's: it travels with the next report, or with the
    worker's end, and the host makes it a failure of its own.
    """

    def __init__(self) -> None:
        self.name = os.environ.get("KPROOF_GUEST", "")
        self.log = KernelLog()
        self.outside: list[list[str]] = []
        """Title and text of each complaint outside of any test that is not reported yet."""
        self.taint_before = 0

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
        self._look_outside()
        self.taint_before = taint()
        self.log.mark(f"{BEGIN}({limit_of(item):g} s) {item.nodeid}")
        try:
            return (yield)
        finally:
            self.log.mark(END + item.nodeid)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
        report: Any = yield  # xdist sends every attribute of a report
        report.kproof_guest = self.name
        if call.excinfo and call.excinfo.errisinstance(Lacking):  # a failure that comes early, not an error
            report.kproof_failed = True
        if self.outside:
            report.kproof_outside, self.outside = self.outside, []
        if report.when == "teardown":
            self._judge(item, report)
        return report

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        self._look_outside()
        session.config.workeroutput["kproof_outside"] = self.outside  # type: ignore[attr-defined]

    def _look_outside(self) -> None:
        self.outside += [[splat.title, splat.text] for splat in splats("\n".join(self.log.read()))]

    def _judge(self, item: pytest.Item, report: Any) -> None:
        """The kernel's word on a test that is otherwise over."""
        lines = [line for line in self.log.read() if BEGIN not in line]
        report.kproof_kernel_log = "\n".join(lines)
        report.kproof_taint = [self.taint_before, taint()]
        complaint = verdict(splats(report.kproof_kernel_log), [m.args[0] for m in item.iter_markers("expect_splat")])
        if complaint and report.passed:
            report.outcome = "failed"
            report.longrepr = complaint
            report.kproof_failed = True


def limit_of(item: pytest.Item) -> float:
    """Seconds that a test may take on a host of speed 1, from ``@pytest.mark.timeout_s(30)``."""
    marker = item.get_closest_marker("timeout_s")
    return float(marker.args[0]) if marker else DEFAULT_LIMIT


def verdict(found: list[Splat], expected: list[str]) -> str:
    """What is wrong with a test's splats, given regular expressions on the titles it expects; empty if nothing."""
    surprises = [splat for splat in found if not any(re.search(regex, splat.title) for regex in expected)]
    if surprises:
        titles = "; ".join(splat.title for splat in surprises)
        return f"the kernel complained: {titles}\n\n" + "\n\n".join(splat.text for splat in surprises)
    missing = [regex for regex in expected if not any(re.search(regex, splat.title) for splat in found)]
    if missing:
        return f"the kernel did not complain as expected: no splat matches {missing[0]!r}"
    return ""
