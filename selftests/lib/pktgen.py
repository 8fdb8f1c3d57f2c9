"""The kernel's packet generator (Documentation/networking/pktgen.rst), driven through /proc/net/pktgen of a namespace.

One thread (``kpktgend_0``), one device; the run is synchronous: writing "start" returns when the last packet is sent.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from selftests.lib import wait

if TYPE_CHECKING:
    from selftests.lib.rtnl import Link

_PROC = Path("/proc/thread-self/net/pktgen")


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
        """What the run took: for 1,000 packets in a millisecond, exact to 2 ns where packets were sent."""
        return self.sent * 1e9 / self.per_second if self.per_second else self.microseconds * 1e3

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
    result = re.search(r"^Result: OK: (\d+)\(c(\d+)\+d\d+\) usec, (\d+) \(", text, re.MULTILINE)
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


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """A signal that does nothing but interrupt a system call."""
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _ended(device: Path) -> str | None:
    text = device.read_text()
    return text if "Result: OK: " in text else None


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
) -> Report:
    """Send ``count`` UDP packets of ``size`` bytes (without the check sequence) through ``link``, which must be up.

    ``mode``: ``queue_xmit`` goes through __dev_queue_xmit() and with it egress classification; ``start_xmit`` hands
    packets to the driver. Raises PktgenError.

    In queue_xmit mode pktgen_xmit() does not count a packet that was dropped on the way (NET_XMIT_DROP) and sends
    another one: a run through a chain that drops everything never ends by itself. ``seconds`` ends it, by a signal to
    this thread, which must be the process's first one; what was dropped is counted in ``errors``.
    """
    with link.namespace.entered():
        thread = _PROC / "kpktgend_0"
        _write(thread, "rem_device_all")
        _write(thread, f"add_device {link.name}")
        try:
            device = _PROC / link.name
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
            if not seconds:
                _write(_PROC / "pgctrl", "start")
                return parse(device.read_text())
            with _alarm(seconds):
                _write(_PROC / "pgctrl", "start")
            # told to stop, the thread does so before its next packet
            return parse(wait.until(lambda: _ended(device), f"{link.name} to stop"))
        finally:
            _write(thread, "rem_device_all")
