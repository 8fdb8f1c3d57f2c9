"""Time mode on guests that are made up: who is measured when, and what comes of it."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from harness.bench import timed
from harness.bench.model import Verdict
from harness.bench.stats import Kind
from harness.bench.timed import Side, Station
from harness.errors import BootError, InfraError, UserError
from harness.guest.launch import Guest
from harness.model import GuestSpec, Kernel, Version

STAT = "cpu  {user} 0 0 0 0 0 0 {steal} 0 0\n"


def programme(absent: str = "") -> dict[str, Any]:
    rows = [("none", "plain", ""), ("rule", "plain", absent), ("tc", "control", ""), ("none, again", "again", "")]
    return {
        "release": "6.12.117",
        "title": "the hook",
        "unit": "packet",
        "source": "a commit",
        "rows": [{"name": name, "role": role, "absent": why, "against": ""} for name, role, why in rows],
    }


@dataclass
class FakeStation:
    """A guest whose rows cost what they cost, on a host that gets slower and is not quiet."""

    costs: dict[str, float]
    random: np.random.Generator
    noise: float = 0.003
    programme: dict[str, Any] = field(default_factory=programme)
    steal: int = 0
    log: list[tuple[str, int]] = field(default_factory=list)
    """Of all guests that share it: the host has one clock."""

    def measure(self, row: str, count: int) -> tuple[int, float]:
        self.log.append((row, count))
        slower = 1 + 0.001 * len(self.log)
        return count, count * self.costs[row] * slower * float(np.exp(self.random.normal(0, self.noise)))

    def ask(self, **asked: object) -> dict[str, Any]:
        assert asked == {"stat": True}
        return {"stat": STAT.format(user=100 + len(self.log), steal=self.steal if self.log else 0)}


COSTS = {"none": 1500.0, "rule": 1650.0, "tc": 1700.0, "none, again": 1500.0}
KERNEL = Kernel("0123", Path(), Version(6, 12, 117), "6.12.117", "debian:6.12", (), (), 0.0)
SPEC = GuestSpec("image", "vmlinux", "root", "/project", "kvm", "/results")


def run(
    monkeypatch: pytest.MonkeyPatch,
    *guests: dict[str, float],
    kernels: int = 1,
    accel: str = "kvm",
    runs: int = timed.RUNS,
    **more: Any,
) -> timed.Timed:
    """Measure fake guests, one for each table of costs."""
    random = np.random.default_rng(5)

    @contextmanager
    def stations(specs: Sequence[GuestSpec], module: str, folder: Path, boot: int) -> Iterator[list[FakeStation]]:
        assert len(specs) == len(guests)
        log: list[tuple[str, int]] = []
        yield [FakeStation(costs, random, log=log, **more) for costs in guests]

    monkeypatch.setattr(timed, "stations", stations)
    spec = GuestSpec("image", "vmlinux", "root", "/project", cast(Any, accel), "/results")
    return timed.measure("hook", "m", [KERNEL] * kernels, [spec] * kernels, folder=Path(), runs=runs)


def test_rows_of_one_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within 0.3 % of noise and a drift of 0.1 % a measurement, a tenth more is seen as that."""
    found = run(monkeypatch, COSTS)
    assert found.objection == ""
    assert found.verdicts["rule"].kind is Kind.DIFFERENT
    assert found.verdicts["rule"].difference == pytest.approx(0.1, abs=0.005)
    assert found.verdicts["none, again"].kind is Kind.EQUIVALENT
    assert found.control.difference == pytest.approx(0.05, abs=0.005)
    assert set(found.verdicts) == {"rule", "tc", "none, again"}
    assert [len(row.measurements) for row in found.tables[0].rows] == [timed.RUNS] * 4
    assert found.tables[0].row("rule").value == pytest.approx(1650 * 1.1, rel=0.1)
    assert (found.emulated, found.remark) == (False, "")
    json.dumps([found.to_json(), found.tables[0].to_json()])


def test_two_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The patch makes a rule dearer and nothing else; a third guest, base again, is what the A/A row is made of."""
    found = run(monkeypatch, COSTS, {**COSTS, "rule": 1750.0}, COSTS, kernels=2)
    assert found.objection == ""
    changes = {change.row: change.verdict for change in found.comparison().changes}
    assert changes == {"none": Verdict.SAME, "rule": Verdict.DEARER}
    assert "95% interval" in found.comparison().changes[1].note
    assert [row.name for row in found.tables[1].rows] == ["none", "rule"]


def test_a_base_that_is_not_the_same_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    found = run(monkeypatch, COSTS, COSTS, {**COSTS, "none": 1600.0}, kernels=2)
    assert "A/A" in found.objection


def test_noise_that_hides_the_control(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "the control" in run(monkeypatch, COSTS, noise=0.5).objection


def test_stolen_time(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "of a run's processor time" in run(monkeypatch, COSTS, steal=50).objection


def test_emulation_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "information only" in run(monkeypatch, COSTS, accel="tcg").remark


def test_rows_that_name_their_reference() -> None:
    """A row that names itself is the first of a group of its own."""
    told = programme()
    told["rows"] += [
        {"name": "TCP", "role": "plain", "absent": "", "against": "TCP"},
        {"name": "TCP, rule", "role": "plain", "absent": "", "against": "TCP"},
        {"name": "SCTP", "role": "plain", "absent": "none here", "against": "SCTP"},
        {"name": "SCTP, rule", "role": "plain", "absent": "", "against": "SCTP"},
    ]
    duels = {duel.name: duel.a.row for duel in timed.one_kernel([told], 0.01).duels}
    assert duels == {"rule": "none", "tc": "none", "none, again": "none", "TCP, rule": "TCP"}


def test_what_a_kernel_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    found = run(monkeypatch, COSTS, programme=programme("no such hook"))
    assert found.tables[0].row("rule").absent == "no such hook"
    assert "rule" not in found.verdicts


def test_one_boot_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="two boots or more"):
        run(monkeypatch, COSTS, runs=1)


def test_order_within_a_boot() -> None:
    """Quads of all duels in turn; a row is measured as often, and as long, as any other that it meets."""
    station = FakeStation(COSTS, np.random.default_rng(1))
    plan = timed.one_kernel([station.programme], 0.01)
    plan.counts |= dict.fromkeys(COSTS, 1000)
    told = timed.run_once(cast(list[Station], [station]), plan, 2)
    assert [row for row, _ in station.log[:8]] == ["none", "rule", "rule", "none", "none", "tc", "tc", "none"]
    assert [row for row, _ in station.log[16:20]] == ["rule", "none", "none", "rule"]
    assert [count for _, count in station.log[12:16]] == [1000, 1050, 1050, 1000]
    assert len(told.samples[Side(0, "rule")]) == 4
    assert set(told.ratios) == {"rule", "tc", "none, again", "none, and 5% more"}


def test_a_measurement_takes_a_slice() -> None:
    station = FakeStation(COSTS, np.random.default_rng(1), noise=0)
    plan = timed.one_kernel([station.programme], 0.01)
    timed.run_once(cast(list[Station], [station]), plan, 1)
    assert 0.9 * timed.SLICE_NS < plan.counts["none"] * 1500 < 2 * timed.SLICE_NS


def guest(answer: Callable[[bytes], bytes | None]) -> Guest:
    """One that answers the lines of its channel; None: it dies."""
    ours, theirs = socket.socketpair()

    def serve() -> None:
        with theirs, theirs.makefile("rb") as lines:
            for line in lines:
                said = answer(line)
                if said is None:
                    return
                theirs.sendall(said + b"\n")

    threading.Thread(target=serve, daemon=True).start()
    process = SimpleNamespace(wait=lambda limit: 0, returncode=0)
    return cast(Guest, SimpleNamespace(
        spec=SPEC, channel=ours, console=Path("/nonexistent"), end=lambda limit: "the guest powered off",
        process=process))  # fmt: skip


def test_a_refusal_is_tried_again() -> None:
    """And the last one is told."""
    answers = iter([b"{}", b'{"refused": "late"}', b'{"refused": "late"}', b'{"count": 5, "ns": 50.0}'])
    station = Station(guest(lambda line: next(answers)), "m")
    assert station.measure("none", 5) == (5, 50.0)
    station = Station(guest(lambda line: b'{"refused": "late"}' if b"measure" in line else b"{}"), "m")
    with pytest.raises(UserError, match="late"):
        station.measure("none", 5)


def test_what_becomes_of_a_guest() -> None:
    with pytest.raises(InfraError, match="ValueError: x"):
        Station(guest(lambda line: b'{"error": "Traceback\\nValueError: x"}'), "m")
    with pytest.raises(BootError, match="ended while it was measured: the guest powered off"):
        Station(guest(lambda line: None), "m")
