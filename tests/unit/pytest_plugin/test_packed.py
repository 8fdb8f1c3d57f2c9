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


def report_of(excinfo: Any = None) -> pytest.TestReport:
    report = pytest.TestReport(
        "selftests/test_a.py::test_b[1]",
        ("selftests/test_a.py", 12, "test_b[1]"),
        {"test_b[1]": 1, "promise": 1},
        "failed" if excinfo else "passed",
        str(excinfo) if excinfo else None,
        "call",
        [("Captured stdout call", "a lone surrogate: \udc80, and ü")],
        1.5,
        user_properties=[("key", "value")],
    )
    report.kproof_taint = [0, 512]  # type: ignore[attr-defined]
    return report


@pytest.mark.parametrize("excinfo", [None, ValueError("no")])
def test_report_comes_out_as_it_went_in(excinfo: ValueError | None) -> None:
    _, plain = through(report_of(excinfo), [])
    sent, packed = through(report_of(excinfo), [Packs(), Unpacks()])
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
