"""The world of the tests of ``kproof mutate``."""

from __future__ import annotations

from pathlib import Path

import pytest

from .world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    (tmp_path / "selftests/netkit").mkdir(parents=True)
    (tmp_path / "selftests/netkit/test_a.py").write_text("")
    return World(tmp_path)
