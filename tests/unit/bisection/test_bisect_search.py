"""What a search does and in which order, on kernels and runs that are made up."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from harness.bisect.decide import OLD_END, History
from harness.bisect.kernels import Made
from harness.bisect.proof import prove
from harness.bisect.samples import Failure
from harness.bisect.state import State
from harness.errors import UserError
from harness.events import Finding, Notice

from .world import HUNTED, TEST, World


def answer(world: World) -> tuple[int, ...]:
    return world.search().run().suspects


@pytest.mark.parametrize("breaks", [True, False])
@pytest.mark.parametrize("first", [0, 1, 13, 30, 31])
def test_thirty_two_in_five_steps(tmp_path: Path, first: int, breaks: bool) -> None:
    world = World(tmp_path, History.line(32), first, breaks=breaks)
    found = world.search().run()
    assert found.culprit == first
    assert found.steps <= 5
    assert found.confidence >= 0.99
    # a test that always fails: three runs of the broken end, few of all else
    assert len(world.runs) <= 3 + 1 + 5 + 5


def test_ends_are_proven_first(tmp_path: Path) -> None:
    world = World(tmp_path, History.line(8), 4)
    answer(world)
    assert world.built[:2] == [7, OLD_END]
    assert world.runs[:4] == [7, 7, 7, OLD_END]


@pytest.mark.parametrize("seed", range(20))
def test_three_times_of_ten_and_right_in_twenty_of_twenty(tmp_path: Path, seed: int) -> None:
    world = World(tmp_path, History.line(32), (seed * 7) % 32, rate=0.3, seed=seed, forgetful=True)
    found = world.search().run()
    assert found.culprit == world.first
    assert found.confidence >= 0.99


@pytest.mark.parametrize(("rate", "draws"), [(0.3, 1500), (0.7, 800), (0.95, 800), (1.0, 400)])
def test_answers_are_as_right_as_they_say(tmp_path: Path, rate: float, draws: int) -> None:
    right = early = 0
    for seed in range(draws):
        folder = tmp_path / str(seed)
        world = World(folder, History.line(32), seed % 32, rate=rate, seed=seed, breaks=bool(seed % 2), forgetful=True)
        try:
            found = world.search().run()
        except UserError:  # the broken end has passed each time
            early += 1
            continue
        assert found.confidence >= 0.99
        right += found.culprit == world.first
    assert early <= draws * 0.01
    # 99 % are wanted; three standard deviations of so many draws
    assert right >= (draws - early) * (0.99 - 3 * math.sqrt(0.99 * 0.01 / draws))


def test_what_does_not_build_or_boot_is_skipped(tmp_path: Path) -> None:
    world = World(tmp_path, History.line(32), 20, no_build=frozenset([15]), no_boot=frozenset([16, 23]))
    found = world.search().run()
    assert found.culprit == 20
    assert found.skips >= 2
    assert found.steps <= 5 + found.skips
    assert ("skip" in dict(world.range.notes).values()) is True


def test_another_failure_is_no_verdict(tmp_path: Path) -> None:
    world = World(tmp_path, History.line(16), 9, other=frozenset([7]))
    search = world.search()
    found = search.run()
    assert found.culprit == 9
    assert search.verdict(7) == "skipped"
    assert "WARNING in other" in search.state.judgements[7].untestable


def test_the_rest_is_a_range_where_the_culprit_hides_among_skips(tmp_path: Path) -> None:
    world = World(tmp_path, History.line(16), 8, no_build=frozenset([7, 8, 9]))
    found = world.search().run()
    assert found.culprit is None
    assert found.suspects == (7, 8, 9, 10)
    assert found.confidence >= 0.99


def test_equal_code_is_not_run_again(tmp_path: Path) -> None:
    world = World(tmp_path, History.line(16), 12, codes={OLD_END: "a", 7: "a", 11: "b", 9: "c"})
    search = world.search()
    assert search.run().culprit == 12
    assert 7 in world.built
    assert 7 not in world.runs
    assert search.verdict(7) == "whole"
    assert search.state.judgements[7].same_as == OLD_END


def test_what_differs_in_nothing_that_is_built_is_not_built(tmp_path: Path) -> None:
    world = World(tmp_path, History.line(16), 12)
    world.range.same = {7: OLD_END, 13: 15}
    search = world.search()
    assert search.run().culprit == 12
    assert 7 not in world.built
    assert search.state.judgements[7].why_same == "no file that is built differs"


def test_a_failing_machine_is_tried_again(tmp_path: Path) -> None:
    world = World(tmp_path, History.line(8), 5, infra=2)
    assert answer(world) == (5,)
    assert sum(isinstance(event, Notice) and "no memory" in event.text for event in world.events) == 2


@pytest.mark.parametrize("rate", [1.0, 0.3])
def test_killed_at_any_run_it_goes_on(tmp_path: Path, rate: float) -> None:
    whole = World(tmp_path / "whole", History.line(8), 3, rate=rate)
    whole.search().run()
    total = len(whole.runs)
    for runs in range(1, total, max(1, total // 5)):
        world = World(tmp_path / f"{runs}", History.line(8), 3, rate=rate, die_after=runs)
        with pytest.raises(KeyboardInterrupt):
            world.search().run()
        world.die_after = 10**9
        search = world.search()
        assert search.run().culprit == 3
        assert len(world.runs) == total, "what was known was found out again"


def test_finished_it_is_known(tmp_path: Path) -> None:
    world = World(tmp_path, History.line(8), 3)
    answer(world)
    runs = len(world.runs)
    assert answer(world) == (3,)
    assert len(world.runs) == runs


def test_another_question_does_not_find_the_state(tmp_path: Path) -> None:
    world = World(tmp_path, History.line(8), 3)
    answer(world)
    kept = State.load(tmp_path, ["key"])
    kept.made.append("abc")
    kept.save()
    other = State.load(tmp_path, ["another"])
    assert other.judgements == {}
    assert other.forgotten == len(kept.judgements)
    assert other.made == ["abc"], "who takes its kernels away?"
    assert State.load(tmp_path, ["key"], anew=True).judgements == {}


def test_good_that_is_bad(tmp_path: Path) -> None:
    world = World(tmp_path, History.line(8), 3)
    world.broken = lambda number: True  # type: ignore[method-assign]
    with pytest.raises(UserError, match=r"whole end, r-1, fails in 1 of 1 runs, too \(assert 1 == 2\): .* is bad"):
        answer(world)


def test_bad_that_is_good(tmp_path: Path) -> None:
    world = World(tmp_path, History.line(8), 3)
    world.broken = lambda number: False  # type: ignore[method-assign]
    with pytest.raises(UserError, match="broken end, r7, passes: 16 of 16 runs; what is said to be bad is good"):
        answer(world)


def test_an_end_that_does_not_build(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="broken end, r7: does not build"):
        answer(World(tmp_path / "a", History.line(8), 3, no_build=frozenset([7])))
    with pytest.raises(UserError, match="whole end, r-1: does not build"):
        answer(World(tmp_path / "b", History.line(8), 3, no_build=frozenset([OLD_END])))


def test_an_end_that_does_not_boot(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="broken end, r7, cannot be judged: does not boot: Kernel panic"):
        answer(World(tmp_path / "a", History.line(8), 3, no_boot=frozenset([7])))
    with pytest.raises(UserError, match="whole end, r-1, cannot be judged: does not boot"):
        answer(World(tmp_path / "b", History.line(8), 3, no_boot=frozenset([OLD_END])))


def test_a_verdict_that_chance_made_is_taken_back(tmp_path: Path) -> None:
    """Of a test that fails nine times of ten, a single pass is believed, and looked at again at the end."""
    taken_back = right = 0
    for seed in range(300):
        world = World(tmp_path / f"{seed}", History.line(8), seed % 8, rate=0.9, seed=seed, forgetful=True)
        right += world.search().run().culprit == world.first
        taken_back += any(isinstance(event, Notice) and "fails now" in event.text for event in world.events)
    assert taken_back
    assert right >= 290


def test_only_what_the_whole_end_has_not_is_hunted(tmp_path: Path) -> None:
    world = World(tmp_path, History.line(8), 3)
    old = Failure("selftests/toy/test_toy.py::test_other", "failed")
    plain = world.run

    def run(made: Made, folder: Path, *, runs: int) -> object:
        sample = plain(made, folder, runs=runs)
        return type(sample)(sample.results, {**sample.failures, old: "as ever"})

    world.run = run  # type: ignore[method-assign,assignment]
    search = world.search()
    assert search.run().culprit == 3
    assert search.state.hunted == [HUNTED]
    assert HUNTED.test == TEST


def test_the_proof(tmp_path: Path) -> None:
    world = World(tmp_path, History.line(8), 3)
    search = world.search()
    found = search.run()

    def proof() -> tuple[bool, str]:
        done = prove(search, found, kernels=world, folder=tmp_path, events=world.events.append)
        return done.proven, done.text

    proven, text = proof()
    assert proven
    assert text.startswith("r7 without r3 passes")
    world.proof_fails = True
    assert proof() == (False, "r7 without r3 fails as well: assert 1 == 2")
    world.range.unprovable = "it is a merge"
    assert proof() == (False, "it is a merge")


def test_each_verdict_is_told(tmp_path: Path) -> None:
    world = World(tmp_path, History.line(4), 2, no_build=frozenset([1]))
    answer(world)
    told = [event.text for event in world.events if isinstance(event, Finding)]
    assert told[0].startswith("BROKEN r3, 3 of 3 runs fail")
    assert any(text.startswith("SKIPPED r1: does not build: net/core/dev.c:1") for text in told)
