"""What ``kproof mutate`` does and in which order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from harness.errors import BootError, InfraError, UserError
from harness.events import Finding, Notice
from harness.kernel.mutants import find
from harness.model import Kernel, Result
from harness.mutate.campaign import OUTSIDE
from harness.mutate.kept import contents
from harness.mutate.runner import Report
from harness.mutate.verdicts import Verdict, exit_status

from .world import GREEN, TEST_A, TEST_B, TEST_C, FakeRun, World, good, kills


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
