"""Reports as one text: what comes out on the host is what went in, in the guest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from _pytest.config import get_config

from harness.pytest_plugin.packed import PACKED, Packs, Unpacks


def through(report: pytest.TestReport, plugins: Sequence[object]) -> tuple[dict[str, Any], pytest.TestReport]:
    """What xdist sends of a report, and what it makes of it."""
    config = get_config()
    for plugin in plugins:
        config.pluginmanager.register(plugin)
    sent = config.hook.pytest_report_to_serializable(config=config, report=report)
    sent["item_index"] = 3  # xdist's own
    return dict(sent), config.hook.pytest_report_from_serializable(config=config, data=sent)


SKIP = ("/p/selftests/test_a.py", 12, "Skipped: needs Linux 99.0")
"""What a report has of a skipped test."""


def report_of(longrepr: Any = None) -> pytest.TestReport:
    report = pytest.TestReport(
        "selftests/test_a.py::test_b[1]",
        ("selftests/test_a.py", 12, "test_b[1]"),
        {"test_b[1]": 1, "promise": 1},
        "skipped" if longrepr is SKIP else "failed" if longrepr else "passed",
        longrepr,
        "call",
        [("Captured stdout call", "a lone surrogate: \udc80, and ü")],
        1.5,
        user_properties=[("key", "value")],
    )
    report.kproof_taint = [0, 512]  # type: ignore[attr-defined]
    return report


@pytest.mark.parametrize("longrepr", [None, "ValueError: no", SKIP], ids=["passed", "failed", "skipped"])
def test_report_comes_out_as_it_went_in(longrepr: Any) -> None:
    _, plain = through(report_of(longrepr), [])
    sent, packed = through(report_of(longrepr), [Packs(), Unpacks()])
    assert sent.keys() == {PACKED, "item_index"}
    assert isinstance(sent[PACKED], str)
    assert packed.location == plain.location
    assert [tuple(section) for section in packed.sections] == plain.sections
    rest = {"sections", "user_properties"}
    assert {key: value for key, value in vars(packed).items() if key not in rest} == {
        key: value for key, value in vars(plain).items() if key not in rest
    }
    assert vars(packed)["item_index"] == 3


def test_report_of_an_ordinary_worker_is_left_alone() -> None:
    _, report = through(report_of(), [Unpacks()])
    assert report.passed
