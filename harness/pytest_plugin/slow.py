"""PYTEST_DONT_REWRITE: a test that is marked ``slow`` runs when it is asked for: with ``-m``, or by its name.

Otherwise it is skipped, and so told in the summary, in JUnit and in run.json.
"""

from __future__ import annotations

from pathlib import Path

import pytest

REASON = "slow: -m slow runs it, and so does its name"


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("slow") and not (item.config.option.markexpr or named(item)):
        pytest.skip(REASON)


def named(item: pytest.Item) -> bool:
    """Whether an argument is this test, not only its file or folder: ``FILE::TEST``."""
    own = item.nodeid.partition("::")[2]
    for argument in item.config.args:
        path, _, name = argument.partition("::")
        if name and Path(path).absolute() == item.path and (own == name or own.startswith((f"{name}::", f"{name}["))):
            return True
    return False
