"""Packets that a netkit program sends elsewhere: bpf_redirect(), bpf_redirect_neigh(), bpf_redirect_peer().

Source of the promises: netkit_xmit(), verdict REDIRECT, of drivers/net/netkit.c (35dfaad7188c); 157f29152b61 "netkit:
Assign missing bpf_net_context"; skb_do_redirect() of net/core/filter.c. The program runs with the packet's device
already set to the other end, so that targets are looked up in the other end's namespace.
"""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from selftests.lib import bpf, capture, hooks, packet, programs
from selftests.lib.asm import Fragment
from selftests.lib.capture import Capture
from selftests.lib.netkit_nla import Policy
from selftests.netkit.conftest import FAMILIES, HOOKS, SENDERS, MakePair, Pair

pytestmark = pytest.mark.feature("netkit")

BPF_F_INGRESS = 1
NEIGHBOUR = bytes.fromhex("02000000000b")


def run_for(pair: Pair, sender: str, cleanup: ExitStack, *fragments: Fragment) -> None:
    """Every packet that ``sender`` sends meets this program."""
    program = cleanup.enter_context(bpf.load_classifier(*fragments))
    cleanup.enter_context(hooks.link(program, pair.primary, HOOKS[sender]))


@pytest.mark.promise("redirect")
@SENDERS
def test_redirect_leaves_through_a_device_of_the_other_namespace(
    make_pair: MakePair, cleanup: ExitStack, sender: str
) -> None:
    """The packet goes out there, and not to the other end; the sender counts it as sent, under policy drop as well."""
    pair = make_pair(policy=Policy.DROP, peer_policy=Policy.DROP)
    source, other = pair.ends(sender)
    target = other.namespace.rtnl.add_dummy("d0")
    run_for(pair, sender, cleanup, programs.redirect(target.index))
    with Capture(target, outgoing=True) as captured:
        pair.send(b"redirected", sender=sender)
        frame = captured.next()
    assert b"redirected" in frame.raw, f"expected the redirected frame, got {frame}"
    assert (source.stats.tx_packets, source.stats.tx_dropped, other.stats.rx_packets) == (1, 0, 0)


@pytest.mark.promise("redirect-ingress")
@SENDERS
def test_redirect_to_ingress_is_received_there(make_pair: MakePair, cleanup: ExitStack, sender: str) -> None:
    """BPF_F_INGRESS: the target receives the packet, as if it had come from outside."""
    pair = make_pair()
    other = pair.ends(sender)[1]
    target = other.namespace.rtnl.add_dummy("d0")
    run_for(pair, sender, cleanup, programs.redirect(target.index, BPF_F_INGRESS))
    with Capture(target) as captured:
        pair.send(b"received elsewhere", sender=sender)
        assert b"received elsewhere" in captured.next().raw


@pytest.mark.promise("redirect-to-nobody")
@pytest.mark.parametrize("index", [0, 0x7FFFFFFF], ids=["index-0", "unknown-index"])
def test_redirect_to_no_device_is_the_packets_end(make_pair: MakePair, cleanup: ExitStack, index: int) -> None:
    """skb_do_redirect() frees it; the sender is not told, and has counted it as sent."""
    pair = make_pair()
    with ExitStack() as attached:
        run_for(pair, "primary", attached, programs.redirect(index))
        pair.send(b"to nobody")
    with Capture(pair.peer) as captured:
        pair.send(b"fence")
        assert not captured.up_to(b"fence")
    assert (pair.primary.stats.tx_packets, pair.peer.stats.rx_packets) == (2, 1)


@pytest.mark.promise("redirect-flags")
def test_redirect_with_unknown_flags_drops(make_pair: MakePair, cleanup: ExitStack) -> None:
    """bpf_redirect(): TC_ACT_SHOT, which netkit drops and tells."""
    pair = make_pair()
    run_for(pair, "primary", cleanup, programs.redirect(pair.peer.index, 1 << 5))
    with pytest.raises(OSError, match="No buffer space"):
        pair.send(b"flags")
    assert pair.primary.stats.tx_dropped == 1


@pytest.mark.promise("redirect-neigh")
@FAMILIES
def test_redirect_neigh_writes_the_next_hops_address(make_pair: MakePair, cleanup: ExitStack, family: str) -> None:
    """bpf_redirect_neigh(): looks up route and neighbour, writes both Ethernet addresses, sends through that device."""
    pair = make_pair()
    host = pair.peer.namespace
    uplink = host.rtnl.add_dummy("d0")
    here, there = ("10.9.0.1", "10.9.0.2") if family == "IPv4" else ("fd09::1", "fd09::2")
    if family == "IPv6":
        for name in ("lo", "d0"):
            host.sysctl(f"net/ipv6/conf/{name}/disable_ipv6", 0)
        host.sysctl("net/ipv6/conf/d0/accept_dad", 0)
    uplink.add_address(f"{here}/{24 if family == 'IPv4' else 64}")
    uplink.add_neighbour(there, NEIGHBOUR)
    run_for(pair, "primary", cleanup, programs.redirect_neigh(uplink.index))
    datagram = packet.udp(b"over neigh", src=here[:-1] + "7", dst=there, sport=1, dport=2)
    with Capture(uplink, outgoing=True) as captured:
        capture.send(pair.primary, packet.in_ethernet(datagram, dst=pair.peer.mac, src=pair.primary.mac))
        frame = captured.until(lambda each: b"over neigh" in each.raw, "the datagram at the uplink")[-1]
    assert (frame.dst, frame.src) == (NEIGHBOUR, uplink.mac), f"Ethernet addresses of {frame}"


@pytest.mark.promise("redirect-peer-frees")
@SENDERS
def test_redirect_peer_from_netkit_frees_the_packet(make_pair: MakePair, cleanup: ExitStack, sender: str) -> None:
    """skb_do_redirect(): bpf_redirect_peer() is for tc ingress; in netkit the packet is freed, counted as sent."""
    pair = make_pair()
    source, other = pair.ends(sender)
    near, far = other.namespace.rtnl.add_veth("v0", "v1", source.namespace)
    with Capture(far) as captured:
        with ExitStack() as attached:
            run_for(pair, sender, attached, programs.redirect_peer(near.index))
            pair.send(b"to the peer", sender=sender)
        assert not captured.pending(), "bpf_redirect_peer() from a netkit program delivered"
    assert (source.stats.tx_packets, other.stats.rx_packets, far.stats.rx_packets) == (1, 0, 0)
