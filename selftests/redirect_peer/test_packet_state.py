"""What a packet carries beside its bytes: what bpf_redirect_peer() takes from it, and what it leaves.

Source of the promises: c43272299488 "bpf: Scrub packet on bpf_redirect_peer" (6.15, 6.12.29), its documentation
f5c79ffdc250, skb_do_redirect() of net/core/filter.c and skb_scrub_packet() of net/core/skbuff.c with xnet false: what
belongs to the host's view goes, what its program said for the pod stays.
"""

from __future__ import annotations

import errno
import socket
import struct

import pytest

from selftests.lib import asm, packet, programs, rtnetlink, rtnl
from selftests.lib.bpf import AttachType, Counters, Verdict, load_classifier
from selftests.lib.capture import PACKET_BROADCAST, PACKET_HOST, PACKET_MULTICAST, PACKET_OTHERHOST, Capture
from selftests.lib.netns import Namespace
from selftests.redirect_peer import xfrm
from selftests.redirect_peer.conftest import IPV4, KINDS, MakeWay, Way
from selftests.redirect_peer.pod import pod_socket, received

pytestmark = pytest.mark.feature("redirect_peer")

MARK, PRIORITY, TSTAMP = 0x77, 3, 0x1234567
MONOTONIC = 1
"""BPF_SKB_CLOCK_MONOTONIC, once BPF_SKB_TSTAMP_DELIVERY_MONO."""

HOST = "10.1.0.254"
SPI = 0x4711

SCRUBBED = {"commit": "c43272299488", "mainline": "6.15", "stable": {"6.12": "6.12.29"}}


# --- what stays ------------------------------------------------------------------------------------------------------


@pytest.mark.promise("program-state-kept")
@KINDS
def test_mark_and_priority_are_kept(make_way: MakeWay, counters: Counters, kind: str) -> None:
    """skb_do_redirect() scrubs with xnet false: mark and priority that the host's program gave reach the pod."""
    way = make_way(kind)
    way.steer(programs.set_mark(MARK), programs.set_priority(PRIORITY), programs.redirect_peer(way.door.index))
    way.watch(
        programs.save_field(counters.fd, 0, programs.SKB_MARK),
        programs.save_field(counters.fd, 1, programs.SKB_PRIORITY),
    )
    with Capture(way.pod) as captured:
        way.send(b"marked")
        captured.next()
    assert counters.read()[:2] == (MARK, PRIORITY), "(mark, priority) in the pod"


@pytest.mark.promise("program-state-kept")
@KINDS
def test_delivery_time_is_kept(make_way: MakeWay, counters: Counters, kind: str) -> None:
    """A time of delivery that the host's program gave (bpf_skb_set_tstamp(), 5.18) reaches the pod, and its clock."""
    way = make_way(kind)
    way.steer(programs.set_tstamp(TSTAMP, MONOTONIC), programs.redirect_peer(way.door.index))
    way.watch(programs.save_tstamp(counters.fd, 0))
    with Capture(way.pod) as captured:
        way.send_udp(b"later")
        captured.next()
    assert counters.read()[:2] == (TSTAMP, MONOTONIC), "(time, clock) in the pod"


@pytest.mark.promise("program-state-kept")
@KINDS
def test_control_block_is_kept(make_way: MakeWay, counters: Counters, kind: str) -> None:
    """``cb[0]``, where programs leave notes for each other on the way through tc, reaches the pod's program."""
    way = make_way(kind)
    note = [asm.mov_imm(asm.R2, MARK), asm.store(4, asm.R6, asm.R2, programs.SKB_CB)]
    way.steer(note, programs.redirect_peer(way.door.index))
    way.watch(programs.save_field(counters.fd, 0, programs.SKB_CB))
    with Capture(way.pod) as captured:
        way.send(b"noted")
        captured.next()
    assert counters[0] == MARK, "cb[0] in the pod"


# --- what goes -------------------------------------------------------------------------------------------------------


@pytest.mark.promise("scrubbed-packet-type")
@pytest.mark.fixed_in(**SCRUBBED, match="expected packet type 0")
@KINDS
@pytest.mark.parametrize(
    "target",
    [
        pytest.param("02aabbccddee", id="foreign-address"),
        pytest.param("ffffffffffff", id="broadcast"),
        pytest.param("01005e000001", id="multicast"),
    ],
)
def test_whatever_the_address_it_is_the_pods(make_way: MakeWay, kind: str, target: str) -> None:
    """Scrubbing makes it PACKET_HOST, whatever the host took its destination for (PACKET_OTHERHOST, …)."""
    way = make_way(kind)
    way.to_pod()
    frame = bytes.fromhex(target) + way.frame(b"not quite mine")[6:]
    with Capture(way.entry) as host, Capture(way.pod) as captured:
        way.send_frame(frame)
        assert host.next().packet_type in (PACKET_OTHERHOST, PACKET_BROADCAST, PACKET_MULTICAST), "at the host"
        got = captured.next()
    assert got.packet_type == PACKET_HOST, f"expected packet type 0 (PACKET_HOST), got {got.packet_type} of {got}"


@pytest.mark.promise("scrubbed-packet-type")
@pytest.mark.fixed_in(**SCRUBBED, match="no datagram came")
@KINDS
def test_foreign_address_is_taken_as_own(make_way: MakeWay, kind: str) -> None:
    """ip_rcv() drops what is for another host; a datagram to a foreign MAC address gets to the pod's socket."""
    way = make_way(kind)
    way.to_pod()
    sock = pod_socket(way)
    datagram = packet.udp(b"foreign", src=IPV4.outside, dst=IPV4.pod, sport=4000, dport=5000)
    way.send_frame(packet.in_ethernet(datagram, dst=bytes.fromhex("02aabbccddee"), src=way.source.mac))
    assert received(sock)[0] == b"foreign"


@pytest.mark.feature("vxlan")
@pytest.mark.promise("scrubbed-tunnel")
@pytest.mark.fixed_in(**SCRUBBED, match="tunnel key in the pod")
@KINDS
def test_tunnel_metadata_goes(make_way: MakeWay, counters: Counters, kind: str) -> None:
    """skb_dst_drop(): the pod's program finds no tunnel key on what a VXLAN device of the host decapsulated."""
    way = make_way(kind)
    way.entry.add_address(f"{HOST}/24")
    overlay = way.entry.namespace.rtnl.add_collecting_vxlan("overlay")
    way.attach(
        overlay,
        AttachType.TCX_INGRESS,
        programs.save_tunnel_key(counters.fd, 0),
        programs.redirect_peer(way.door.index),
    )
    way.watch(programs.save_tunnel_key(counters.fd, 1))
    header = struct.pack("!BxxxI", 8, 42 << 8)  # RFC 7348: a VNI is there, it is 42
    with Capture(way.pod) as captured:
        carrier = packet.udp(header + way.frame(b"inner"), src=IPV4.outside, dst=HOST, sport=4000, dport=4789)
        way.send_frame(packet.in_ethernet(carrier, dst=way.entry.mac, src=way.source.mac))
        assert captured.next().raw == way.frame(b"inner")
    assert counters.signed(0) == 0, "what the host's program got of the tunnel key"
    assert counters.signed(1) == -errno.EINVAL, f"tunnel key in the pod: {counters.signed(1)}, expected -EINVAL"


def _track(way: Way) -> None:
    """At tc ingress of ``entry``, before any program: connection tracking, by the action ct (tcf_ct_act())."""
    parameters = struct.pack("<IIiII", 0, 0, -1, 0, 0)  # struct tc_ct: go on with the next filter
    action = rtnetlink.nest(
        1, rtnetlink.text(1, "ct"), rtnetlink.nest(2, rtnetlink.attribute(1, parameters))
    )  # TCA_ACT_KIND, TCA_ACT_OPTIONS with TCA_CT_PARMS
    matchall = rtnetlink.nest(2, rtnetlink.nest(2, action))  # TCA_OPTIONS, TCA_MATCHALL_ACT
    way.entry.namespace.rtnl.add_clsact(way.entry)
    rtnetlink.change_tc(
        way.entry.namespace,
        rtnetlink.RTM_NEWTFILTER,
        way.entry.index,
        rtnetlink.text(1, "matchall"),
        matchall,
        parent=rtnl.TC_H_MIN_INGRESS,
        info=1 << 16 | socket.htons(0x0003),  # priority 1, ETH_P_ALL
    )


def _prerouting(namespace: Namespace, name: str, priority: int) -> None:
    namespace.nft.run_text(
        f"add table ip {name}; "
        f"add chain ip {name} seen {{ type filter hook prerouting priority {priority}; }}; "
        f"add rule ip {name} seen ct state new,established,related,untracked counter"
    )


def _counted(namespace: Namespace, table: str) -> int:
    listed = namespace.nft.run({"list": {"chain": {"family": "ip", "table": table, "name": "seen"}}})
    (rule,) = (item["rule"] for item in listed if "rule" in item)
    packets: int = next(part["counter"]["packets"] for part in rule["expr"] if "counter" in part)
    return packets


@pytest.mark.feature("act_ct")
@pytest.mark.feature("matchall")
@pytest.mark.feature("clsact")
@pytest.mark.promise("scrubbed-conntrack")
@pytest.mark.fixed_in(**SCRUBBED, match="before the pod's own tracking")
@KINDS
def test_connection_tracking_goes(make_way: MakeWay, kind: str) -> None:
    """nf_reset_ct(): the pod does not see the host's connection on the packet, and tracks it for itself."""
    way = make_way(kind)
    _track(way)
    program = way.cleanup.enter_context(load_classifier(programs.redirect_peer(way.door.index)))
    way.entry.namespace.rtnl.add_filter(way.entry, program, ingress=True, priority=2)
    inside = way.pod.namespace
    _prerouting(inside, "before", -300)  # conntrack is at -200
    _prerouting(inside, "after", -150)
    sock = pod_socket(way)
    way.send_udp(b"tracked")
    assert received(sock)[0] == b"tracked"
    assert _counted(inside, "before") == 0, "packets with a connection before the pod's own tracking"
    assert _counted(inside, "after") == 1, "packets with a connection after it"


@pytest.mark.feature("esp")
@pytest.mark.promise("scrubbed-secpath")
@pytest.mark.fixed_in(**SCRUBBED, match="no datagram came")
@KINDS
def test_security_path_goes(make_way: MakeWay, kind: str) -> None:
    """skb_ext_reset(): what IPsec of the host decrypted is a plain packet in the pod, which has no policy for it.

    With the host's security path still on it, the pod drops it: XfrmInNoPols (CVE-2025-37959).
    """
    way = make_way(kind)
    way.entry.add_address(f"{HOST}/24")
    xfrm.add_tunnel(way.entry.namespace, src=IPV4.outside, dst=HOST, spi=SPI)
    way.steer(programs.if_udp_port(5000, programs.redirect_peer(way.door.index)), programs.ret(Verdict.NEXT))
    sock = pod_socket(way)
    inner = packet.udp(b"decrypted", src=IPV4.outside, dst=IPV4.pod, sport=4000, dport=5000)
    outer = xfrm.in_tunnel(inner, src=IPV4.outside, dst=HOST, spi=SPI)
    way.send_frame(packet.in_ethernet(outer, dst=way.entry.mac, src=way.source.mac))
    assert received(sock)[0] == b"decrypted"
