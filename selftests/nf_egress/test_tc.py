"""The egress hook and tc: their order, marks across them, and packets that tc redirects.

Source of the promises: the message of 42df6e1d221d "netfilter: Introduce egress hook" (5.16), nf_hook_egress() and
__dev_queue_xmit(): netfilter is layered above tc, so egress is first netfilter, then tc.
"""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from selftests.lib import bpf, capture, packet, programs
from selftests.lib.asm import Fragment
from selftests.lib.bpf import AttachType, Verdict
from selftests.lib.nft import ACCEPT, COUNTER, DROP, forward_to, match_mark, set_mark
from selftests.lib.rtnl import Link, edit_mark, redirect_to
from selftests.nf_egress.conftest import NEIGHBOUR_MAC, Sender

pytestmark = [pytest.mark.feature("nf_egress"), pytest.mark.feature("tcx")]

MARK = 0x2A

EGRESS_HOOKS = pytest.mark.parametrize(
    "classic", [False, pytest.param(True, marks=pytest.mark.feature("clsact"))], ids=["tcx", "clsact"]
)


def add_program(sender: Sender, cleanup: ExitStack, classic: bool, *fragments: Fragment) -> None:
    """A program at tc egress of the sender's device, through tcx or as a classic classifier."""
    if not classic:
        sender.program(AttachType.TCX_EGRESS, *fragments)
        return
    program = cleanup.enter_context(bpf.load_classifier(*fragments))
    sender.namespace.rtnl.add_clsact(sender.device)
    sender.namespace.rtnl.add_filter(sender.device, program, ingress=False)


@EGRESS_HOOKS
def test_nft_is_before_tc(sender: Sender, cleanup: ExitStack, counters: bpf.Counters, classic: bool) -> None:
    """What the chain drops tc never sees; what it accepts tc sees, and may drop, after the chain counted it."""
    add_program(sender, cleanup, classic, programs.count(counters.fd), programs.ret(Verdict.DROP))
    chain = sender.chain()
    chain.add_rule(match_mark(1), COUNTER, DROP)
    chain.add_rule(COUNTER, ACCEPT)
    sender.udp(mark=1)
    assert counters[0] == 0, "tc saw a packet that the chain dropped"
    sender.udp()
    assert counters[0] == 1, "tc did not see a packet that the chain accepted"
    assert [packets for packets, _ in chain.counters()] == [1, 1]
    assert sender.transmitted == 0


@EGRESS_HOOKS
def test_mark_set_by_nft_is_seen_by_tc(
    sender: Sender, cleanup: ExitStack, counters: bpf.Counters, classic: bool
) -> None:
    """`meta mark set` in the egress chain reaches the program at tc egress of the same packet."""
    save = programs.save_field(counters.fd, 0, programs.SKB_MARK)
    add_program(sender, cleanup, classic, save, programs.ret(Verdict.NEXT))
    sender.chain().add_rule(set_mark(MARK))
    sender.udp()
    assert counters[0] == MARK, "mark at tc egress"


@pytest.fixture
def far_end(sender: Sender) -> Link:
    """A veth whose far end sends into the sender's namespace; returns the end outside, the inner one is ``in0``."""
    inner, outside = sender.namespace.rtnl.add_veth("in0", "out0")
    assert inner.name == "in0"
    return outside


def send_in(far_end: Link, *, mark: int = 0) -> None:
    """A frame that comes in at ``in0``."""
    frame = packet.ethernet(b"comes in".ljust(46, b"."), dst=NEIGHBOUR_MAC, src=far_end.mac)
    capture.send(far_end, frame, mark=mark)


def test_mark_set_by_tc_is_seen_by_nft_of_the_next_device(sender: Sender, far_end: Link) -> None:
    """The other way round: tc at ingress of one device, then forwarding, then the chain at egress of another one."""
    entry = sender.namespace.rtnl.find("in0")
    sender.namespace.sysctl("net/ipv4/ip_forward", 1)
    sender.program(AttachType.TCX_INGRESS, programs.set_mark(MARK), programs.ret(Verdict.NEXT), device=entry)
    chain = sender.chain()
    chain.add_rule(match_mark(MARK), COUNTER)
    entry.add_address("10.8.0.1/24")
    datagram = packet.udp(b"forwarded", src="10.8.0.2", dst="10.9.0.2", sport=1, dport=2)
    frame = packet.ethernet(datagram, dst=entry.mac, src=far_end.mac, ethertype=packet.ETH_P_IP)
    capture.send(far_end, frame)
    assert chain.packets == 1, f"packets with mark {MARK:#x} at egress, of {packet.summary(frame)}"


@pytest.mark.feature("skbedit")
@pytest.mark.feature("matchall")
def test_mark_set_by_skbedit_is_seen_by_nft(sender: Sender, far_end: Link) -> None:
    """As above with a classic action: tc skbedit at clsact ingress."""
    entry = sender.namespace.rtnl.find("in0")
    sender.namespace.sysctl("net/ipv4/ip_forward", 1)
    sender.namespace.rtnl.add_clsact(entry)
    sender.namespace.rtnl.add_matchall(entry, edit_mark(MARK), ingress=True)
    chain = sender.chain()
    chain.add_rule(match_mark(MARK), COUNTER)
    entry.add_address("10.8.0.1/24")
    datagram = packet.udp(b"forwarded", src="10.8.0.2", dst="10.9.0.2", sport=1, dport=2)
    capture.send(far_end, packet.ethernet(datagram, dst=entry.mac, src=far_end.mac, ethertype=packet.ETH_P_IP))
    assert chain.packets == 1, "packets with the mark at egress"


def test_packet_redirected_by_tcx_ingress_is_not_classified(sender: Sender, far_end: Link) -> None:
    """nf_skip_egress: a packet on the tc layer (bpf_redirect() at ingress) leaves without passing the chain."""
    entry = sender.namespace.rtnl.find("in0")
    sender.program(AttachType.TCX_INGRESS, programs.redirect(sender.device.index), device=entry)
    chain = sender.chain()
    chain.add_rule(COUNTER, DROP)
    send_in(far_end)
    assert (chain.packets, sender.transmitted) == (0, 1), "(packets counted, packets transmitted)"


def test_packet_redirected_by_tcx_egress_is_not_classified(sender: Sender) -> None:
    """As above from egress: the first device's chain sees the packet, the one of the redirect's target does not."""
    target = sender.namespace.rtnl.add_dummy("d1")
    sender.program(AttachType.TCX_EGRESS, programs.redirect(target.index))
    own, other = sender.chain(chain="own"), sender.chain(target, chain="other")
    own.add_rule(COUNTER)
    other.add_rule(COUNTER, DROP)
    sender.udp()
    assert (own.packets, other.packets) == (1, 0), "packets of the chains of the first device and of the target"
    assert (sender.transmitted, target.stats.tx_packets) == (0, 1)


@pytest.mark.feature("mirred")
@pytest.mark.feature("matchall")
@pytest.mark.parametrize("ingress", [True, False], ids=["from-ingress", "from-egress"])
def test_packet_redirected_by_mirred_is_not_classified(sender: Sender, far_end: Link, ingress: bool) -> None:
    """As above with the classic action: tc mirred."""
    entry = sender.namespace.rtnl.find("in0")
    target = sender.namespace.rtnl.add_dummy("d1")
    device = entry if ingress else sender.device
    sender.namespace.rtnl.add_clsact(device)
    sender.namespace.rtnl.add_matchall(device, redirect_to(target), ingress=ingress)
    chain = sender.chain(target)
    chain.add_rule(COUNTER, DROP)
    if ingress:
        send_in(far_end)
    else:
        sender.udp()
    assert (chain.packets, target.stats.tx_packets) == (0, 1), "(packets counted, packets transmitted)"


@pytest.mark.feature("nft_fwd")
def test_packet_forwarded_by_nft_is_classified(sender: Sender, far_end: Link) -> None:
    """The counterpart: nft `fwd` at ingress is no tc, so the chain at egress of its target sees the packet."""
    entry = sender.namespace.rtnl.find("in0")
    sender.namespace.nft.add_chain(entry, hook="ingress", chain="in").add_rule(forward_to(sender.device))
    chain = sender.chain(chain="out")
    chain.add_rule(COUNTER)
    send_in(far_end)
    assert (chain.packets, sender.transmitted) == (1, 1), "(packets counted, packets transmitted)"


@pytest.mark.feature("vxlan")
def test_overlay_and_underlay_are_both_classified(sender: Sender) -> None:
    """__dev_queue_xmit() resets nf_skip_egress after tc egress: a tunnel's packet passes both devices' chains."""
    overlay = sender.namespace.rtnl.add_vxlan("vx0", vni=7, local="10.9.0.1", remote="10.9.0.2")
    overlay.add_address("10.7.0.1/24")
    overlay.add_neighbour("10.7.0.2", bytes.fromhex("020000000702"))
    for device in (overlay, sender.device):
        sender.program(AttachType.TCX_EGRESS, programs.ret(Verdict.NEXT), device=device)
    over, under = sender.chain(overlay, chain="over"), sender.chain(chain="under")
    over.add_rule(COUNTER)
    under.add_rule(COUNTER)
    with sender.namespace.socket() as sock:
        sock.sendto(b"inner", ("10.7.0.2", 9))
    assert (over.packets, under.packets) == (1, 1), "packets at egress of the overlay and of the underlay"
