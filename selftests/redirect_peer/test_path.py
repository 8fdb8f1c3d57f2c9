"""What a redirected packet passes on its way into the pod, and what it passes by: that is what the helper is for.

Source of the promises: 9aa1206e8f48 "bpf: Add redirect_peer helper" (5.10) and its message, skb_do_redirect() of
net/core/filter.c, the `another` round of __netif_receive_skb_core() (net/core/dev.c).
"""

from __future__ import annotations

import pytest

from selftests.lib import capture, hooks, nft, programs
from selftests.lib.bpf import AttachType, Counters, Verdict, classifier_returning
from selftests.lib.capture import Capture
from selftests.lib.rtnl import LinkStats
from selftests.lib.tracing import Events
from selftests.redirect_peer.conftest import KINDS, MakeWay, Way
from selftests.redirect_peer.pod import pod_socket, received

pytestmark = pytest.mark.feature("redirect_peer")

MARK = 0x77


@pytest.mark.promise("pods-ingress")
@KINDS
def test_tcx_ingress_of_the_pod_runs(make_way: MakeWay, counters: Counters, kind: str) -> None:
    """`another_round`: the packet passes the peer's own tc ingress, with the peer as its device."""
    way = make_way(kind)
    way.to_pod()
    way.watch(
        programs.count(counters.fd, 0),
        programs.save_field(counters.fd, 1, programs.SKB_IFINDEX),
        programs.save_field(counters.fd, 2, programs.SKB_INGRESS_IFINDEX),
    )
    with Capture(way.pod) as captured:
        way.send(b"through the pod's ingress")
        captured.next()
    assert counters[0] == 1, "runs at the pod's tcx ingress"
    assert counters.read()[1:3] == (way.pod.index, way.pod.index), "(ifindex, ingress_ifindex) there"


@pytest.mark.promise("pods-ingress")
@KINDS
def test_verdict_at_the_pods_ingress_counts(make_way: MakeWay, counters: Counters, kind: str) -> None:
    """A drop at the peer's tcx ingress is a drop: no socket of the pod sees the datagram."""
    way = make_way(kind)
    way.to_pod()
    sock = pod_socket(way)
    with classifier_returning(Verdict.DROP, counters) as dropper:
        with hooks.link(dropper, way.pod, AttachType.TCX_INGRESS):
            way.send_udp(b"dropped")
        way.send_udp(b"fence")
        assert received(sock)[0] == b"fence", "the first datagram to arrive"
    assert counters[0] == 1, "runs of the dropping program"


@pytest.mark.promise("pods-ingress")
@KINDS
def test_nft_ingress_of_the_pod_runs(make_way: MakeWay, kind: str) -> None:
    """nf_ingress() of the peer's round: a netdev chain on the pod's end sees the packet once, with its device."""
    way = make_way(kind)
    way.to_pod()
    chain = way.pod.namespace.nft.add_chain(way.pod, hook="ingress")
    chain.add_rule(nft.match({"meta": {"key": "iifname"}}, way.pod.name), nft.COUNTER)
    with Capture(way.pod) as captured:
        way.send(b"through the chain")
        captured.next()
    assert chain.packets == 1, "packets at nft ingress of the pod's end"


@pytest.mark.promise("backlog-skipped")
@KINDS
def test_backlog_is_skipped(make_way: MakeWay, counters: Counters, kind: str) -> None:
    """The commit's point: no per-CPU backlog on the way into the pod.

    The program first clones the packet to the pair, which queues the clone to the backlog (netif_rx()), and then
    redirects the packet itself to the peer. The packet is in the pod before the clone, which was sent earlier.
    The clone is told by its mark: it lost it on the way across namespaces, the redirected packet keeps it.
    """
    way = make_way(kind)
    way.steer(programs.set_mark(MARK), programs.clone_redirect(way.door.index), programs.redirect_peer(way.door.index))
    way.watch(
        programs.if_mark(MARK, [*programs.stamp(counters.fd, 1), *programs.ret(Verdict.NEXT)]),
        programs.stamp(counters.fd, 2),
    )
    with Capture(way.pod) as captured:
        way.send(b"twice")
        captured.next()
        captured.next()
    redirected, cloned = counters.read()[1:3]
    assert (redirected, cloned) == (1, 2), f"arrival in the pod: redirected packet {redirected}, clone {cloned}"


@pytest.mark.feature("bpf_events")
@pytest.mark.promise("backlog-skipped")
@KINDS
def test_nothing_is_queued_for_the_pod(make_way: MakeWay, kind: str) -> None:
    """Of net:netif_rx, the tracepoint at the backlog's entrance, only the source's transmission to the host is told.

    With bpf_redirect() the same packet is queued once more, for the pod's end of the pair.
    """
    way = make_way(kind)
    with way.to_pod():
        assert queued(way) == ["entry"], "devices for which something was queued, with bpf_redirect_peer()"
    way.steer(programs.redirect(way.door.index))
    assert queued(way) == ["entry", "pod"], "devices for which something was queued, with bpf_redirect()"


def queued(way: Way) -> list[str]:
    """Devices for which one packet on its way to the pod was put into a backlog, in order."""
    with Events("net/netif_rx") as events, Capture(way.pod) as captured:
        way.send(b"traced")
        captured.next()
        return [event["dev"] for event in events.read()]


@pytest.mark.promise("host-end-passed-by")
@KINDS
def test_tcx_egress_of_the_host_end_is_passed_by(make_way: MakeWay, counters: Counters, kind: str) -> None:
    """Neither tcx egress nor the transmit counter of the host's end sees the packet; with bpf_redirect() both do."""
    way = make_way(kind)
    watcher = way.cleanup.enter_context(classifier_returning(Verdict.NEXT, counters))
    way.cleanup.enter_context(hooks.link(watcher, way.door, AttachType.TCX_EGRESS))
    before = way.door.stats
    with Capture(way.pod) as captured:
        with way.to_pod():
            way.send(b"past the door")
            captured.next()
        assert (counters[0], (way.door.stats - before).tx_packets) == (0, 0), "(egress runs, tx_packets) of the door"
        way.steer(programs.redirect(way.door.index))
        way.send(b"through the door")
        captured.next()
    assert (counters[0], (way.door.stats - before).tx_packets) == (1, 1), "the same with bpf_redirect()"


@pytest.mark.feature("nf_egress")
@pytest.mark.promise("host-end-passed-by")
@KINDS
def test_nft_egress_of_the_host_end_is_passed_by(make_way: MakeWay, kind: str) -> None:
    """A netdev egress chain on the host's end does not see the packet; what the host itself sends there, it does.

    bpf_redirect() is no counterexample: tc's redirects are not classified either (nf_skip_egress, 42df6e1d221d).
    """
    way = make_way(kind)
    way.to_pod()
    chain = way.door.namespace.nft.add_chain(way.door)
    chain.add_rule(nft.COUNTER)
    with Capture(way.pod) as captured:
        way.send(b"past the chain")
        captured.next()
        assert chain.packets == 0, "packets at nft egress of the host's end, with bpf_redirect_peer()"
        capture.send(way.door, way.frame(b"through the chain"))
        captured.next()
    assert chain.packets == 1, "packets at nft egress of the host's end, sent there"


@pytest.mark.promise("host-end-passed-by")
@KINDS
def test_taps_of_the_host_end_see_nothing(make_way: MakeWay, kind: str) -> None:
    """A packet socket on the host's end of the pair sees no packet, in either direction; one on ``entry`` does."""
    way = make_way(kind)
    way.to_pod()
    with Capture(way.door, outgoing=True) as door, Capture(way.entry) as entry, Capture(way.pod) as captured:
        sent = way.send(b"unseen")
        captured.next()
        assert entry.next().raw == sent
        assert door.pending() == [], "frames at the host's end of the pair"


@pytest.mark.promise("peer-counts")
@KINDS
@pytest.mark.parametrize("size", [60, 1514], ids=lambda size: f"{size}-bytes")
def test_peer_counts_what_it_receives(make_way: MakeWay, kind: str, size: int) -> None:
    """024ee930cb3c "bpf: Fix dev's rx stats for bpf_redirect_peer traffic": packets, and bytes with the MAC header."""
    way = make_way(kind)
    way.to_pod()
    before = way.pod.stats
    with Capture(way.pod) as captured:
        sent = [way.send(b"one".ljust(size - 14, b".")) for _ in range(2)]
        captured.next()
        captured.next()
    grown = way.pod.stats - before
    assert grown == LinkStats(2, 0, sum(map(len, sent)), 0, 0, 0, 0), "what the peer counted"


@pytest.mark.promise("peer-counts")
@KINDS
def test_no_other_device_counts(make_way: MakeWay, kind: str) -> None:
    """skb_do_redirect() counts at the peer: the host's end of the pair counts nothing, ``entry`` only that it came."""
    way = make_way(kind)
    way.to_pod()
    before = way.door.stats, way.entry.stats
    with Capture(way.pod) as captured:
        sent = way.send(b"one")
        captured.next()
    door, entry = way.door.stats - before[0], way.entry.stats - before[1]
    assert door == LinkStats(0, 0, 0, 0, 0, 0, 0), "what the host's end of the pair counted"
    assert entry == LinkStats(1, 0, len(sent), 0, 0, 0, 0), "what the device counted at which the packet came in"
