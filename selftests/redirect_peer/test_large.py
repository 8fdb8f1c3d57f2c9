"""Packets larger than the pod's end could send, packets still to be cut, and checksums still to be computed.

Source of the promises: 5f7d57280c19 "bpf: Drop MTU check when doing TC-BPF redirect to ingress" (5.12),
skb_do_redirect() of net/core/filter.c, which looks at none of these.
"""

from __future__ import annotations

import socket
import struct

import pytest

from selftests.lib import capture, packet, programs, wait
from selftests.lib.bpf import Counters
from selftests.lib.capture import Capture
from selftests.redirect_peer.conftest import FAMILIES, IPV4, KINDS, Addresses, MakeWay, Way
from selftests.redirect_peer.pod import pod_socket, received

pytestmark = pytest.mark.feature("redirect_peer")

PACKET_AUXDATA = 8
TP_STATUS_CSUMNOTREADY = 1 << 3
"""include/uapi/linux/if_packet.h"""

SEGMENT = 1400
LARGEST = 65535 - 14
"""Of an IP packet: with its MAC header it must be smaller than gso_max_size, 65536 (gso_features_check())."""


@pytest.mark.promise("no-mtu-check")
@pytest.mark.fixed_in("5f7d57280c19", mainline="5.12", match="no datagram came")
@KINDS
@FAMILIES
def test_larger_than_the_mtu(make_way: MakeWay, kind: str, addresses: Addresses) -> None:
    """5f7d57280c19: a packet of 4000 bytes gets into a pod whose end of the pair has an MTU of 1500, up to a socket."""
    way = make_way(kind, ipv6=True)
    for link in (way.source, way.entry):
        link.namespace.rtnl.set_mtu(link.index, 9000)
    way.to_pod()
    sock = pod_socket(way, addresses)
    payload = bytes(range(250)) * 16
    assert way.pod.state.mtu == 1500
    way.send_udp(payload, addresses=addresses)
    assert received(sock) == (payload, addresses.outside, 4000)


def segment(way: Way, addresses: Addresses, size: int) -> bytes:
    """A frame with a TCP segment in an IP packet of ``size`` bytes."""
    headers = 40 if addresses is IPV4 else 60
    payload = bytes(index % 251 for index in range(size - headers))
    return way.in_frame(packet.tcp(payload, src=addresses.outside, dst=addresses.pod, sport=4000, dport=5000))


@pytest.mark.promise("gso")
@KINDS
@FAMILIES
def test_largest_segment_arrives_whole(make_way: MakeWay, counters: Counters, kind: str, addresses: Addresses) -> None:
    """A TCP segment of 64 KiB that is still to be cut (GSO) arrives in one piece, still to be cut, counted as one."""
    way = make_way(kind, ipv6=True)
    way.to_pod()
    way.watch(programs.save_field(counters.fd, 0, programs.SKB_GSO_SIZE))
    frame = segment(way, addresses, LARGEST)
    before = way.pod.stats
    with Capture(way.pod) as captured:
        way.send_frame(frame, offload=capture.tcp_segmentation(frame, SEGMENT))
        got = captured.next()
    assert len(got.raw) == len(frame), f"expected one frame of {len(frame)} bytes, got\n{got}"
    assert got.raw == frame, f"expected\n{packet.describe(frame)}\ngot\n{got}"
    assert counters[0] == SEGMENT, "gso_size in the pod"
    grown = way.pod.stats - before
    assert (grown.rx_packets, grown.rx_bytes) == (1, len(frame)), "(rx_packets, rx_bytes) of the peer"


def from_the_source(way: Way, payload: bytes) -> None:
    """A datagram out of a socket at the source, whose checksum the veth there promises to compute."""
    way.source.add_address(f"{IPV4.outside}/8")
    way.source.add_neighbour(IPV4.pod, way.entry.mac)
    with way.source.namespace.socket() as sock:
        sock.bind((IPV4.outside, 4000))
        sock.sendto(payload, (IPV4.pod, 5000))


@pytest.mark.promise("checksum-offload")
@KINDS
def test_checksum_still_to_be_computed(make_way: MakeWay, kind: str) -> None:
    """CHECKSUM_PARTIAL survives: the pod's tap is told that the checksum is not there yet, its socket gets the data."""
    way = make_way(kind)
    way.to_pod()
    sock = pod_socket(way)
    with way.pod.namespace.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as tap:
        tap.setsockopt(capture.SOL_PACKET, PACKET_AUXDATA, 1)
        tap.bind((way.pod.name, capture.ETH_P_ALL))
        from_the_source(way, b"unfinished")
        assert received(sock) == (b"unfinished", IPV4.outside, 4000)
        assert wait.readable(tap.fileno()), "the tap in the pod got nothing"
        frame, ancillary, _, _ = tap.recvmsg(2000, 100)
    (status,) = struct.unpack_from("<I", ancillary[0][2])
    assert status & TP_STATUS_CSUMNOTREADY, f"tp_status {status:#x} does not say so, of\n{packet.describe(frame)}"


@pytest.mark.promise("checksum-offload")
@KINDS
def test_wrong_checksum_is_noticed(make_way: MakeWay, kind: str) -> None:
    """Nothing on the way vouches for a checksum: the pod drops a datagram with a wrong one, and counts it."""
    way = make_way(kind)
    way.to_pod()
    sock = pod_socket(way)
    datagram = bytearray(packet.udp(b"broken", src=IPV4.outside, dst=IPV4.pod, sport=4000, dport=5000))
    datagram[-1] ^= 0xFF
    way.send_packet(bytes(datagram))
    way.send_udp(b"fence")
    assert received(sock)[0] == b"fence", "the first datagram to arrive"
    names, values = (
        line.split() for line in way.pod.namespace.read("/proc/net/snmp").splitlines() if line.startswith("Udp: ")
    )
    assert dict(zip(names, values, strict=True))["InCsumErrors"] == "1", "InCsumErrors of UDP in the pod"
