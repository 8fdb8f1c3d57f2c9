"""selftests.lib: packets and reports, built and read on the host."""

from __future__ import annotations

import errno
import os
import select

import pytest

from selftests.lib import expect, packet, pktgen, wait

MAC_A, MAC_B = bytes.fromhex("02000000000a"), bytes.fromhex("02000000000b")

REPORT = """Params: count 1000  min_pkt_size: 60  max_pkt_size: 60
     frags: 0  delay: 0  clone_skb: 0  ifname: d0
     Flags: NO_TIMESTAMP
Current:
     pkts-sofar: 1000  errors: 0
     started: 1us  stopped: 12002us idle: 1us
     cur_saddr: 0.0.0.0  cur_daddr: 10.99.0.2
Result: OK: 12001(c12000+d1) usec, 1000 (60byte,0frags)
  83326pps 39Mb/sec (39996480bps) errors: 0
"""


def test_udp_frame_has_right_checksums() -> None:
    """RFC 1071: the sum over what a checksum covers, itself included, is zero."""
    datagram = packet.udp(b"odd", src="10.0.0.1", dst="10.0.0.2", sport=1, dport=2)
    assert packet.checksum(datagram[:20]) == 0
    pseudo = datagram[12:20] + bytes([0, 17, 0, 11])
    assert packet.checksum(pseudo + datagram[20:]) == 0


def test_echo_request_has_a_right_checksum() -> None:
    assert packet.checksum(packet.echo_request(src="10.0.0.1", dst="10.0.0.2")[20:]) == 0


@pytest.mark.parametrize(("source", "target"), [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")])
def test_tcp_segment_has_a_right_checksum(source: str, target: str) -> None:
    """RFC 9293, section 3.1, with the pseudo headers of both families."""
    segment = packet.tcp(b"odd", src=source, dst=target, sport=1, dport=2)[-23:]
    assert packet.transport_checksum(segment, src=source, dst=target, protocol=packet.TCP) == 0


def test_frame_is_taken_apart() -> None:
    frame = packet.Frame(packet.ethernet(b"payload", dst=MAC_A, src=MAC_B))
    assert (frame.dst, frame.src, frame.payload) == (MAC_A, MAC_B, b"payload")
    assert frame.ethertype == packet.ETH_P_EXPERIMENT


@pytest.mark.parametrize(
    ("inner", "ethertype", "said"),
    [
        pytest.param(
            packet.udp(b"hi", src="10.0.0.1", dst="10.0.0.2", sport=7, dport=8),
            packet.ETH_P_IP,
            "IPv4 10.0.0.1 > 10.0.0.2, UDP 7 > 8, 'hi'",
            id="UDP",
        ),
        pytest.param(
            packet.echo_request(src="10.0.0.1", dst="10.0.0.2"), packet.ETH_P_IP, "ICMP type 8 code 0", id="echo"
        ),
        pytest.param(
            packet.udp(b"hi", src="fd00::1", dst="fd00::2", sport=7, dport=8),
            packet.ETH_P_IPV6,
            "IPv6 fd00::1 > fd00::2, UDP 7 > 8, 'hi'",
            id="UDP-over-IPv6",
        ),
        pytest.param(
            packet.tcp(b"hi", src="10.0.0.1", dst="10.0.0.2", sport=7, dport=8),
            packet.ETH_P_IP,
            "TCP 7 > 8 flags 0x10, 'hi'",
            id="TCP-segment",
        ),
        pytest.param(
            b"\x00\x07\x08\x00" + packet.udp(b"hi", src="10.0.0.1", dst="10.0.0.2", sport=7, dport=8),
            packet.ETH_P_8021Q,
            "VLAN 7, IPv4 10.0.0.1 > 10.0.0.2, UDP 7 > 8",
            id="VLAN",
        ),
        pytest.param(packet.ipv4(b"", src="1.1.1.1", dst="2.2.2.2", protocol=6), packet.ETH_P_IP, "TCP", id="TCP"),
        pytest.param(b"\x45cut", packet.ETH_P_IP, "IPv4, 'Ecut'", id="cut-short"),
        pytest.param(b"x", 0x1234, "ethertype 0x1234", id="unknown-ethertype"),
    ],
)
def test_summary_says_what_a_frame_is(inner: bytes, ethertype: int, said: str) -> None:
    frame = packet.ethernet(inner, dst=MAC_A, src=MAC_B, ethertype=ethertype)
    assert said in packet.summary(frame)
    assert f"{MAC_B.hex(':')} > {MAC_A.hex(':')}" in packet.summary(frame)


def test_anything_can_be_described() -> None:
    assert "too short" in packet.describe(b"abc")
    assert "1744 bytes more" in packet.describe(bytes(2000))
    assert "  0010  " in packet.hexdump(bytes(17))


def test_report_of_a_finished_run() -> None:
    assert pktgen.parse(REPORT) == pktgen.Report(
        sent=1000, errors=0, microseconds=12001, busy_microseconds=12000, per_second=83326
    )


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param(REPORT.replace("Result: OK", "Result: ERROR"), id="an-error"),
        pytest.param(REPORT.replace("usec, 1000", "usec, 999"), id="counts-that-differ"),
        pytest.param(REPORT[:60], id="cut-short"),
    ],
)
def test_other_reports_are_refused(text: str) -> None:
    with pytest.raises(pktgen.PktgenError):
        pktgen.parse(text)


def test_refusal_wants_its_errno_and_text() -> None:
    with expect.refusal(errno.EACCES, "it", text="denied"):
        raise PermissionError(errno.EACCES, "Permission denied")
    with pytest.raises(AssertionError, match=r"expected EACCES .*, got ENOENT"), expect.refusal(errno.EACCES, "it"):
        raise FileNotFoundError(errno.ENOENT, "No such file")
    with pytest.raises(AssertionError, match="but it was allowed"), expect.refusal(errno.EACCES, "it"):
        pass


def test_waiting_has_a_limit_and_says_for_what() -> None:
    with pytest.raises(TimeoutError, match="the moon"):
        wait.until(lambda: None, "the moon", seconds=0.01)
    assert wait.until(lambda: 5, "five") == 5


def test_limits_follow_the_machines_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KPROOF_SPEED", "2.5")
    assert wait.limit(2) == 5.0


def test_readable_is_told() -> None:
    reader, writer = os.pipe()
    try:
        assert not wait.readable(reader, 0.01)
        os.write(writer, b"x")
        assert wait.readable(reader)
        assert select.select([reader], [], [], 0)[0]
    finally:
        os.close(reader)
        os.close(writer)
