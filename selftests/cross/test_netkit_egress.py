"""netkit and the netfilter egress hook: packets of a pod behind netkit, filtered where they leave the host.

netkit_prep_forward() (35dfaad7188c) sets nf_skip_egress, because what a netkit program redirects is on the layer of tc
(42df6e1d221d). What it passes goes up the stack, and is to be filtered again where it leaves.
"""

from __future__ import annotations

import errno

import pytest

from selftests.cross.conftest import FAMILIES, NETKITS, OUTSIDE_MAC, PAIRS, PORT, Family, MakeWay
from selftests.lib import capture, expect, packet, programs, static_key
from selftests.lib.bpf import AttachType
from selftests.lib.capture import Capture

pytestmark = pytest.mark.feature("nf_egress")

LEAVES = f"udp dport {PORT} counter"

BYPASS = pytest.mark.known_bug(
    "nft egress is bypassed behind netkit while nothing uses ingress",
    evidence="netkit_prep_forward() sets nf_skip_egress; __netif_receive_skb_core() clears it only behind "
    "static_branch_unlikely(&ingress_needed_key), so it survives forwarding",
    match="packets of the pod that the chain saw",
)


@pytest.fixture
def _no_ingress() -> None:
    """Nothing on this machine is at ingress: neither tc nor a chain, of an earlier test either."""
    static_key.Key.named("ingress_needed_key").await_off()


@pytest.mark.usefixtures("_no_ingress")
@FAMILIES
@pytest.mark.parametrize(
    "kind",
    [
        "veth",
        pytest.param("netkit-L2", marks=[pytest.mark.feature("netkit"), BYPASS]),
        pytest.param("netkit-L3", marks=[pytest.mark.feature("netkit"), BYPASS]),
    ],
)
@pytest.mark.promise("pods-are-filtered")
def test_pod_is_filtered_where_its_packets_leave(make_way: MakeWay, kind: str, family: Family) -> None:
    """A pod's packet that the host forwards passes the egress chain of the device it leaves by."""
    way = make_way(kind, family)
    chain = way.chain(way.outside, LEAVES)
    way.send()
    way.await_forwarded()
    assert chain.packets == 1, "packets of the pod that the chain saw"


@FAMILIES
@PAIRS
@pytest.mark.parametrize("user", ["clsact", "nft"])
@pytest.mark.promise("pods-are-filtered")
def test_pod_is_filtered_while_something_is_at_ingress(make_way: MakeWay, kind: str, family: Family, user: str) -> None:
    """As above with ingress in use, on a device that has no part in it."""
    way = make_way(kind, family)
    loopback = way.host.rtnl.find("lo")
    if user == "clsact":
        way.host.rtnl.add_clsact(loopback)
    else:
        way.chain(loopback, hook="ingress", name="ingress")
    chain = way.chain(way.outside, LEAVES)
    way.send()
    way.await_forwarded()
    assert chain.packets == 1, "packets of the pod that the chain saw"


@NETKITS
@pytest.mark.parametrize("end", ["door", "pod"], ids=["primary", "peer"])
@pytest.mark.promise("netkit-has-an-egress-hook")
def test_chain_of_a_netkit_device_sees_what_it_sends(make_way: MakeWay, kind: str, end: str) -> None:
    """The hook is before the driver: each end's own chain has what it transmits, once."""
    way = make_way(kind)
    sender, receiver = (way.door, way.pod) if end == "door" else (way.pod, way.door)
    chain = way.chain(sender, "counter")
    with Capture(receiver) as seen:
        capture.send(sender, capture.frame_to(receiver, sender, b"through netkit"))
        seen.up_to(b"through netkit")
    assert chain.packets == 1


@NETKITS
@pytest.mark.promise("netkit-has-an-egress-hook")
def test_chain_of_a_netkit_device_drops(make_way: MakeWay, kind: str) -> None:
    """What it drops netkit never sees, and the sender is told."""
    way = make_way(kind)
    way.chain(way.pod, "drop")
    with expect.refusal(errno.ENOBUFS, "a frame that the egress chain of netkit's peer drops"):
        capture.send(way.pod, capture.frame_to(way.door, way.pod, b"dropped"))
    assert way.pod.stats.tx_packets == 0


@NETKITS
@pytest.mark.promise("netkit-redirect-skips")
def test_packet_that_a_netkit_program_redirects_is_not_classified(make_way: MakeWay, kind: str) -> None:
    """bpf_redirect() from netkit is on tc's layer: the chain of its target is passed by, as behind tc."""
    way = make_way(kind)
    way.program(way.door, AttachType.NETKIT_PEER, programs.redirect(way.outside.index))
    chain = way.chain(way.outside, "counter drop")
    capture.send(way.pod, capture.frame_to(way.door, way.pod, b"redirected"))
    assert (chain.packets, way.outside.stats.tx_packets) == (0, 1), "(packets counted, packets transmitted)"


@FAMILIES
@NETKITS
@pytest.mark.promise("netkit-redirect-neigh")
def test_packet_that_a_netkit_program_sends_to_a_neighbour(make_way: MakeWay, kind: str, family: Family) -> None:
    """bpf_redirect_neigh() from netkit: the host's routes and neighbours make the Ethernet header."""
    way = make_way(kind, family)
    way.program(way.door, AttachType.NETKIT_PEER, programs.redirect_neigh(way.outside.index))
    with Capture(way.outside, outgoing=True) as seen:
        way.send(b"to the neighbour")
        frame = seen.until(lambda frame: b"to the neighbour" in frame.raw, "the datagram")[-1]
    assert (frame.dst, frame.src) == (OUTSIDE_MAC, way.outside.mac), f"expected the neighbour's address in {frame}"


@FAMILIES
@NETKITS
@pytest.mark.promise("netkit-redirect-skips")
def test_packet_that_a_netkit_program_sends_to_a_neighbour_is_not_classified(
    make_way: MakeWay, kind: str, family: Family
) -> None:
    """As above: the way through the neighbour's output is tc's still."""
    way = make_way(kind, family)
    way.program(way.door, AttachType.NETKIT_PEER, programs.redirect_neigh(way.outside.index))
    chain = way.chain(way.outside, LEAVES)
    with Capture(way.outside, outgoing=True) as seen:
        way.send(b"marker")
        seen.up_to(b"marker")
    assert chain.packets == 0


@NETKITS
@pytest.mark.feature("nft_fwd")
@pytest.mark.promise("fwd-into-netkit")
def test_nft_forwards_into_a_pod(make_way: MakeWay, kind: str) -> None:
    """`fwd` to netkit's primary reaches the pod, and the primary's own egress chain on the way."""
    way = make_way(kind)
    way.chain(way.outside, 'fwd to "door"', name="from")
    chain = way.chain(way.door, "counter", name="to")
    with Capture(way.pod) as seen:
        capture.send(way.outside, way.frame_from_outside(b"into the pod"))
        seen.up_to(b"into the pod")
    assert chain.packets == 1


@NETKITS
@pytest.mark.feature("nft_fwd")
@pytest.mark.promise("netkit-policy-after-fwd")
def test_policy_of_a_pod_holds_for_what_nft_forwards(make_way: MakeWay, kind: str) -> None:
    """A program that drops at the primary drops what `fwd` sends there: netkit is asked like by any other sender."""
    way = make_way(kind)
    way.program(way.door, AttachType.NETKIT_PRIMARY, programs.ret(2))
    way.chain(way.outside, 'fwd to "door"', name="from")
    capture.send(way.outside, way.frame_from_outside(b"into the pod"))
    assert way.door.stats.tx_dropped == 1


@PAIRS
@pytest.mark.promise("namespace-move-of-netkit")
def test_device_that_moved_into_a_pod_is_hooked_there(make_way: MakeWay, kind: str) -> None:
    """A pod's device takes a chain of the pod's namespace, not of the host's, which made it."""
    way = make_way(kind)
    chain = way.chain(way.pod, LEAVES)
    way.send()
    assert chain.packets == 1
    assert way.host.nft.tables() == set(), "tables of the host"


@NETKITS
@pytest.mark.promise("mark-through-netkit")
def test_mark_set_at_egress_is_scrubbed_on_the_way_into_the_host(make_way: MakeWay, kind: str) -> None:
    """The pod's egress chain marks a packet; between namespaces netkit scrubs it (netkit_xnet()), like veth."""
    way = make_way(kind)
    way.chain(way.pod, "meta mark set 42", name="out")
    at_door = way.chain(way.door, "meta mark 42 counter", "counter", hook="ingress", name="in")
    with Capture(way.door) as seen:
        capture.send(way.pod, packet.ethernet(b"marked".ljust(46, b"."), dst=packet.BROADCAST, src=way.pod.mac))
        seen.up_to(b"marked")
    way.send()
    way.await_forwarded()
    marked, unmarked = (packets for packets, _ in at_door.counters())
    assert (marked, unmarked) == (0, 2), "packets with and without regard to the mark at the host's end"
