"""Time mode's results as they are shown and written down."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from harness.bench import clocked, stats
from harness.bench.model import Measurement, Role, Row, Subject, Table
from harness.bench.sockperf import Latency, Percpu
from harness.bench.timed import Timed
from harness.cli import run
from harness.errors import UserError


def table(cost: float = 1100.0) -> Table:
    def row(name: str, value: float, role: Role = Role.PLAIN) -> Row:
        return Row(name, tuple(Measurement(boot, value + boot) for boot in range(6)), role)

    rows = (
        row("none", 1000),
        row("rule", cost),
        Row("nft", (), absent="no hook"),
        row("none, again", 1000, Role.AGAIN),
    )
    return Table("egress", "the hook", "time", "ns", "packet", Subject("6.12.117", "0123", "debian:6.12"), rows)


def judged(difference: float, spread: float = 0.001) -> stats.Judgement:
    return stats.judge(np.log1p(difference) + spread * np.array([1, -1, 0.5, -0.5, 1, -1]))


def found(*tables: Table, control: stats.Judgement | None = None) -> Timed:
    return Timed(
        tables=tables,
        verdicts={"rule": judged(0.1)} if len(tables) == 2 else {"rule": judged(0.1), "none, again": judged(0)},
        again=judged(0),
        control=control or judged(0.05),
        stolen=(0.0,) * 6,
        emulated=True,
        margin=0.01,
    )


def text(result: Timed) -> str:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(clocked.shown(result))
    return captured.get()


def test_one_kernel() -> None:
    said = text(found(table()))
    assert "1,000  1,001  1,002  1,003  1,004  1,005" in said
    assert "different by +10.0 %" in said
    assert "equivalent" in said
    assert "no hook" in said
    assert "control, 5% slower: +5.0%" in said
    assert "information only" in said


def test_two_kernels() -> None:
    said = text(found(table(1000), table()))
    assert "patched: 6.12.117, debian:6.12" in said
    assert said.count("1,000  1,001") == 5  # three rows of both, and the patched kernel's rule is 1,100


def trips() -> dict[str, Percpu]:
    one = Latency(100, 99, 5, 90, 98, 110, 130, 10_000)
    return {"UDP, veth, redirect()": Percpu([[one, one]], [9e4, 9.8e4, 1.3e5]), "TCP, routing": Percpu([[one]], [1e5])}


def test_what_is_written(tmp_path: Path) -> None:
    clocked.written(tmp_path, found(table()), trips())
    told = json.loads((tmp_path / "time.json").read_text())
    assert told["verdicts"]["rule"]["text"] == "different by +10.0 %"
    assert told["objection"] == ""
    assert told["round_trips"]["TCP, routing"]["boots"][0][0]["p99"] == 130
    assert {path.name for path in tmp_path.glob("*.svg")} == {
        *("egress.svg", "egress-latency-udp.svg", "egress-latency-tcp.svg"),
    }


def test_two_kernels_are_written(tmp_path: Path) -> None:
    clocked.written(tmp_path, found(table(1000), table()), {})
    assert (tmp_path / "egress.png").exists()


def test_round_trips() -> None:
    said = clocked.shown_trips(trips())
    assert said.startswith("UDP, veth, redirect(): microseconds")
    assert said.count("TRANSACTION_RATE") == 2
    assert "   20000.000   (per CPU:    10000.000    10000.000 )" in said


def test_margins() -> None:
    assert clocked.parse_margin("1%") == 0.01
    for text in ("10", "0%", "x%", "100%"):
        with pytest.raises(UserError, match="a share, like 1%"):
            clocked.parse_margin(text)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--profile"], "--profile is for instructions"),
        (["--packets", "10"], "--packets is for instructions"),
        (["--margin", "10,0.5%"], "with --time a margin is a share"),
    ],
)
def test_options_that_do_not_go_with_time(arguments: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        run(["bench", "egress", "--time", *arguments])
