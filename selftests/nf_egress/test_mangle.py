"""Packets that the egress chain changes: payload set, with checksums that stay right, and what else a rule may do.

Source of the promises: 0ae8e4cca787 "netfilter: nf_tables: set transport offset from mac header for netdev/egress"
(6.7), nft_payload_set_eval() of net/netfilter/nft_payload.c; nft(8) on PAYLOAD, LOG and LIMIT STATEMENT.

A packet of the packet socket must come out as another builder of packets makes it, to the last byte.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass

import pytest

from selftests.lib import capture, expect, packet
from selftests.lib.capture import Capture
from selftests.lib.netns import Namespace
from selftests.lib.nfnetlink import NF_NETDEV_EGRESS, Log
from selftests.lib.tap import Tap
from selftests.nf_egress.conftest import FAMILIES, IPV4, IPV6, NEIGHBOUR_MAC, Family, MakeSender, Sender

pytestmark = pytest.mark.feature("nf_egress")

OTHER_MAC = bytes.fromhex("020000000977")


@dataclass(frozen=True)
class Fields:
    """What a packet says where rules change it."""

    src: str
    dst: str
    transport: str = "udp"
    sport: int = 4000
    dport: int = 4001
    ttl: int = 64

    def build(self, payload: bytes = b"payload") -> bytes:
        make = packet.udp if self.transport == "udp" else packet.tcp
        return make(payload, src=self.src, dst=self.dst, sport=self.sport, dport=self.dport, ttl=self.ttl)


V4, V6 = Fields("10.9.0.1", "10.9.0.2"), Fields("fd09::1", "fd09::2")
V4_TCP, V6_TCP = Fields("10.9.0.1", "10.9.0.2", "tcp"), Fields("fd09::1", "fd09::2", "tcp")


def changed(before: Fields, **fields: object) -> Fields:
    return Fields(**(vars(before) | fields))


@pytest.mark.promise("sets-fields")
@pytest.mark.parametrize(
    ("rule", "before", "after"),
    [
        pytest.param("udp dport set 4002", V4, changed(V4, dport=4002), id="UDP-port-over-IPv4"),
        pytest.param("udp dport set 4002", V6, changed(V6, dport=4002), id="UDP-port-over-IPv6"),
        pytest.param("tcp dport set 4002", V4_TCP, changed(V4_TCP, dport=4002), id="TCP-port-over-IPv4"),
        pytest.param("tcp sport set 4002", V6_TCP, changed(V6_TCP, sport=4002), id="TCP-port-over-IPv6"),
        pytest.param("ip ttl set 33", V4, changed(V4, ttl=33), id="TTL"),
        pytest.param("ip6 hoplimit set 33", V6, changed(V6, ttl=33), id="hop-limit"),
        pytest.param("ip daddr set 10.9.7.7", V4, changed(V4, dst="10.9.7.7"), id="IPv4-target-with-UDP"),
        pytest.param("ip saddr set 10.9.7.7", V4_TCP, changed(V4_TCP, src="10.9.7.7"), id="IPv4-source-with-TCP"),
        pytest.param("ip6 daddr set fd77::7", V6, changed(V6, dst="fd77::7"), id="IPv6-target-with-UDP"),
        pytest.param("ip6 saddr set fd77::7", V6_TCP, changed(V6_TCP, src="fd77::7"), id="IPv6-source-with-TCP"),
    ],
)
def test_set_field_changes_that_and_the_checksums(sender: Sender, rule: str, before: Fields, after: Fields) -> None:
    """nft_payload_set_eval(): the field, the checksums that cover it, and nothing else."""
    sender.chain(rule)
    with Capture(sender.device, outgoing=True) as seen:
        sender.send(sender.frame(before.build()))
        frame = seen.next()
    expected = sender.frame(after.build())
    assert frame.raw == expected, f"expected {packet.describe(expected)}\ngot {frame}"


@pytest.mark.promise("sets-fields")
def test_set_ethernet_address(sender: Sender) -> None:
    """The link header lies before the data that inet hooks see; here it can be set."""
    sender.chain(f"ether daddr set {OTHER_MAC.hex(':')}")
    with Capture(sender.device, outgoing=True) as seen:
        sender.send(sender.frame(V4.build()))
        frame = seen.next()
    expected = packet.in_ethernet(V4.build(), dst=OTHER_MAC, src=sender.device.mac)
    assert frame.raw == expected, f"expected {packet.describe(expected)}\ngot {frame}"


@pytest.mark.promise("sets-fields")
def test_set_dscp(sender: Sender) -> None:
    """Bits of a byte are set and the others left: cs3 is 24 of the six bits that stand above ECN."""
    sender.chain("ip dscp set cs3")
    segment = V4.build()[20:]
    before, after = (packet.ipv4(segment, src=V4.src, dst=V4.dst, protocol=packet.UDP, tos=tos) for tos in (0x01, 0x61))
    with Capture(sender.device, outgoing=True) as seen:
        sender.send(sender.frame(before))
        frame = seen.next()
    assert frame.raw == sender.frame(after), f"expected {packet.describe(sender.frame(after))}\ngot {frame}"


@pytest.mark.promise("sets-fields")
def test_udp_without_a_checksum_stays_without(sender: Sender) -> None:
    """RFC 768: 0 says that there is none; nft_payload_udp_checksum() leaves it."""
    sender.chain("ip daddr set 10.9.7.7")
    segment = bytearray(V4.build()[20:])
    segment[6:8] = bytes(2)
    before, after = (
        packet.ipv4(bytes(segment), src=V4.src, dst=target, protocol=packet.UDP) for target in (V4.dst, "10.9.7.7")
    )
    with Capture(sender.device, outgoing=True) as seen:
        sender.send(sender.frame(before))
        frame = seen.next()
    assert frame.raw == sender.frame(after), f"expected {packet.describe(sender.frame(after))}\ngot {frame}"


def pseudo_sum(src: str, dst: str, length: int) -> int:
    """What stands in a UDP checksum that the device is left to finish: the pseudo header's sum, not inverted."""
    empty = packet.transport_checksum(b"", src=src, dst=dst, protocol=packet.UDP)
    return 0xFFFF ^ packet.checksum(struct.pack("!HH", 0xFFFF ^ empty, length))


@pytest.mark.parametrize(
    ("family", "rule", "target"),
    [
        pytest.param(IPV4, "ip daddr set 10.9.7.7", "10.9.7.7", id="IPv4-target"),
        pytest.param(IPV6, "ip6 daddr set fd77::7", "fd77::7", id="IPv6-target"),
        pytest.param(IPV4, "udp dport set 4002", IPV4.neighbour, id="IPv4-port"),
        pytest.param(IPV6, "udp dport set 4002", IPV6.neighbour, id="IPv6-port"),
    ],
)
@pytest.mark.promise("sets-unfinished-checksums")
def test_checksum_that_the_device_finishes_stays_unfinished(
    make_sender: MakeSender, family: Family, rule: str, target: str
) -> None:
    """CHECKSUM_PARTIAL: addresses change the pseudo header's sum, ports change nothing (the device sums them)."""
    sender = make_sender(family)
    sender.chain(f"udp dport 9 {rule}")
    with Capture(sender.device, outgoing=True) as seen:
        sender.udp(b"payload")
        frame = seen.until(lambda frame: b"payload" in frame.raw, "the datagram")[-1]
    at = 14 + family.header
    length, found = struct.unpack_from("!HH", frame.raw, at + 4)
    expected = pseudo_sum(family.own, target, length)
    assert found == expected, f"expected {expected:#06x} as the sum of the pseudo header, got {found:#06x} in {frame}"


@pytest.fixture
def wire(new_namespace: Callable[..., Namespace], cleanup: ExitStack) -> Tap:
    """A device without offloads, whose frames can be read."""
    return cleanup.enter_context(Tap(new_namespace("host"), "t0", 1, multi_queue=False))


@FAMILIES
@pytest.mark.promise("sets-fields-of-gso")
def test_set_field_of_a_large_packet_leaves_its_checksum_unfinished(make_sender: MakeSender, family: Family) -> None:
    """A GSO packet for a device with offloads: the port is another, the sum of the pseudo header the same."""
    sender = make_sender(family)
    sender.chain("udp dport 9 udp dport set 4002")
    with Capture(sender.device, outgoing=True) as seen:
        sender.udp(bytes(30 * 1000) + b"end", segment=1000)
        frame = seen.until(lambda frame: b"end" in frame.raw, "the large packet")[-1]
    _, port, length, found = struct.unpack_from("!HHHH", frame.raw, 14 + family.header)
    expected = pseudo_sum(family.own, family.neighbour, length)
    assert (port, found) == (4002, expected), f"expected port 4002 and {expected:#06x}, got {port} and {found:#06x}"


@pytest.mark.since("6.11")  # 10154dbded6d; before, UDP_SEGMENT needs a device with checksum offload
@FAMILIES
@pytest.mark.promise("sets-fields-of-gso")
@pytest.mark.known_bug(
    "a field of a large UDP packet that is set spoils its checksums where the device has no checksum offload",
    evidence="udp4_hwcsum() leaves such a packet CHECKSUM_NONE with the pseudo header's sum in it (10154dbded6d), and"
    " nft_payload_set_eval() takes that for a whole checksum, which it updates",
    match="expected a right checksum",
)
def test_set_field_of_a_large_packet_is_in_every_segment(make_sender: MakeSender, wire: Tap, family: Family) -> None:
    """The rule changes one GSO packet; each datagram that is cut from it has the port, and a right checksum."""
    sender = make_sender(family, wire.link)
    sender.chain("udp dport 9 udp dport set 4002")
    size, count = 1000, 5
    sender.udp(b"".join(f"part {number:02}".encode().ljust(size, b".") for number in range(count)), segment=size)
    for number in range(count):
        frame = wire.frame_with(f"part {number:02}".encode())
        segment = frame[14 + family.header :]
        assert int.from_bytes(segment[2:4], "big") == 4002, f"expected port 4002 in {packet.describe(frame)}"
        left = packet.transport_checksum(segment, src=family.own, dst=family.neighbour, protocol=packet.UDP)
        assert left == 0, f"expected a right checksum in {packet.describe(frame)}"


@FAMILIES
@pytest.mark.promise("sets-fields")
def test_set_field_is_right_on_the_wire(make_sender: MakeSender, wire: Tap, family: Family) -> None:
    """A datagram of the local stack for a device without offloads: its whole checksum is updated."""
    sender = make_sender(family, wire.link)
    sender.chain("udp dport 9 udp dport set 4002")
    sender.udp(b"on the wire")
    frame = wire.frame_with(b"on the wire")
    segment = frame[14 + family.header :]
    left = packet.transport_checksum(segment, src=family.own, dst=family.neighbour, protocol=packet.UDP)
    assert (segment[2:4], left) == ((4002).to_bytes(2, "big"), 0), f"expected port 4002 in {packet.describe(frame)}"


@pytest.mark.parametrize("version", ["IPv4", "IPv6"])
@pytest.mark.promise("sets-fields-of-tcp-streams")
def test_tcp_stream_survives_ports_that_are_set_on_both_ways(
    new_namespace: Callable[..., Namespace], version: str
) -> None:
    """Large segments with unfinished checksums: 300 kB arrive whole where egress chains swap the server's port."""
    client, server = new_namespace("client", quiet=False), new_namespace("server", quiet=False)
    here, there = client.rtnl.add_veth("c0", "s0", server)
    family = IPV4 if version == "IPv4" else IPV6
    for link, address, other in ((here, family.own, there), (there, family.neighbour, here)):
        if family is IPV6:
            link.namespace.sysctl(f"net/ipv6/conf/{link.name}/accept_dad", 0)
        link.add_address(f"{address}/{family.length}")
        link.add_neighbour(family.neighbour if link is here else family.own, other.mac)
    client.nft.add_chain(here).rule("tcp dport 5001 tcp dport set 5002")
    server.nft.add_chain(there).rule("tcp sport 5002 tcp sport set 5001")
    data = bytes(range(256)) * 1200
    with server.socket(family.family, socket.SOCK_STREAM) as listener:
        listener.bind(("", 5002))
        listener.listen()
        with client.socket(family.family, socket.SOCK_STREAM) as sock:
            sock.settimeout(20)
            listener.settimeout(20)
            sock.connect((family.neighbour, 5001))
            accepted, _ = listener.accept()
            with accepted:
                assert transfer(sock, accepted, data) == data, "what arrived is not what was sent"


def transfer(source: socket.socket, target: socket.socket, data: bytes) -> bytes:
    """Send all of ``data`` while reading it at the other end."""
    received = bytearray()
    sent = 0
    source.setblocking(False)
    target.settimeout(20)
    while len(received) < len(data):
        if sent < len(data):
            with suppress(BlockingIOError):
                sent += source.send(data[sent : sent + 65536])
                continue
        part = target.recv(1 << 17)
        assert part, f"the stream ended after {len(received)} bytes"
        received += part
    return bytes(received)


@pytest.mark.feature("vlan")
@pytest.mark.promise("sets-vlan")
def test_set_vlan_of_a_tag_that_is_not_in_the_packet_yet(sender: Sender) -> None:
    """nft_payload_set_vlan(): the tag waits in the packet's metadata for the driver; the rule changes it there."""
    vlan = sender.namespace.rtnl.add_vlan("v7", on=sender.device, number=7)
    sender.chain("vlan id 7 vlan id set 9", "vlan id 9 counter", name="rules")
    with Capture(sender.device, outgoing=True) as seen:
        capture.send(vlan, packet.ethernet(b"tagged".ljust(46, b"."), dst=NEIGHBOUR_MAC, src=vlan.mac))
        frame = seen.until(lambda frame: b"tagged" in frame.raw, "the frame")[-1]
    tag = struct.unpack_from("!HH", frame.raw, 12)
    assert tag == (packet.ETH_P_8021Q, 9), f"expected a tag of VLAN 9 in {frame}"


@pytest.mark.feature("nft_limit")
@pytest.mark.promise("limit")
def test_limit_lets_a_burst_through(sender: Sender) -> None:
    """nft_limit_eval(): of five packets at once, as many as the burst has match; the next one in half an hour."""
    chain = sender.chain("limit rate 2/hour burst 3 packets counter")
    for _ in range(5):
        sender.raw()
    assert chain.packets == 3


@pytest.mark.feature("nft_limit")
@pytest.mark.promise("limit")
def test_limit_can_police(sender: Sender) -> None:
    """`limit rate over …` matches what is too much, and a drop there is told to the sender."""
    sender.chain("limit rate over 2/hour burst 1 packets drop")
    sender.raw()
    with expect.refusal(errno.ENOBUFS, "the second packet of a burst of one"):
        sender.raw()


@pytest.mark.feature("nft_log")
@pytest.mark.promise("log")
def test_log_tells_of_the_packet(sender: Sender, cleanup: ExitStack) -> None:
    """nft_log_eval(): prefix, hook, device and mark, in a message of NFNL_SUBSYS_ULOG; the packet goes on."""
    log = cleanup.enter_context(Log(sender.namespace, 5))
    sender.chain('log prefix "seen " group 5')
    sender.raw(b"logged", mark=7)
    told = log.next()
    assert (told.prefix, told.hook, told.out_device, told.in_device, told.mark) == (
        "seen ",
        NF_NETDEV_EGRESS,
        sender.device.index,
        0,
        7,
    )
    assert b"logged" in told.payload, f"expected the packet in the message, got {packet.hexdump(told.payload)}"
    assert sender.transmitted == 1


@FAMILIES
@pytest.mark.promise("mark-of-socket")
def test_mark_of_the_socket_is_matched(make_sender: MakeSender, family: Family) -> None:
    """SO_MARK of socket(7) is the packet's mark at the hook."""
    sender = make_sender(family)
    chain = sender.chain("udp dport 9 meta mark 42 counter")
    for mark in (41, 42):
        sender.udp(mark=mark)
    assert chain.packets == 1, "packets with mark 42, of two with 41 and 42"
