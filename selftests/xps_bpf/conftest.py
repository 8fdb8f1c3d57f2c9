"""Devices with several transmit queues, programs that choose among them, and a look at what was chosen."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Protocol

import pytest

from selftests.lib import bpf, capture, packet, txqueues, wait
from selftests.lib.netns import Namespace
from selftests.lib.rtnl import Link
from selftests.lib.tap import Tap
from selftests.lib.txqueues import TxQueues, XpsMaps

INT_MAX, INT_MIN = 0x7FFFFFFF, -0x80000000

WAYS = pytest.mark.parametrize("way", ["link", "netlink"])
"""How a program is attached."""

NETKIT = pytest.param("netkit", marks=pytest.mark.feature("netkit_queues"))
KINDS = pytest.mark.parametrize("kind", ["dummy", "veth", NETKIT, "tap"])

NEIGHBOUR_MAC = b"\x02\0\0\0\x08\x02"
"""Whose it is does not matter: no such neighbour is there."""

_numbers = itertools.count()


@dataclass(frozen=True)
class Device:
    """A device that packets leave through, and the packets that left."""

    link: Link
    seen: TxQueues
    maps: XpsMaps

    @property
    def namespace(self) -> Namespace:
        return self.link.namespace

    def queue(self, what: str = "frame", **options: Any) -> int:
        """Send one frame through a packet socket: the queue that it took. Options are those of capture.send."""
        payload = f"{what} {next(_numbers)};".encode().ljust(46, b".")
        self.seen.drain()
        capture.send(self.link, packet.ethernet(payload, dst=NEIGHBOUR_MAC, src=self.link.mac), **options)
        return self.seen.of(payload)[0]

    def flow(self, port: int) -> int:
        """Send one UDP datagram from ``port`` as a frame: the queue that this flow took."""
        payload = f"flow {next(_numbers)};".encode()
        datagram = packet.udp(payload, src="10.8.0.1", dst="10.8.0.2", sport=port, dport=9)
        frame = packet.ethernet(datagram, dst=NEIGHBOUR_MAC, src=self.link.mac, ethertype=packet.ETH_P_IP)
        capture.send(self.link, frame)
        return self.seen.of(payload)[0]

    def maps_to(self, queue: int) -> None:
        """XPS sends what every processor sends to this queue: where a packet goes that no program decides on."""
        everyone = (1 << txqueues.processors()) - 1
        self.maps.set_cpus(self.link, [0] * queue + [everyone])


class MakeDevice(Protocol):
    def __call__(self, kind: str = "dummy", queues: int = 4, *, real: int | None = None) -> Device: ...


@pytest.fixture
def make_device(new_namespace: Callable[..., Namespace], cleanup: ExitStack) -> MakeDevice:
    """``make_device("veth", 4, real=2)``: a device, up, in a namespace of its own, that uses 2 of its 4 queues.

    A tap always has 256 queues; ``queues`` are those with a descriptor.
    """

    def make(kind: str = "dummy", queues: int = 4, *, real: int | None = None) -> Device:
        namespace = new_namespace("host")
        link = add_link(namespace, kind, queues, cleanup)
        if real is not None:
            txqueues.set_real(link, real)
        seen = cleanup.enter_context(TxQueues(link, queues))
        return Device(link, seen, cleanup.enter_context(XpsMaps(namespace)))

    return make


def add_link(namespace: Namespace, kind: str, queues: int, cleanup: ExitStack) -> Link:
    """A device of a kind with this many queues, up; a tap goes when ``cleanup`` is closed."""
    if kind == "tap":
        return cleanup.enter_context(Tap(namespace, "x0", queues)).link
    if kind == "netkit":
        return namespace.rtnl.add_netkit("x0", "x1", data={"num_tx_queues": queues})[0]
    if kind == "veth":
        return namespace.rtnl.add_veth("x0", "x1", num_tx_queues=queues)[0]
    return namespace.rtnl.add_dummy("x0", num_tx_queues=queues)


@pytest.fixture
def device(make_device: MakeDevice) -> Device:
    """A dummy with four queues, whose packets go to queue 3 where no program decides."""
    made = make_device()
    made.maps_to(3)
    return made


@pytest.fixture
def load(cleanup: ExitStack) -> Callable[..., bpf.Program]:
    """``load(2)``: a program that says queue 2 for every packet, and counts where it is told to."""

    def load(queue: int = 0, counters: bpf.Counters | None = None, slot: int = 0) -> bpf.Program:
        return cleanup.enter_context(bpf.filter_returning(queue, counters, slot))

    return load


Load = Callable[..., bpf.Program]


def await_release(program_id: int) -> None:
    """Wait until nothing holds a program any more: the kernel frees in the background. Raises TimeoutError."""
    wait.until(lambda: program_id not in bpf.ids(bpf.Cmd.PROG_GET_NEXT_ID), f"program {program_id} to be released")
