"""`fwd` and `dup` at the egress hook: net/netfilter/nft_fwd_netdev.c and nf_dup_netdev.c.

Source of the promises: f87b9464d152 "netfilter: nft_fwd_netdev: Support egress hook" (5.17), fcd53c51d037 (recursion,
5.19), 1dfd95bdf4d1 (ttl, 7.1), 1d47b55b36d2 (recursion by way of neighbours, 7.1); nft(8) on FWD and DUP STATEMENT.
"""

from __future__ import annotations

from contextlib import suppress

import pytest

from selftests.lib import capture, packet
from selftests.lib.capture import Capture
from selftests.lib.nft import Chain, forward_to
from selftests.lib.rtnl import Link
from selftests.nf_egress.conftest import NEIGHBOUR_MAC, Sender

pytestmark = [pytest.mark.feature("nf_egress"), pytest.mark.feature("nft_fwd")]

HOP_MAC = bytes.fromhex("020000000a02")
"""Of the neighbour that `fwd ip to` names."""

ADDRESSES = {"IPv4": ("10.9.0.1", "10.9.0.2", "10.10.0.2"), "IPv6": ("fd09::1", "fd09::2", "fd10::2")}
"""Source and target of a packet, and the neighbour that it is forwarded to."""
VERSIONS = pytest.mark.parametrize("version", list(ADDRESSES))


@pytest.fixture
def target(sender: Sender) -> Link:
    """Another dummy device of the sender's namespace."""
    return sender.namespace.rtnl.add_dummy("d1")


def datagram(sender: Sender, version: str, ttl: int = 64, payload: bytes = b"payload") -> bytes:
    source, destination, _ = ADDRESSES[version]
    return sender.frame(packet.udp(payload, src=source, dst=destination, sport=1, dport=2, ttl=ttl))


@pytest.mark.promise("fwd-moves")
def test_forwarded_packet_leaves_by_the_other_device(sender: Sender, target: Link) -> None:
    """The packet goes out there, as it is, and not here."""
    sender.chain('fwd to "d1"')
    with Capture(target, outgoing=True) as seen:
        sender.raw(b"forwarded")
        frame = seen.next()
    assert (frame.dst, sender.transmitted) == (NEIGHBOUR_MAC, 0), f"(target, packets of the first device); {frame}"


@pytest.mark.promise("fwd-ends-the-chain")
def test_rules_behind_forward_are_not_reached(sender: Sender, target: Link) -> None:
    """The verdict is NF_STOLEN: nothing is left to look at, in this chain and the next."""
    chain = sender.chain('fwd to "d1"', "counter")
    sender.raw()
    assert (chain.packets, target.stats.tx_packets) == (0, 1), "(packets behind the rule, packets of the target)"


@pytest.mark.promise("fwd-is-classified")
@pytest.mark.parametrize("hook", ["ingress", "egress"])
def test_forwarded_packet_is_classified_by_the_target(sender: Sender, target: Link, far_end: Link, hook: str) -> None:
    """42df6e1d221d: `fwd` is on netfilter's layer, unlike a redirect by tc; the target's chain sees the packet."""
    device = sender.namespace.rtnl.find("in0") if hook == "ingress" else sender.device
    sender.namespace.nft.add_chain(device, hook=hook, chain="from").add_rule(forward_to(target))
    chain = sender.chain("counter", device=target, name="to")
    if hook == "ingress":
        capture.send(far_end, packet.ethernet(bytes(46), dst=NEIGHBOUR_MAC, src=far_end.mac))
    else:
        sender.raw()
    assert (chain.packets, target.stats.tx_packets) == (1, 1), "(packets counted, packets transmitted)"


@pytest.mark.promise("fwd-is-classified")
def test_target_can_drop_what_is_forwarded_to_it(sender: Sender, target: Link) -> None:
    """And may drop it."""
    sender.chain('fwd to "d1"', name="from")
    sender.chain("drop", device=target, name="to")
    sender.raw()
    assert target.stats.tx_packets == 0


@pytest.mark.promise("fwd-to-nowhere")
def test_packet_for_a_device_that_is_gone_is_dropped(sender: Sender, target: Link) -> None:
    """nf_fwd_netdev_egress(): the device is looked up for each packet; without it the packet ends there."""
    sender.chain('fwd to "d1"')
    target.delete()
    sender.raw()
    assert sender.transmitted == 0


@pytest.mark.promise("fwd-self-is-bounded")
def test_forward_to_the_own_device_ends(sender: Sender) -> None:
    """fcd53c51d037: nf_dup_skb_recursion bounds how often a packet meets the rule again; then it is dropped."""
    chain = sender.chain('counter fwd to "d0"')
    sender.raw()
    assert 2 <= chain.packets <= 5, "times that the packet met the rule"


@VERSIONS
@pytest.mark.promise("fwd-ip-sets-the-neighbour")
def test_forward_to_an_address_resolves_it(sender: Sender, target: Link, version: str) -> None:
    """nft_fwd_neigh_eval(): the packet leaves with the Ethernet address of the neighbour that the rule names."""
    forward_to_address(sender, target, version)
    with Capture(target, outgoing=True) as seen:
        sender.send(datagram(sender, version))
        frame = seen.next()
    assert frame.dst == HOP_MAC, f"expected {HOP_MAC.hex(':')} as the target of {frame}"


@VERSIONS
@pytest.mark.promise("fwd-ip-counts-the-hop")
def test_forward_to_an_address_is_a_hop(sender: Sender, target: Link, version: str) -> None:
    """As a router does: one less of TTL or hop limit, and IPv4's checksum right after it."""
    forward_to_address(sender, target, version)
    with Capture(target, outgoing=True) as seen:
        sender.send(datagram(sender, version, ttl=9))
        frame = seen.next()
    assert frame.payload == datagram(sender, version, ttl=8)[14:], (
        f"expected a TTL of 8 and all else as it was, got {frame}"
    )


@VERSIONS
@pytest.mark.parametrize("ttl", [0, 1])
@pytest.mark.promise("fwd-ip-checks-the-ttl")
@pytest.mark.fixed_in(
    "1dfd95bdf4d1", mainline="7.1", stable={"6.12": "6.12.91", "6.1": "6.1.175"}, match="with TTL [01]"
)
def test_packet_at_its_last_hop_is_not_forwarded(sender: Sender, target: Link, version: str, ttl: int) -> None:
    """1dfd95bdf4d1: with a TTL of 1 or 0 a packet is dropped, as a router does; before, 0 became 255."""
    forward_to_address(sender, target, version)
    with Capture(target, outgoing=True) as seen:
        with suppress(OSError):  # which is how the drop is told
            sender.send(datagram(sender, version, ttl=ttl))
        sender.send(datagram(sender, version, ttl=64, payload=b"marker"))
        before = seen.up_to(b"marker")
    assert not before, f"expected a packet with TTL {ttl} to be dropped, got {before[0]}"


@pytest.mark.promise("fwd-ip-checks-the-protocol")
def test_forward_to_an_address_is_for_packets_of_its_family(sender: Sender, target: Link) -> None:
    """A rule for IPv4 does not take IPv6 packets: NFT_BREAK, the packet goes on."""
    forward_to_address(sender, target, "IPv4")
    sender.send(datagram(sender, "IPv6"))
    assert (sender.transmitted, target.stats.tx_packets) == (1, 0), "packets of the first device and of the target"


RECURSION_FIX = "1d47b55b36d2"


@VERSIONS
@pytest.mark.promise("fwd-ip-self-is-bounded")
@pytest.mark.fixed_in(RECURSION_FIX, mainline="7.1", match="times that the packet met the rule")
def test_forward_to_an_address_at_the_own_device_is_bounded(sender: Sender, version: str) -> None:
    """1d47b55b36d2: the way through the neighbour counts as well; here the rule itself ends it after eight."""
    keyword = "ip ttl" if version == "IPv4" else "ip6 hoplimit"
    chain = forward_to_address(sender, sender.device, version, f"{keyword} > 12")
    sender.send(datagram(sender, version, ttl=20))
    assert chain.packets <= 5, "times that the packet met the rule"


@pytest.mark.feature("vmap_stack")
@pytest.mark.promise("fwd-ip-self-is-bounded")
@pytest.mark.fixed_in(RECURSION_FIX, mainline="7.1", match="stack guard page", crash=True)
def test_forward_to_an_address_at_the_own_device_ends(sender: Sender) -> None:
    """1d47b55b36d2: without a bound, from 5.17 on, a packet that has many hops left overruns the kernel's stack."""
    chain = forward_to_address(sender, sender.device, "IPv4")
    sender.send(datagram(sender, "IPv4", ttl=255))
    assert chain.packets <= 5, "times that the packet met the rule"


def forward_to_address(sender: Sender, target: Link, version: str, condition: str = "") -> Chain:
    """An egress chain of the sender with `fwd ip to ADDRESS device DEVICE`, and the neighbour there."""
    hop, keyword = ADDRESSES[version][2], "ip" if version == "IPv4" else "ip6"
    if version == "IPv6":
        sender.namespace.sysctl(f"net/ipv6/conf/{target.name}/addr_gen_mode", 1)
        sender.namespace.sysctl(f"net/ipv6/conf/{target.name}/disable_ipv6", 0)
    target.add_neighbour(hop, HOP_MAC)
    return sender.chain(f'udp dport 2 {condition} counter fwd {keyword} to {hop} device "{target.name}"')


@pytest.mark.feature("nft_dup")
@pytest.mark.promise("dup-copies")
def test_duplicated_packet_leaves_by_both_devices(sender: Sender, target: Link) -> None:
    """nf_dup_netdev_egress(): a clone goes to the other device, the packet goes on."""
    chain = sender.chain('dup to "d1"', "counter")
    with Capture(target, outgoing=True) as seen:
        sender.raw(b"twice")
        copy = seen.next()
    assert b"twice" in copy.raw, f"expected a copy of the packet, got {copy}"
    assert (chain.packets, sender.transmitted) == (1, 1), "(packets behind the rule, packets of the first device)"


@pytest.mark.feature("nft_dup")
@pytest.mark.promise("dup-is-classified")
def test_copy_is_classified_by_the_target(sender: Sender, target: Link) -> None:
    """A copy is on netfilter's layer like a packet that is forwarded."""
    sender.chain('dup to "d1"', name="from")
    chain = sender.chain("counter drop", device=target, name="to")
    sender.raw()
    assert (chain.packets, target.stats.tx_packets) == (1, 0), "(copies counted, copies transmitted)"


@pytest.mark.feature("nft_dup")
@pytest.mark.promise("dup-to-nowhere")
def test_packet_goes_on_where_its_copy_cannot(sender: Sender, target: Link) -> None:
    """A device that is gone costs the copy, not the packet."""
    sender.chain('dup to "d1"')
    target.delete()
    sender.raw()
    assert sender.transmitted == 1


@pytest.mark.feature("nft_dup")
@pytest.mark.promise("dup-self-is-bounded")
def test_copies_to_the_own_device_end(sender: Sender) -> None:
    """fcd53c51d037: nf_dup_skb_recursion bounds the copies of copies."""
    sender.chain('dup to "d0"')
    sender.raw()
    assert 2 <= sender.transmitted <= 5, "packets transmitted: the one that was sent, and its copies"
