"""Random order: the same for a seed, another for another, and of some tests as among all."""

from __future__ import annotations

import argparse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.pytest_plugin.order import NEW, seed_of, shuffled

IDS = [f"test_it.py::test_{number}" for number in range(20)]


def test_an_order_is_of_its_seed() -> None:
    assert shuffled(IDS, 1) == shuffled(IDS, 1)
    assert shuffled(IDS, 1) != shuffled(IDS, 2)
    assert shuffled(IDS, 1) != list(range(20))


@given(st.permutations(IDS), st.integers(0, 20), st.integers())
def test_a_place_depends_on_nothing_but_seed_and_id(ids: list[str], count: int, seed: int) -> None:
    """Neither on the order of collection nor on the other tests."""
    whole = [IDS[index] for index in shuffled(IDS, seed)]
    some = ids[:count]
    assert [some[index] for index in shuffled(some, seed)] == [name for name in whole if name in some]


def test_a_seed() -> None:
    assert seed_of("77") == 77
    assert len({seed_of(NEW) for _ in range(20)}) > 1
    for text in ("-1", "selftests/netkit", ""):
        with pytest.raises(argparse.ArgumentTypeError, match="is no seed"):
            seed_of(text)
