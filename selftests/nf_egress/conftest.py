"""A device to send through, its nft egress chain, and a view of what leaves the device."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from selftests.lib import bpf, capture, hooks, packet
from selftests.lib.asm import Fragment
from selftests.lib.netns import Namespace
from selftests.lib.nft import Chain
from selftests.lib.rtnl import Link

NEIGHBOUR, NEIGHBOUR_MAC = "10.9.0.2", bytes.fromhex("020000000902")


@dataclass(frozen=True)
class Sender:
    """A dummy device with address 10.9.0.1 and a permanent neighbour 10.9.0.2."""

    device: Link
    cleanup: ExitStack

    @property
    def namespace(self) -> Namespace:
        return self.device.namespace

    def chain(self, device: Link | None = None, chain: str = "chain") -> Chain:
        """A base chain at an egress hook, by default the sender's own."""
        return self.namespace.nft.add_chain(device or self.device, chain=chain)

    def program(self, hook: int, *fragments: Fragment, device: Link | None = None) -> None:
        """Link a tcx program for the rest of the test."""
        program = self.cleanup.enter_context(bpf.load_classifier(*fragments))
        self.cleanup.enter_context(hooks.link(program, device or self.device, hook))

    def udp(self, payload: bytes = b"datagram", *, mark: int = 0, errors: bool = False) -> int:
        """One UDP datagram to the neighbour through a socket of its own; ``errors`` sets IP_RECVERR (ip(7))."""
        with self.namespace.socket() as sock:
            if mark:
                sock.setsockopt(capture.SOL_SOCKET, capture.SO_MARK, mark)
            if errors:
                sock.setsockopt(capture.SOL_IP, capture.IP_RECVERR, 1)
            return sock.sendto(payload, (NEIGHBOUR, 9))

    def raw(self, payload: bytes = b"frame", *, bypass_qdisc: bool = False, mark: int = 0) -> None:
        """One frame through a packet socket."""
        frame = packet.ethernet(payload.ljust(46, b"."), dst=NEIGHBOUR_MAC, src=self.device.mac)
        capture.send(self.device, frame, bypass_qdisc=bypass_qdisc, mark=mark)

    @property
    def transmitted(self) -> int:
        """Packets that got as far as the driver."""
        return self.device.stats.tx_packets


@pytest.fixture
def sender(new_namespace: Callable[..., Namespace], cleanup: ExitStack) -> Sender:
    device = new_namespace("host").rtnl.add_dummy("d0")
    device.add_address("10.9.0.1/24")
    device.add_neighbour(NEIGHBOUR, NEIGHBOUR_MAC)
    return Sender(device, cleanup)
