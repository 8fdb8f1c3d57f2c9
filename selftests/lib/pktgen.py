"""The kernel's packet generator (Documentation/networking/pktgen.rst), driven through /proc/net/pktgen of a namespace.

One thread (``kpktgend_0``), one device; the run is synchronous: writing "start" returns when the last packet is sent.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from selftests.lib import wait

if TYPE_CHECKING:
    from selftests.lib.rtnl import Link

_PROC = Path("/proc/thread-self/net/pktgen")
_RESULT = re.compile(r"^Result: OK: (\d+)\(c(\d+)\+d\d+\) usec, (\d+) \(", re.MULTILINE)
_STEP_US = 105_000
"""Roughly: how often a thread looks for orders (HZ / 10 in pktgen_thread_worker(), and a tick)."""
_STARTING_US = 1_000
"""More than it takes from a look at the clock until the order is there."""


@dataclass(frozen=True)
class Report:
    """The result of a run."""

    sent: int
    errors: int
    microseconds: int
    busy_microseconds: int
    per_second: int = 0
    """Packets that were sent, by a finer clock than the microseconds; 0 where none was."""

    @property
    def nanoseconds(self) -> float:
        """What the run took, in steps of ``quantum``."""
        return self.sent * 1e9 / self.per_second if self.per_second else self.microseconds * 1e3

    @property
    def quantum(self) -> float:
        """Nanoseconds: one packet a second less makes a small difference, but where none was sent there is no rate."""
        return self.nanoseconds / self.per_second if self.per_second else 1e3

    @property
    def idle_microseconds(self) -> int:
        """What it waited between packets."""
        return self.microseconds - self.busy_microseconds


class PktgenError(Exception):
    """pktgen refused a command, or its report cannot be read."""


def parse(text: str) -> Report:
    """Read a device's file after a run. The lines that count, from net/core/pktgen.c (show_results, pktgen_if_show):

        pkts-sofar: 1000  errors: 0
        Result: OK: 12001(c12000+d1) usec, 1000 (60byte,0frags)
          83326pps 39Mb/sec (39996480bps) errors: 0

    Raises PktgenError for anything else, an ``Result: ERROR`` among it.
    """
    result = _RESULT.search(text)
    errors = re.search(r"pkts-sofar: (\d+)\s+errors: (\d+)", text)
    rate = re.search(r"^\s+(\d+)pps ", text, re.MULTILINE)
    if not result or not errors:
        raise PktgenError(f"no result of a finished run in:\n{text}")
    if result[3] != errors[1]:
        raise PktgenError(f"the result tells of {result[3]} packets, the state of {errors[1]}:\n{text}")
    return Report(
        sent=int(result[3]),
        errors=int(errors[2]),
        microseconds=int(result[1]),
        busy_microseconds=int(result[2]),
        per_second=int(rate[1]) if rate else 0,
    )


def _write(path: Path, command: str) -> None:
    try:
        path.write_text(f"{command}\n")
    except OSError as error:
        raise PktgenError(f"{path.name}: {command!r}: {error.strerror}") from None


_FORGOTTEN = 0.1
"""Seconds after which a run is not ended by the signal any more."""


def _start_for(seconds: float, device: Path) -> str:
    """Start, let a signal end it so long after its first packet, and return what the device's file says then.

    The thread looks for orders at the ticks of a clock that its last run tells; a signal before it has begun would be
    forgotten, and the run never end. So it runs twice before, for a single packet that no hook drops.
    """
    _write(device, "count 1")
    _write(device, "xmit_mode start_xmit")
    first, last = (_single(device) for _ in range(2))
    _write(device, "count 0")
    _write(device, "xmit_mode queue_xmit")
    step = (last - first) / max(1, round((last - first) / _STEP_US))
    wait_us = step - (time.monotonic_ns() / 1000 + _STARTING_US - last) % step + _STARTING_US
    return _start_within(wait_us / 1e6 + seconds, device)


def _start_within(seconds: float, device: Path) -> str:
    """Start, let a signal end it so long after the order, and return what the device's file says then."""
    control = os.open(_PROC / "pgctrl", os.O_WRONLY)
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        os.write(control, b"start\n")
        # told to stop, the thread does so before its next packet
        return wait.until(lambda: _ended(device), f"{device.name} to stop")
    except TimeoutError:
        os.write(control, b"stop\n")
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        os.close(control)


def _single(device: Path) -> int:
    """Run as it is set up; returns when it began (us)."""
    _write(_PROC / "pgctrl", "start")
    found = re.search(r"\bstarted: (\d+)us", device.read_text())
    if not found:
        raise PktgenError(f"{device.name} does not tell when it began")
    return int(found[1])


def _ended(device: Path) -> str | None:
    text = device.read_text()
    return text if _RESULT.search(text) else None


def run(
    link: Link,
    count: int,
    *,
    size: int = 60,
    mode: str = "queue_xmit",
    target: str = "10.99.0.2",
    mac: str = "02:00:00:00:00:99",
    options: Sequence[str] = (),
    seconds: float = 0.0,
    limit: float = 0.0,
) -> Report:
    """Send ``count`` UDP packets of ``size`` bytes (without the check sequence) through ``link``, which must be up.

    ``mode``: ``queue_xmit`` goes through __dev_queue_xmit() and with it egress classification; ``start_xmit`` hands
    packets to the driver. Raises PktgenError.

    In queue_xmit mode pktgen_xmit() does not count a packet that was dropped on the way (NET_XMIT_DROP) and sends
    another one: a run through a chain that drops everything never ends by itself. ``seconds`` after its first packet,
    or ``limit`` seconds after the order (half a second or more), ends it, by a signal to this thread, which must be the
    process's first one; what was dropped is counted in ``errors``.
    """
    with link.namespace.entered():
        thread, device = _PROC / "kpktgend_0", _PROC / link.name
        _write(thread, f"add_device {link.name}")
        try:
            for command in (
                "flag NO_TIMESTAMP",
                f"count {count}",
                f"pkt_size {size}",
                "delay 0",
                f"dst_mac {mac}",
                f"dst_min {target}",
                f"dst_max {target}",
                f"xmit_mode {mode}",
                *options,
            ):
                _write(device, command)
            if seconds:
                return parse(_start_for(seconds, device))
            if limit:
                return parse(_start_within(limit, device))
            _write(_PROC / "pgctrl", "start")
            return parse(device.read_text())
        finally:
            # the thread does it when it next looks, while the order waits 125 ms: what is added then may go with it
            _write(thread, "rem_device_all")
            wait.until(lambda: not device.exists(), f"{link.name} to be removed from pktgen")
