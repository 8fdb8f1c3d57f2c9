"""netkit across namespaces and under change: moved ends, programs that stay, attachment while packets pass.

Source of the promises: netkit_xmit(), netkit_release_all() of drivers/net/netkit.c (35dfaad7188c), bpf_mprog_commit()
and its users' synchronize_rcu() (053c8e1f235d).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from selftests.lib import bpf, capture, hooks, wait
from selftests.lib.bpf import Flags, Verdict
from selftests.lib.capture import Capture
from selftests.lib.netkit_nla import Policy
from selftests.lib.netns import Namespace
from selftests.netkit.conftest import HOOKS, Load, MakePair, Pair

pytestmark = pytest.mark.feature("netkit")

ENDS = pytest.mark.parametrize("end", ["primary", "peer"])
NewNamespace = Callable[..., Namespace]


def moved(pair: Pair, end: str, target: Namespace) -> Pair:
    """The pair with one end in another namespace, both operational again: the end that stays lost its carrier too."""
    link = pair.ends(end)[0]
    there = link.namespace.rtnl.move(link, target)
    ends = Pair(there, pair.peer) if end == "primary" else Pair(pair.primary, there)
    wait.until(
        lambda: ends.primary.state.operstate == ends.peer.state.operstate == "UP",
        f"both ends to be operational after the move of the {end}",
    )
    return ends


@pytest.mark.promise("move")
@ENDS
@pytest.mark.parametrize("sender", ["primary", "peer"])
def test_moved_end_still_belongs_to_its_pair(
    make_pair: MakePair, new_namespace: NewNamespace, end: str, sender: str
) -> None:
    """netkit's ends know each other by pointer: packets arrive wherever the other end is, both ways."""
    pair = moved(make_pair(same_namespace=True), end, new_namespace("elsewhere"))
    with Capture(pair.ends(sender)[1]) as captured:
        pair.send(b"after the move", sender=sender)
        assert b"after the move" in captured.next().raw


@pytest.mark.promise("move-keeps-programs")
@ENDS
@pytest.mark.parametrize("hooked", ["primary", "peer"])
def test_moved_end_keeps_its_programs(
    make_pair: MakePair, new_namespace: NewNamespace, load: Load, counters: bpf.Counters, end: str, hooked: str
) -> None:
    """The hook is the device's: its link tells the device's index there, and its program runs."""
    pair = make_pair(same_namespace=True)
    with hooks.link(load(Verdict.PASS, counters), pair.primary, HOOKS[hooked]) as link:
        pair = moved(pair, end, new_namespace("elsewhere"))
        assert link.info.ifindex == pair.ends(hooked)[0].index
        pair.send(b"after the move", sender=hooked)
        assert counters[0] == 1, "runs after the move"
        assert hooks.query(pair.primary, HOOKS[hooked]).links == (link.id,)


@pytest.mark.promise("move-keeps-policy")
@ENDS
def test_moved_end_keeps_its_policy(make_pair: MakePair, new_namespace: NewNamespace, end: str) -> None:
    """The policy is the device's, too, and is changed through the primary wherever the peer is."""
    pair = make_pair(same_namespace=True)
    pair.set_policy(end, Policy.DROP)
    pair = moved(pair, end, new_namespace("elsewhere"))
    with pytest.raises(OSError, match="No buffer space"):
        pair.send(b"dropped", sender=end)
    pair.set_policy(end, Policy.PASS)
    pair.send(b"passed", sender=end)
    assert pair.ends(end)[0].stats.tx_dropped == 1


@pytest.mark.promise("down-keeps-programs")
@ENDS
def test_down_and_up_again_keeps_programs(make_pair: MakePair, load: Load, end: str) -> None:
    """netkit_close() is about the carrier; the hook stays."""
    pair = make_pair()
    with hooks.link(load(), pair.primary, HOOKS[end]) as link:
        device = pair.ends(end)[0]
        device.down()
        assert hooks.query(pair.primary, HOOKS[end]).links == (link.id,)
        device.up()
        assert hooks.query(pair.primary, HOOKS[end]).links == (link.id,)


@contextmanager
def traffic(pair: Pair, sender: str, least: int) -> Iterator[list[int]]:
    """Packets from ``sender``, one after another, while the block runs and until ``least`` were sent.

    Yields how many were sent and how many of them the device refused, both complete after the block.
    """
    source, target = pair.ends(sender)
    frame = capture.frame_to(target, source, b"traffic")
    over, told = threading.Event(), [0, 0]

    def send() -> None:
        while not over.is_set() or told[0] < least:
            try:
                capture.send(source, frame)
            except OSError:
                told[1] += 1
            told[0] += 1

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield told
    finally:
        over.set()
        thread.join()


@pytest.mark.promise("attach-under-traffic")
@pytest.mark.parametrize("sender", ["primary", "peer"])
def test_attachment_under_traffic_loses_no_packet(make_pair: MakePair, load: Load, sender: str) -> None:
    """bpf_mprog_commit(): programs that say NEXT come and go at both ends while packets pass; none is lost."""
    pair = make_pair()
    loaded = [load() for _ in range(4)]
    with traffic(pair, sender, 100) as told:
        for _ in range(5):
            with ExitStack() as links:
                for at, program in enumerate(loaded):
                    links.enter_context(
                        hooks.link(program, pair.primary, HOOKS[sender], flags=Flags.BEFORE if at % 2 else Flags.AFTER)
                    )
    sent, refused = told
    source, target = pair.ends(sender)
    assert refused == 0, f"refused of {sent} packets"
    wait.until(lambda: target.stats.rx_packets == sent, f"{sent} packets at the other end")
    assert (source.stats.tx_packets, source.stats.tx_dropped) == (sent, 0)


@pytest.mark.promise("replace-without-gap")
@pytest.mark.parametrize("way", ["link", "program"])
def test_replacement_under_traffic_leaves_no_gap(make_pair: MakePair, load: Load, way: str, cleanup: ExitStack) -> None:
    """bpf_mprog_replace(): under policy drop, one passing program gives way to another, and every packet meets one."""
    pair = make_pair(policy=Policy.DROP)
    one, other = load(Verdict.PASS), load(Verdict.PASS)
    link = cleanup.enter_context(hooks.link(one, pair.primary, HOOKS["primary"])) if way == "link" else None
    if not link:
        hooks.attach(one, pair.primary, HOOKS["primary"])
    with traffic(pair, "primary", 100) as told:
        for _ in range(20):
            if link:
                link.update(other)
            else:
                options = {"flags": Flags.REPLACE, "replace": one.fd}
                hooks.attach(other, pair.primary, HOOKS["primary"], **options)
            one, other = other, one
    assert told[1] == 0, f"packets that met no program, of {told[0]}"


@pytest.mark.promise("end-under-traffic")
@ENDS
def test_pair_ends_under_traffic(make_pair: MakePair, load: Load, end: str) -> None:
    """netkit_del_link(): packets in flight and programs attached are no obstacle, nor a reason to complain."""
    pair = make_pair()
    with hooks.link(load(), pair.primary, HOOKS["primary"]) as link, traffic(pair, "primary", 50) as told:
        wait.until(lambda: told[0] > 20, "packets")
        pair.ends(end)[0].delete()
        assert link.info.ifindex == 0
