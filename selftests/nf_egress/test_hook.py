"""The netfilter egress hook: which packets it sees, and what becomes of those that it drops.

Source of the promises: 42df6e1d221d "netfilter: Introduce egress hook" and 0d7308c0ff5f "af_packet: Introduce egress
hook" (5.16); include/linux/netfilter_netdev.h.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from selftests.lib import expect, packet
from selftests.lib.capture import Capture
from selftests.lib.netns import Namespace
from selftests.lib.nft import COUNTER, DROP, NftError, match
from selftests.nf_egress.conftest import NEIGHBOUR, NEIGHBOUR_MAC, Sender

pytestmark = pytest.mark.feature("nf_egress")


def test_counts_what_the_ip_stack_sends(sender: Sender) -> None:
    """Each packet of the local stack passes the chain once, with its Ethernet header in the length."""
    chain = sender.chain()
    chain.add_rule(COUNTER)
    for number in range(3):
        sender.udp(f"number {number}".encode())
    length = 14 + 20 + 8 + len("number 0")
    assert chain.counters() == [(3, 3 * length)], "(packets, bytes) of the counter"
    assert sender.transmitted == 3


@pytest.mark.parametrize("bypass_qdisc", [False, True], ids=["through-the-qdisc", "with-PACKET_QDISC_BYPASS"])
def test_packet_sockets_are_classified(sender: Sender, bypass_qdisc: bool) -> None:
    """0d7308c0ff5f: also what a packet socket sends, and even past the qdisc (nf_hook_direct_egress())."""
    chain = sender.chain()
    chain.add_rule(COUNTER)
    sender.raw(bypass_qdisc=bypass_qdisc)
    assert (chain.packets, sender.transmitted) == (1, 1), "(packets counted, packets transmitted)"


def test_chain_of_another_device_sees_nothing(sender: Sender) -> None:
    """The hook is per device: dev->nf_hooks_egress."""
    other = sender.namespace.rtnl.add_dummy("d1")
    chain = sender.chain(other)
    chain.add_rule(COUNTER)
    sender.udp()
    assert (chain.packets, sender.transmitted) == (0, 1), "(packets counted, packets transmitted)"


def test_drop_of_a_datagram_is_no_error_by_default(sender: Sender) -> None:
    """NET_XMIT_DROP becomes ENOBUFS, which udp_send_skb() hides from a socket without IP_RECVERR."""
    sender.chain().add_rule(DROP)
    assert sender.udp(b"dropped") == len(b"dropped")
    assert sender.transmitted == 0


def test_drop_of_a_datagram_is_told_with_recverr(sender: Sender) -> None:
    """nf_hook_egress() answers NET_XMIT_DROP: a socket that set IP_RECVERR gets ENOBUFS from sendto(2)."""
    sender.chain().add_rule(DROP)
    with expect.refusal(errno.ENOBUFS, "sendto(2) of a datagram that the chain drops"):
        sender.udp(errors=True)
    assert sender.transmitted == 0


@pytest.mark.parametrize("bypass_qdisc", [False, True], ids=["through-the-qdisc", "with-PACKET_QDISC_BYPASS"])
def test_drop_of_a_frame_is_told(sender: Sender, bypass_qdisc: bool) -> None:
    """packet_snd(): NET_XMIT_DROP is ENOBUFS for a packet socket, on both of its ways."""
    sender.chain().add_rule(DROP)
    with expect.refusal(errno.ENOBUFS, "sendto(2) of a frame that the chain drops"):
        sender.raw(bypass_qdisc=bypass_qdisc)
    assert sender.transmitted == 0


def test_drop_is_for_what_the_rule_matches(sender: Sender) -> None:
    """The packet is seen from its network header on: a rule on the UDP port drops one datagram and not the other."""
    chain = sender.chain()
    chain.add_rule(match({"payload": {"protocol": "udp", "field": "dport"}}, 4001), COUNTER, DROP)
    with Capture(sender.device, outgoing=True) as capture, sender.namespace.socket() as sock:
        sock.sendto(b"to 4001", (NEIGHBOUR, 4001))
        sock.sendto(b"to 4002", (NEIGHBOUR, 4002))
        before_second = capture.up_to(b"to 4002")
    assert not before_second, f"expected the first datagram to be dropped, got {before_second[0]}"
    assert chain.packets == 1


def test_chains_run_in_order_of_priority(sender: Sender) -> None:
    """nf_hook_slow(): the chain of lower priority comes first, and what it drops the other one never sees."""
    namespace = sender.namespace
    late = namespace.nft.add_chain(sender.device, chain="late", priority=10)
    late.add_rule(COUNTER)
    early = namespace.nft.add_chain(sender.device, chain="early", priority=-10)
    early.add_rule(match({"payload": {"protocol": "ip", "field": "daddr"}}, NEIGHBOUR), COUNTER, DROP)
    sender.udp()
    sender.raw()
    assert (early.packets, late.packets) == (1, 1), "packets of the early and of the late chain"


def test_device_removal_removes_the_hook(sender: Sender) -> None:
    """nf_tables_netdev_event(), NETDEV_UNREGISTER: the device goes at once, a new one of its name is not hooked."""
    chain = sender.chain()
    chain.add_rule(COUNTER, DROP)
    sender.device.delete()
    again = sender.namespace.rtnl.add_dummy("d0")
    frame = packet.ethernet(b"unhooked".ljust(46, b"."), dst=NEIGHBOUR_MAC, src=again.mac)
    sender_again = Sender(again, sender.cleanup)
    sender_again.raw()
    assert sender_again.transmitted == 1, f"a packet through the new device: {packet.summary(frame)}"


def test_chain_removal_removes_the_hook(sender: Sender) -> None:
    """nf_tables_unregister_hook(): after `delete chain` packets pass unseen."""
    chain = sender.chain()
    chain.add_rule(DROP)
    chain.delete()
    assert sender.udp(errors=True) > 0
    assert sender.transmitted == 1


def test_dormant_table_lets_everything_pass(sender: Sender) -> None:
    """NFT_TABLE_F_DORMANT unregisters the hook and waking registers it again, rules untouched."""
    sender.chain().add_rule(DROP)
    set_dormant(sender, dormant=True)
    sender.udp(errors=True)
    assert sender.transmitted == 1, "packets transmitted while dormant"
    set_dormant(sender, dormant=False)
    with expect.refusal(errno.ENOBUFS, "a datagram after the table woke"):
        sender.udp(errors=True)


def set_dormant(sender: Sender, *, dormant: bool) -> None:
    flags = "flags dormant;" if dormant else ""
    sender.namespace.nft.run_text(f"table netdev kproof {{ {flags} }}")


def test_device_of_another_namespace_is_refused(sender: Sender, new_namespace: Callable[..., Namespace]) -> None:
    """nft_netdev_hook_alloc() looks the device up in the table's own namespace."""
    elsewhere = new_namespace("elsewhere")
    with pytest.raises(NftError, match="No such file or directory"):
        elsewhere.nft.add_chain(sender.device)
    assert elsewhere.nft.tables() == set(), "the refused transaction left its table"
