"""bpf_redirect_peer() delivers into the peer's namespace, at once, and past the host's end of the pair.

Source of the promises: 9aa1206e8f48 "bpf: Add redirect_peer helper" (5.10), skb_do_redirect() of net/core/filter.c and
the `another` round of __netif_receive_skb_core() (net/core/dev.c).
"""

from __future__ import annotations

import socket
from contextlib import ExitStack

import pytest

from selftests.lib import bpf, capture, hooks, packet, programs, wait
from selftests.lib.bpf import AttachType, Verdict
from selftests.lib.capture import Capture
from selftests.redirect_peer.conftest import KINDS, MakeWay

pytestmark = pytest.mark.feature("redirect_peer")

MARK, PRIORITY = 0x77, 3


@KINDS
def test_frame_arrives_unchanged(make_way: MakeWay, kind: str) -> None:
    """The peer in the pod's namespace receives the very frame that came in at the host."""
    way = make_way(kind)
    way.steer(programs.redirect_peer(way.door.index))
    with Capture(way.pod) as captured:
        sent = way.send(b"to the pod")
        frame = captured.next()
    assert frame.raw == sent, f"expected\n{packet.describe(sent)}\ngot\n{frame}"


@KINDS
def test_datagram_reaches_a_socket_in_the_pod(make_way: MakeWay, kind: str) -> None:
    """After the switch of namespaces the packet goes on as received by the peer: up to a socket there."""
    way = make_way(kind)
    way.pod.add_address("10.2.0.2/24")
    way.steer(programs.redirect_peer(way.door.index))
    with way.pod.namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("10.2.0.2", 5000))
        way.send_udp(b"hello pod", target="10.2.0.2", port=5000)
        assert wait.readable(sock.fileno()), "no datagram came to the pod's socket"
        assert sock.recvfrom(100) == (b"hello pod", ("10.1.0.1", 4000))


@KINDS
def test_tcx_ingress_of_the_pod_runs(make_way: MakeWay, cleanup: ExitStack, counters: bpf.Counters, kind: str) -> None:
    """`another_round`: the packet passes the peer's own tc ingress, with the peer as its device."""
    way = make_way(kind)
    way.steer(programs.redirect_peer(way.door.index))
    reader = bpf.load_classifier(
        programs.count(counters.fd, 0),
        programs.save_field(counters.fd, 1, programs.SKB_IFINDEX),
        programs.save_field(counters.fd, 2, programs.SKB_INGRESS_IFINDEX),
        programs.ret(Verdict.NEXT),
    )
    cleanup.enter_context(reader)
    cleanup.enter_context(hooks.link(reader, way.pod, AttachType.TCX_INGRESS))
    with Capture(way.pod) as captured:
        way.send(b"through the pod's ingress")
        captured.next()
    assert counters[0] == 1, "runs at the pod's tcx ingress"
    assert counters.read()[1:3] == (way.pod.index, way.pod.index), "(ifindex, ingress_ifindex) there"


@KINDS
def test_verdict_at_the_pods_ingress_counts(
    make_way: MakeWay, cleanup: ExitStack, counters: bpf.Counters, kind: str
) -> None:
    """A drop at the peer's tcx ingress is a drop: no socket of the pod sees the datagram."""
    way = make_way(kind)
    way.pod.add_address("10.2.0.2/24")
    way.steer(programs.redirect_peer(way.door.index))
    dropper = cleanup.enter_context(bpf.classifier_returning(Verdict.DROP, counters))
    with way.pod.namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("10.2.0.2", 5000))
        with hooks.link(dropper, way.pod, AttachType.TCX_INGRESS):
            way.send_udp(b"dropped", target="10.2.0.2", port=5000)
        way.send_udp(b"fence", target="10.2.0.2", port=5000)
        assert wait.readable(sock.fileno()), "the fence did not come to the pod's socket"
        assert sock.recv(100) == b"fence", "the first datagram to arrive"
    assert counters[0] == 1, "runs of the dropping program"


@KINDS
def test_backlog_is_skipped(make_way: MakeWay, cleanup: ExitStack, counters: bpf.Counters, kind: str) -> None:
    """The commit's point: no per-CPU backlog on the way into the pod.

    The program first clones the packet to the pair, which queues the clone to the backlog (netif_rx()), and then
    redirects the packet itself to the peer. The packet is in the pod before the clone, which was sent earlier.
    The clone is told by its mark: it lost it on the way across namespaces, the redirected packet keeps it.
    """
    way = make_way(kind)
    way.steer(programs.set_mark(MARK), programs.clone_redirect(way.door.index), programs.redirect_peer(way.door.index))
    reader = bpf.load_classifier(
        programs.if_mark(MARK, [*programs.stamp(counters.fd, 1), *programs.ret(Verdict.NEXT)]),
        programs.stamp(counters.fd, 2),
        programs.ret(Verdict.NEXT),
    )
    cleanup.enter_context(reader)
    cleanup.enter_context(hooks.link(reader, way.pod, AttachType.TCX_INGRESS))
    with Capture(way.pod) as captured:
        way.send(b"twice")
        captured.next()
        captured.next()
    redirected, cloned = counters.read()[1:3]
    assert (redirected, cloned) == (1, 2), f"arrival in the pod: redirected packet {redirected}, clone {cloned}"


@KINDS
def test_host_end_of_the_pair_is_passed_by(
    make_way: MakeWay, cleanup: ExitStack, counters: bpf.Counters, kind: str
) -> None:
    """Neither tcx egress nor the transmit counter of the host's end sees the packet; with bpf_redirect() both do."""
    way = make_way(kind)
    watcher = cleanup.enter_context(bpf.classifier_returning(Verdict.NEXT, counters))
    cleanup.enter_context(hooks.link(watcher, way.door, AttachType.TCX_EGRESS))
    before = way.door.stats
    with Capture(way.pod) as captured:
        with way.steer(programs.redirect_peer(way.door.index)):
            way.send(b"past the door")
            captured.next()
        assert (counters[0], (way.door.stats - before).tx_packets) == (0, 0), "(egress runs, tx_packets) of the door"
        way.steer(programs.redirect(way.door.index))
        way.send(b"through the door")
        captured.next()
    assert (counters[0], (way.door.stats - before).tx_packets) == (1, 1), "the same with bpf_redirect()"


@KINDS
def test_peer_counts_what_it_receives(make_way: MakeWay, kind: str) -> None:
    """024ee930cb3c "bpf: Fix dev's rx stats for bpf_redirect_peer traffic": packets, and bytes with the MAC header."""
    way = make_way(kind)
    way.steer(programs.redirect_peer(way.door.index))
    before = way.pod.stats
    with Capture(way.pod) as captured:
        sent = [way.send(b"one"), way.send(b"two" * 100)]
        captured.next()
        captured.next()
    grown = way.pod.stats - before
    assert (grown.rx_packets, grown.rx_bytes) == (2, sum(map(len, sent))), "(rx_packets, rx_bytes) of the peer"


@KINDS
def test_mark_and_priority_are_kept(make_way: MakeWay, cleanup: ExitStack, counters: bpf.Counters, kind: str) -> None:
    """skb_do_redirect() scrubs with xnet false: mark and priority that the host's program gave reach the pod."""
    way = make_way(kind)
    way.steer(programs.set_mark(MARK), programs.set_priority(PRIORITY), programs.redirect_peer(way.door.index))
    reader = bpf.load_classifier(
        programs.save_field(counters.fd, 0, programs.SKB_MARK),
        programs.save_field(counters.fd, 1, programs.SKB_PRIORITY),
        programs.ret(Verdict.NEXT),
    )
    cleanup.enter_context(reader)
    cleanup.enter_context(hooks.link(reader, way.pod, AttachType.TCX_INGRESS))
    with Capture(way.pod) as captured:
        way.send(b"marked")
        captured.next()
    assert counters.read()[:2] == (MARK, PRIORITY), "(mark, priority) in the pod"


def test_foreign_destination_address_is_taken_as_own(make_way: MakeWay) -> None:
    """c43272299488 "bpf: Scrub packet on bpf_redirect_peer" (6.15, 6.12.29): scrubbing makes it PACKET_HOST."""
    way = make_way()
    way.steer(programs.redirect_peer(way.door.index))
    with Capture(way.pod) as captured:
        foreign = packet.ethernet(b"foreign".ljust(46, b"."), dst=bytes.fromhex("02aabbccddee"), src=way.source.mac)
        capture.send(way.source, foreign)
        frame = captured.next()
    assert frame.packet_type == capture.PACKET_HOST, f"packet type {frame.packet_type} of {frame}"


@pytest.mark.feature("clsact")
def test_from_a_classic_classifier(make_way: MakeWay, cleanup: ExitStack) -> None:
    """The helper is for tc ingress as such: cls_bpf in direct-action mode under clsact delivers as tcx does."""
    way = make_way()
    program = cleanup.enter_context(bpf.load_classifier(programs.redirect_peer(way.door.index)))
    way.entry.namespace.rtnl.add_clsact(way.entry)
    way.entry.namespace.rtnl.add_filter(way.entry, program, ingress=True)
    with Capture(way.pod) as captured:
        sent = way.send(b"classic")
        assert captured.next().raw == sent
