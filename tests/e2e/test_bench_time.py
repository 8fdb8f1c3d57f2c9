"""kproof bench --time in a real guest. Nothing is expected of the times: the host may be busy, and emulates."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from harness.bench import clocked, sockperf, timed
from harness.bench.native import workload
from harness.guest.spec import make_spec
from harness.model import Kernel
from harness.paths import project_root

MODULE = "selftests.bench.rr"


def test_rows_are_measured_in_turn_and_sockperf_tells_the_published_rows(kernel: Kernel, tmp_path: Path) -> None:
    """One boot, one quad of a duel, of A/A and of the control; then two clients, each on its processor."""
    workload(MODULE, project_root())
    spec, _ = make_spec(
        kernel,
        launcher="image",
        memory_mb=512,
        cpus=2,
        accel=None,
        project=project_root(),
        folder=tmp_path,
        extra={sockperf.PROGRAM: Path(str(shutil.which(sockperf.PROGRAM)))},
    )
    with timed.stations([spec], MODULE, tmp_path, 0) as there:
        plan = timed.one_kernel([there[0].programme], 0.01)
        duel = plan.duels[0]
        told = timed.run_once(there, replace(plan, duels=[duel]), 1)
        clients = there[0].ask(ping_pong=duel.name, seconds=clocked.ROUND_TRIPS["rr"])["clients"]
    first = duel.a
    assert {side: len(taken) for side, taken in told.samples.items()} == {
        first: 6,
        duel.b: 2,
        plan.again.b: 2,
        replace(first, more=0.05): 2,
    }
    assert all(ns > 100 for taken in told.samples.values() for ns in taken)
    trips = sockperf.collected([clients])
    assert [client["cpu"] for client in clients] == [0, 1]
    total, each = trips.figure("rate")
    assert total == sum(each) > 10
    assert len(trips.curve) == 2 * 1001
