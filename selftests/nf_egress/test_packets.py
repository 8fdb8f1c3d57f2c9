"""Which packets the egress hook sees: all that leave a device, whoever sent them, once each, whatever their size.

Source of the promises: 42df6e1d221d "netfilter: Introduce egress hook" and 0d7308c0ff5f "af_packet: Introduce egress
hook" (5.16); include/linux/netfilter_netdev.h.
"""

from __future__ import annotations

import pytest

from selftests.lib import capture, packet
from selftests.lib.capture import Capture
from selftests.lib.nft import COUNTER
from selftests.lib.rtnl import Link
from selftests.nf_egress.conftest import FAMILIES, WAYS_OUT, Family, MakeSender, Sender

pytestmark = pytest.mark.feature("nf_egress")

UDP_COUNTER = "meta l4proto udp counter"


@FAMILIES
@pytest.mark.promise("sees-local-packets")
def test_counts_what_the_ip_stack_sends(make_sender: MakeSender, family: Family) -> None:
    """Each packet of the local stack passes the chain once, with its Ethernet header in the length."""
    sender = make_sender(family)
    chain = sender.chain(UDP_COUNTER)
    for number in range(3):
        sender.udp(f"number {number}".encode())
    length = 14 + family.header + 8 + len("number 0")
    assert chain.counters() == [(3, 3 * length)], "(packets, bytes) of the counter"


@WAYS_OUT
@pytest.mark.promise("sees-packet-sockets")
def test_packet_sockets_are_classified(sender: Sender, bypass_qdisc: bool) -> None:
    """0d7308c0ff5f: also what a packet socket sends, and even past the qdisc (nf_hook_direct_egress())."""
    chain = sender.chain("counter")
    sender.raw(bypass_qdisc=bypass_qdisc)
    assert (chain.packets, sender.transmitted) == (1, 1), "(packets counted, packets transmitted)"


@WAYS_OUT
@pytest.mark.parametrize("size", [60, 1514, 9014, 65549], ids="{}-bytes".format)
@pytest.mark.promise("sees-all-sizes")
def test_frames_of_every_size_are_counted(sender: Sender, size: int, bypass_qdisc: bool) -> None:
    """From the smallest Ethernet frame to the largest IP packet: one packet, of the frame's length."""
    sender.namespace.rtnl.set_mtu(sender.device.index, 65535)
    chain = sender.chain("counter")
    sender.raw(bytes(size - 14), bypass_qdisc=bypass_qdisc)
    assert chain.counters() == [(1, size)], "(packets, bytes) of the counter"
    assert sender.transmitted == 1


@pytest.mark.since("6.11")  # 10154dbded6d; before, UDP_SEGMENT needs a device with checksum offload on every way
@FAMILIES
@pytest.mark.promise("sees-gso-whole")
def test_large_packet_is_seen_before_it_is_cut(make_sender: MakeSender, family: Family) -> None:
    """validate_xmit_skb() comes after the hook: 40 datagrams in one GSO packet are one packet for the chain."""
    sender = make_sender(family)
    chain = sender.chain(UDP_COUNTER)
    with Capture(sender.device, outgoing=True) as seen:
        sender.udp(bytes(40 * 1000) + b"end", segment=1000)
        seen.up_to(b"end")
    assert chain.packets == 1


@pytest.mark.promise("sees-gso-whole")
@FAMILIES
def test_large_packet_can_be_dropped(make_sender: MakeSender, family: Family) -> None:
    """A GSO packet is dropped as a whole: none of its datagrams leaves."""
    sender = make_sender(family)
    sender.chain("udp dport 9 drop")
    with Capture(sender.device, outgoing=True) as seen:
        sender.udp(bytes(4000), segment=1000)
        sender.udp(b"marker", port=10)
        before = [frame for frame in seen.up_to(b"marker") if len(frame.raw) > 1000]
    assert not before, f"expected nothing of the large packet, got {before[0]}"


@WAYS_OUT
@pytest.mark.parametrize("version", ["IPv4", "IPv6"])
@pytest.mark.promise("sees-gso-whole")
def test_large_frame_of_a_packet_socket_is_classified(sender: Sender, version: str, bypass_qdisc: bool) -> None:
    """PACKET_VNET_HDR: a segment that is still to be cut is one packet for the chain, past the qdisc as well."""
    chain = sender.chain("tcp dport 4001 counter")
    frame = sender.frame(datagram("tcp", version, 4001, bytes(5000)))
    sender.send(frame, offload=capture.tcp_segmentation(frame, 1000), bypass_qdisc=bypass_qdisc)
    assert chain.counters() == [(1, len(frame))], "(packets, bytes) of the counter"


TRANSPORTS = pytest.mark.parametrize("transport", ["udp", "tcp"])
ADDRESSES = {"IPv4": ("10.9.0.1", "10.9.0.2"), "IPv6": ("fd09::1", "fd09::2")}
VERSIONS = pytest.mark.parametrize("version", list(ADDRESSES))


def datagram(transport: str, version: str, port: int, payload: bytes = b"payload") -> bytes:
    source, target = ADDRESSES[version]
    build = packet.udp if transport == "udp" else packet.tcp
    return build(payload, src=source, dst=target, sport=4000, dport=port)


@VERSIONS
@TRANSPORTS
@pytest.mark.promise("matches-transport-header")
def test_rule_on_a_port_matches_that_port(sender: Sender, transport: str, version: str) -> None:
    """nft_set_pktinfo_ipv4_validate() and its IPv6 twin: the transport header is found behind Ethernet and IP."""
    chain = sender.chain(f"{transport} dport 4001 counter")
    for port in (4001, 4002):
        sender.send(sender.frame(datagram(transport, version, port)))
    assert chain.packets == 1, "packets to port 4001, of one to it and one to 4002"


@VERSIONS
@pytest.mark.promise("matches-network-header")
def test_rule_on_an_address_matches_that_address(sender: Sender, version: str) -> None:
    """The network header is found at its offset from the Ethernet header (nft_payload_eval())."""
    keyword, target = ("ip", "10.9.0.2") if version == "IPv4" else ("ip6", "fd09::2")
    chain = sender.chain(f"{keyword} daddr {target} counter", f"{keyword} saddr {target} counter")
    sender.send(sender.frame(datagram("udp", version, 1)))
    assert [packets for packets, _ in chain.counters()] == [1, 0], "matches of the target, and of it as the source"


@pytest.mark.promise("matches-link-header")
def test_rule_on_ethernet_addresses_matches(sender: Sender) -> None:
    """The Ethernet header is there already: `ether saddr` is the device's own."""
    chain = sender.chain(f"ether saddr {sender.device.mac.hex(':')} counter")
    sender.raw()
    assert chain.packets == 1


@pytest.mark.promise("matches-device")
def test_output_device_is_known_and_there_is_no_input_device(sender: Sender) -> None:
    """nf_hook_state_init() of nf_hook_egress(): the device is the packet's output, and there is no input."""
    chain = sender.chain('meta oifname "d0" counter', "meta iif 0 counter")
    sender.raw()
    assert [packets for packets, _ in chain.counters()] == [1, 1], "matches of the output, and of no input device"


@pytest.mark.promise("matches-transport-header")
def test_port_is_found_behind_ipv6_extension_headers(sender: Sender) -> None:
    """ipv6_find_hdr() walks over what stands between: here hop-by-hop options (RFC 8200, section 4.3)."""
    chain = sender.chain("udp dport 4001 counter")
    plain = datagram("udp", "IPv6", 4001)
    options = bytes([packet.UDP, 0, 1, 4, 0, 0, 0, 0])
    inner = packet.ipv6(options + plain[40:], src="fd09::1", dst="fd09::2", protocol=0)
    sender.send(sender.frame(inner))
    assert chain.packets == 1, f"matches of the port in {packet.summary(sender.frame(inner))}"


@pytest.mark.promise("fragments-have-no-ports")
@pytest.mark.fixed_in("009d203e56db", mainline="7.1", match=r"matches of the port, and of a later fragment")
def test_later_fragment_has_no_port(sender: Sender) -> None:
    """pkt->fragoff: what stands where the first fragment has ports is payload.

    nft_payload_eval() always said so; nft_payload_fast_eval(), which short loads take, does since 009d203e56db.
    """
    chain = sender.chain("udp dport 4001 counter", "ip frag-off & 0x1fff != 0 counter")
    whole = bytearray(datagram("udp", "IPv4", 4001))
    whole[6:8] = (64).to_bytes(2, "big")
    whole[10:12] = bytes(2)
    whole[10:12] = packet.checksum(bytes(whole[:20])).to_bytes(2, "big")
    sender.send(sender.frame(bytes(whole)))
    assert [packets for packets, _ in chain.counters()] == [0, 1], "matches of the port, and of a later fragment"


@pytest.mark.promise("sees-arp")
def test_arp_requests_are_classified(sender: Sender) -> None:
    """What the kernel sends on its own is no exception: the request for an unknown neighbour."""
    device, _ = sender.namespace.rtnl.add_veth("v0", "v1")  # a dummy has no ARP
    device.add_address("10.8.0.1/24")
    chain = sender.chain("ether type arp counter", device=device)
    with sender.namespace.socket() as sock:
        sock.sendto(b"to nobody", ("10.8.0.99", 9))
    assert chain.packets == 1


@pytest.mark.promise("sees-loopback")
def test_loopback_is_classified(sender: Sender) -> None:
    """lo is a device like others: what stays on the machine passes its chain once."""
    chain = sender.chain("udp dport 4001 counter", device=sender.namespace.rtnl.find("lo"))
    with sender.namespace.socket() as receiver, sender.namespace.socket() as sock:
        receiver.bind(("127.0.0.1", 4001))
        sock.sendto(b"to myself", ("127.0.0.1", 4001))
        assert receiver.recv(100) == b"to myself"
    assert chain.packets == 1


@FAMILIES
@pytest.mark.promise("sees-forwarded-packets")
def test_forwarded_packets_are_classified(make_sender: MakeSender, family: Family) -> None:
    """Not only what is sent here: a packet that comes in at one device passes the chain of the one it leaves by."""
    sender = make_sender(family)
    entry, outside = sender.namespace.rtnl.add_veth("in0", "out0")
    forward_through(sender, entry)
    chain = sender.chain("udp dport 4001 counter")
    capture.send(outside, frame_to_forward(sender, entry, outside))
    assert chain.packets == 1


def forward_through(sender: Sender, entry: Link) -> None:
    """The sender's namespace forwards what comes in at ``entry``."""
    if sender.family.name == "IPv4":
        sender.namespace.sysctl("net/ipv4/ip_forward", 1)
        entry.add_address("10.8.0.1/24")
    else:
        for device in ("all", entry.name):
            sender.namespace.sysctl(f"net/ipv6/conf/{device}/disable_ipv6", 0)
        sender.namespace.sysctl("net/ipv6/conf/all/forwarding", 1)


def frame_to_forward(sender: Sender, entry: Link, outside: Link) -> bytes:
    """A datagram that comes in at ``entry`` on its way to the sender's neighbour."""
    source = "10.8.0.2" if sender.family.name == "IPv4" else "fd08::2"
    inner = packet.udp(b"forwarded", src=source, dst=sender.family.neighbour, sport=4000, dport=4001)
    return packet.in_ethernet(inner, dst=entry.mac, src=outside.mac)


@pytest.mark.feature("vlan")
@pytest.mark.promise("sees-both-of-stacked-devices")
def test_vlan_and_the_device_below_are_both_classified(sender: Sender) -> None:
    """A stacked device calls __dev_queue_xmit() again: without the tag at the upper one, with it at the lower one."""
    vlan = sender.namespace.rtnl.add_vlan("v7", on=sender.device, number=7)
    upper = sender.chain("counter", device=vlan, name="upper")
    lower = sender.chain("vlan id 7 counter", name="lower")
    capture.send(vlan, packet.ethernet(bytes(46), dst=packet.BROADCAST, src=vlan.mac))
    assert (upper.packets, lower.packets) == (1, 1), "packets at egress of the VLAN device and of the one below"


@pytest.mark.promise("per-device")
def test_chain_of_another_device_sees_nothing(sender: Sender) -> None:
    """The hook is per device: dev->nf_hooks_egress."""
    other = sender.namespace.rtnl.add_dummy("d1")
    chain = sender.chain("counter", device=other, name="other")
    sender.udp()
    assert (chain.packets, sender.transmitted) == (0, 1), "(packets counted, packets transmitted)"


@pytest.mark.promise("per-device")
def test_chain_of_several_devices_sees_the_packets_of_each(sender: Sender) -> None:
    """A chain with `devices = { d0, d1 }` is at the hook of both, and of no third one."""
    first, second, third = sender.device, sender.namespace.rtnl.add_dummy("d1"), sender.namespace.rtnl.add_dummy("d2")
    chain = sender.namespace.nft.add_chain([first, second])
    chain.add_rule(COUNTER)
    for device in (first, second, third):
        capture.send(device, packet.ethernet(bytes(46), dst=packet.BROADCAST, src=device.mac))
    assert chain.packets == 2, "packets of three devices, two of which have the chain"
