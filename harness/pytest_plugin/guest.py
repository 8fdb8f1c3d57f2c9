"""The guest's side, PYTEST_DONT_REWRITE: says in each report which guest it comes from."""

from __future__ import annotations

import os
from typing import Any

import pytest


class GuestSide:
    def __init__(self) -> None:
        self.name = os.environ.get("KPROOF_GUEST", "")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Any:
        report = yield
        report.kproof_guest = self.name  # xdist sends every attribute of a report
        return report
