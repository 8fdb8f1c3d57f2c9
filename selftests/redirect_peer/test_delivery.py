"""bpf_redirect_peer() delivers into the peer's namespace: what arrives there, of every size and family, is what came.

Source of the promises: 9aa1206e8f48 "bpf: Add redirect_peer helper" (5.10), skb_do_redirect() of net/core/filter.c and
the `another` round of __netif_receive_skb_core() (net/core/dev.c).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from selftests.lib import bpf, packet, programs
from selftests.lib.bpf import AttachType
from selftests.lib.capture import Capture
from selftests.lib.netns import Namespace
from selftests.redirect_peer.conftest import (
    FAMILIES,
    IPV6,
    KINDS,
    KINDS_OF_LAYER_2,
    Addresses,
    MakeWay,
    make_pair,
)
from selftests.redirect_peer.pod import pod_socket, received

pytestmark = pytest.mark.feature("redirect_peer")

UDP = 17
HOP_BY_HOP, FRAGMENT, DESTINATION = 0, 44, 60
"""IPv6 extension headers: RFC 8200, section 4."""


@pytest.mark.promise("delivered")
@KINDS
@pytest.mark.parametrize("size", [60, 64, 65, 1000, 1514], ids=lambda size: f"{size}-bytes")
def test_frame_arrives_unchanged(make_way: MakeWay, kind: str, size: int) -> None:
    """The peer in the pod's namespace receives the very frame that came in at the host."""
    way = make_way(kind)
    way.to_pod()
    with Capture(way.pod) as captured:
        sent = way.send(b"to the pod".ljust(size - 14, b"."))
        frame = captured.next()
    assert len(sent) == size
    assert frame.raw == sent, f"expected\n{packet.describe(sent)}\ngot\n{frame}"


@pytest.mark.promise("delivered")
@KINDS
@FAMILIES
def test_datagram_reaches_a_socket_in_the_pod(make_way: MakeWay, kind: str, addresses: Addresses) -> None:
    """After the switch of namespaces the packet goes on as received by the peer: up to a socket there."""
    way = make_way(kind, ipv6=True)
    way.to_pod()
    sock = pod_socket(way, addresses)
    way.send_udp(b"hello pod", addresses=addresses)
    assert received(sock) == (b"hello pod", addresses.outside, 4000)


@pytest.mark.promise("extension-headers")
@KINDS
def test_extension_headers(make_way: MakeWay, kind: str) -> None:
    """A datagram behind IPv6 hop-by-hop and destination options: the frame is the same, and a socket gets it."""
    way = make_way(kind, ipv6=True)
    way.to_pod()
    sock = pod_socket(way, IPV6)
    padding = bytes([1, 4, 0, 0, 0, 0])  # PadN of 6 bytes
    options = bytes([DESTINATION, 0]) + padding + bytes([UDP, 0]) + padding
    datagram = packet.udp(b"behind options", src=IPV6.outside, dst=IPV6.pod, sport=4000, dport=5000)[40:]
    with Capture(way.pod) as captured:
        sent = way.send_packet(packet.ipv6(options + datagram, src=IPV6.outside, dst=IPV6.pod, protocol=HOP_BY_HOP))
        frame = captured.next()
    assert frame.raw == sent, f"expected\n{packet.describe(sent)}\ngot\n{frame}"
    assert received(sock) == (b"behind options", IPV6.outside, 4000)


@pytest.mark.promise("extension-headers")
@KINDS
def test_fragments(make_way: MakeWay, kind: str) -> None:
    """The two IPv6 fragments of a datagram both arrive, and the pod puts them together."""
    way = make_way(kind, ipv6=True)
    way.to_pod()
    sock = pod_socket(way, IPV6)
    payload = bytes(range(200)) * 8
    datagram = packet.udp(payload, src=IPV6.outside, dst=IPV6.pod, sport=4000, dport=5000)[40:]
    cut = 800
    for offset, part in ((0, datagram[:cut]), (cut, datagram[cut:])):
        more = int(offset == 0)
        header = struct.pack("!BxHI", UDP, offset | more, 4711)
        way.send_packet(packet.ipv6(header + part, src=IPV6.outside, dst=IPV6.pod, protocol=FRAGMENT))
    assert received(sock, "no datagram came of the two fragments") == (payload, IPV6.outside, 4000)


@pytest.mark.feature("vlan")
@pytest.mark.promise("vlan")
@KINDS_OF_LAYER_2
def test_vlan_tag_is_kept(make_way: MakeWay, kind: str) -> None:
    """A frame with a VLAN tag reaches the VLAN's device on the pod's end, and no other VLAN's."""
    way = make_way(kind)
    way.to_pod()
    vlans = [way.pod.namespace.rtnl.add_vlan(f"vlan{number}", on=way.pod, number=number) for number in (100, 200)]
    plain = way.frame(b"tagged")
    tagged = plain[:12] + struct.pack("!HH", 0x8100, 200) + plain[12:]
    with Capture(vlans[0]) as other, Capture(vlans[1]) as own:
        way.send_frame(tagged)
        frame = own.next()
        assert other.pending() == [], "a frame of VLAN 200 at VLAN 100's device"
    assert frame.raw == plain, f"at VLAN 200's device, expected\n{packet.describe(plain)}\ngot\n{frame}"


@pytest.mark.feature("vlan")
@pytest.mark.promise("vlan")
@KINDS_OF_LAYER_2
def test_vlan_tag_that_the_program_pushed(make_way: MakeWay, kind: str) -> None:
    """A tag that the host's program pushes before it redirects takes the frame to that VLAN's device in the pod."""
    way = make_way(kind)
    way.steer(programs.push_vlan(200), programs.redirect_peer(way.door.index))
    vlan = way.pod.namespace.rtnl.add_vlan("vlan200", on=way.pod, number=200)
    with Capture(vlan) as captured:
        sent = way.send(b"tagged on the way")
        frame = captured.next()
    assert frame.raw == sent, f"expected\n{packet.describe(sent)}\ngot\n{frame}"


@pytest.mark.feature("clsact")
@pytest.mark.promise("delivered")
def test_from_a_classic_classifier(make_way: MakeWay, cleanup: ExitStack) -> None:
    """The helper is for tc ingress as such: cls_bpf in direct-action mode under clsact delivers as tcx does."""
    way = make_way()
    program = cleanup.enter_context(bpf.load_classifier(programs.redirect_peer(way.door.index)))
    way.entry.namespace.rtnl.add_clsact(way.entry)
    way.entry.namespace.rtnl.add_filter(way.entry, program, ingress=True)
    with Capture(way.pod) as captured:
        sent = way.send(b"classic")
        assert captured.next().raw == sent


@pytest.mark.promise("whole-ifindex")
@pytest.mark.parametrize("index", [256, 65536, 0x7FFFFFFF])
def test_large_ifindex(make_way: MakeWay, index: int) -> None:
    """bpf_redirect_peer() takes a u32: a pair whose ifindex has more than 8, or 16, bits is found."""
    way = make_way()
    door, pod = way.door.namespace.rtnl.add_veth("door2", "pod2", way.pod.namespace, index=index)
    assert door.index == index
    way.steer(programs.redirect_peer(index))
    with Capture(pod) as captured:
        sent = way.send(b"far up")
        assert captured.next().raw == sent


@pytest.mark.promise("again-from-the-pod")
@KINDS
def test_twice_in_a_row(make_way: MakeWay, new_namespace: Callable[..., Namespace], kind: str) -> None:
    """At the pod's tcx ingress the helper may be called again: the packet goes on into a pod behind the pod."""
    way = make_way(kind)
    way.to_pod()
    inner_door, inner_pod = make_pair(kind, way.pod.namespace, new_namespace("inner"), door="inner")
    way.attach(way.pod, AttachType.TCX_INGRESS, programs.redirect_peer(inner_door.index))
    with Capture(inner_pod) as captured:
        sent = way.send(b"two doors")
        frame = captured.next()
    assert frame.raw == sent, f"expected\n{packet.describe(sent)}\ngot\n{frame}"


@pytest.mark.promise("peer-is-asked-each-time")
@KINDS
def test_peer_that_moved_on(make_way: MakeWay, new_namespace: Callable[..., Namespace], kind: str) -> None:
    """The pair is asked for its peer with each packet: one that moved into a third namespace gets it there."""
    way = make_way(kind)
    way.to_pod()
    moved = way.pod.namespace.rtnl.move(way.pod, new_namespace("third"))
    before = moved.stats
    with Capture(moved) as captured:
        sent = way.send(b"follow me")
        frame = captured.next()
    assert frame.raw == sent, f"expected\n{packet.describe(sent)}\ngot\n{frame}"
    assert (moved.stats - before).rx_packets == 1, "rx_packets where it moved to"
