"""Plots of results that are made up: what they say, and that the same result gives the same file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from harness.bench import plot, stats
from harness.bench.model import Change, Comparison, Measurement, Mode, Role, Row, Subject, Table, Verdict
from harness.errors import InfraError, UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def table(mode: Mode = "exact", more: float = 0.0) -> Table:
    def row(name: str, value: float, role: Role = Role.PLAIN) -> Row:
        spread = 0 if mode == "exact" else 1
        return Row(name, tuple(Measurement(boot, value + more + spread * boot) for boot in range(3)), role)

    return Table(
        benchmark="egress",
        title="the egress hook",
        mode=mode,
        quantity="instructions" if mode == "exact" else "ns",
        unit="packet",
        subject=Subject("6.12.117", "0123456789abcdef", "debian:6.12"),
        rows=(
            row("none", 1964.1),
            row("tc accept", 2170.2),
            row("tc drop", 1203.4),
            Row("nft", (), absent="this kernel has no egress hook"),
            row("control", 2220.2, Role.CONTROL),
            row("none, again", 1963.9, Role.AGAIN),
        ),
    )


def texts(figure: Figure) -> set[str]:
    """All that can be read in a figure."""
    from matplotlib.text import Text

    figure.draw_without_rendering()
    return {str(text.get_text()) for text in figure.findobj(Text)}


def test_rows() -> None:
    said = texts(plot.rows(table()))
    assert {"The egress hook", "Linux 6.12.117; 3 boots; instructions counted: the same on any host"} <= said
    assert {"1,964.1", "+206.1", "−760.7", "reference", "instructions per packet"} <= said
    assert {"control (control)", "none, again (A/A)"} <= said
    assert "nft" not in said


def test_rows_in_time_mode_have_verdicts() -> None:
    verdicts = {
        "tc accept": stats.judge(np.log(1.1) + np.array([0.001, -0.001, 0.002, -0.002])),
        "none, again": stats.judge([0.001, -0.001, 0.002, -0.002]),
        "tc drop": stats.judge([-0.1, 0.15, -0.2, 0.1]),
    }
    said = texts(plot.rows(table("time"), verdicts))
    assert {"different by +10.0 %", "equivalent", f"undecided: needs {verdicts['tc drop'].more} more runs"} <= said
    assert "slower than “none”, in %" in said


def test_kernels() -> None:
    changes = (
        Change("none", 1964.1, 2019.1, Verdict.DEARER, 10),
        Change("tc drop", 1203.4, 1206.4, Verdict.SAME, 10),
        Change("nft", None, 2100.0, Verdict.ONLY_PATCHED, 10),
    )
    said = texts(plot.kernels(Comparison(table(), table(more=55), changes)))
    assert {"1,964.1", "2,019.1", "+55, dearer", "+3, no difference", "patched"} <= said
    assert "nft" not in said


def test_latencies() -> None:
    random = np.random.default_rng(1)
    samples = {"redirect": list(random.normal(118_500, 900, 3000)), "peer": list(random.normal(43_250, 900, 3000))}
    said = texts(plot.latencies("Latency", "6.12", {**samples, "absent": []}))
    assert {"redirect: half within 118.5 µs", "P50", "P90", "P99", "latency in µs"} <= said
    assert not any("absent" in text for text in said)


def test_the_same_result_gives_the_same_files(tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    first = plot.save(plot.rows(table()), tmp_path, "egress")
    again = plot.save(plot.rows(table()), tmp_path / "again", "egress")
    assert [path.name for path in first] == ["egress.svg", "egress.png"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]


def test_nothing_to_draw() -> None:
    empty = Table("x", "x", "exact", "instructions", "packet", table().subject, (Row("none", (), absent="no pktgen"),))
    with pytest.raises(UserError, match="no row of x was measured"):
        plot.rows(empty)
    with pytest.raises(UserError, match="on both kernels"):
        plot.kernels(Comparison(empty, empty, ()))
    with pytest.raises(UserError, match="no latency"):
        plot.latencies("", "", {"a": []})


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InfraError, match="No such file"):
        plot.save(plot.rows(table()), tmp_path / "gone", "egress")
