"""PYTEST_DONT_REWRITE: a report goes through the channel as one text. execnet writes a structure value by value, in
Python: a sixth of an emulated guest's time between two tests.

Both halves are pytest's own hooks for that (hookspec.py), around the default ones.
"""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any

import pytest

PACKED = "$kproof_packed"
"""The key of the text. xdist adds its own keys beside it."""
TUPLES = ("location", "longrepr")
"""What JSON makes lists of, and others ask for as tuples: a skip's ``longrepr`` is file, line and reason."""


class Packs:
    """The guest's half."""

    @pytest.hookimpl(wrapper=True)
    def pytest_report_to_serializable(self) -> Generator[None, Any, Any]:
        return {PACKED: json.dumps((yield))}


class Unpacks:
    """The host's half."""

    @pytest.hookimpl(wrapper=True)
    def pytest_report_from_serializable(self, data: dict[str, Any]) -> Generator[None, Any, Any]:
        if text := data.pop(PACKED, ""):
            data |= json.loads(text) | data
            for key in TUPLES:
                if isinstance(data.get(key), list):
                    data[key] = tuple(data[key])
        return (yield)
