"""bpf_redirect_peer() and netfilter's hooks of devices: which chains such a packet passes, and which it does not.

9aa1206e8f48 "bpf: Add redirect_peer helper": the packet is handed to the peer's ingress within the same softirq, so the
host's end of the pair transmits nothing (no egress hook there), and the pod's end has its ingress, tc and netfilter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from selftests.cross.conftest import FAMILIES, IPV4, PAIRS, PORT, Family, MakeWay, Way
from selftests.lib import bpf, capture, packet, programs, wait
from selftests.lib.bpf import AttachType
from selftests.lib.capture import Capture
from selftests.lib.netns import Namespace
from selftests.lib.rtnl import Link

pytestmark = [pytest.mark.feature("nf_egress"), pytest.mark.feature("redirect_peer")]


@dataclass(frozen=True)
class Entry:
    """A way whose host takes packets in at ``entry``, from ``source`` in a namespace of its own."""

    way: Way
    source: Link
    entry: Link

    def steer(self) -> None:
        """All that comes in goes to the pod by bpf_redirect_peer()."""
        self.way.program(self.entry, AttachType.TCX_INGRESS, programs.redirect_peer(self.way.door.index))

    def send(self, payload: bytes) -> None:
        """A datagram to the pod."""
        capture.send(self.source, self.way.frame_from_outside(payload, to=self.entry))


@pytest.fixture
def make_entry(make_way: MakeWay, new_namespace: Callable[..., Namespace]) -> Callable[..., Entry]:
    """``make_entry("veth")``: a way, and a veth whose inner end is the host's entry."""

    def make(kind: str, family: Family = IPV4) -> Entry:
        way = make_way(kind, family)
        source, entry = new_namespace("source").rtnl.add_veth("source", "entry", way.host)
        return Entry(way, source, entry)

    return make


@PAIRS
@pytest.mark.promise("peer-skips-host-egress")
def test_packet_passes_the_hosts_egress_chain_by(make_entry: Callable[..., Entry], kind: str) -> None:
    """The host's end of the pair is not transmitted through."""
    entry = make_entry(kind)
    entry.steer()
    chain = entry.way.chain(entry.way.door, "counter drop")
    with Capture(entry.way.pod) as seen:
        entry.send(b"to the pod")
        seen.up_to(b"to the pod")
    assert chain.packets == 0


@PAIRS
@pytest.mark.promise("peer-skips-entry-ingress")
def test_packet_passes_the_entrys_ingress_chain_by(make_entry: Callable[..., Entry], kind: str) -> None:
    """Tc is before netfilter at ingress: what tc sends to a peer the entry's chain never sees."""
    entry = make_entry(kind)
    entry.steer()
    chain = entry.way.chain(entry.entry, "counter drop", hook="ingress")
    with Capture(entry.way.pod) as seen:
        entry.send(b"to the pod")
        seen.up_to(b"to the pod")
    assert chain.packets == 0


@FAMILIES
@PAIRS
@pytest.mark.promise("peer-has-pod-ingress")
def test_packet_passes_the_pods_ingress_chain(make_entry: Callable[..., Entry], kind: str, family: Family) -> None:
    """another_round: __netif_receive_skb_core() runs for the pod's device, with the chain of the pod's namespace."""
    entry = make_entry(kind, family)
    entry.steer()
    chain = entry.way.chain(entry.way.pod, f"udp dport {PORT} counter", hook="ingress")
    entry.send(b"to the pod")
    wait.until(lambda: chain.packets == 1, "the pod's chain to see the packet")


@PAIRS
@pytest.mark.promise("peer-has-pod-ingress")
def test_pods_ingress_chain_drops(make_entry: Callable[..., Entry], kind: str) -> None:
    """The pod's own filter holds: what it drops the pod's sockets never get."""
    entry = make_entry(kind)
    entry.steer()
    entry.way.chain(entry.way.pod, f"udp length < {8 + 10} drop", hook="ingress")
    with entry.way.pod.namespace.socket() as receiver:
        receiver.bind(("", PORT))
        receiver.settimeout(wait.limit(5))
        entry.send(b"short")
        entry.send(b"this one is longer")
        received = receiver.recv(100)
    assert received == b"this one is longer", f"expected the short datagram to be dropped, got {received!r}"


@FAMILIES
@PAIRS
@pytest.mark.promise("answers-are-filtered")
def test_answer_of_the_pod_passes_its_egress_chain(make_entry: Callable[..., Entry], kind: str, family: Family) -> None:
    """The flag that marks tc's packets is not left on the socket's answers."""
    entry = make_entry(kind, family)
    entry.steer()
    way = entry.way
    chain = way.chain(way.pod, f"udp sport {PORT} counter")
    with way.pod.namespace.socket(family.family) as receiver:
        receiver.bind(("", PORT))
        receiver.settimeout(wait.limit(5))
        entry.send(b"question")
        _, sender = receiver.recvfrom(100)
        receiver.sendto(b"answer", sender)
    assert chain.packets == 1


@PAIRS
@pytest.mark.promise("peer-resets-the-flag")
def test_packet_that_the_pod_forwards_is_classified(make_entry: Callable[..., Entry], kind: str) -> None:
    """nf_skip_egress is cleared behind the pod's tc ingress: the pod's next device filters what the pod routes on."""
    entry = make_entry(kind)
    entry.steer()
    pod = entry.way.pod.namespace
    pod.sysctl("net/ipv4/ip_forward", 1)
    onward = pod.rtnl.add_dummy("onward")
    onward.add_address("10.7.0.1/24")
    onward.add_neighbour("10.7.0.2", bytes.fromhex("020000000702"))
    chain = entry.way.chain(onward, f"udp dport {PORT} counter")
    inner = packet.udp(b"onward", src="10.8.0.9", dst="10.7.0.2", sport=1, dport=PORT)
    capture.send(entry.source, packet.in_ethernet(inner, dst=entry.entry.mac, src=entry.source.mac))
    wait.until(lambda: onward.stats.tx_packets >= 1, "the packet to be forwarded")
    assert chain.packets == 1


@PAIRS
@pytest.mark.promise("mark-through-peer")
def test_mark_set_by_tc_is_seen_by_the_pods_chain(make_entry: Callable[..., Entry], kind: str) -> None:
    """f5c79ffdc250: bpf_redirect_peer() keeps the mark, so the program can tell the pod's chain something."""
    entry = make_entry(kind)
    program = (programs.set_mark(42), programs.redirect_peer(entry.way.door.index))
    entry.way.program(entry.entry, AttachType.TCX_INGRESS, *program)
    chain = entry.way.chain(entry.way.pod, "meta mark 42 counter", hook="ingress")
    entry.send(b"marked")
    wait.until(lambda: chain.packets == 1, "the pod's chain to see the mark")


@PAIRS
@pytest.mark.promise("peer-order")
def test_pods_tc_is_before_the_pods_chain(make_entry: Callable[..., Entry], kind: str, counters: bpf.Counters) -> None:
    """Both hooks of the pod's ingress run, tc first: what its program drops its chain never sees."""
    entry = make_entry(kind)
    entry.steer()
    way = entry.way
    way.program(way.pod, AttachType.TCX_INGRESS, programs.count(counters.fd), programs.ret(2))
    chain = way.chain(way.pod, "counter", hook="ingress")
    entry.send(b"dropped by tc")
    wait.until(lambda: counters[0] == 1, "the pod's program to see the packet")
    assert chain.packets == 0
