"""What of a packet survives netkit: mark and priority within and across namespaces, and the packet type.

Source of the promises: netkit_prep_forward(), netkit_xnet() of drivers/net/netkit.c; 83134ef46093 "netkit: Add option
for scrubbing skb meta data" (6.13, 6.12.4); 3998d184267d "netkit: Fix pkt_type override upon netkit pass verdict".
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest

from selftests.lib import bpf, hooks, programs
from selftests.lib.bpf import AttachType, Verdict
from selftests.lib.capture import PACKET_MULTICAST, Capture
from selftests.lib.netkit_nla import Mode, Scrub
from selftests.netkit.conftest import MakePair

pytestmark = [pytest.mark.feature("netkit"), pytest.mark.feature("tcx")]

MARK, PRIORITY = 0x1234, 5


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param({}, (0, 0), id="cleared-across-namespaces-by-default"),
        pytest.param({"data": {"IFLA_NETKIT_SCRUB": Scrub.DEFAULT}}, (0, 0), id="cleared-with-scrub-default"),
        pytest.param({"data": {"IFLA_NETKIT_SCRUB": Scrub.NONE}}, (MARK, PRIORITY), id="kept-with-scrub-none"),
        pytest.param({"same_namespace": True}, (MARK, PRIORITY), id="kept-within-a-namespace"),
    ],
)
def test_mark_and_priority(
    make_pair: MakePair,
    cleanup: ExitStack,
    counters: bpf.Counters,
    options: dict[str, Any],
    expected: tuple[int, int],
) -> None:
    """(mark, priority) at the peer's tcx ingress, of a packet that the primary's program marked or its socket did."""
    pair = make_pair(**options)
    reader = bpf.load_classifier(
        programs.save_field(counters.fd, 0, programs.SKB_MARK),
        programs.save_field(counters.fd, 1, programs.SKB_PRIORITY),
        programs.count(counters.fd, 2),
        programs.ret(Verdict.NEXT),
    )
    cleanup.enter_context(reader)
    cleanup.enter_context(hooks.link(reader, pair.peer, AttachType.TCX_INGRESS))
    with Capture(pair.peer) as capture:
        pair.send(b"marked", mark=MARK, priority=PRIORITY)
        capture.next()
    assert counters[2] == 1, "runs of the program at the peer's tcx ingress"
    assert counters.read()[:2] == expected, "(mark, priority) at the peer"


@pytest.mark.parametrize("mode", [pytest.param(Mode.L2, id="L2"), pytest.param(Mode.L3, id="L3")])
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
