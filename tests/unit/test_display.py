"""Events on a screen and in a log, and the summary."""

from __future__ import annotations

import io

import pytest

from harness.display import SHOWN_PHASES, LiveDisplay, PlainDisplay, display_for, summary
from harness.events import Event, Finding, GuestEvent, Notice, Phase, Progress, TestEvent
from harness.model import Outcome, Result

EVENTS: list[Event] = [
    Phase("source", "debian 6.12.117"),
    Notice("suite gone answers 404"),
    Phase("build", "6.12.117"),
    Progress(100, 1377, "objects"),
    Phase("guests", "6.12.117"),
    GuestEvent("g0", "booting"),
    GuestEvent("g0", "ready", 3.25),
    Phase("tests", "3 selected"),
    TestEvent(Outcome("a.py::test_good", Result.PASSED), 3),
    TestEvent(Outcome("a.py::test_bad", Result.FAILED, message="assert 1 == 2"), 3),
    TestEvent(Outcome("a.py::test_skip", Result.SKIPPED, message="lacks [netkit]"), 3),
    GuestEvent("g0", "died: Kernel panic"),
    Finding("1/1 SURVIVED netkit/policy-ignored", good=False),
]


def test_plain_lines_tell_each_thing_once() -> None:
    stream = io.StringIO()
    with PlainDisplay(stream) as display:
        for event in EVENTS:
            display.sink(event)
    lines = [line.partition("] ")[2] for line in stream.getvalue().splitlines()]
    assert lines == [
        "source: debian 6.12.117",
        "note: suite gone answers 404",
        "build: 6.12.117",
        "guests: 6.12.117",
        "guest g0 booting",
        "guest g0 ready (3.2 s)",
        "tests: 3 selected",
        "1/3 PASSED a.py::test_good",
        "2/3 FAILED a.py::test_bad: assert 1 == 2",
        "3/3 SKIPPED a.py::test_skip: lacks [netkit]",
        "guest g0 died: Kernel panic",
        "1/1 SURVIVED netkit/policy-ignored",
    ]


def test_the_live_display_shows_phases_guests_counts_and_failures() -> None:
    stream = io.StringIO()
    display = LiveDisplay(stream)
    for event in EVENTS[:4]:
        display.sink(event)
    display.console.print(display._render())
    building = stream.getvalue()
    assert "✓" in building
    assert "100 of 1377 objects" in building
    for event in EVENTS[4:]:
        display.sink(event)
    display.console.print(display._render())
    assert "FAILED a.py::test_bad: assert 1 == 2" in stream.getvalue()
    assert "1/1 SURVIVED netkit/policy-ignored" in stream.getvalue()
    end = stream.getvalue().rpartition("note")[2]
    assert "g0" not in end, "a guest that died is not shown as one that lives"
    assert "3 of 3" in end
    assert "1 passed" in end
    assert "1 failed" in end


def test_the_live_display_shows_the_last_phases_only() -> None:
    stream = io.StringIO()
    display = LiveDisplay(stream)
    for number in range(100):
        display.sink(Phase("mutant", f"number {number};"))
    display.console.print(display._render())
    assert "number 99;" in stream.getvalue()
    assert "number 80;" not in stream.getvalue()
    assert stream.getvalue().count("✓") + stream.getvalue().count("▶") == SHOWN_PHASES


def test_a_pipe_gets_plain_lines() -> None:
    assert isinstance(display_for(io.StringIO()), PlainDisplay)


def test_the_summary_shows_failures_groups_skips_and_counts(capsys: pytest.CaptureFixture[str]) -> None:
    outcomes = [
        Outcome("a.py::test_good", Result.PASSED),
        Outcome("a.py::test_bad", Result.FAILED, detail="\n".join(f"line {n} [bold]" for n in range(60))),
        *(Outcome(f"a.py::test_skip[{n}]", Result.SKIPPED, message="kernel lacks netkit") for n in range(3)),
        Outcome("a.py::test_never", Result.NOT_RUN),
    ]
    summary(outcomes, seconds=12.34, folder="results/x")
    output = capsys.readouterr().out
    assert "FAILED a.py::test_bad" in output
    assert "line 59 [bold]" in output
    assert "line 19 " not in output
    assert "20 lines before are in junit.xml" in output
    assert "skipped 3: kernel lacks netkit" in output
    assert output.splitlines()[-1] == "1 failed, 1 not run, 3 skipped, 1 passed, in 12.3 s; results/x"


def test_the_summary_says_what_is_wrong_with_a_run_without_a_bad_test(capsys: pytest.CaptureFixture[str]) -> None:
    outcomes = [Outcome("a.py::test_skip", Result.SKIPPED, message="m"), Outcome("a.py::test_xfail", Result.XFAILED)]
    summary(
        outcomes, seconds=1, folder="x", remarks=["known issue, 1 x: W"], objections=["not one passed"], peak_mb=228.6
    )
    assert capsys.readouterr().out.splitlines() == [
        "skipped 1: m",
        "known issue, 1 x: W",
        "not one passed",
        "1 skipped, 1 xfailed, in 1.0 s; up to 229 MB per guest; x",
    ]
