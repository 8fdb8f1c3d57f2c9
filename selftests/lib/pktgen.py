"""The kernel's packet generator (Documentation/networking/pktgen.rst), driven through /proc/net/pktgen of a namespace.

One thread (``kpktgend_0``), one device; the run is synchronous: writing "start" returns when the last packet is sent.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from selftests.lib.rtnl import Link

_PROC = Path("/proc/thread-self/net/pktgen")


@dataclass(frozen=True)
class Report:
    """The result of a run."""

    sent: int
    errors: int
    microseconds: int
    busy_microseconds: int


class PktgenError(Exception):
    """pktgen refused a command, or its report cannot be read."""


def parse(text: str) -> Report:
    """Read a device's file after a run. The lines that count, from net/core/pktgen.c (show_results, pktgen_if_show):

        pkts-sofar: 1000  errors: 0
        Result: OK: 12001(c12000+d1) usec, 1000 (60byte,0frags)

    Raises PktgenError for anything else, an ``Result: ERROR`` among it.
    """
    result = re.search(r"^Result: OK: (\d+)\(c(\d+)\+d\d+\) usec, (\d+) \(", text, re.MULTILINE)
    errors = re.search(r"pkts-sofar: (\d+)\s+errors: (\d+)", text)
    if not result or not errors:
        raise PktgenError(f"no result of a finished run in:\n{text}")
    if result[3] != errors[1]:
        raise PktgenError(f"the result tells of {result[3]} packets, the state of {errors[1]}:\n{text}")
    return Report(
        sent=int(result[3]), errors=int(errors[2]), microseconds=int(result[1]), busy_microseconds=int(result[2])
    )


def _write(path: Path, command: str) -> None:
    try:
        path.write_text(f"{command}\n")
    except OSError as error:
        raise PktgenError(f"{path.name}: {command!r}: {error.strerror}") from None


def run(
    link: Link,
    count: int,
    *,
    size: int = 60,
    mode: str = "queue_xmit",
    target: str = "10.99.0.2",
    mac: str = "02:00:00:00:00:99",
    options: Sequence[str] = (),
) -> Report:
    """Send ``count`` UDP packets of ``size`` bytes (without the check sequence) through ``link``, which must be up.

    ``mode``: ``queue_xmit`` goes through __dev_queue_xmit() and with it egress classification; ``start_xmit`` hands
    packets to the driver. Raises PktgenError.

    In queue_xmit mode pktgen_xmit() does not count a packet that was dropped on the way (NET_XMIT_DROP) and sends
    another one: a run through a chain that drops everything never ends.
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
            _write(_PROC / "pgctrl", "start")
            return parse(device.read_text())
        finally:
            _write(thread, "rem_device_all")
