"""PYTEST_DONT_REWRITE: what a test is known to do on a kernel, by its version: markers that are data, and strict.

    @pytest.mark.since("6.13")
    @pytest.mark.fixed_in("1d47b55b36d2", mainline="7.1", stable={"6.12": "6.12.111"}, match="…", crash=False)
    @pytest.mark.known_bug("nft egress is bypassed behind netkit", evidence="netkit_xmit() calls …", match="…")

A test is skipped on a kernel older than its ``since``. On one without the fix it must fail, as it must everywhere with
a ``known_bug``: in a text, or with a splat's title, in which the regular expression ``match`` is found. It is *xfailed*
then; any other failure, and a pass, is a failure. With ``crash`` the guest must die so: such a test is fresh, and the
host, which sees the end, is told of it before. A release candidate counts as the release.
"""

from __future__ import annotations

import inspect
import os
import re
import traceback
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from harness.model import Splat, Version

MARKERS = (
    "since(version): needs at least this kernel; skipped on an older one",
    "until(version): what kernels before this one do; skipped from it on",
    "fixed_in(commit, mainline, stable={}, match=, crash=False): on a kernel without this fix the test must fail"
    " so, or with crash its guest must die so",
    "known_bug(reason, evidence, match): the test must fail so on every kernel",
)
EVENT = "kproof_deaths"
"""Of a worker: ``deaths``, by test id the ``Prediction.told`` of each death that is predicted. Before it says what it
has collected; host.py keeps it from xdist."""

Told = tuple[str, str]


@dataclass(frozen=True)
class Prediction:
    """How a test must fail on the running kernel."""

    why: str
    match: str
    crash: bool
    if_passed: str
    """What a pass means."""

    def fits(self, text: str) -> bool:
        return re.search(self.match, text) is not None

    @property
    def told(self) -> Told:
        """For the host: ``why`` and ``match``."""
        return self.why, self.match


@dataclass(frozen=True)
class Since:
    """The marker of that name; raises ValueError for what it cannot mean. So do the others."""

    version: str

    def __post_init__(self) -> None:
        _version(self.version)

    def __str__(self) -> str:
        return f"since {self.version}"

    def lacking(self, running: Version) -> str | None:
        """Why a test is skipped."""
        if running >= _version(self.version):
            return None
        return f"needs Linux {self.version}, this is {running}"


@dataclass(frozen=True)
class Until:
    """Of what a release has changed on purpose; a test ``since`` it says what is true then."""

    version: str

    def __post_init__(self) -> None:
        _version(self.version)

    def __str__(self) -> str:
        return f"until {self.version}"

    def lacking(self, running: Version) -> str | None:
        """Why a test is skipped."""
        if running < _version(self.version):
            return None
        return f"holds before Linux {self.version}, this is {running}"


@dataclass(frozen=True)
class FixedIn:
    commit: str
    mainline: str
    """The first release of Linus' with the fix."""
    stable: Mapping[str, str] = field(default_factory=dict)
    """By series (``6.12``), the first stable release with it; what is older than mainline and not named has it not."""
    match: str = field(kw_only=True)
    crash: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if not (isinstance(self.commit, str) and re.fullmatch(r"[0-9a-f]{8,40}", self.commit)):
            raise ValueError(f"{self.commit!r} is not a commit: 8 to 40 hex digits")
        if _series(_version(self.mainline)) != self.mainline:
            raise ValueError(f"mainline={self.mainline!r} is not a release of Linus': write it like '7.1'")
        if not isinstance(self.stable, Mapping):
            raise ValueError('stable= takes first releases by series: {"6.12": "6.12.111"}')
        for series, release in self.stable.items():
            first = _version(release)
            if _series(first) != series:
                raise ValueError(f"stable: {release} is no release of {series!r}")
            if first >= _version(self.mainline):
                raise ValueError(f"stable: {release} is newer than {self.mainline}, which has the fix itself")
        _check_match(self.match)
        if not isinstance(self.crash, bool):
            raise ValueError(f"crash={self.crash!r} is neither True nor False")

    def __str__(self) -> str:
        return f"fixed by {self.commit} in {self._releases}"

    def is_in(self, running: Version) -> bool:
        if running >= _version(self.mainline):
            return True
        first = self.stable.get(_series(running))
        return first is not None and running >= _version(first)

    def predict(self, running: Version) -> Prediction | None:
        if self.is_in(running):
            return None
        why = f"{running} lacks {self.commit}, which is in {self._releases}"
        return Prediction(why, self.match, self.crash, "the fix must have been backported; correct stable=")

    @property
    def _releases(self) -> str:
        return ", ".join([self.mainline, *self.stable.values()])


@dataclass(frozen=True)
class KnownBug:
    reason: str
    evidence: str
    match: str

    def __post_init__(self) -> None:
        for name in ("reason", "evidence"):
            if not (isinstance(text := getattr(self, name), str) and text.strip()):
                raise ValueError(f"{name}= must be a text that is not empty")
        _check_match(self.match)

    def __str__(self) -> str:
        return f"known bug: {self.reason}"

    def predict(self, running: Version) -> Prediction:
        why = f"{self} ({self.evidence})"
        return Prediction(why, self.match, False, f"{running} must have a fix; make it fixed_in")


Limit = Since | Until
"""Where a test is skipped."""
Said = Limit | FixedIn | KnownBug
"""What a marker says of versions."""

KINDS: Mapping[str, type[Said]] = {"since": Since, "until": Until, "fixed_in": FixedIn, "known_bug": KnownBug}

_OF_PYTEST = re.compile(r"/(_pytest|pluggy)/")
_SIGNATURES = {name: inspect.signature(kind) for name, kind in KINDS.items()}


def of_test(item: pytest.Item) -> list[Said]:
    """What the markers of a test say. Raises pytest.UsageError that names the test and what is wrong with one."""
    said: list[Said] = []
    for marker in item.iter_markers():
        if kind := KINDS.get(marker.name):
            try:
                given = _SIGNATURES[marker.name].bind(*marker.args, **marker.kwargs)
                said.append(kind(*given.args, **given.kwargs))
            except (TypeError, ValueError) as error:
                raise pytest.UsageError(f"{item.nodeid}: marker {marker.name}: {error}") from None
    return said


def check(items: Iterable[pytest.Item]) -> None:
    """Raises pytest.UsageError for the first test whose markers are wrong."""
    for item in items:
        of_test(item)


def predictions(item: pytest.Item, running: Version) -> list[Prediction]:
    """How a test must fail on this kernel; empty: it must pass, or --runxfail forgets what is known."""
    if item.config.getoption("runxfail"):
        return []
    told = [said.predict(running) for said in of_test(item) if not isinstance(said, Limit)]
    return [prediction for prediction in told if prediction]


def reason_of_death(told: Iterable[Sequence[str]], titles: Iterable[str]) -> str | None:
    """Why a test is xfailed whose guest has died, given what was told of it and the titles that its end has.

    None: not so was it predicted.
    """
    every = list(titles)
    return next((f"predicted: {why}" for why, match in told if any(re.search(match, title) for title in every)), None)


def place_of(splat: Splat) -> str:
    """A splat's title with the function, which that of an oops lacks."""
    return splat.title + (f" in {splat.function}" if splat.function and splat.function not in splat.title else "")


class GuestPredictions:
    """In a guest: skips, judges each test's reports, and tells the host which deaths are predicted.

    What the kernel complained of comes with a report: attribute ``kproof_complaints`` of guest.py, which is done with
    it before.
    """

    def __init__(self, running: Version | None = None) -> None:
        self.running = running or Version.of_kernel(os.uname().release, os.uname().version)
        self.met = False
        """The running test has failed as it was predicted."""
        self.over = False
        """It was skipped, or has failed in another way: no pass any more."""
        self.waiting = ""
        """How it failed before it is known whether the kernel has died, which would be why."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            if any(prediction.crash for prediction in predictions(item, self.running)):
                item.add_marker(pytest.mark.fresh)

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        from xdist.remote import WorkerInteractor

        deaths = {
            item.nodeid: told
            for item in session.items
            if (told := [each.told for each in predictions(item, self.running) if each.crash])
        }
        for plugin in session.config.pluginmanager.get_plugins():
            if deaths and isinstance(plugin, WorkerInteractor):
                plugin.sendevent(EVENT, deaths=deaths)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        for said in of_test(item):
            if isinstance(said, Limit) and (reason := said.lacking(self.running)):
                pytest.skip(reason)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
        predicted = predictions(item, self.running)
        briefly = bool(predicted) and call.when == "call" and not any(each.crash for each in predicted)
        if briefly:
            item.repr_failure = _brief  # type: ignore[assignment, method-assign]
        try:
            report: Any = yield
        finally:
            if briefly:
                del item.repr_failure
        if report.when == "setup":
            self.met, self.over, self.waiting = False, False, ""
        if predicted:
            self._judge(predicted, report, call)
            if briefly and report.failed and call.excinfo:  # nobody knew: now every detail counts
                report.longrepr = item.repr_failure(call.excinfo)
        return report

    def _judge(self, predicted: list[Prediction], report: Any, call: pytest.CallInfo[None]) -> None:
        if report.failed:
            self._judge_failure(predicted, report, _faults(report, call))
        elif report.skipped:
            self.over = True
        elif report.when == "teardown" and not (self.met or self.over):
            report.outcome = "failed"
            report.kproof_failed = True
            report.longrepr = _unmet(predicted, self.waiting)

    def _judge_failure(self, predicted: list[Prediction], report: Any, faults: list[str]) -> None:
        fatal = next((each for each in predicted if each.crash), None)
        met = _met(predicted, faults, died=getattr(report, "kproof_died", False))
        if met and (met.crash or not self.waiting):
            self.met = True
        elif fatal and report.when != "teardown":
            met, self.waiting = fatal, report.longreprtext
        else:
            self.over = True
            expected = " or ".join(f"{each.match!r}{' and a crash' * each.crash}" for each in predicted)
            why = "; ".join(each.why for each in predicted)
            report.sections.append(("prediction", f"predicted was another failure, with {expected}: {why}"))
            return
        report.outcome = "skipped"
        report.wasxfail = f"predicted: {met.why}"


def _brief(excinfo: pytest.ExceptionInfo[BaseException]) -> str:
    """A traceback as Python has it, from the test on, for ``repr_failure`` of a test that must fail.

    pytest's shows whole statements; to find those takes an emulated guest 0.2 s.
    """
    own = [entry for entry in traceback.extract_tb(excinfo.tb) if not _OF_PYTEST.search(entry.filename)]
    return "".join(traceback.format_list(own)) + excinfo.exconly()


def _met(predicted: list[Prediction], faults: list[str], *, died: bool) -> Prediction | None:
    """Which prediction a phase's faults meet: of a kernel that died, one fault is enough, all else comes of that."""
    if death := next((each for each in predicted if died and each.crash and any(map(each.fits, faults))), None):
        return death
    plain = [each for each in predicted if not each.crash]
    found = [next((each for each in plain if each.fits(fault)), None) for fault in faults]
    return found[0] if None not in found else None


def _unmet(predicted: Iterable[Prediction], failure: str) -> str:
    """What is wrong with a test that has passed, or whose ``failure`` did not come of a crash."""
    lines = []
    for each in predicted:
        how = f"predicted to {'crash' if each.crash else 'fail'} with {each.match!r}"
        what = "but failed without a crash" if failure else "but passed"
        lines.append(f"{how}, {what} ({each.why})" + (f": {each.if_passed}" if not failure else ""))
    return "\n".join(lines) + (f"\n\n{failure}" if failure else "")


def _faults(report: Any, call: pytest.CallInfo[None]) -> list[str]:
    """What is wrong in a phase: the exception, and what the kernel complained of.

    Not the traceback: that shows the test's source, where each expression is found.
    """
    raised = [call.excinfo.exconly()] if call.excinfo else []
    return raised + list(getattr(report, "kproof_complaints", [])) or [str(report.longrepr)]


def _version(text: object) -> Version:
    if not (isinstance(text, str) and re.fullmatch(r"\d+\.\d+(\.\d+)?", text)):
        raise ValueError(f"{text!r} is not a kernel version; write it like '6.13' or '6.12.8'")
    return Version.parse(text)


def _series(version: Version) -> str:
    return f"{version.major}.{version.minor}"


def _check_match(match: object) -> None:
    if not isinstance(match, str):
        raise ValueError(f"match={match!r} is not a regular expression")
    try:
        compiled = re.compile(match)
    except re.error as error:
        raise ValueError(f"match={match!r} is not a valid regular expression: {error}") from None
    if compiled.search(""):
        raise ValueError(f"match={match!r} is found in every text")
