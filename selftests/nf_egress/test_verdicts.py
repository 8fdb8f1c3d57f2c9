"""What becomes of a packet at the egress hook, and what its sender is told: nf_hook_egress() and nf_hook_slow().

Source of the promises: 42df6e1d221d "netfilter: Introduce egress hook" and 0d7308c0ff5f "af_packet: Introduce egress
hook" (5.16).
"""

from __future__ import annotations

import errno

import pytest

from selftests.lib import expect
from selftests.lib.capture import Capture
from selftests.lib.nft import Chain
from selftests.nf_egress.conftest import FAMILIES, NEIGHBOUR, WAYS_OUT, Family, MakeSender, Sender

pytestmark = pytest.mark.feature("nf_egress")


@FAMILIES
@pytest.mark.promise("drop-is-silent-by-default")
def test_drop_of_a_datagram_is_no_error_by_default(make_sender: MakeSender, family: Family) -> None:
    """NET_XMIT_DROP becomes ENOBUFS, which udp_send_skb() hides from a socket that did not ask for errors."""
    sender = make_sender(family)
    chain = sender.chain("udp dport 9 counter drop")
    assert sender.udp(b"dropped") == len(b"dropped")
    assert chain.packets == 1


@FAMILIES
@pytest.mark.promise("drop-is-told")
def test_drop_of_a_datagram_is_told_to_who_asks(make_sender: MakeSender, family: Family) -> None:
    """nf_hook_egress() answers NET_XMIT_DROP: with IP_RECVERR or IPV6_RECVERR, sendto(2) gives ENOBUFS."""
    sender = make_sender(family)
    sender.chain("udp dport 9 drop")
    with expect.refusal(errno.ENOBUFS, "sendto(2) of a datagram that the chain drops"):
        sender.udp(errors=True)


@WAYS_OUT
@pytest.mark.promise("drop-is-told")
def test_drop_of_a_frame_is_told(sender: Sender, bypass_qdisc: bool) -> None:
    """packet_snd(): NET_XMIT_DROP is ENOBUFS for a packet socket, on both of its ways."""
    sender.chain("drop")
    with expect.refusal(errno.ENOBUFS, "sendto(2) of a frame that the chain drops"):
        sender.raw(bypass_qdisc=bypass_qdisc)


@WAYS_OUT
@pytest.mark.promise("drop-drops")
def test_dropped_frame_does_not_leave(sender: Sender, bypass_qdisc: bool) -> None:
    """What the chain drops never reaches the driver."""
    sender.chain("drop")
    with expect.refusal(errno.ENOBUFS, "sendto(2) of a frame that the chain drops"):
        sender.raw(bypass_qdisc=bypass_qdisc)
    assert sender.transmitted == 0


@pytest.mark.promise("drop-drops")
def test_drop_is_for_what_the_rule_matches(sender: Sender) -> None:
    """A rule on the UDP port drops one datagram and not the other."""
    sender.chain("udp dport 4001 drop")
    with Capture(sender.device, outgoing=True) as seen:
        sender.udp(b"to 4001", port=4001)
        sender.udp(b"to 4002", port=4002)
        before_second = seen.up_to(b"to 4002")
    assert not before_second, f"expected the first datagram to be dropped, got {before_second[0]}"


@WAYS_OUT
@pytest.mark.promise("accept-ends-the-chain")
def test_accepted_frame_leaves(sender: Sender, bypass_qdisc: bool) -> None:
    """`accept` lets a packet go on, whatever comes after it in the chain."""
    sender.chain("accept", "drop")
    sender.raw(bypass_qdisc=bypass_qdisc)
    assert sender.transmitted == 1


@pytest.mark.promise("policy")
def test_policy_drop_drops_what_no_rule_accepts(sender: Sender) -> None:
    """The base chain's policy is its last verdict."""
    chain = sender.namespace.nft.add_chain(sender.device, policy="drop")
    chain.rule("meta mark 1 accept")
    sender.raw(mark=1)
    with expect.refusal(errno.ENOBUFS, "a frame that no rule accepts under policy drop"):
        sender.raw()
    assert sender.transmitted == 1


@pytest.mark.promise("policy")
def test_policy_changes_at_run_time(sender: Sender) -> None:
    """nf_tables_updchain(): from accept to drop and back, with the rules untouched."""
    sender.chain()
    for policy, leaves in (("drop", False), ("accept", True)):
        sender.namespace.nft.run_text(f"add chain netdev kproof rules {{ policy {policy}; }}")
        before = sender.transmitted
        sender.udp()
        assert sender.transmitted - before == leaves, f"packets transmitted under policy {policy}"


@pytest.mark.promise("priorities")
def test_chains_run_in_order_of_priority(sender: Sender) -> None:
    """nf_hook_slow(): the chain of lower priority comes first, and what it drops the other one never sees."""
    nft = sender.namespace.nft
    late, early = (nft.add_chain(sender.device, chain=name, priority=at) for name, at in (("late", 10), ("early", -10)))
    late.rule("counter")
    early.rule(f"ip daddr {NEIGHBOUR} counter drop")
    sender.udp()
    sender.raw()
    assert (early.packets, late.packets) == (1, 1), "packets of the early and of the late chain"


@pytest.mark.promise("priorities")
def test_accept_of_one_chain_is_not_the_last_word(sender: Sender) -> None:
    """NF_ACCEPT goes on to the next hook: what the first chain accepts the second one may drop."""
    nft = sender.namespace.nft
    nft.add_chain(sender.device, chain="early", priority=-10).rule("accept")
    nft.add_chain(sender.device, chain="late", priority=10).rule("drop")
    sender.udp()
    assert sender.transmitted == 0


@pytest.mark.promise("regular-chains")
@pytest.mark.parametrize(
    ("how", "counts"), [("jump", [1, 1]), ("goto", [1, 0])], ids=["jump-returns", "goto-does-not-return"]
)
def test_rules_of_other_chains(sender: Sender, how: str, counts: list[int]) -> None:
    """nft_do_chain(): rules in a chain without a hook are reached by `jump` and `goto`."""
    sender.chain()
    sender.namespace.nft.run_text("add chain netdev kproof other")
    other = Chain(sender.namespace.nft, "kproof", "other")
    other.rule("counter")
    rules = Chain(sender.namespace.nft, "kproof", "rules")
    rules.rule(f"{how} other")
    rules.rule("counter")
    sender.raw()
    assert [other.packets, rules.packets] == counts, "packets in the other chain, and behind the rule that leads to it"


@pytest.mark.feature("nft_fwd")
@pytest.mark.promise("stolen-is-success")
@pytest.mark.parametrize(
    "bypass_qdisc",
    [
        pytest.param(False, id="through-the-qdisc"),
        pytest.param(
            True,
            id="with-PACKET_QDISC_BYPASS",
            marks=pytest.mark.known_bug(
                "a frame that `fwd` took is told to be dropped to a socket with PACKET_QDISC_BYPASS",
                evidence="packet_xmit() answers NET_XMIT_DROP whenever nf_hook_direct_egress() leaves it no packet, "
                "though nf_hook_egress() gave NET_XMIT_SUCCESS for NF_STOLEN (since 0d7308c0ff5f)",
                match="No buffer space available",
            ),
        ),
    ],
)
def test_forwarded_frame_is_no_error(sender: Sender, bypass_qdisc: bool) -> None:
    """NF_STOLEN is NET_XMIT_SUCCESS for the sender: its packet is on another way, not lost."""
    target = sender.namespace.rtnl.add_dummy("d1")
    sender.chain('fwd to "d1"')
    sender.raw(bypass_qdisc=bypass_qdisc)
    assert target.stats.tx_packets == 1
