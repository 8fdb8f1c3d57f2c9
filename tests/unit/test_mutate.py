"""What ``kproof mutate`` does and in which order, on kernels and runs that are made up."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from harness.errors import BootError, InfraError, UserError
from harness.events import Event, Finding, Notice
from harness.kernel.mutants import find
from harness.kernel.mutants import load as load_mutant
from harness.model import Kernel, Request, Result, Version
from harness.mutate.campaign import OUTSIDE, Campaign
from harness.mutate.kept import Kept, contents
from harness.mutate.report import junit, listing, summary_line, verdicts_table, write
from harness.mutate.runner import LOG, Report, read_report
from harness.mutate.verdicts import Judged, Verdict, exit_status, usual_seconds

TEST_A, TEST_B, TEST_C = (f"selftests/netkit/test_{name}.py::test_{name}" for name in "abc")
GREEN = {TEST_A: Result.PASSED, f"{TEST_B}[x]": Result.PASSED, TEST_C: Result.SKIPPED}

HEADER = """Mutant: {name}

Breaks: promise of {name}
Base:   {base}
Killed by:
{killers}

{more}
---
--- a/{file}
+++ b/{file}
@@ -1 +1 @@
-a
+b
"""


def kernel(identity: str) -> Kernel:
    return Kernel(identity, Path("/k"), Version(6, 12, 117), "6.12.117", "", (), (), 1.0)


@dataclass
class World:
    """A project with mutants, the machine that builds and runs them, and what it was asked to do."""

    root: Path
    log: list[str] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    reports: dict[str, list[Report | BaseException]] = field(default_factory=dict)
    """What runs on a mutant's kernel find out, one after the other; more of them find nothing."""
    broken: dict[str, Exception] = field(default_factory=dict)
    """Builds that fail, by mutant."""
    suite: dict[str, Result] = field(default_factory=lambda: dict(GREEN))
    of_base: Report | None = None
    """Of a base that is not what it should be."""
    base: str = "base"

    def add(
        self,
        name: str,
        *killers: str,
        base: str = ">=6.12,<6.13",
        more: str = "",
        file: str = "a.c",
        feature: str = "netkit",
    ) -> None:
        path = self.root / "patches" / feature / "mutants" / f"{name}.patch"
        path.parent.mkdir(parents=True, exist_ok=True)
        named = "\n".join(f"  {killer}" for killer in killers or (TEST_A,))
        path.write_text(HEADER.format(name=name, base=base, killers=named, more=more, file=file))

    # -- harness.mutate.campaign.Kernels

    def build(self, mutant: object) -> Kernel:
        name = mutant.path.stem  # type: ignore[attr-defined]
        self.log.append(f"build {name}")
        if name in self.broken:
            raise self.broken[name]
        return kernel(name)

    def discard(self, kernel: Kernel) -> None:
        self.log.append(f"discard {kernel.identity}")

    # -- harness.mutate.campaign.Runner

    def start(self, kernel: Kernel, tests: Sequence[str], folder: Path, *, guests: int, first: bool = False) -> FakeRun:
        asked = " ".join(re.split("/|::", test)[-1] for test in tests)
        self.log.append(f"run {kernel.identity}: {asked}{' -x' if first else ''} -n {guests}")
        if kernel.identity == self.base:
            if self.of_base:
                return FakeRun(self, kernel, self.of_base)
            return FakeRun(self, kernel, Report(self.suite, dict.fromkeys(self.suite, "oh"), seconds=1.0))
        waiting = self.reports.get(kernel.identity) or [good()]
        return FakeRun(self, kernel, waiting.pop(0))

    def campaign(self, *, every: bool = False, base: str = "base") -> Campaign:
        self.base = base
        return Campaign(
            kernel(base),
            root=self.root,
            kernels=self,
            runner=self,
            kept=Kept(self.root / "memo"),
            contents=contents,
            folder=self.root / "results",
            guests=2,
            events=self.events.append,
            every=every,
        )

    def judge(self, *names: str, every: bool = False, anew: bool = False) -> dict[str, Judged]:
        self.log.clear()
        campaign = self.campaign(every=every)
        campaign.run(find(names, self.root), anew=anew)
        return {one.mutant.path.stem: one for one in campaign.judged}


@dataclass
class FakeRun:
    world: World
    kernel: Kernel
    report: Report | BaseException

    def wait(self) -> Report:
        self.world.log.append(f"wait {self.kernel.identity}")
        if isinstance(self.report, BaseException):
            raise self.report
        return self.report

    def end(self) -> None:
        pass


def good() -> Report:
    return Report({TEST_A: Result.PASSED}, seconds=2.0)


def kills(test: str, result: Result = Result.FAILED, message: str = "expected DROP") -> Report:
    return Report({test: result}, {test: message}, seconds=2.0)


@pytest.fixture
def world(tmp_path: Path) -> World:
    (tmp_path / "selftests/netkit").mkdir(parents=True)
    (tmp_path / "selftests/netkit/test_a.py").write_text("")
    return World(tmp_path)


def test_the_suite_runs_first_and_the_next_mutant_is_built_while_tests_run(world: World) -> None:
    world.add("one")
    world.add("two")
    world.reports = {"one": [kills(TEST_A)], "two": [kills(TEST_A)]}
    world.judge()
    assert world.log == [
        "run base: netkit -n 2",
        "wait base",
        "build one",
        "run one: test_a -x -n 1",
        "build two",
        "wait one",
        "discard one",
        "run two: test_a -x -n 1",
        "wait two",
        "discard two",
    ]


def test_mutants_of_the_same_file_follow_each_other(world: World) -> None:
    world.add("one", file="a.c")
    world.add("two", file="b.c")
    world.add("three", file="a.c")
    assert list(world.judge()) == ["one", "three", "two"]


def test_killed_by_a_test_that_is_named(world: World) -> None:
    world.add("one", TEST_B, TEST_A)
    world.reports["one"] = [kills(f"{TEST_B}[x]")]
    one = world.judge()["one"]
    assert (one.verdict, one.by, one.named, one.text) == (Verdict.KILLED, (f"{TEST_B}[x]",), True, "expected DROP")
    assert str(one).startswith("KILLED netkit/one by test_b.py::test_b[x]: expected DROP (")
    assert exit_status([one]) == 0


def test_where_no_named_test_notices_all_others_run_until_one_does(world: World) -> None:
    world.add("one")
    world.reports["one"] = [good(), kills(f"{TEST_B}[x]")]
    one = world.judge()["one"]
    assert world.log[3:6] == ["run one: test_a -x -n 1", "wait one", "run one: netkit -x -n 2"]
    assert (one.verdict, one.named, one.test_seconds) == (Verdict.KILLED, False, 4.0)
    assert "which the header does not name" in str(one)


def test_where_no_test_notices_it_survived(world: World) -> None:
    world.add("one")
    one = world.judge()["one"]
    assert one.verdict is Verdict.SURVIVED
    assert exit_status([one]) == 1


def test_named_tests_that_are_skipped_cannot_notice(world: World) -> None:
    world.add("one", TEST_C)
    world.judge()
    assert [line for line in world.log if line.startswith("run one")] == ["run one: netkit -x -n 2"]


def test_all_tests_run_to_the_end_if_that_is_asked_for(world: World) -> None:
    world.add("one", TEST_A, TEST_B)
    world.reports["one"] = [Report({TEST_A: Result.PASSED, f"{TEST_B}[x]": Result.FAILED}, {f"{TEST_B}[x]": "no"})]
    one = world.judge(every=True)["one"]
    assert [line for line in world.log if line.startswith("run one")] == ["run one: netkit -n 2"]
    assert one.text == f"no; not noticed by {TEST_A}"


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (Result.CRASHED, "crashed: expected DROP"),
        (Result.HUNG, "hung: expected DROP"),
        (Result.ERROR, "error: expected DROP"),
    ],
)
def test_how_a_test_ended_is_told(world: World, result: Result, text: str) -> None:
    world.add("one")
    world.reports["one"] = [kills(TEST_A, result)]
    assert world.judge()["one"].text == text


def test_a_complaint_between_tests_is_a_kill_by_none_that_is_named(world: World) -> None:
    world.add("one")
    world.reports["one"] = [Report({TEST_A: Result.PASSED}, outside=("WARNING in netkit_xmit",))]
    one = world.judge()["one"]
    assert (one.verdict, one.by, one.named, one.text) == (Verdict.KILLED, (OUTSIDE,), False, "WARNING in netkit_xmit")


def test_a_kernel_that_does_not_boot_proves_nothing(world: World) -> None:
    world.add("one")
    world.reports["one"] = [Report(no_boot="the kernel does not boot: Kernel panic")]
    one = world.judge()["one"]
    assert (one.verdict, one.text) == (Verdict.NO_BOOT, "the kernel does not boot: Kernel panic")
    assert exit_status([one]) == 1


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ("the kernel does not compile: a.c:1: 'x' undeclared\nbuild log: /l", "a.c:1: 'x' undeclared"),
        (
            "patch {path} does not apply: a.c, hunk 1 of 1, @@ -1 +1 @@\nmore",
            "does not apply: a.c, hunk 1 of 1, @@ -1 +1 @@",
        ),
    ],
)
def test_what_does_not_build_is_told_in_a_line_and_the_next_goes_on(world: World, said: str, text: str) -> None:
    world.add("one")
    world.add("two")
    path = world.root / "patches/netkit/mutants/one.patch"
    world.broken["one"] = UserError(said.format(path=path))
    world.reports["two"] = [kills(TEST_A)]
    judged = world.judge()
    assert (judged["one"].verdict, judged["one"].text) == (Verdict.NO_BUILD, text)
    assert judged["one"].detail == said.format(path=path)
    assert judged["two"].verdict is Verdict.KILLED
    assert exit_status(list(judged.values())) == 3


def test_a_machine_that_fails_in_a_build_ends_it_and_the_running_tests_are_forgotten(world: World) -> None:
    world.add("one")
    world.add("two")
    world.broken["two"] = InfraError("no space left")
    campaign = world.campaign()
    with pytest.raises(InfraError):
        campaign.run(find((), world.root))
    assert campaign.judged == []


def test_a_run_that_fails_is_not_run_and_is_not_kept(world: World) -> None:
    world.add("one")
    world.reports["one"] = [Report(error="QEMU is missing")]
    one = world.judge()["one"]
    assert (one.verdict, exit_status([one])) == (Verdict.NOT_RUN, 3)
    world.reports["one"] = [kills(TEST_A)]
    assert world.judge()["one"].verdict is Verdict.KILLED


def test_equivalent_ones_and_those_for_other_kernels_are_not_built(world: World) -> None:
    world.add("one", more="\n")
    path = world.root / "patches/netkit/mutants/one.patch"
    path.write_text(path.read_text().replace("Killed by:", "Equivalent: read again later\nKilled by:"))
    world.add("two", base=">=6.13")
    world.add("three", base=">=6.12 +xps_bpf")
    judged = world.judge()
    assert world.log == []
    assert [(one.verdict, one.text) for one in judged.values()] == [
        (Verdict.EQUIVALENT, "read again later"),
        (Verdict.MISFIT, "it needs the series xps_bpf"),
        (Verdict.MISFIT, "it is for >=6.13, this is 6.12.117"),
    ]
    assert exit_status(list(judged.values())) == 5


def test_a_suite_that_is_red_without_a_mutant_proves_nothing(world: World) -> None:
    world.add("one")
    world.suite[TEST_A] = Result.FAILED
    one = world.judge()["one"]
    assert (one.verdict, exit_status([one])) == (Verdict.RED, 1)
    assert one.text == f"without it, 1 fail, the first is {TEST_A}: oh"
    assert "build one" not in world.log
    # nothing of that is kept
    world.suite[TEST_A] = Result.PASSED
    assert world.judge()["one"].verdict is Verdict.SURVIVED


@pytest.mark.parametrize(("report", "error"), [(Report(no_boot="panic"), BootError), (Report(error="no"), InfraError)])
def test_a_base_on_which_no_test_can_run_ends_it(world: World, report: Report, error: type[Exception]) -> None:
    world.add("one")
    world.of_base = report
    with pytest.raises(error, match="without a mutant"):
        world.judge()
    assert "build one" not in world.log


def test_a_suite_in_which_nothing_passes_is_red(world: World) -> None:
    world.add("one")
    world.suite = dict.fromkeys(GREEN, Result.SKIPPED)
    assert world.judge()["one"].verdict is Verdict.RED


def test_a_red_suite_does_not_keep_others_from_being_proven(world: World) -> None:
    test = "selftests/nf_egress/test_e.py::test_e"
    (world.root / "selftests/nf_egress").mkdir()
    world.add("one")
    world.add("two", test, feature="nf_egress")
    world.suite = {TEST_A: Result.FAILED, test: Result.PASSED}
    world.reports["two"] = [kills(test)]
    judged = world.judge()
    assert {name: one.verdict for name, one in judged.items()} == {"one": Verdict.RED, "two": Verdict.KILLED}


def test_a_header_that_names_no_test_is_an_error_before_anything_is_built(world: World) -> None:
    world.add("one", TEST_A, "selftests/netkit/test_a.py::test_gone")
    with pytest.raises(UserError, match=r"one\.patch:7: there is no test selftests/netkit/test_a\.py::test_gone"):
        world.judge()
    assert "build one" not in world.log


def test_a_second_call_knows_all(world: World) -> None:
    world.add("killed")
    world.add("survived")
    world.add("broken")
    world.broken["broken"] = UserError("the kernel does not compile: x")
    world.reports["killed"] = [kills(TEST_A)]
    first = world.judge()
    world.events.clear()
    second = world.judge()
    assert world.log == []
    assert [one.known for one in second.values()] == [True] * 3
    for name, one in second.items():
        assert (one.verdict, one.by, one.text) == (first[name].verdict, first[name].by, first[name].text)
    assert "1/3 DID NOT BUILD netkit/broken: x (known)" in [e.text for e in world.events if isinstance(e, Finding)]
    # a kernel that is not the same has verdicts of its own
    other = world.campaign(base="other")
    other.run(find(["netkit/killed"], world.root))
    assert not other.judged[0].known


@pytest.mark.parametrize(
    "path", ["selftests/netkit/test_a.py", "selftests/lib/x.py", "bpf/x.c", "selftests/conftest.py"]
)
def test_other_tests_another_mutant_or_rerun_make_it_new(world: World, path: str) -> None:
    world.add("one")
    world.reports["one"] = [kills(TEST_A)]
    assert not world.judge()["one"].known
    assert world.judge()["one"].known
    (world.root / path).parent.mkdir(exist_ok=True)
    (world.root / path).write_text("changed")
    assert not world.judge()["one"].known
    world.add("one", more="more prose")
    assert not world.judge()["one"].known
    assert world.judge()["one"].known
    assert not world.judge(every=True)["one"].known
    assert not world.judge(every=True, anew=True)["one"].known
    assert world.log[0] == "run base: netkit -n 2"


def test_after_an_interrupt_it_goes_on_where_it_was(world: World) -> None:
    for name in ("one", "two", "zero"):
        world.add(name)
    world.reports = {"one": [kills(TEST_A)], "two": [KeyboardInterrupt()]}
    campaign = world.campaign()
    with pytest.raises(KeyboardInterrupt):
        campaign.run(find((), world.root))
    assert [one.mutant.path.stem for one in campaign.judged] == ["one"]
    assert "discard two" in world.log
    judged = world.judge()
    assert [name for name, one in judged.items() if one.known] == ["one"]
    # the suite without a mutant is known as well
    assert world.log[0] == "build two"


def test_what_is_kept_and_cannot_be_read_is_found_out_again(world: World) -> None:
    world.add("one")
    world.judge()
    for path in (world.root / "memo").iterdir():
        path.write_bytes(path.read_bytes()[:-20])
    assert not world.judge()["one"].known
    assert world.judge()["one"].known


def test_tests_that_are_changed_while_they_run_run_again(world: World) -> None:
    world.add("one")

    edited = iter(["changed", "again"])
    start = world.start

    def edit(kernel: Kernel, tests: Sequence[str], folder: Path, *, guests: int, first: bool = False) -> FakeRun:
        if kernel.identity == "one" and (text := next(edited, "")):
            (world.root / "selftests/netkit/test_a.py").write_text(text)
        return start(kernel, tests, folder, guests=guests, first=first)

    world.reports["one"] = [kills(TEST_A), kills(TEST_A), good(), good()]
    world.start = edit  # type: ignore[method-assign]
    # both kills were of tests that nobody has seen green
    assert world.judge()["one"].verdict is Verdict.SURVIVED
    assert world.log.count("run base: netkit -n 2") == 3
    assert sum(isinstance(event, Notice) for event in world.events) == 2


def test_tests_that_are_changed_and_red_by_then_kill_nothing(world: World) -> None:
    world.add("one")
    start = world.start

    def edit(kernel: Kernel, tests: Sequence[str], folder: Path, *, guests: int, first: bool = False) -> FakeRun:
        if kernel.identity == "one":
            (world.root / "selftests/netkit/test_a.py").write_text("broken")
            world.suite[TEST_A] = Result.FAILED
        return start(kernel, tests, folder, guests=guests, first=first)

    world.reports["one"] = [kills(TEST_A), kills(TEST_A)]
    world.start = edit  # type: ignore[method-assign]
    assert world.judge()["one"].verdict is Verdict.RED


def test_the_hash_of_tests_leaves_other_folders_out(tmp_path: Path) -> None:
    for name in ("selftests/a/x.py", "selftests/b/x.py", "selftests/lib/x.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    before = contents(tmp_path, ["selftests/a"])
    (tmp_path / "selftests/b/x.py").write_text("other")
    (tmp_path / "selftests/a/x.pyc").write_text("compiled")
    assert contents(tmp_path, ["selftests/a"]) == before
    (tmp_path / "selftests/a/x.py").rename(tmp_path / "selftests/a/y.py")
    assert contents(tmp_path, ["selftests/a"]) != before


# -- what is told ------------------------------------------------------------------------------------------------------


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


# -- what a run has found out ------------------------------------------------------------------------------------------


def report(folder: Path, status: int, *, said: str = "", **facts: object) -> Report:
    run = {"outcomes": [], "deaths_outside_tests": {}, "complaints_outside_tests": [], "boot_failure": "", **facts}
    (folder / "run.json").write_text(json.dumps(run))
    (folder / LOG).write_text(f"[ 0.1] guests: 6.12\n{said}\n")
    return read_report(folder, status, 1.0)


def outcome(test: str, result: str, guest: str = "g0") -> dict[str, str]:
    return {"nodeid": test, "result": result, "message": "m", "guest": guest}


def test_outcomes_of_a_run(tmp_path: Path) -> None:
    found = report(tmp_path, 1, outcomes=[outcome("a", "passed"), outcome("b", "crashed"), outcome("c", "not run")])
    assert (found.bad, found.error, found.no_boot) == (("b",), "", "")
    assert found.told("b") == "crashed: m"


def test_deaths_are_told_once(tmp_path: Path) -> None:
    outcomes = [outcome("a", "crashed", "g0"), outcome("b", "passed", "g1")]
    complaints = [["g1", "W", "t"]]
    found = report(
        tmp_path, 1, outcomes=outcomes, deaths_outside_tests={"g1": "BUG"}, complaints_outside_tests=complaints
    )
    assert found.outside == ("W", "BUG")


@pytest.mark.parametrize(
    ("status", "facts", "no_boot", "error"),
    [
        (1, {"boot_failure": "no root\nconsole"}, "no root", ""),
        (3, {"deaths_outside_tests": {"g0": "panic"}}, "guests end before", ""),
        (3, {}, "", "guests end before"),
        (2, {}, "", "guests end before"),
    ],
)
def test_runs_in_which_no_test_ran(
    tmp_path: Path, status: int, facts: dict[str, object], no_boot: str, error: str
) -> None:
    found = report(tmp_path, status, said="kproof: guests end before", **facts)
    assert (found.no_boot, found.error) == (no_boot, error)


@pytest.mark.parametrize(("said", "error"), [("kproof: no QEMU", "no QEMU"), ("", "kproof ended with status 3; see")])
def test_a_run_that_left_no_results(tmp_path: Path, said: str, error: str) -> None:
    (tmp_path / LOG).write_text(said)
    assert read_report(tmp_path, 3, 1.0).error.startswith(error)
