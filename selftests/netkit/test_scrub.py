"""What of a packet survives netkit: mark and priority within and across namespaces, and the packet type.

Source of the promises: netkit_prep_forward(), netkit_xnet() of drivers/net/netkit.c; 83134ef46093 "netkit: Add option
for scrubbing skb meta data" (6.13, 6.12.4); 3998d184267d "netkit: Fix pkt_type override upon netkit pass verdict".
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from selftests.lib import bpf, capture, hooks, packet, programs, wait
from selftests.lib.bpf import AttachType, Verdict
from selftests.lib.capture import PACKET_BROADCAST, PACKET_HOST, PACKET_MULTICAST, PACKET_OTHERHOST, Capture
from selftests.lib.netkit_nla import Mode, Scrub
from selftests.lib.netns import Namespace
from selftests.lib.rtnl import Link
from selftests.netkit.conftest import FAMILIES, HOOKS, MODES, SENDERS, MakePair, Pair

pytestmark = [pytest.mark.feature("netkit"), pytest.mark.feature("tcx")]

MARK, PRIORITY = 0x1234, 5
STAMP = 0x12345678


SCRUB_OPTION = pytest.mark.fixed_in(
    "83134ef46093", mainline="6.13", stable={"6.12": "6.12.4"}, match=r"\(mark, priority\) at the other end"
)
KEPT, CLEARED = (MARK, PRIORITY), (0, 0)
CASES = pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param({}, CLEARED, id="cleared-across-namespaces-by-default"),
        pytest.param({"scrub": Scrub.DEFAULT}, CLEARED, id="cleared-with-scrub-default"),
        pytest.param({"scrub": Scrub.NONE}, KEPT, id="kept-with-scrub-none", marks=SCRUB_OPTION),
        pytest.param({"same_namespace": True}, KEPT, id="kept-within-a-namespace"),
    ],
)
ATTRIBUTE = {"primary": "IFLA_NETKIT_SCRUB", "peer": "IFLA_NETKIT_PEER_SCRUB"}


def make_scrubbing_pair(make_pair: MakePair, sender: str, options: dict[str, Any]) -> Pair:
    """A pair whose ``sender`` scrubs as ``options`` say, and whose other end does the opposite where it can."""
    if "scrub" not in options:
        return make_pair(**options)
    other = "peer" if sender == "primary" else "primary"
    opposite = Scrub.NONE if options["scrub"] == Scrub.DEFAULT else Scrub.DEFAULT
    return make_pair(data={ATTRIBUTE[sender]: options["scrub"], ATTRIBUTE[other]: opposite})


def read_at(link: Link, counters: bpf.Counters, cleanup: ExitStack) -> None:
    """From now on slots 0, 1, 2 have mark, priority and timestamp of what last came to tcx ingress; 3 counts."""
    reader = bpf.load_classifier(
        programs.save_field(counters.fd, 0, programs.SKB_MARK),
        programs.save_field(counters.fd, 1, programs.SKB_PRIORITY),
        programs.save_timestamp(counters.fd, 2),
        programs.count(counters.fd, 3),
        programs.ret(Verdict.NEXT),
    )
    cleanup.enter_context(hooks.link(cleanup.enter_context(reader), link, AttachType.TCX_INGRESS))


@pytest.mark.promise("scrub")
@CASES
@SENDERS
def test_mark_and_priority(
    make_pair: MakePair,
    cleanup: ExitStack,
    counters: bpf.Counters,
    sender: str,
    options: dict[str, Any],
    expected: tuple[int, int],
) -> None:
    """(mark, priority) that a socket gave a packet, at the other end's tcx ingress; each end scrubs for itself."""
    pair = make_scrubbing_pair(make_pair, sender, options)
    read_at(pair.ends(sender)[1], counters, cleanup)
    pair.send(b"marked", sender=sender, mark=MARK, priority=PRIORITY)
    wait.until(lambda: counters[3], "the packet at tcx ingress")
    assert counters.read()[:2] == expected, "(mark, priority) at the other end"


@pytest.mark.promise("scrub-families")
@FAMILIES
@pytest.mark.parametrize(
    ("same_namespace", "expected"),
    [pytest.param(False, CLEARED, id="cleared-across-namespaces"), pytest.param(True, KEPT, id="kept-within-one")],
)
def test_mark_and_priority_of_each_family(
    make_pair: MakePair,
    cleanup: ExitStack,
    counters: bpf.Counters,
    family: str,
    same_namespace: bool,
    expected: tuple[int, int],
) -> None:
    """netkit_xnet() looks at no protocol: IPv4 and IPv6 are scrubbed alike."""
    pair = make_pair(same_namespace=same_namespace)
    read_at(pair.peer, counters, cleanup)
    pair.send_datagram(family, b"marked", mark=MARK, priority=PRIORITY)
    wait.until(lambda: counters[3], "the packet at tcx ingress")
    assert counters.read()[:2] == expected, f"(mark, priority) of {family} at the peer"


@pytest.mark.promise("scrub-after-move")
def test_a_move_into_another_namespace_begins_to_scrub(
    make_pair: MakePair, new_namespace: Callable[..., Namespace], cleanup: ExitStack, counters: bpf.Counters
) -> None:
    """netkit_xmit() compares the namespaces for each packet: kept before the peer's move, cleared after it."""
    pair = make_pair(same_namespace=True)
    read_at(pair.peer, counters, cleanup)
    pair.send(b"before", mark=MARK, priority=PRIORITY)
    wait.until(lambda: counters[3], "the first packet at tcx ingress")
    assert counters.read()[:2] == KEPT, "(mark, priority) before the move"
    peer = pair.peer.namespace.rtnl.move(pair.peer, new_namespace("elsewhere"))
    wait.until(lambda: peer.state.operstate == pair.primary.state.operstate == "UP", "both ends to be operational")
    Pair(pair.primary, peer).send(b"after", mark=MARK, priority=PRIORITY)
    wait.until(lambda: counters[3] == 2, "the second packet at tcx ingress")
    assert counters.read()[:2] == CLEARED, "(mark, priority) after the move"


@pytest.mark.promise("program-marks")
@SENDERS
def test_mark_and_priority_set_by_a_program_arrive(
    make_pair: MakePair, cleanup: ExitStack, counters: bpf.Counters, sender: str
) -> None:
    """netkit_prep_forward() scrubs before the programs run: what they set is for the other namespace."""
    pair = make_pair()
    writer = bpf.load_classifier(
        programs.set_mark(MARK), programs.set_priority(PRIORITY), programs.ret(Verdict.PASS), name="writer"
    )
    cleanup.enter_context(hooks.link(cleanup.enter_context(writer), pair.primary, HOOKS[sender]))
    read_at(pair.ends(sender)[1], counters, cleanup)
    pair.send(b"marked", sender=sender)
    wait.until(lambda: counters[3], "the packet at tcx ingress")
    assert counters.read()[:2] == KEPT, "(mark, priority) at the other end"


@pytest.mark.promise("timestamp")
@pytest.mark.parametrize(
    ("same_namespace", "expected"),
    [pytest.param(False, 0, id="cleared-across-namespaces"), pytest.param(True, STAMP, id="kept-within-one")],
)
def test_timestamp(
    make_pair: MakePair, cleanup: ExitStack, counters: bpf.Counters, same_namespace: bool, expected: int
) -> None:
    """netkit_prep_forward(), skb_clear_tstamp(): a time that tc gave the packet does not leave the namespace."""
    pair = make_pair(same_namespace=same_namespace)
    writer = bpf.load_classifier(programs.set_timestamp(STAMP), programs.ret(Verdict.NEXT), name="writer")
    cleanup.enter_context(hooks.link(cleanup.enter_context(writer), pair.primary, AttachType.TCX_EGRESS))
    read_at(pair.peer, counters, cleanup)
    pair.send(b"timed")
    wait.until(lambda: counters[3], "the packet at tcx ingress")
    assert counters[2] == expected, "timestamp at the peer"


@pytest.mark.promise("packet-type-host")
@MODES
@pytest.mark.parametrize(
    ("target", "kind"),
    [
        pytest.param(None, PACKET_HOST, id="its-own-address"),
        pytest.param(packet.BROADCAST, PACKET_BROADCAST, id="broadcast"),
        pytest.param(bytes.fromhex("01005e000001"), PACKET_MULTICAST, id="multicast"),
        pytest.param(bytes.fromhex("0200000000ee"), PACKET_OTHERHOST, id="another-address"),
    ],
)
def test_packet_type_is_by_the_receivers_address(
    make_pair: MakePair, mode: Mode, target: bytes | None, kind: int
) -> None:
    """netkit_xmit(), eth_skb_pkt_type(): what eth_type_trans() would say at the other end."""
    pair = make_pair(mode)
    mac = pair.peer.mac or packet.NO_MAC
    with Capture(pair.peer) as captured:
        capture.send(pair.primary, packet.ethernet(b"typed".ljust(46), dst=target or mac, src=pair.primary.mac))
        frame = captured.next()
    assert frame.packet_type == kind, f"packet type {frame.packet_type} of {frame}"


@pytest.mark.promise("packet-type")
@MODES
def test_packet_type_set_by_a_program_arrives(make_pair: MakePair, cleanup: ExitStack, mode: Mode) -> None:
    """3998d184267d: bpf_skb_change_type() in netkit's program is not overridden when the packet passes."""
    pair = make_pair(mode)
    program = bpf.load_classifier(programs.change_type(PACKET_MULTICAST), programs.ret(Verdict.PASS))
    cleanup.enter_context(program)
    cleanup.enter_context(hooks.link(program, pair.primary, AttachType.NETKIT_PRIMARY))
    with Capture(pair.peer) as capture:
        pair.send(b"typed")
        frame = capture.next()
    assert frame.packet_type == PACKET_MULTICAST, f"packet type {frame.packet_type}, of {frame}"
