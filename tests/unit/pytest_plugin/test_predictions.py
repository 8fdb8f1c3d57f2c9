"""Markers that say what a version does: how they read, and what becomes of a test that does so, or does not."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import pytest

from harness.guest.splats import splats
from harness.model import Outcome, Version
from harness.pytest_plugin.phases import outcome_of
from harness.pytest_plugin.predictions import (
    FixedIn,
    GuestPredictions,
    KnownBug,
    Since,
    Until,
    place_of,
    reason_of_death,
)

pytest_plugins = ["pytester"]

COMMIT = "1d47b55b36d2"
RUNNING = Version(6, 12, 8)

# -- versions --


@pytest.mark.parametrize(
    ("needed", "running", "lacking"),
    [
        ("6.13", "6.12.117", "needs Linux 6.13, this is 6.12.117"),
        ("6.12.9", "6.12.8", "needs Linux 6.12.9, this is 6.12.8"),
        ("6.12.8", "6.12.8", None),
        ("6.13", "6.13", None),
        ("6.13", "6.13-rc1", None),
        ("6.9", "6.10.1", None),
        ("6.13", "7.0", None),
    ],
)
def test_since(needed: str, running: str, lacking: str | None) -> None:
    assert Since(needed).lacking(Version.parse(running)) == lacking


@pytest.mark.parametrize(
    ("end", "running", "lacking"),
    [
        ("6.16", "6.15.9", None),
        ("6.16", "6.16", "holds before Linux 6.16, this is 6.16.0"),
        ("6.16", "7.0.1", "holds before Linux 6.16, this is 7.0.1"),
    ],
)
def test_until(end: str, running: str, lacking: str | None) -> None:
    assert Until(end).lacking(Version.parse(running)) == lacking


@pytest.mark.parametrize(
    ("running", "fixed"),
    [
        ("7.1", True),
        ("7.1.3", True),
        ("7.1.0-rc2", True),
        ("10.0", True),
        ("7.0.99", False),  # a stable series that is not named
        ("6.12.110", False),
        ("6.12.111", True),
        ("6.12.112-1", True),
        ("6.6.200", True),
        ("6.6.9", False),
        ("6.13", False),
        ("5.4", False),
    ],
)
def test_fixed_in(running: str, fixed: bool) -> None:
    fix = FixedIn(COMMIT, "7.1", {"6.12": "6.12.111", "6.6": "6.6.100"}, match="no route")
    assert fix.is_in(Version.parse(running)) is fixed
    assert (fix.predict(Version.parse(running)) is None) is fixed


def test_a_prediction_says_what_is_lacking_and_where_it_is() -> None:
    prediction = FixedIn(COMMIT, "7.1", {"6.12": "6.12.111"}, match="no route").predict(RUNNING)
    assert prediction
    assert prediction.why == f"6.12.8 lacks {COMMIT}, which is in 7.1, 6.12.111"
    assert (prediction.fits("OSError: no route to it"), prediction.fits("OSError: timeout")) == (True, False)


def test_a_known_bug_is_in_every_kernel() -> None:
    prediction = KnownBug("bypassed", "netkit_xmit() has no hook", "not dropped").predict(Version(99, 0))
    assert prediction.why == "known bug: bypassed (netkit_xmit() has no hook)"


# -- wrong use --


@pytest.mark.parametrize(
    ("kind", "arguments", "complaint"),
    [
        (Since, {"version": "6.x"}, "'6.x' is not a kernel version"),
        (Until, {"version": "6.x"}, "'6.x' is not a kernel version"),
        (Since, {"version": 6.13}, "6.13 is not a kernel version"),
        (Since, {"version": "6.13 "}, "'6.13 ' is not a kernel version"),
        (FixedIn, {"commit": "the fix"}, "'the fix' is not a commit"),
        (FixedIn, {"mainline": "6.13.2"}, "is not a release of Linus'"),
        (FixedIn, {"mainline": "v7.1"}, "'v7.1' is not a kernel version"),
        (FixedIn, {"stable": {"6.12": "6.6.3"}}, "6.6.3 is no release of '6.12'"),
        (FixedIn, {"stable": {"6.12.3": "6.12.3"}}, "6.12.3 is no release of '6.12.3'"),
        (FixedIn, {"stable": {"7.1": "7.1.2"}}, "7.1.2 is newer than 7.1"),
        (FixedIn, {"stable": "6.12.3"}, "stable= takes first releases by series"),
        (FixedIn, {"match": "("}, r"match='\(' is not a valid regular expression"),
        (FixedIn, {"match": ".*"}, "is found in every text"),
        (FixedIn, {"match": None}, "is not a regular expression"),
        (FixedIn, {"crash": "yes"}, "neither True nor False"),
        (KnownBug, {"evidence": " "}, "evidence= must be a text that is not empty"),
        (KnownBug, {"reason": 3}, "reason= must be a text that is not empty"),
        (KnownBug, {"match": ""}, "is found in every text"),
    ],
)
def test_what_cannot_be_meant_is_refused(kind: Callable[..., Any], arguments: Any, complaint: str) -> None:
    good: dict[Any, dict[str, Any]] = {
        Since: {},
        Until: {},
        FixedIn: {"commit": COMMIT, "mainline": "7.1", "match": "x"},
        KnownBug: {"reason": "r", "evidence": "e", "match": "x"},
    }
    with pytest.raises(ValueError, match=complaint):
        kind(**{**good[kind], **arguments})


@pytest.mark.parametrize(
    ("marker", "complaint"),
    [
        ("since()", "marker since: missing a required argument: 'version'"),
        (f"fixed_in('{COMMIT}', '7.1', match='x', stabel=1)", "marker fixed_in: got an unexpected*argument 'stabel'"),
        ("known_bug('r', evidence='e', match='[')", "marker known_bug: match='[[]' is not a valid*"),
    ],
)
def test_wrong_use_ends_the_collection_and_names_the_test(
    pytester: pytest.Pytester, marker: str, complaint: str
) -> None:
    pytester.makepyfile(test_it=f"import pytest\n\n@pytest.mark.{marker}\ndef test_wrong():\n    pass\n")
    result = pytester.runpytest_inprocess("--collect-only")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: test_it.py::test_wrong: {complaint}*"])


# -- judging --


class Kernel:
    """In place of guest.py: a test's complaints are those that it has left in its ``splats``."""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, Any, Any]:
        report: Any = yield
        titles = getattr(item, "splats", [])
        if report.when == "teardown" and titles:
            report.kproof_complaints = titles
            report.kproof_died = "BUG in nk_xmit" in titles
            if report.passed:
                report.outcome, report.longrepr = "failed", f"the kernel complained: {'; '.join(titles)}"
                report.kproof_failed = True
        return report


@dataclass
class Case:
    """A test, and what becomes of it."""

    markers: tuple[str, ...]
    body: str
    result: str
    message: str = ""
    fixture: str = "yield"

    def source(self, number: int) -> str:
        decorators = "".join(f"@pytest.mark.{marker}\n" for marker in self.markers)
        return (
            f"@pytest.fixture\ndef thing_{number}():\n    {self.fixture}\n\n"
            f"{decorators}def test_{number}(thing_{number}, request):\n    {self.body}\n"
        )


def outcomes(pytester: pytest.Pytester, cases: list[Case], running: Version = RUNNING) -> list[Outcome]:
    """Of one run of all."""
    pytester.makepyfile(test_it="import pytest\n" + "\n".join(case.source(n) for n, case in enumerate(cases)))
    recorder = pytester.inline_run(plugins=[Kernel(), GuestPredictions(running)])
    reports = groupby(recorder.getreports("pytest_runtest_logreport"), key=lambda report: report.nodeid)
    return [outcome_of(list(phases), "g0") for _, phases in reports]


def check(pytester: pytest.Pytester, cases: list[Case], running: Version = RUNNING) -> None:
    found = [(str(outcome.result), outcome.message) for outcome in outcomes(pytester, cases, running)]
    assert found == [(case.result, case.message) for case in cases]


FIX = f"fixed_in('{COMMIT}', mainline='7.1', match='no route|in nk_xmit')"
FATAL = f"fixed_in('{COMMIT}', mainline='7.1', match='in nk_xmit', crash=True)"
BUG = "known_bug('bypassed', evidence='netkit_xmit()', match='not dropped')"
SPLAT = "request.node.splats = ['WARNING in nk_xmit']"
LACKS = f"6.12.8 lacks {COMMIT}, which is in 7.1"
PREDICTED = f"predicted: {LACKS}"
OLD = "needs Linux 6.13, this is 6.12.8"


def test_a_failure_is_met_by_its_text_or_by_the_title_of_a_splat(pytester: pytest.Pytester) -> None:
    """Not by the traceback, which shows the test's source; and each of the faults must be met."""
    check(pytester, [
        Case((FIX,), "assert 0, 'no route'", "xfailed", PREDICTED),
        Case((FIX,), "raise OSError('no route')", "xfailed", PREDICTED),
        Case((FIX,), SPLAT, "xfailed", PREDICTED),
        Case((FIX,), SPLAT + "; assert 0, 'no route'", "xfailed", PREDICTED),
        Case((FIX,), "assert 0, 'timeout'", "failed", "AssertionError: timeout"),
        Case((FIX,), SPLAT + "; assert 0, 'timeout'", "failed", "AssertionError: timeout"),
        Case((FIX,), "assert 0  # no route", "failed", "assert 0"),
        Case((FIX,), SPLAT + " + ['BUG']", "failed", "the kernel complained: WARNING in nk_xmit; BUG"),
        Case((BUG,), "assert 0, 'was not dropped'", "xfailed", "predicted: known bug: bypassed (netkit_xmit())"),
        Case((BUG,), "assert 0, 'was dropped'", "failed", "AssertionError: was dropped"),
        Case((BUG, FIX), "assert 0, 'no route'", "xfailed", PREDICTED),
    ])  # fmt: skip


def test_a_skip_is_no_pass(pytester: pytest.Pytester) -> None:
    check(pytester, [
        Case((FIX,), "pytest.skip('no netkit')", "skipped", "no netkit"),
        Case(("since('6.13')",), "assert 0", "skipped", OLD),
        Case(("since('6.13')", FIX), "pass", "skipped", OLD),
        Case(("since('6.12')",), "pass", "passed"),
        Case(("since('6.12')", "since('6.13')"), "pass", "skipped", OLD),
    ])  # fmt: skip


def test_an_unpredicted_pass_is_a_failure(pytester: pytest.Pytester) -> None:
    correct = "the fix must have been backported; correct stable="
    fixed = "predicted to fail with 'not dropped', but passed (known bug: bypassed (netkit_xmit())): "
    check(pytester, [
        Case((FIX,), "pass", "failed",
             f"predicted to fail with 'no route|in nk_xmit', but passed ({LACKS}): {correct}"),
        Case((FATAL,), "pass", "failed", f"predicted to crash with 'in nk_xmit', but passed ({LACKS}): {correct}"),
        Case((BUG,), "pass", "failed", fixed + "6.12.8 must have a fix; make it fixed_in"),
    ])  # fmt: skip


def test_with_the_fix_no_failure_is_predicted(pytester: pytest.Pytester) -> None:
    cases = [
        Case((FIX,), "assert 0, 'no route'", "failed", "AssertionError: no route"),
        Case((FIX,), SPLAT, "failed", "the kernel complained: WARNING in nk_xmit"),
        Case((FIX,), "pass", "passed"),
    ]
    check(pytester, cases, running=Version(7, 1))


def test_what_set_up_and_teardown_find_counts_too(pytester: pytest.Pytester) -> None:
    check(pytester, [
        Case((FIX,), "pass", "xfailed", PREDICTED, fixture="assert 0, 'no route'; yield"),
        Case((FIX,), "pass", "xfailed", PREDICTED, fixture="yield; assert 0, 'no route'"),
        Case((FIX,), "pass", "error", "in set-up: AssertionError: no file", fixture="assert 0, 'no file'; yield"),
        Case((FIX,), "assert 0, 'no route'", "error", "in teardown: AssertionError: left", "yield; assert 0, 'left'"),
    ])  # fmt: skip


def test_a_failure_is_no_crash(pytester: pytest.Pytester) -> None:
    """A kernel that lives on after an oops has died nevertheless (taint D), and all else comes of that."""
    oops = "request.node.splats = ['BUG in nk_xmit']"
    without = f"predicted to crash with 'in nk_xmit', but failed without a crash ({LACKS})"
    check(pytester, [
        Case((FATAL,), "assert 0, 'in nk_xmit'", "failed", without),
        Case((FATAL,), "pass", "failed", without, fixture="assert 0; yield"),
        Case((FATAL,), SPLAT, "failed", "the kernel complained: WARNING in nk_xmit"),
        Case((FATAL,), oops, "xfailed", PREDICTED),
        Case((FATAL,), f"{oops}; assert 0, 'the child is gone'", "xfailed", PREDICTED),
        Case((FATAL,), f"{oops} + ['BUG in nk_open']", "xfailed", PREDICTED),
        Case((FIX,), f"{oops} + ['BUG in nk_open']", "failed", "the kernel complained: BUG in nk_xmit; BUG in nk_open"),
        Case((FATAL, FIX), "assert 0, 'no route'", "xfailed", PREDICTED),
    ])  # fmt: skip


def test_another_failure_says_what_was_predicted(pytester: pytest.Pytester) -> None:
    (outcome,) = outcomes(pytester, [Case((FIX,), "assert 0, 'timeout'", "failed")])
    assert f"predicted was another failure, with 'no route|in nk_xmit': {LACKS}" in outcome.detail
    assert ">       assert 0, 'timeout'" in outcome.detail
    (outcome,) = outcomes(pytester, [Case((FATAL,), "assert 0, 'timeout'", "failed")])
    assert "E       AssertionError: timeout" in outcome.detail


def test_a_predicted_failure_is_told_by_python_s_own_traceback(pytester: pytest.Pytester) -> None:
    """Promise: where it failed and how, from the test on."""
    (outcome,) = outcomes(pytester, [Case((FIX,), "int('no route')", "xfailed")])
    where, line, failure = outcome.detail.splitlines()[:3]
    assert where.endswith("in test_0")
    assert line == "    int('no route')"
    assert failure == "ValueError: invalid literal for int() with base 10: 'no route'"


@pytest.mark.parametrize(("running", "fresh"), [(RUNNING, True), (Version(7, 1), False)])
def test_a_test_that_will_crash_its_guest_is_fresh(pytester: pytest.Pytester, running: Version, fresh: bool) -> None:
    item = pytester.getitem(f"import pytest\n\n@pytest.mark.{FATAL}\ndef test_func():\n    pass\n")
    GuestPredictions(running).pytest_collection_modifyitems([item])
    assert bool(item.get_closest_marker("fresh")) is fresh


def test_a_splat_is_told_with_its_function() -> None:
    oops = "BUG: kernel NULL pointer dereference, address: 0\nOops: 0002 [#1] SMP\nRIP: 0010:nk_xmit+0x1/0x2\n"
    warning = "WARNING: CPU: 0 PID: 1 at net/x.c:1 nk_open+0x1/0x2\n---[ end trace 0 ]---\n"
    assert list(map(place_of, splats(warning + oops))) == [
        "WARNING in nk_open",
        "BUG: kernel NULL pointer dereference in nk_xmit",
    ]


def test_a_death_is_as_predicted_by_one_of_its_titles() -> None:
    told = [("lacks a", "stack overflow"), ("lacks b", "NULL pointer")]
    assert reason_of_death(told, ["Kernel panic", "BUG: NULL pointer"]) == "predicted: lacks b"
    assert reason_of_death(told, ["Kernel panic"]) is None
    assert reason_of_death([], ["Kernel panic"]) is None
