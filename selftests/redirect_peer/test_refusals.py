"""Where bpf_redirect_peer() drops the packet, and what the helper itself answers.

Source of the promises: bpf_redirect_peer() and skb_do_redirect() of net/core/filter.c (9aa1206e8f48). The helper only
checks its flags; everything else is found when the redirect is done, and all that is left then is to free the packet.
A refused packet is followed by a delivered one, so that its absence is certain.
"""

from __future__ import annotations

import socket
import struct

import pytest

from selftests.lib import asm, bpf, packet, programs, rtnetlink
from selftests.lib.bpf import AttachType, Counters, Verdict
from selftests.lib.capture import Capture
from selftests.lib.rtnl import Link
from selftests.redirect_peer.conftest import KINDS, MakeWay, Way

pytestmark = pytest.mark.feature("redirect_peer")


def assert_dropped(way: Way, counters: Counters, *, target: int, answer: int, flags: int = 0) -> None:
    """A packet steered at ``target`` must not reach the pod, and the helper must answer ``answer``."""
    before = way.pod.stats
    with Capture(way.pod) as captured:
        with way.steer(programs.redirect_peer_saving_verdict(target, flags, counters.fd, 0)):
            way.send(b"refused")
        assert counters[0] == answer, f"the helper's answer: expected {answer}, got {counters.signed(0)}"
        assert way.pod.stats == before, "what the pod's end counted of a packet that it must not get"
        with way.steer(programs.redirect(way.door.index)):
            way.send(b"fence")
        before_fence = captured.up_to(b"fence")
    assert not before_fence, f"expected nothing in the pod before the fence, got {before_fence[0]}"


@pytest.mark.promise("flags-refused")
@KINDS
@pytest.mark.parametrize(
    "flags",
    [
        pytest.param(1, id="BPF_F_INGRESS"),
        # 7.2.13 refuses it, 7.3.4 answers TC_ACT_REDIRECT
        pytest.param(1 << 1, id="bit-1-once-BPF_F_NEIGH", marks=pytest.mark.until("7.3")),
        pytest.param(1 << 2, id="bit-2-once-BPF_F_PEER"),
        pytest.param(1 << 3, id="BPF_F_BROADCAST"),
        pytest.param(1 << 17, id="the-internal-flag-BPF_F_PEER"),
        pytest.param(-1 << 31, id="the-upper-half"),
    ],
)
def test_flags_are_refused(make_way: MakeWay, counters: Counters, kind: str, flags: int) -> None:
    """bpf_redirect_peer(): any flag is answered with TC_ACT_SHOT."""
    way = make_way(kind)
    assert_dropped(way, counters, target=way.door.index, answer=Verdict.DROP, flags=flags)


@pytest.mark.promise("internal-flags")
@pytest.mark.parametrize("flags", [1 << 16, 1 << 17, 1 << 18], ids=["BPF_F_NEIGH", "BPF_F_PEER", "BPF_F_NEXTHOP"])
def test_other_helper_does_not_take_the_internal_flags(make_way: MakeWay, counters: Counters, flags: int) -> None:
    """09d88791c7cd: with the flag by which the kernel knows a peer redirect, bpf_redirect() answers TC_ACT_SHOT."""
    way = make_way()
    with Capture(way.pod) as captured:
        with way.steer(programs.redirect_saving_verdict(way.door.index, flags, counters.fd, 0)):
            way.send(b"refused")
        assert counters[0] == Verdict.DROP, f"the answer of bpf_redirect(): {counters.signed(0)}"
        way.to_pod()
        way.send(b"fence")
        assert captured.up_to(b"fence") == []


@pytest.mark.promise("no-peer")
@pytest.mark.parametrize("device", ["dummy", "ifb", "lo"])
def test_device_without_a_peer_is_refused(make_way: MakeWay, counters: Counters, device: str) -> None:
    """skb_get_peer_dev(): a device without ndo_get_peer_dev gets nothing; the helper cannot know yet."""
    way = make_way()
    rtnl = way.door.namespace.rtnl
    target = rtnl.find("lo") if device == "lo" else rtnl.add_ifb("d0") if device == "ifb" else rtnl.add_dummy("d0")
    before = target.stats
    assert_dropped(way, counters, target=target.index, answer=Verdict.REDIRECT)
    assert target.stats == before, f"what the {device} counted"


@pytest.mark.promise("absent-device")
@pytest.mark.parametrize("target", [0, 4242, 0x7FFFFFFF])
def test_absent_device_is_refused(make_way: MakeWay, counters: Counters, target: int) -> None:
    """skb_do_redirect(): an ifindex that nothing has drops the packet."""
    assert_dropped(make_way(), counters, target=target, answer=Verdict.REDIRECT)


@pytest.mark.promise("absent-device")
@KINDS
def test_ifindex_of_another_namespace_is_absent(make_way: MakeWay, counters: Counters, kind: str) -> None:
    """An ifindex means what it means where the packet came in: the pod's end, by its own index there, is not found."""
    way = make_way(kind)
    inside = way.pod.namespace.rtnl
    door, pod = inside.add_veth("inner", "peer", way.source.namespace, index=4711)
    before = pod.stats
    assert_dropped(way, counters, target=door.index, answer=Verdict.REDIRECT)
    assert pod.stats == before, "what the peer of that device counted"


@pytest.mark.promise("same-namespace")
@KINDS
def test_peer_in_the_same_namespace_is_refused(make_way: MakeWay, counters: Counters, kind: str) -> None:
    """skb_do_redirect(): net_eq() of host and peer drops, the helper is for switching namespaces."""
    way = make_way(kind, pod_is_host=True)
    assert_dropped(way, counters, target=way.door.index, answer=Verdict.REDIRECT)


@pytest.mark.promise("same-namespace")
@KINDS
def test_peer_that_moved_to_the_host_is_refused(make_way: MakeWay, counters: Counters, kind: str) -> None:
    """The namespaces are compared with each packet: after the pod's end has moved into the host, it is refused."""
    way = make_way(kind)
    with way.to_pod(), Capture(way.pod) as captured:
        way.send(b"while it was a pod")
        captured.next()
    moved = way.pod.namespace.rtnl.move(way.pod, way.door.namespace)
    assert_dropped(
        Way(way.source, way.entry, way.door, moved, way.cleanup),
        counters,
        target=way.door.index,
        answer=Verdict.REDIRECT,
    )


@pytest.mark.promise("peer-down")
@KINDS
def test_peer_that_is_down_is_refused(make_way: MakeWay, counters: Counters, kind: str) -> None:
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


@pytest.mark.promise("host-end-down")
def test_host_end_that_is_down_does_not_matter(make_way: MakeWay) -> None:
    """skb_do_redirect() asks only the peer whether it is up: with the host's end down the packet still arrives."""
    way = make_way()
    way.to_pod()
    way.door.down()
    with Capture(way.pod) as captured:
        sent = way.send(b"past a closed door")
        assert captured.next().raw == sent


@pytest.mark.promise("egress")
@KINDS
def test_egress_is_refused(make_way: MakeWay, counters: Counters, kind: str) -> None:
    """skb_do_redirect(): only at tc ingress; from tcx egress the packet is dropped, and the sender is not told."""
    way = make_way(kind)
    way.entry.add_address("10.1.0.254/24")
    way.entry.add_neighbour("10.1.0.1", way.source.mac)
    way.steer(programs.redirect_peer_saving_verdict(way.door.index, 0, counters.fd, 0), hook=AttachType.TCX_EGRESS)
    before = way.pod.stats
    with Capture(way.pod) as pod, Capture(way.source) as source:
        with way.entry.namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            assert sock.sendto(b"at egress", ("10.1.0.1", 9)) == len(b"at egress")
        assert counters[0] == Verdict.REDIRECT, f"the helper's answer at egress: {counters.signed(0)}"
        assert way.pod.stats == before, "what the pod's end counted"
        way.to_pod()
        way.send(b"fence")
        before_fence = pod.up_to(b"fence")
        assert not before_fence, f"expected nothing in the pod before the fence, got {before_fence[0]}"
        assert source.pending() == [], "the packet went out through its own device"


@pytest.mark.feature("sch_prio")
@pytest.mark.promise("no-context")
@pytest.mark.since("6.11")
@pytest.mark.fixed_in(
    "3f4920d165b2",
    mainline="7.2",
    stable={"6.12": "6.12.111"},
    match="NULL pointer dereference|null-ptr-deref|general protection fault",
    crash=True,
)
@pytest.mark.parametrize("helper", ["redirect_peer", "redirect"])
def test_classifier_of_a_qdisc_is_refused(make_way: MakeWay, counters: Counters, helper: str) -> None:
    """3f4920d165b2 (CVE-2026-68337): under a classful qdisc there is no place to leave a redirect: TC_ACT_SHOT.

    Since 6.11 that place is on the stack of tc's hooks (bpf_net_context); a filter of prio runs without.
    """
    way = make_way()
    make = {
        "redirect_peer": programs.redirect_peer_saving_verdict,
        "redirect": programs.redirect_saving_verdict,
    }[helper]
    target = send_through_prio(way, make(way.door.index, 0, counters.fd, 0))
    assert counters[0] == Verdict.DROP, f"the helper's answer in a filter of prio: {counters.signed(0)}"
    assert target.stats.tx_packets == 0, "packets that left through the qdisc"


@pytest.mark.feature("sch_prio")
@pytest.mark.promise("no-context")
@pytest.mark.fixed_in("ec48b3be2c85", mainline="7.2", stable={"6.12": "6.12.111"}, match="packets that left")
def test_redirect_of_a_qdiscs_classifier_is_a_drop(make_way: MakeWay) -> None:
    """ec48b3be2c85: a filter of prio that says TC_ACT_REDIRECT, whoever told it to, drops the packet.

    It was taken for no answer before, and the packet left through the device that it was to be taken from.
    """
    target = send_through_prio(make_way(), programs.ret(Verdict.REDIRECT))
    assert target.stats.tx_packets == 0, "packets that left through the qdisc"


def send_through_prio(way: Way, steering: asm.Fragment) -> Link:
    """A datagram through a dummy of the host, whose qdisc prio has a program for a filter; returns the dummy."""
    target = way.door.namespace.rtnl.add_dummy("d0")
    bands = struct.pack("<i16B", 3, *[1] * 16)  # struct tc_prio_qopt
    rtnetlink.change_tc(
        target.namespace,
        rtnetlink.RTM_NEWQDISC,
        target.index,
        rtnetlink.text(1, "prio"),
        rtnetlink.attribute(2, bands),
        parent=0xFFFFFFFF,
        handle=1 << 16,
    )  # TCA_KIND, TCA_OPTIONS; at the root, as 1:
    program = way.cleanup.enter_context(bpf.load_classifier(steering))
    target.namespace.rtnl.add_filter(target, program, parent=1 << 16)
    target.add_address("10.4.0.1/24")
    target.add_neighbour("10.4.0.2", bytes.fromhex("020000000002"))
    with target.namespace.socket() as sock:
        sock.sendto(b"classified", ("10.4.0.2", 9))
    return target


def _loop(counters: Counters, target: int, *, rounds: int) -> list[asm.Fragment]:
    """Count, and redirect to the peer of ``target`` as long as no more than ``rounds`` are counted; drop then."""
    return [
        programs.count(counters.fd, 0),
        programs.if_at_most(counters.fd, 0, rounds, programs.redirect_peer(target)),
        programs.ret(Verdict.DROP),
    ]


@pytest.mark.promise("loop-ends")
@pytest.mark.known_bug(
    "two programs that redirect to each other's namespace keep a packet, and the processor, for ever",
    evidence="__netif_receive_skb_core() goes to another_round without counting; a limit was posted to netdev in 2026",
    match="a packet went round",
)
@KINDS
def test_loop_of_two_namespaces_ends(make_way: MakeWay, counters: Counters, kind: str) -> None:
    """The kernel must not let a packet go round for ever: bpf_redirect()'s loops are ended by dev_xmit_recursion().

    Of a pair, each end's program redirects into the namespace of the other. They give up by themselves in the end.
    """
    way = make_way(kind)
    way.to_pod()
    way.attach(way.pod, AttachType.TCX_INGRESS, *_loop(counters, way.pod.index, rounds=500))
    way.attach(way.door, AttachType.TCX_INGRESS, *_loop(counters, way.door.index, rounds=500))
    way.send(b"round and round")
    assert counters[0] < 500, f"a packet went round {counters[0]} times, until the programs gave up"


@pytest.mark.promise("loop-ends")
@KINDS
def test_loop_that_programs_end_delivers(make_way: MakeWay, counters: Counters, kind: str) -> None:
    """A packet may go round some times: three times from end to end and back, then it arrives as it was sent."""
    way = make_way(kind)
    way.to_pod()
    back = [*programs.count(counters.fd, 1), *programs.redirect_peer(way.door.index)]
    way.attach(way.door, AttachType.TCX_INGRESS, back)
    way.attach(
        way.pod,
        AttachType.TCX_INGRESS,
        programs.count(counters.fd, 0),
        programs.if_at_most(counters.fd, 0, 3, programs.redirect_peer(way.pod.index)),
        programs.ret(Verdict.NEXT),
    )
    with Capture(way.pod) as captured:
        sent = way.send(b"thrice round")
        frame = captured.until(lambda _: counters[0] == 4, "the fourth time in the pod")[-1]
    assert frame.raw == sent, f"expected\n{packet.describe(sent)}\ngot\n{frame}"
    assert counters.read()[:2] == (4, 3), "(times in the pod, times in the host)"
