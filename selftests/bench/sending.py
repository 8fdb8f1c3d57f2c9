"""The workload of benchmarks that are about packets: pktgen sends them through a device, one after another.

A run begins at a tick of the clock, because that is when pktgen's thread looks for orders, so none that takes less than
4 ms has a tick in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from selftests.bench.benchmark import Refused, Row, Sample
from selftests.lib import pktgen
from selftests.lib.rtnl import Link

SIZES = tuple(range(100, 1600, 200))
"""Packets of up to 2,500 instructions, in runs of less than 4 ms."""

THREAD = "pktgen_thread_worker"
"""What a profile is of. A run has other threads as well: who sets it up, and who is on while it waits for a tick."""

SHORTEST, SECONDS_PER_PACKET = 0.7e-3, 1.9e-6
"""For how long to send what is dropped: not so briefly that the signal finds the sender's time slice new, and waits."""

LIMIT, LIMIT_PER_PACKET = 0.5, 100e-6
"""Seconds after which packets that should pass, and do not, are not waited for."""


def send(link: Link, row: Row[Any], count: int, *, options: Sequence[str] = ()) -> Sample:
    """Packets of 60 bytes in mode queue_xmit. Raises Refused where others are lost, or pass, than shall."""
    # what is meant to be dropped is not worth a line in the kernel's log
    for name, value in (("message_burst", 0), ("message_cost", 3600)):
        Path("/proc/sys/net/core", name).write_text(str(value))
    seconds = SHORTEST + count * SECONDS_PER_PACKET if row.drops else 0.0
    limit = LIMIT + count * LIMIT_PER_PACKET
    report = pktgen.run(link, 0 if row.drops else count, seconds=seconds, limit=limit, options=options)
    if report.idle_microseconds > report.busy_microseconds:
        raise Refused(f"the sender slept for {report.idle_microseconds} us: time passed that no instruction took")
    if row.drops:
        if report.sent:
            raise Refused(f"{report.sent} packets passed, of {report.sent + report.errors} that were to be dropped")
        return Sample(report.errors, report.nanoseconds, report.quantum)
    if report.errors or report.sent != count:
        raise Refused(f"packets are lost: {report.errors}, and {report.sent} sent of {count} that should be")
    return Sample(count, report.nanoseconds, report.quantum)
