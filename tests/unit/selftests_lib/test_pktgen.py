"""pktgen's report of a run."""

from __future__ import annotations

import pytest

from selftests.lib.pktgen import PktgenError, parse

REPORT = """\
Params: count 1500  min_pkt_size: 60  max_pkt_size: 60
Current:
     pkts-sofar: 1500  errors: 0
     started: 1720005us  stopped: 1722044us idle: 0us
Result: OK: 2038(c2038+d0) usec, 1500 (60byte,0frags)
  735776pps 353Mb/sec (353172480bps) errors: 0
"""
DROPPED = """\
Current:
     pkts-sofar: 0  errors: 2392
Result: OK: 3567(c3560+d7) usec, 0 (60byte,0frags)
  0pps 0Mb/sec (0bps) errors: 2392
"""


def test_rate_is_the_finer_clock() -> None:
    report = parse(REPORT)
    assert (report.sent, report.errors, report.microseconds, report.idle_microseconds) == (1500, 0, 2038, 0)
    assert report.nanoseconds == pytest.approx(2_038_663.9, abs=0.1)
    assert report.quantum == pytest.approx(2.77, abs=0.01)


def test_without_a_packet_there_is_no_rate() -> None:
    report = parse(DROPPED)
    assert (report.sent, report.errors, report.idle_microseconds) == (0, 2392, 7)
    assert (report.nanoseconds, report.quantum) == (3_567_000, 1000)


@pytest.mark.parametrize("text", ["Result: OK: count=0\n", "Result: Starting\n     pkts-sofar: 1  errors: 0\n"])
def test_run_that_has_not_ended(text: str) -> None:
    with pytest.raises(PktgenError, match="no result of a finished run"):
        parse(text)
