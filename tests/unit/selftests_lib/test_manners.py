"""What no selftest does, told by its source."""

from __future__ import annotations

import ast

import pytest

from harness.paths import project_root

FILES = sorted((project_root() / "selftests").rglob("*.py"))


def sleeps(source: str) -> list[int]:
    """The lines that name a function ``sleep`` of a module."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if (isinstance(node, ast.Attribute) and node.attr == "sleep")
        or (isinstance(node, ast.ImportFrom) and any(alias.name == "sleep" for alias in node.names))
    ]


def test_none_sleeps() -> None:
    """wait.until() polls with a limit, and an event is better still: no fixed time decides a test."""
    found = {str(path): lines for path in FILES if (lines := sleeps(path.read_text()))}
    assert not found, "selftests.lib.wait has what waits"


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("import time\ntime.sleep(1)", [2]),
        ("from time import monotonic, sleep", [1]),
        ("import asyncio\nasync def f():\n    await asyncio.sleep(1)", [3]),
        ("import time\npause = time.sleep", [2]),
        ("import time\ntime.monotonic()", []),
        ("sleep = 'sleep 60'", []),
    ],
)
def test_a_sleep_is_found(source: str, lines: list[int]) -> None:
    assert sleeps(source) == lines
