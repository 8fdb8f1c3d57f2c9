"""The plan: order, reuse, what runs at once, and what it says."""

from __future__ import annotations

import pytest

from harness.matrix.cells import cells
from harness.matrix.forecast import seconds_of_tests
from harness.matrix.ledger import Found, Record
from harness.matrix.plan import BETWEEN_SECONDS, TEST_SECONDS, Forecast, Machine, State, about, plan
from harness.matrix.steps import arguments
from harness.model import Result

from .conftest import BUG, FIXED, NEW, ONE, TESTS, TWO, World, facts

MANY = """
kernel = ["debian:6.12", "debian:6.1", "image:debian:6.1", "kernel:abc"]
flavour = ["base", "kasan"]
selftests = ["selftests/a", "selftests/b"]
[[exclude]]
kernel = "image:*"
flavour = "kasan"
[[exclude]]
kernel = "kernel:*"
flavour = "kasan"
[[include]]
kernel = "debian:6.12 NETKIT=n"
"""


def state(kernel: str) -> State:
    return {"image": State.DOWNLOAD, "kernel": State.STORED}.get(kernel.partition(":")[0], State.BUILD)


def order(world: World, text: str) -> list[str]:
    definition = world.define(text)
    made = plan(
        cells(definition.choices, world.root),
        TESTS,
        forecast=lambda cell: Forecast(state(cell.choice.kernel)),
        known=lambda seen, own: {},
        seconds=seconds_of_tests(definition.skips, {}),
        machine=Machine(2, 8000),
        guests=2,
        memory_mb=512,
        jobs=None,
    )
    return [planned.cell.id.replace("-selftests-", " ") for planned in made.cells]


def test_what_is_quick_comes_first_and_what_is_shared_stays_together(world: World) -> None:
    assert order(world, MANY) == [
        *("kernel-abc a", "kernel-abc b", "image-debian-6.1 a", "image-debian-6.1 b"),
        *("debian-6.12 a", "debian-6.12 b", "debian-6.12-NETKIT-n a", "debian-6.12-NETKIT-n b"),
        *("debian-6.12-kasan a", "debian-6.12-kasan b"),
        *("debian-6.1 a", "debian-6.1 b", "debian-6.1-kasan a", "debian-6.1-kasan b"),
    ]


def test_what_takes_longest_comes_first(world: World) -> None:
    """Promise: what is foretold to be skipped takes no time; of images that are alike the order is the file's."""
    text = """
kernel = ["image:debian:6.1", "image:debian:5.10", "image:debian:6.12.43", "image:debian:6.12", "image:debian:7.2"]
[[skips]]
features = ["netkit"]
versions = "<6.7"
because = "it came with 6.7"
[[skips]]
tests = ["*test_one"]
versions = "<6.0"
because = "it came with 6.0"
"""
    names = [name.removeprefix("image-debian-") for name in order(world, text)]
    assert names == ["7.2", "6.12.43", "6.12", "6.1", "5.10"]  # 7.2 is the only one that a test needs at least 6.13 of


def test_a_test_takes_as_long_as_where_it_has_run(world: World) -> None:
    """Promise: what is usual for it, and what is around it; the guess only where nobody knows."""
    definition = world.define('kernel = ["image:debian:6.12"]')
    (cell,) = cells(definition.choices, world.root)
    seconds = seconds_of_tests(definition.skips, {ONE: 2.0, NEW: 9.0})
    known, unknown, skipped = (
        seconds(cell, facts("6.12.8"), next(test for test in TESTS if test.nodeid == name)) for name in (ONE, TWO, NEW)
    )
    assert (known, unknown, skipped) == (2.0 + BETWEEN_SECONDS, TEST_SECONDS + BETWEEN_SECONDS, BETWEEN_SECONDS)


def test_what_is_usual_is_the_median_of_where_it_ran(world: World) -> None:
    """Promise: one kernel that is slow, or that lacks what a test needs, does not make all plans wrong."""
    seen = {"a": (Result.PASSED, 1.0), "b": (Result.XFAILED, 2.0), "c": (Result.PASSED, 90.0)}
    seen |= {"old": (Result.SKIPPED, 0.01), "older": (Result.SKIPPED, 0.01)}
    for place, (result, seconds) in seen.items():
        world.ledger.put(place, Found({ONE: Record(ONE, result, seconds)}, frozenset(), ()), {ONE: "hash"})
    assert world.ledger.seconds() == {ONE: 2.0}


@pytest.mark.parametrize(
    ("cores", "free_mb", "cells", "asked", "guests"),
    [
        (2, 8000, 12, None, 1),
        (2, 8000, 1, None, 2),
        (8, 8000, 3, None, 2),
        (8, 900, 1, None, 2),
        (8, 100, 1, None, 1),
        (2, 8000, 0, None, 2),
        (2, 8000, 12, 3, 3),
    ],
)
def test_cells_share_the_cores(cores: int, free_mb: int, cells: int, asked: int | None, guests: int) -> None:
    assert Machine(cores, free_mb).guests(cells, 512, asked) == guests


@pytest.mark.parametrize(
    ("cores", "free_mb", "asked", "jobs"),
    [(2, 8000, None, 1), (8, 8000, None, 4), (8, 1700, None, 2), (8, 100, None, 1), (2, 8000, 3, 3), (2, 700, 3, 1)],
)
def test_cores_and_memory_decide_how_many_run_at_once(cores: int, free_mb: int, asked: int | None, jobs: int) -> None:
    assert Machine(cores, free_mb).jobs(2, 512, asked) == jobs


def test_the_plan_tells_what_is_reused_and_what_it_takes(world: World) -> None:
    world.text = 'kernel = ["debian:6.12.8", "debian:6.12.100"]'
    world.stored = {"debian:6.12.8": facts("6.12.8")}
    world.run()
    world.hashes = {"selftests/a/test_one.py": "edited"}
    matrix = world.matrix()
    first = matrix.cells[0].planned
    assert [test.nodeid for test in first.left] == [ONE]
    assert world.planned is not None
    text = str(world.planned)
    assert "stored 6.12.8" in text
    assert "4 of 5" in text
    assert (
        "2 cells; kernels: 1 stored, 1 build; tests: 6 to run, 4 reused; 1 at once, with 2 guests each; about 2 min"
        in text
    )


def test_nothing_to_run_takes_no_time(world: World) -> None:
    world.text = 'kernel = ["debian:6.12.8"]'
    world.stored = {"debian:6.12.8": facts("6.12.8")}
    world.run()
    world.matrix()
    assert world.planned is not None
    assert world.planned.seconds == 0


def test_the_fewest_words_select_what_is_left() -> None:
    a, b = [test for test in TESTS if "/a/" in test.nodeid], [test for test in TESTS if "/b/" in test.nodeid]
    assert arguments(["selftests/a", "selftests/b"], TESTS, TESTS) == ["selftests/a", "selftests/b"]
    assert arguments(["selftests/a", "selftests/b"], TESTS, b) == ["selftests/b/test_fixed.py"]
    assert arguments([ONE, FIXED], [a[0], *b], b) == [FIXED]
    assert {TWO, NEW, BUG} == {test.nodeid for test in a[1:]}


@pytest.mark.parametrize(("seconds", "text"), [(4.4, "4 s"), (89, "89 s"), (90, "2 min"), (5460, "1 h 31 min")])
def test_times_as_one_says_them(seconds: float, text: str) -> None:
    assert about(seconds) == text
