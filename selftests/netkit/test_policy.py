"""netkit's default policies and its programs' verdicts, under real packets in both directions.

Source of the promises: netkit_xmit() and netkit_run() of drivers/net/netkit.c, 35dfaad7188c. A packet that must not
arrive is followed by one that may: what was captured before that second one is all there was.
"""

from __future__ import annotations

import contextlib
import errno
from contextlib import ExitStack
from typing import Any

import pytest

from selftests.lib import bpf, expect, hooks
from selftests.lib.bpf import AttachType, Verdict
from selftests.lib.capture import Capture
from selftests.lib.netkit_nla import Mode, Policy
from selftests.netkit.conftest import FAMILIES, HOOKS, MODES, SENDERS, MakePair

pytestmark = pytest.mark.feature("netkit")

OPTION = {"primary": "policy", "peer": "peer_policy"}


def drop(end: str) -> dict[str, Any]:
    """The option of make_pair that makes what ``end`` sends drop."""
    return {OPTION[end]: Policy.DROP}


@pytest.mark.promise("policy-pass")
@MODES
@SENDERS
def test_policy_pass_delivers(make_pair: MakePair, mode: Mode, sender: str) -> None:
    """Under policy pass, what one end sends is what the other end receives, unchanged, and both count it."""
    pair = make_pair(mode)
    source, target = pair.ends(sender)
    with Capture(target) as capture:
        pair.send(b"through", sender=sender)
        frame = capture.next()
    assert b"through" in frame.raw, f"expected the frame that was sent, got {frame}"
    assert (frame.dst, frame.src) == (target.mac, source.mac), f"addresses changed: {frame}"
    assert (source.stats.tx_packets, target.stats.rx_packets) == (1, 1)
    assert source.stats.tx_bytes == len(frame.raw), "tx_bytes counts the frame with its Ethernet header"


@pytest.mark.promise("policy-drop")
@MODES
@SENDERS
def test_policy_drop_drops(make_pair: MakePair, mode: Mode, sender: str) -> None:
    """Under policy drop nothing arrives, the sender is told (NET_XMIT_DROP: ENOBUFS), and tx_dropped counts it."""
    pair = make_pair(mode, **drop(sender))
    source, target = pair.ends(sender)
    with Capture(target) as capture:
        with expect.refusal(errno.ENOBUFS, f"a packet from the {sender} under policy drop"):
            pair.send(b"dropped", sender=sender)
        pair.set_policy(sender, Policy.PASS)
        pair.send(b"fence", sender=sender)
        before_fence = capture.up_to(b"fence")
    assert not before_fence, f"expected nothing before the fence, got {before_fence[0]}"
    assert (source.stats.tx_dropped, target.stats.rx_packets) == (1, 1)


@pytest.mark.promise("policy-direction")
@SENDERS
def test_policy_is_of_one_direction(make_pair: MakePair, sender: str) -> None:
    """IFLA_NETKIT_POLICY is for what the primary sends, IFLA_NETKIT_PEER_POLICY for what the peer sends."""
    other = "peer" if sender == "primary" else "primary"
    pair = make_pair(**drop(other))
    with Capture(pair.ends(sender)[1]) as capture:
        pair.send(b"other way", sender=sender)
        assert b"other way" in capture.next().raw


@pytest.mark.promise("policy-change")
def test_policy_changes_at_run_time(make_pair: MakePair) -> None:
    """netkit_change_link() writes the policy, and the next packet meets it: pass, drop, pass."""
    pair = make_pair()
    with Capture(pair.peer) as capture:
        pair.send(b"first")
        pair.set_policy("primary", Policy.DROP)
        with expect.refusal(errno.ENOBUFS, "a packet after the change to drop"):
            pair.send(b"second")
        pair.set_policy("primary", Policy.PASS)
        pair.send(b"third")
        frames = capture.up_to(b"third")
    assert len(frames) == 1, f"expected one packet before the third, got {len(frames)}"
    assert b"first" in frames[0].raw


@pytest.mark.promise("policy-without-program")
@SENDERS
def test_attached_program_that_says_next_passes_under_policy_drop(
    make_pair: MakePair, cleanup: ExitStack, sender: str
) -> None:
    """netkit_run(): the policy counts only while no program is attached; all programs saying NEXT is a pass."""
    pair = make_pair(policy=Policy.DROP, peer_policy=Policy.DROP)
    program = cleanup.enter_context(bpf.classifier_returning(Verdict.NEXT))
    cleanup.enter_context(hooks.link(program, pair.primary, HOOKS[sender]))
    with Capture(pair.ends(sender)[1]) as capture:
        pair.send(b"next", sender=sender)
        assert b"next" in capture.next().raw


@pytest.mark.promise("policy-returns")
def test_policy_counts_again_when_the_last_program_is_gone(make_pair: MakePair, cleanup: ExitStack) -> None:
    """netkit_xmit(): `active` is NULL again after the last detach, so policy drop drops."""
    pair = make_pair(policy=Policy.DROP)
    program = cleanup.enter_context(bpf.classifier_returning(Verdict.PASS))
    with Capture(pair.peer) as capture:
        with hooks.link(program, pair.primary, AttachType.NETKIT_PRIMARY):
            pair.send(b"passed")
        with expect.refusal(errno.ENOBUFS, "a packet after the last program went"):
            pair.send(b"dropped")
        assert b"passed" in capture.next().raw
        assert capture.pending() == []


@pytest.mark.promise("verdict-drop")
@pytest.mark.parametrize(
    "verdict",
    [
        pytest.param(Verdict.DROP, id="DROP"),
        pytest.param(5, id="unknown-verdict-5"),
        pytest.param(1, id="unknown-verdict-1"),
    ],
)
def test_verdict_drops_under_policy_pass(make_pair: MakePair, cleanup: ExitStack, verdict: int) -> None:
    """netkit_xmit(): DROP, and every verdict that netkit does not know, drops; the sender is told."""
    pair = make_pair()
    program = cleanup.enter_context(bpf.classifier_returning(verdict))
    with Capture(pair.peer) as capture:
        with (
            hooks.link(program, pair.primary, AttachType.NETKIT_PRIMARY),
            expect.refusal(errno.ENOBUFS, f"verdict {verdict}"),
        ):
            pair.send(b"dropped")
        pair.send(b"fence")
        before_fence = capture.up_to(b"fence")
    assert not before_fence, f"expected nothing before the fence, got {before_fence[0]}"
    assert pair.primary.stats.tx_dropped == 1


@pytest.mark.promise("verdict-pass")
def test_pass_stops_the_chain_of_programs(make_pair: MakePair, cleanup: ExitStack, counters: bpf.Counters) -> None:
    """netkit_run(): programs run in order until one says something else than NEXT."""
    pair = make_pair()
    for slot, verdict in enumerate([Verdict.NEXT, Verdict.PASS, Verdict.DROP]):
        program = cleanup.enter_context(bpf.classifier_returning(verdict, counters, slot))
        cleanup.enter_context(hooks.link(program, pair.primary, AttachType.NETKIT_PRIMARY))
    with Capture(pair.peer) as capture:
        pair.send(b"passed")
        assert b"passed" in capture.next().raw
    assert counters.read()[:3] == (1, 1, 0), "runs of the programs saying NEXT, PASS, DROP"


@pytest.mark.promise("policy-change-of-one")
@SENDERS
def test_policy_of_one_end_changes_that_one_only(make_pair: MakePair, sender: str) -> None:
    """netkit_change_link(): IFLA_NETKIT_POLICY is the primary's, IFLA_NETKIT_PEER_POLICY the peer's; told on both."""
    other = "peer" if sender == "primary" else "primary"
    pair = make_pair()
    pair.set_policy(sender, Policy.DROP)
    pair.send(b"other way", sender=other)
    with expect.refusal(errno.ENOBUFS, f"a packet of the {sender}"):
        pair.send(b"dropped", sender=sender)
    mine, theirs = (end.state.data for end in pair.ends(sender))
    assert (mine["netkit_policy"], mine["netkit_peer_policy"]) == (Policy.DROP, Policy.PASS)
    assert (theirs["netkit_policy"], theirs["netkit_peer_policy"]) == (Policy.PASS, Policy.DROP)


@pytest.mark.promise("policy-families")
@MODES
@FAMILIES
def test_policy_is_for_every_family(make_pair: MakePair, mode: Mode, family: str) -> None:
    """netkit_xmit() looks at no protocol: IPv4 and IPv6 pass and are dropped alike."""
    pair = make_pair(mode)
    with Capture(pair.peer) as capture:
        pair.send_datagram(family, b"passed")
        pair.set_policy("primary", Policy.DROP)
        with expect.refusal(errno.ENOBUFS, f"a datagram of {family} under policy drop"):
            pair.send_datagram(family, b"dropped")
        pair.set_policy("primary", Policy.PASS)
        pair.send_datagram(family, b"fence")
        came = [frame.raw for frame in capture.up_to(b"fence")]
    assert len(came) == 1, f"expected one datagram before the fence, got {len(came)}"
    assert b"passed" in came[0]


@pytest.mark.promise("stats")
@SENDERS
@FAMILIES
def test_each_packet_is_counted_once_where_it_belongs(make_pair: MakePair, sender: str, family: str) -> None:
    """ae1658272c64: tx at the sender, rx at the receiver, with the Ethernet header; what is dropped is no tx."""
    pair = make_pair()
    source, target = pair.ends(sender)
    for _ in range(3):
        pair.send_datagram(family, b"counted", sender=sender)
    pair.set_policy(sender, Policy.DROP)
    for _ in range(2):
        with expect.refusal(errno.ENOBUFS, "a packet under policy drop"):
            pair.send_datagram(family, b"dropped", sender=sender)
    size = 3 * ((14 + 20 + 8 + 7) if family == "IPv4" else (14 + 40 + 8 + 7))
    sent, received = source.stats, target.stats
    assert (sent.tx_packets, sent.tx_bytes, sent.tx_dropped) == (3, size, 2), "tx of the sender"
    assert (received.rx_packets, received.rx_bytes, received.rx_dropped) == (3, size, 0), "rx of the receiver"
    assert (sent.rx_packets, sent.rx_bytes, received.tx_packets, received.tx_bytes) == (0, 0, 0, 0), "other directions"


@pytest.mark.promise("second-program-decides")
@pytest.mark.parametrize("sender", ["primary", "peer"])
def test_the_second_programs_verdict_counts_where_the_first_says_next(
    make_pair: MakePair, cleanup: ExitStack, sender: str
) -> None:
    """netkit_run(): the verdict is the last program's that ran; DROP of the second drops."""
    pair = make_pair()
    for verdict in (Verdict.NEXT, Verdict.DROP, Verdict.PASS):
        program = cleanup.enter_context(bpf.classifier_returning(verdict))
        cleanup.enter_context(hooks.link(program, pair.primary, HOOKS[sender]))
    with expect.refusal(errno.ENOBUFS, "a packet that the second program drops"):
        pair.send(b"dropped", sender=sender)
    assert pair.ends(sender)[1].stats.rx_packets == 0


@pytest.mark.promise("peer-down")
def test_peer_down_receives_nothing(make_pair: MakePair) -> None:
    """netkit_xmit(): towards a peer that is down everything is dropped.

    The sender is told (ENOBUFS) only while the primary's queue is still active: once the lost carrier was noticed, in
    the background, packets go to noop_qdisc, which is no error for the sender.
    """
    pair = make_pair()
    pair.peer.down()
    with contextlib.suppress(OSError):
        pair.send(b"nobody home")
    pair.peer.up()
    assert (pair.primary.stats.tx_packets, pair.peer.stats.rx_packets) == (0, 0)
