"""The hooks and tc: their order, marks across them, and packets that tc redirects.

Source of the promises: the message of 42df6e1d221d "netfilter: Introduce egress hook" (5.16), nf_hook_egress(),
__dev_queue_xmit() and __netif_receive_skb_core(): netfilter is layered above tc, so egress is first netfilter, then tc,
and ingress is first tc, then netfilter.
"""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from selftests.lib import bpf, capture, packet, programs, wait
from selftests.lib.asm import Fragment
from selftests.lib.bpf import AttachType, Verdict
from selftests.lib.capture import Capture
from selftests.lib.rtnl import Link, edit_mark, redirect_to
from selftests.nf_egress.conftest import NEIGHBOUR_MAC, Sender

pytestmark = [pytest.mark.feature("nf_egress"), pytest.mark.feature("tcx")]

MARK = 0x2A

TC = pytest.mark.parametrize(
    "classic", [False, pytest.param(True, marks=pytest.mark.feature("clsact"))], ids=["tcx", "clsact"]
)


def add_program(
    sender: Sender, cleanup: ExitStack, classic: bool, *fragments: Fragment, device: Link | None = None
) -> None:
    """A program at tc egress of the sender's device, or at ingress of another one; through tcx or as a classifier."""
    if not classic:
        hook = AttachType.TCX_INGRESS if device else AttachType.TCX_EGRESS
        sender.program(hook, *fragments, device=device)
        return
    program = cleanup.enter_context(bpf.load_classifier(*fragments))
    sender.namespace.rtnl.add_clsact(device or sender.device)
    sender.namespace.rtnl.add_filter(device or sender.device, program, ingress=bool(device))


@TC
@pytest.mark.promise("egress-order")
def test_what_nft_drops_tc_never_sees(
    sender: Sender, cleanup: ExitStack, counters: bpf.Counters, classic: bool
) -> None:
    """__dev_queue_xmit(): nf_hook_egress() comes before sch_handle_egress()."""
    add_program(sender, cleanup, classic, programs.count(counters.fd), programs.ret(Verdict.NEXT))
    sender.chain("drop")
    sender.udp()
    assert counters[0] == 0, "packets that tc saw"


@TC
@pytest.mark.promise("egress-order")
def test_what_tc_drops_nft_has_seen(sender: Sender, cleanup: ExitStack, classic: bool) -> None:
    """The other half of the order: the chain has counted what tc drops after it."""
    add_program(sender, cleanup, classic, programs.ret(Verdict.DROP))
    chain = sender.chain("counter")
    sender.udp()
    assert (chain.packets, sender.transmitted) == (1, 0), "(packets counted, packets transmitted)"


@TC
@pytest.mark.promise("ingress-order")
def test_what_tc_drops_nft_never_sees_at_ingress(
    sender: Sender, far_end: Link, cleanup: ExitStack, classic: bool
) -> None:
    """Symmetry: __netif_receive_skb_core() runs sch_handle_ingress() before nf_ingress()."""
    entry = sender.namespace.rtnl.find("in0")
    add_program(
        sender, cleanup, classic, programs.if_mark(1, programs.ret(Verdict.DROP)), programs.ret(0), device=entry
    )
    chain = sender.namespace.nft.add_chain(entry, hook="ingress")
    chain.rule("counter")
    with Capture(entry) as seen:
        send_in(far_end, b"first", mark=1)
        send_in(far_end, b"second")
        seen.up_to(b"second")
    assert chain.packets == 1, "packets that netfilter saw, of one that tc drops and one that it passes"


@TC
@pytest.mark.promise("ingress-order")
def test_what_nft_drops_tc_has_seen_at_ingress(
    sender: Sender, far_end: Link, cleanup: ExitStack, counters: bpf.Counters, classic: bool
) -> None:
    """The other half: tc has counted what netfilter drops after it."""
    entry = sender.namespace.rtnl.find("in0")
    add_program(sender, cleanup, classic, programs.count(counters.fd), programs.ret(Verdict.PASS), device=entry)
    sender.namespace.nft.add_chain(entry, hook="ingress").rule("drop")
    with Capture(entry) as seen:
        send_in(far_end, b"dropped")
        seen.up_to(b"dropped")
    wait.until(lambda: counters[0] == 1, "tc to see the packet")


@TC
@pytest.mark.promise("mark-to-tc")
def test_mark_set_by_nft_is_seen_by_tc(
    sender: Sender, cleanup: ExitStack, counters: bpf.Counters, classic: bool
) -> None:
    """`meta mark set` in the egress chain reaches the program at tc egress of the same packet."""
    save = programs.save_field(counters.fd, 0, programs.SKB_MARK)
    add_program(sender, cleanup, classic, save, programs.ret(Verdict.NEXT))
    sender.chain(f"meta mark set {MARK}")
    sender.udp()
    assert counters[0] == MARK, "mark at tc egress"


@TC
@pytest.mark.promise("priority-to-tc")
def test_priority_set_by_nft_is_seen_by_tc(
    sender: Sender, cleanup: ExitStack, counters: bpf.Counters, classic: bool
) -> None:
    """So does `meta priority set`, which qdiscs classify by."""
    save = programs.save_field(counters.fd, 0, programs.SKB_PRIORITY)
    add_program(sender, cleanup, classic, save, programs.ret(Verdict.NEXT))
    sender.chain("meta priority set 1:2")
    sender.udp()
    assert counters[0] == 0x10002, "priority at tc egress"


def send_in(far_end: Link, payload: bytes = b"comes in", *, mark: int = 0) -> None:
    """A frame that comes in at ``in0``."""
    frame = packet.ethernet(payload.ljust(46, b"."), dst=NEIGHBOUR_MAC, src=far_end.mac)
    capture.send(far_end, frame, mark=mark)


def forward(sender: Sender, far_end: Link, port: int = 2) -> None:
    """A datagram that comes in at ``in0`` on its way to the sender's neighbour."""
    entry = sender.namespace.rtnl.find("in0")
    sender.namespace.sysctl("net/ipv4/ip_forward", 1)
    entry.add_address("10.8.0.1/24")
    datagram = packet.udp(b"forwarded", src="10.8.0.2", dst="10.9.0.2", sport=1, dport=port)
    capture.send(far_end, packet.in_ethernet(datagram, dst=entry.mac, src=far_end.mac))


@TC
@pytest.mark.promise("mark-to-nft")
def test_mark_set_by_tc_is_seen_by_nft_of_the_next_device(
    sender: Sender, far_end: Link, cleanup: ExitStack, classic: bool
) -> None:
    """The other way round: tc at ingress of one device, then forwarding, then the chain at egress of another one."""
    entry = sender.namespace.rtnl.find("in0")
    add_program(sender, cleanup, classic, programs.set_mark(MARK), programs.ret(Verdict.PASS), device=entry)
    chain = sender.chain(f"meta mark {MARK} counter")
    forward(sender, far_end)
    assert chain.packets == 1, f"packets with mark {MARK:#x} at egress"


@TC
@pytest.mark.promise("mark-to-nft")
def test_mark_set_by_tc_is_seen_by_nft_at_ingress(
    sender: Sender, far_end: Link, cleanup: ExitStack, classic: bool
) -> None:
    """And on one device: netfilter's ingress chain has the mark that tc ingress set."""
    entry = sender.namespace.rtnl.find("in0")
    add_program(sender, cleanup, classic, programs.set_mark(MARK), programs.ret(Verdict.PASS), device=entry)
    chain = sender.namespace.nft.add_chain(entry, hook="ingress")
    chain.rule(f"meta mark {MARK} counter")
    send_in(far_end)
    wait.until(lambda: chain.packets == 1, "a packet with the mark at ingress")


@pytest.mark.feature("skbedit")
@pytest.mark.feature("matchall")
@pytest.mark.promise("mark-to-nft")
def test_mark_set_by_skbedit_is_seen_by_nft(sender: Sender, far_end: Link) -> None:
    """As above with a classic action: tc skbedit at clsact ingress."""
    entry = sender.namespace.rtnl.find("in0")
    sender.namespace.rtnl.add_clsact(entry)
    sender.namespace.rtnl.add_matchall(entry, edit_mark(MARK), ingress=True)
    chain = sender.chain(f"meta mark {MARK} counter")
    forward(sender, far_end)
    assert chain.packets == 1, "packets with the mark at egress"


@pytest.mark.promise("tc-redirect-skips")
def test_packet_redirected_by_tcx_ingress_is_not_classified(sender: Sender, far_end: Link) -> None:
    """nf_skip_egress: a packet on the tc layer (bpf_redirect() at ingress) leaves without passing the chain."""
    entry = sender.namespace.rtnl.find("in0")
    sender.program(AttachType.TCX_INGRESS, programs.redirect(sender.device.index), device=entry)
    chain = sender.chain("counter drop")
    send_in(far_end)
    assert (chain.packets, sender.transmitted) == (0, 1), "(packets counted, packets transmitted)"


@pytest.mark.promise("tc-redirect-skips")
def test_packet_redirected_by_tcx_egress_is_not_classified(sender: Sender) -> None:
    """As above from egress: the first device's chain sees the packet, the one of the redirect's target does not."""
    target = sender.namespace.rtnl.add_dummy("d1")
    sender.program(AttachType.TCX_EGRESS, programs.redirect(target.index))
    own, other = sender.chain("counter", name="own"), sender.chain("counter drop", device=target, name="other")
    sender.udp()
    assert (own.packets, other.packets) == (1, 0), "packets of the chains of the first device and of the target"
    assert (sender.transmitted, target.stats.tx_packets) == (0, 1)


@pytest.mark.feature("mirred")
@pytest.mark.feature("matchall")
@pytest.mark.promise("tc-redirect-skips")
@pytest.mark.parametrize("ingress", [True, False], ids=["from-ingress", "from-egress"])
def test_packet_redirected_by_mirred_is_not_classified(sender: Sender, far_end: Link, ingress: bool) -> None:
    """As above with the classic action: tc mirred."""
    entry = sender.namespace.rtnl.find("in0")
    target = sender.namespace.rtnl.add_dummy("d1")
    device = entry if ingress else sender.device
    sender.namespace.rtnl.add_clsact(device)
    sender.namespace.rtnl.add_matchall(device, redirect_to(target), ingress=ingress)
    chain = sender.chain("counter drop", device=target)
    if ingress:
        send_in(far_end)
    else:
        sender.udp()
    assert (chain.packets, target.stats.tx_packets) == (0, 1), "(packets counted, packets transmitted)"


@pytest.mark.promise("flag-is-reset")
def test_packet_that_tc_passes_is_classified_at_the_next_device(sender: Sender, far_end: Link) -> None:
    """__netif_receive_skb_core() clears nf_skip_egress after tc ingress: it is for redirects, not for forwarding."""
    entry = sender.namespace.rtnl.find("in0")
    sender.program(AttachType.TCX_INGRESS, programs.ret(Verdict.PASS), device=entry)
    chain = sender.chain("udp dport 2 counter")
    forward(sender, far_end)
    assert chain.packets == 1


@pytest.mark.feature("vxlan")
@pytest.mark.promise("overlay-and-underlay")
@pytest.mark.parametrize("with_tc", [False, True], ids=["without-tc", "with-tc-on-both"])
def test_overlay_and_underlay_are_both_classified(sender: Sender, with_tc: bool) -> None:
    """__dev_queue_xmit() resets nf_skip_egress after tc egress: a tunnel's packet passes both devices' chains."""
    overlay = sender.namespace.rtnl.add_vxlan("vx0", vni=7, local="10.9.0.1", remote="10.9.0.2")
    overlay.add_address("10.7.0.1/24")
    overlay.add_neighbour("10.7.0.2", bytes.fromhex("020000000702"))
    for device in (overlay, sender.device) if with_tc else ():
        sender.program(AttachType.TCX_EGRESS, programs.ret(Verdict.NEXT), device=device)
    over, under = sender.chain("counter", device=overlay, name="over"), sender.chain("counter", name="under")
    with sender.namespace.socket() as sock:
        sock.sendto(b"inner", ("10.7.0.2", 9))
    assert (over.packets, under.packets) == (1, 1), "packets at egress of the overlay and of the underlay"


@pytest.mark.feature("vxlan")
@pytest.mark.promise("overlay-and-underlay")
def test_underlay_sees_the_outer_header(sender: Sender) -> None:
    """The overlay's chain has the inner packet, the underlay's chain the tunnel's."""
    overlay = sender.namespace.rtnl.add_vxlan("vx0", vni=7, local="10.9.0.1", remote="10.9.0.2")
    overlay.add_address("10.7.0.1/24")
    overlay.add_neighbour("10.7.0.2", bytes.fromhex("020000000702"))
    over = sender.chain("udp dport 9 counter", "udp dport 4789 counter", device=overlay, name="over")
    under = sender.chain("udp dport 9 counter", "udp dport 4789 counter", name="under")
    with sender.namespace.socket() as sock:
        sock.sendto(b"inner", ("10.7.0.2", 9))
    seen = [packets for chain in (over, under) for packets, _ in chain.counters()]
    assert seen == [1, 0, 0, 1], "inner and outer port at the overlay, inner and outer port at the underlay"


@pytest.mark.feature("ifb")
@pytest.mark.feature("mirred")
@pytest.mark.feature("matchall")
@pytest.mark.promise("ifb-reinjection-skips")
def test_packet_that_comes_back_from_ifb_is_classified_once(sender: Sender) -> None:
    """ifb_ri_tasklet() sets nf_skip_egress: what tc egress sent to an ifb leaves without a second pass."""
    ifb = sender.namespace.rtnl.add_ifb("i0")
    sender.namespace.rtnl.add_clsact(sender.device)
    sender.namespace.rtnl.add_matchall(sender.device, redirect_to(ifb), ingress=False)
    chain = sender.chain("counter")
    sender.udp()
    wait.until(lambda: sender.transmitted == 1, "the packet to come back from the ifb and leave")
    assert chain.packets == 1


@pytest.mark.feature("ifb")
@pytest.mark.feature("mirred")
@pytest.mark.feature("matchall")
@pytest.mark.promise("ifb-ingress")
@pytest.mark.known_bug(
    "a packet that an ifb gave back to ingress skips the egress hook of the device that forwards it",
    evidence="ifb_ri_tasklet() sets nf_skip_egress for both directions, and __netif_receive_skb_core() goes to "
    "skip_classify, past nf_skip_egress(skb, false)",
    match="packets at egress after",
)
def test_packet_that_ifb_gave_back_to_ingress_is_classified_at_the_next_device(sender: Sender, far_end: Link) -> None:
    """To shape ingress with an ifb must not take forwarded packets past the filter of another device."""
    ifb = sender.namespace.rtnl.add_ifb("i0")
    entry = sender.namespace.rtnl.find("in0")
    sender.namespace.rtnl.add_clsact(entry)
    sender.namespace.rtnl.add_matchall(entry, redirect_to(ifb), ingress=True)
    chain = sender.chain("udp dport 2 counter")
    forward(sender, far_end)
    wait.until(lambda: sender.transmitted == 1, "the packet to be forwarded")
    assert chain.packets == 1, "packets at egress after a turn through an ifb at ingress of another device"
