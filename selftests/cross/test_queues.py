"""The egress hook and programs that choose transmit queues (patches/xps_bpf): netfilter first, then the queue.

__dev_queue_xmit(): nf_hook_egress() and tc come before netdev_core_pick_tx().
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import pytest

from selftests.lib import bpf, capture, hooks, packet, programs
from selftests.lib.asm import Fragment
from selftests.lib.bpf import AttachType
from selftests.lib.netns import Namespace
from selftests.lib.rtnl import Link
from selftests.lib.txqueues import TxQueues

pytestmark = [pytest.mark.feature("nf_egress"), pytest.mark.feature("xps_bpf")]

QUEUES = 4


@pytest.fixture
def device(namespace: Namespace) -> Link:
    return namespace.rtnl.add_dummy("d0", num_tx_queues=QUEUES)


@pytest.fixture
def choose(device: Link, cleanup: ExitStack) -> Callable[..., None]:
    """``choose(FRAGMENT, …)``: a program that chooses the device's queues."""

    def link(*fragments: Fragment) -> None:
        program = cleanup.enter_context(bpf.load_filter(*fragments))
        cleanup.enter_context(hooks.link(program, device, AttachType.XPS))

    return link


def send(device: Link, payload: bytes) -> None:
    capture.send(device, packet.ethernet(payload.ljust(46, b"."), dst=packet.BROADCAST, src=device.mac))


@pytest.mark.promise("mark-to-queue")
def test_mark_set_at_egress_chooses_the_queue(device: Link, choose: Callable[..., None], cleanup: ExitStack) -> None:
    """`meta mark set` in the egress chain is what the program for the queue finds."""
    choose(programs.if_mark(7, programs.ret(3)), programs.ret(1))
    queues = cleanup.enter_context(TxQueues(device, QUEUES))
    device.namespace.nft.add_chain(device).rule("meta mark set 7")
    send(device, b"marked")
    queue, frame = queues.of(b"marked")
    assert queue == 3, f"queue of {packet.describe(frame)}"


@pytest.mark.promise("dropped-before-queue")
def test_program_is_not_asked_for_what_the_chain_drops(
    device: Link, choose: Callable[..., None], counters: bpf.Counters
) -> None:
    """A packet that is dropped at egress needs no queue."""
    choose(programs.count(counters.fd), programs.ret(1))
    device.namespace.nft.add_chain(device).rule("meta mark 1 drop")
    frame = packet.ethernet(bytes(46), dst=packet.BROADCAST, src=device.mac)
    with pytest.raises(OSError, match="No buffer space"):
        capture.send(device, frame, mark=1)
    capture.send(device, frame)
    assert counters[0] == 1, "times that the program was asked, for one packet that is dropped and one that is not"


@pytest.mark.feature("nft_fwd")
@pytest.mark.promise("fwd-to-queue")
def test_forwarded_packet_has_a_queue_of_its_target(
    device: Link, choose: Callable[..., None], cleanup: ExitStack
) -> None:
    """What nft's `fwd` brings to a device asks that device's program."""
    choose(programs.ret(2))
    other = device.namespace.rtnl.add_dummy("d1")
    device.namespace.nft.add_chain(other).rule('fwd to "d0"')
    queues = cleanup.enter_context(TxQueues(device, QUEUES))
    send(other, b"forwarded")
    queue, frame = queues.of(b"forwarded")
    assert queue == 2, f"queue of {packet.describe(frame)}"
