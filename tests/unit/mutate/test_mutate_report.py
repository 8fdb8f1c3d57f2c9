"""What ``kproof mutate`` tells: JUnit, JSON, tables, and the list of mutants."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import pytest

from harness.kernel.mutants import find
from harness.kernel.mutants import load as load_mutant
from harness.model import Request, Result
from harness.mutate.report import junit, listing, summary_line, verdicts_table, write
from harness.mutate.verdicts import Judged, Verdict, usual_seconds

from .world import TEST_A, TEST_B, World, kernel, kills


def all_kinds(world: World) -> list[Judged]:
    world.add("one")
    mutant = load_mutant(world.root / "patches/netkit/mutants/one.patch")
    return [Judged(mutant, verdict, text="why \x00", test_seconds=2.0) for verdict in Verdict]


def test_junit_has_a_case_for_each_mutant(world: World) -> None:
    judged = all_kinds(world)
    root = ET.fromstring(junit(judged, world.campaign().suites))
    suites = {suite.get("name"): suite for suite in root}
    assert set(suites) == {"unmutated", "netkit"}
    kinds = {
        Verdict.KILLED: set(),
        Verdict.SURVIVED: {"failure"},
        Verdict.NO_BOOT: {"failure"},
        Verdict.NO_BUILD: {"error"},
        Verdict.NOT_RUN: {"error"},
        Verdict.RED: {"error"},
        Verdict.EQUIVALENT: {"skipped"},
        Verdict.MISFIT: {"skipped"},
    }
    cases = list(suites["netkit"])
    for one, case in zip(judged, cases, strict=True):
        assert {child.tag for child in case} - {"system-out"} == kinds[one.verdict], one.verdict
        assert (case.get("name"), case.get("classname")) == ("one", "mutants.netkit")


def test_a_red_suite_is_a_failure_in_junit(world: World) -> None:
    world.add("one")
    world.suite[TEST_A] = Result.FAILED
    campaign = world.campaign()
    campaign.run(find((), world.root))
    case = ET.fromstring(junit(campaign.judged, campaign.suites)).find("testsuite[@name='unmutated']/testcase")
    assert case is not None
    assert case.get("name") == "selftests/netkit"
    assert case.find("failure") is not None


def test_all_is_written_down(world: World) -> None:
    world.add("one")
    world.reports["one"] = [kills(TEST_A)]
    campaign = world.campaign()
    campaign.run(find((), world.root))
    write(
        world.root, campaign.judged, suites=campaign.suites, request=Request(), base=kernel("base"), started=0.0,
        seconds=9.0, status=0, left=1,
    )  # fmt: skip
    facts = json.loads((world.root / "mutants.json").read_text())
    assert facts["summary"] == {"killed": 1}
    assert (facts["exit_status"], facts["not_judged"], facts["usual_seconds"]) == (0, 1, pytest.approx(2.0, abs=0.5))
    assert facts["unmutated"]["selftests/netkit"] == {"red": "", "passed": 2, "skipped": 1}
    assert facts["mutants"][0]["by"] == [TEST_A]
    assert (world.root / "junit.xml").exists()


def test_table_and_summary(world: World) -> None:
    world.add("one")
    world.add("two")
    world.reports["one"] = [kills(TEST_A)]
    judged = list(world.judge().values())
    lines = verdicts_table(judged).splitlines()
    assert lines[0].split() == ["MUTANT", "VERDICT", "SECONDS", "BY", "PROMISE"]
    assert lines[1].split() == ["netkit/one", "killed", "2.0", "test_a.py::test_a", "promise", "of", "one"]
    assert lines[2].split()[:4] == ["netkit/two", "survived", "4.0", "-"]
    assert (
        summary_line(judged, 9.0, "results/x")
        == "1 survived, 1 killed; 9.0 s in all, 3.0 s for the usual one; results/x"
    )
    assert usual_seconds([]) == 0.0


def test_the_list_tells_promises_and_tests(world: World) -> None:
    world.add("one", TEST_A, TEST_B, base=">=6.12 +xps_bpf")
    assert listing(find((), world.root)).splitlines()[1].split("  ") == [
        "netkit/one", ">=6.12 +xps_bpf", "test_a.py::test_a and 1 more", "promise of one",
    ]  # fmt: skip
