"""The guest's side, PYTEST_DONT_REWRITE: tells the host what xdist does not pass on."""

from __future__ import annotations

import os
from typing import Any

import pytest


class GuestSide:
    def __init__(self) -> None:
        self.name = os.environ.get("KPROOF_GUEST", "")

    @pytest.hookimpl(wrapper=True)
    def pytest_collection(self, session: pytest.Session) -> Any:
        """A test id that does not exist: xdist would report no tests and no reason."""
        try:
            return (yield)
        except pytest.UsageError as error:
            session.config.workeroutput["kproof_usage_error"] = str(error)  # type: ignore[attr-defined]
            raise

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Any:
        """Which guest a report comes from."""
        report = yield
        report.kproof_guest = self.name  # xdist sends every attribute of a report
        return report
