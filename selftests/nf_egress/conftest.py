"""A device to send through, its nft egress chain, and a view of what leaves the device."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Protocol

import pytest

from selftests.lib import bpf, capture, hooks, packet, static_key
from selftests.lib.asm import Fragment
from selftests.lib.netns import Namespace
from selftests.lib.nft import Chain
from selftests.lib.rtnl import Link

NEIGHBOUR, NEIGHBOUR_MAC = "10.9.0.2", bytes.fromhex("020000000902")

SOL_UDP, UDP_SEGMENT = 17, 103
"""include/uapi/linux/udp.h"""


@dataclass(frozen=True)
class Family:
    """Addresses of one IP version: the sender's own, and its neighbour's."""

    name: str
    family: socket.AddressFamily
    own: str
    neighbour: str
    length: int
    header: int
    """Bytes of an IP header without options."""
    error_option: tuple[int, int]
    """Level and name of the socket option that asks for errors: IP_RECVERR (ip(7)), IPV6_RECVERR (ipv6(7))."""

    def __str__(self) -> str:
        return self.name


IPV4 = Family("IPv4", socket.AF_INET, "10.9.0.1", NEIGHBOUR, 24, 20, (capture.SOL_IP, capture.IP_RECVERR))
IPV6 = Family("IPv6", socket.AF_INET6, "fd09::1", "fd09::2", 64, 40, (socket.IPPROTO_IPV6, 25))

FAMILIES = pytest.mark.parametrize("family", [IPV4, IPV6], ids=str)

BEFORE_NAMES = pytest.mark.until("6.16")
NAMES = pytest.mark.since("6.16")
"""From then on a chain belongs to names: a device that is not there is no error, and is hooked when it comes
("netfilter: nf_tables: Respect NETDEV_REGISTER events"). Seen on 6.16.12 and 6.17.13, and not on 6.12.118."""

WAYS_OUT = pytest.mark.parametrize("bypass_qdisc", [False, True], ids=["through-the-qdisc", "with-PACKET_QDISC_BYPASS"])
"""The two ways of a packet socket's frames: dev_queue_xmit(), and nf_hook_direct_egress() with dev_direct_xmit()."""


def egress_key() -> static_key.Key:
    """On while a chain is at the egress hook of any device in any namespace."""
    return static_key.netfilter_hook(static_key.NFPROTO_NETDEV, static_key.NF_NETDEV_EGRESS)


def tc_egress_key() -> static_key.Key:
    """On while tc or a chain is at egress of any device: what __dev_queue_xmit() looks at first."""
    return static_key.Key.named("egress_needed_key")


@dataclass(frozen=True)
class Sender:
    """A dummy device with an address and a permanent neighbour: 10.9.0.1 and 10.9.0.2, or fd09::1 and fd09::2."""

    device: Link
    cleanup: ExitStack
    family: Family = IPV4

    @property
    def namespace(self) -> Namespace:
        return self.device.namespace

    def chain(self, *rules: str, device: Link | None = None, name: str = "rules") -> Chain:
        """A base chain at an egress hook, by default the sender's own."""
        return self.namespace.nft.add_chain(device or self.device, chain=name, rules=rules)

    def program(self, hook: int, *fragments: Fragment, device: Link | None = None) -> None:
        """Link a tcx program for the rest of the test."""
        program = self.cleanup.enter_context(bpf.load_classifier(*fragments))
        self.cleanup.enter_context(hooks.link(program, device or self.device, hook))

    def udp(
        self, payload: bytes = b"datagram", *, port: int = 9, mark: int = 0, errors: bool = False, segment: int = 0
    ) -> int:
        """One UDP datagram to the neighbour through a socket of its own.

        ``errors`` asks for errors of the transmit path, ``segment`` for datagrams of that size out of one large packet
        (UDP_SEGMENT of udp(7)).
        """
        with self.namespace.socket(self.family.family) as sock:
            if mark:
                sock.setsockopt(capture.SOL_SOCKET, capture.SO_MARK, mark)
            if errors:
                sock.setsockopt(*self.family.error_option, 1)
            if segment:
                sock.setsockopt(SOL_UDP, UDP_SEGMENT, segment)
            return sock.sendto(payload, (self.family.neighbour, port))

    def raw(self, payload: bytes = b"frame", *, bypass_qdisc: bool = False, mark: int = 0) -> None:
        """One frame through a packet socket."""
        self.send(
            packet.ethernet(payload.ljust(46, b"."), dst=NEIGHBOUR_MAC, src=self.device.mac),
            bypass_qdisc=bypass_qdisc,
            mark=mark,
        )

    def frame(self, inner: bytes) -> bytes:
        """An IPv4 or IPv6 packet in a frame from the device to the neighbour."""
        return packet.in_ethernet(inner, dst=NEIGHBOUR_MAC, src=self.device.mac)

    def send(self, frame: bytes, **options: Any) -> None:
        """Bytes through a packet socket, with the options of capture.send(); OSError ENOBUFS where they are dropped."""
        capture.send(self.device, frame, **options)

    @property
    def transmitted(self) -> int:
        """Packets that got as far as the driver."""
        return self.device.stats.tx_packets


class MakeSender(Protocol):
    def __call__(self, family: Family = IPV4, device: Link | None = None) -> Sender: ...


@pytest.fixture
def make_sender(new_namespace: Callable[..., Namespace], cleanup: ExitStack) -> MakeSender:
    """``make_sender(IPV6)``: a namespace with a dummy device; or with addresses on a device that is there."""

    def make(family: Family = IPV4, device: Link | None = None) -> Sender:
        if device is None:
            device = new_namespace("host").rtnl.add_dummy("d0")
        if family is IPV6:
            # only now, and without what IPv6 does on its own but for its multicast listener reports
            for key, value in (("accept_dad", 0), ("addr_gen_mode", 1), ("router_solicitations", 0)):
                device.namespace.sysctl(f"net/ipv6/conf/{device.name}/{key}", value)
            device.namespace.sysctl(f"net/ipv6/conf/{device.name}/disable_ipv6", 0)
        device.add_address(f"{family.own}/{family.length}")
        device.add_neighbour(family.neighbour, NEIGHBOUR_MAC)
        return Sender(device, cleanup, family)

    return make


@pytest.fixture
def sender(make_sender: MakeSender) -> Sender:
    """An IPv4 sender, whose device transmits nothing that the test did not send."""
    return make_sender()


@pytest.fixture
def far_end(sender: Sender) -> Link:
    """A veth whose far end sends into the sender's namespace; returns the end outside, the inner one is ``in0``."""
    _, outside = sender.namespace.rtnl.add_veth("in0", "out0")
    return outside
