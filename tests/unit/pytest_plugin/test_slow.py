"""Which of the tests that are marked slow a run leaves out."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.pytest_plugin import slow


def item(*arguments: str, markexpr: str = "", marked: bool = True, name: str = "test_a[1]") -> Any:
    config = SimpleNamespace(args=arguments, option=SimpleNamespace(markexpr=markexpr))
    return SimpleNamespace(
        config=config,
        nodeid=f"selftests/test_x.py::{name}",
        path=Path("selftests/test_x.py").absolute(),
        get_closest_marker=lambda name: marked and name == "slow",
    )


def is_left_out(item: Any) -> bool:
    try:
        slow.pytest_runtest_setup(item)
    except pytest.skip.Exception as skipped:
        return "-m slow" in str(skipped)
    return False


@pytest.mark.parametrize("argument", ["selftests", "selftests/test_x.py", "selftests/test_x.py::test_", "x.py::test_a"])
def test_a_slow_one_is_left_out(argument: str) -> None:
    assert is_left_out(item(argument))


@pytest.mark.parametrize("argument", ["selftests/test_x.py::test_a", "selftests/test_x.py::test_a[1]"])
def test_one_that_is_named_runs(argument: str) -> None:
    assert not is_left_out(item("selftests", argument))
    assert not is_left_out(item(str(Path(argument).absolute())))


def test_with_an_expression_that_decides() -> None:
    assert not is_left_out(item("selftests", markexpr="slow"))


def test_another_test_always_runs() -> None:
    assert not is_left_out(item("selftests", marked=False))
