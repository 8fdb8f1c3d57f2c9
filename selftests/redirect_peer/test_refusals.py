"""Where bpf_redirect_peer() drops the packet, and what the helper itself answers.

Source of the promises: bpf_redirect_peer() and skb_do_redirect() of net/core/filter.c (9aa1206e8f48). The helper only
checks its flags; everything else is found when the redirect is done, and all that is left then is to free the packet.
A refused packet is followed by a delivered one, so that its absence is certain.
"""

from __future__ import annotations

import socket

import pytest

from selftests.lib import bpf, programs
from selftests.lib.bpf import AttachType, Verdict
from selftests.lib.capture import Capture
from selftests.redirect_peer.conftest import KINDS, MakeWay, Way

pytestmark = pytest.mark.feature("redirect_peer")


def assert_dropped(way: Way, counters: bpf.Counters, *, target: int, answer: int, flags: int = 0) -> None:
    """A packet steered at ``target`` must not reach the pod, and the helper must answer ``answer``."""
    with Capture(way.pod) as captured:
        with way.steer(programs.redirect_peer_saving_verdict(target, flags, counters.fd, 0)):
            way.send(b"refused")
        assert counters[0] == answer, f"the helper's answer: expected {answer}, got {counters.signed(0)}"
        with way.steer(programs.redirect(way.door.index)):
            way.send(b"fence")
        before_fence = captured.up_to(b"fence")
    assert not before_fence, f"expected nothing in the pod before the fence, got {before_fence[0]}"


@KINDS
@pytest.mark.parametrize("flags", [1, 1 << 17], ids=["BPF_F_INGRESS", "the-internal-flag-BPF_F_PEER"])
def test_flags_are_refused(make_way: MakeWay, counters: bpf.Counters, kind: str, flags: int) -> None:
    """bpf_redirect_peer(): any flag is answered with TC_ACT_SHOT."""
    way = make_way(kind)
    assert_dropped(way, counters, target=way.door.index, answer=Verdict.DROP, flags=flags)


def test_device_without_a_peer_is_refused(make_way: MakeWay, counters: bpf.Counters) -> None:
    """skb_get_peer_dev(): a device without ndo_get_peer_dev (a dummy) gets nothing; the helper cannot know yet."""
    way = make_way()
    dummy = way.door.namespace.rtnl.add_dummy("d0")
    assert_dropped(way, counters, target=dummy.index, answer=Verdict.REDIRECT)
    assert dummy.stats.tx_packets == 0


def test_absent_device_is_refused(make_way: MakeWay, counters: bpf.Counters) -> None:
    """skb_do_redirect(): an ifindex that nothing has drops the packet."""
    assert_dropped(make_way(), counters, target=4242, answer=Verdict.REDIRECT)


@KINDS
def test_peer_in_the_same_namespace_is_refused(make_way: MakeWay, counters: bpf.Counters, kind: str) -> None:
    """skb_do_redirect(): net_eq() of host and peer drops, the helper is for switching namespaces."""
    way = make_way(kind, pod_is_host=True)
    assert_dropped(way, counters, target=way.door.index, answer=Verdict.REDIRECT)


@KINDS
def test_peer_that_is_down_is_refused(make_way: MakeWay, counters: bpf.Counters, kind: str) -> None:
    """skb_do_redirect(): a peer that is not IFF_UP gets nothing, and counts nothing."""
    way = make_way(kind)
    way.pod.down()
    before = way.pod.stats
    way.steer(programs.redirect_peer_saving_verdict(way.door.index, 0, counters.fd, 0))
    way.send(b"refused")
    assert counters[0] == Verdict.REDIRECT, f"the helper's answer: {counters.signed(0)}"
    assert way.pod.stats == before
    way.pod.up()
    with Capture(way.pod) as captured:
        way.send(b"up again")
        assert b"up again" in captured.next().raw, "the first packet after the peer came up"


@KINDS
def test_egress_is_refused(make_way: MakeWay, counters: bpf.Counters, kind: str) -> None:
    """skb_do_redirect(): only at tc ingress; from tcx egress the packet is dropped, and the sender is not told."""
    way = make_way(kind)
    way.entry.add_address("10.1.0.254/24")
    way.entry.add_neighbour("10.1.0.1", way.source.mac)
    way.steer(programs.redirect_peer_saving_verdict(way.door.index, 0, counters.fd, 0), hook=AttachType.TCX_EGRESS)
    with Capture(way.pod) as pod, Capture(way.source) as source:
        with way.entry.namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            assert sock.sendto(b"at egress", ("10.1.0.1", 9)) == len(b"at egress")
        assert counters[0] == Verdict.REDIRECT, f"the helper's answer at egress: {counters.signed(0)}"
        way.steer(programs.redirect_peer(way.door.index))
        way.send(b"fence")
        before_fence = pod.up_to(b"fence")
        assert not before_fence, f"expected nothing in the pod before the fence, got {before_fence[0]}"
        assert source.pending() == [], "the packet went out through its own device"
