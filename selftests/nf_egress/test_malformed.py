"""IP headers that are not what they say: their packets have no ports for the egress chain.

Source of the promises: 5fd062891897 "netfilter: nf_tables: restore IP sanity checks for netdev/egress" (6.11; 6.10.8,
6.6 and 6.1 as well) and 70c261d50095, its IPv6 part: lengths are compared behind the Ethernet header (RFC 791, 8200).
"""

from __future__ import annotations

import pytest

from selftests.lib import packet
from selftests.nf_egress.conftest import Sender

pytestmark = pytest.mark.feature("nf_egress")

V4 = packet.udp(b"payload", src="10.9.0.1", dst="10.9.0.2", sport=4000, dport=4001)
V6 = packet.udp(b"payload", src="fd09::1", dst="fd09::2", sport=4000, dport=4001)


def patched(whole: bytes, at: int, replacement: bytes) -> bytes:
    return whole[:at] + replacement + whole[at + len(replacement) :]


def length(value: int) -> bytes:
    return value.to_bytes(2, "big")


BOGUS = [
    pytest.param(patched(V4, 0, b"\x55"), packet.ETH_P_IP, id="IPv4-of-version-5"),
    pytest.param(patched(V4, 0, b"\x44"), packet.ETH_P_IP, id="IPv4-header-of-16-bytes"),
    pytest.param(patched(V4, 2, length(len(V4) + 1)), packet.ETH_P_IP, id="IPv4-one-byte-longer-than-it-is"),
    pytest.param(patched(V4, 2, length(len(V4) + 14)), packet.ETH_P_IP, id="IPv4-longer-by-an-Ethernet-header"),
    pytest.param(patched(V4, 2, length(19)), packet.ETH_P_IP, id="IPv4-shorter-than-its-header"),
    pytest.param(V4[:19], packet.ETH_P_IP, id="IPv4-cut-in-its-header"),
    pytest.param(patched(V6, 0, b"\x40"), packet.ETH_P_IPV6, id="IPv6-of-version-4"),
    pytest.param(patched(V6, 4, length(len(V6) - 39)), packet.ETH_P_IPV6, id="IPv6-one-byte-longer-than-it-is"),
    pytest.param(patched(V6, 4, length(len(V6) - 26)), packet.ETH_P_IPV6, id="IPv6-longer-by-an-Ethernet-header"),
    pytest.param(V6[:39], packet.ETH_P_IPV6, id="IPv6-cut-in-its-header"),
]


@pytest.mark.parametrize(("inner", "ethertype"), BOGUS)
@pytest.mark.promise("bogus-headers-have-no-transport")
def test_packet_with_a_bogus_header_has_no_transport_header(sender: Sender, inner: bytes, ethertype: int) -> None:
    """nft_set_pktinfo_ipv4_validate(): what fails the check is seen, and has neither protocol nor ports."""
    chain = sender.chain("counter", "meta l4proto udp counter", "udp dport 4001 counter")
    sender.send(packet.ethernet(inner, dst=packet.BROADCAST, src=sender.device.mac, ethertype=ethertype))
    counts = [packets for packets, _ in chain.counters()]
    assert counts == [1, 0, 0], f"matches of any packet, of the protocol and of the port; {packet.describe(inner)}"


@pytest.mark.parametrize(
    ("inner", "ethertype"),
    [
        pytest.param(V4, packet.ETH_P_IP, id="IPv4"),
        pytest.param(V4 + bytes(20), packet.ETH_P_IP, id="IPv4-padded"),
        pytest.param(V6, packet.ETH_P_IPV6, id="IPv6"),
        pytest.param(V6 + bytes(20), packet.ETH_P_IPV6, id="IPv6-padded"),
    ],
)
@pytest.mark.promise("bogus-headers-have-no-transport")
def test_packet_with_a_sound_header_has_ports(sender: Sender, inner: bytes, ethertype: int) -> None:
    """The check is no stricter than that: exact lengths pass, and so does what Ethernet pads."""
    chain = sender.chain("udp dport 4001 counter")
    sender.send(packet.ethernet(inner, dst=packet.BROADCAST, src=sender.device.mac, ethertype=ethertype))
    assert chain.packets == 1, f"matches of the port; {packet.describe(inner)}"
