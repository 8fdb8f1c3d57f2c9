"""A pod behind a pair of devices, a host that forwards for it, and the device by which its packets leave the host."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol

import pytest

from selftests.lib import bpf, hooks, packet, wait
from selftests.lib.asm import Fragment
from selftests.lib.netkit_nla import Mode
from selftests.lib.netns import Namespace
from selftests.lib.nft import Chain
from selftests.lib.rtnl import Link

OUTSIDE_MAC = bytes.fromhex("020000000902")
"""Of the neighbour that the host's packets leave for."""

PORT = 4001


@dataclass(frozen=True)
class Family:
    """Addresses of one IP version: the pod's, the host's towards it, the host's outside, and a neighbour's there."""

    name: str
    family: socket.AddressFamily
    pod: str
    door: str
    host: str
    outside: str
    length: int

    def __str__(self) -> str:
        return self.name


IPV4 = Family("IPv4", socket.AF_INET, "10.8.0.2", "10.8.0.1", "10.9.0.1", "10.9.0.2", 24)
IPV6 = Family("IPv6", socket.AF_INET6, "fd08::2", "fd08::1", "fd09::1", "fd09::2", 64)

FAMILIES = pytest.mark.parametrize("family", [IPV4, IPV6], ids=str)

NETKITS = pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.feature("netkit")) for kind in ("netkit-L2", "netkit-L3")]
)
PAIRS = pytest.mark.parametrize(
    "kind",
    ["veth", *(pytest.param(kind, marks=pytest.mark.feature("netkit")) for kind in ("netkit-L2", "netkit-L3"))],
)


def add_pair(kind: str, host: Namespace, pod: Namespace) -> list[Link]:
    """``door`` in the host and ``pod`` in the pod: a veth or netkit pair, the netkit's primary in the host."""
    if kind == "veth":
        return host.rtnl.add_veth("door", "pod", pod)
    return host.rtnl.add_netkit("door", "pod", pod, mode=Mode.L2 if kind == "netkit-L2" else Mode.L3)


@dataclass(frozen=True)
class Way:
    """``pod`` (its own namespace) -- pair -- ``door`` (host), which forwards to ``outside``, a dummy device."""

    pod: Link
    door: Link
    outside: Link
    family: Family
    cleanup: ExitStack

    @property
    def host(self) -> Namespace:
        return self.door.namespace

    def chain(self, device: Link, *rules: str, hook: str = "egress", name: str = "rules") -> Chain:
        """A base chain of a device, by default at egress."""
        return device.namespace.nft.add_chain(device, hook=hook, chain=name, rules=rules)

    def program(self, device: Link, hook: int, *fragments: Fragment) -> None:
        """Link a program for the rest of the test."""
        program = self.cleanup.enter_context(bpf.load_classifier(*fragments))
        self.cleanup.enter_context(hooks.link(program, device, hook))

    def send(self, payload: bytes = b"from the pod") -> None:
        """A datagram of the pod to the host's neighbour outside."""
        with self.pod.namespace.socket(self.family.family) as sock:
            sock.sendto(payload, (self.family.outside, PORT))

    def await_forwarded(self, count: int = 1) -> None:
        """Wait until so many packets have left the host."""
        wait.until(lambda: self.outside.stats.tx_packets >= count, f"{count} packets to be forwarded")

    def frame_from_outside(self, payload: bytes, to: Link | None = None) -> bytes:
        """A frame with a datagram to the pod, for the pod's device or another."""
        inner = packet.udp(payload, src=self.family.outside, dst=self.family.pod, sport=PORT, dport=PORT)
        mac = (to or self.pod).mac or packet.NO_MAC
        return packet.in_ethernet(inner, dst=mac, src=OUTSIDE_MAC)


class MakeWay(Protocol):
    def __call__(self, kind: str, family: Family = IPV4) -> Way: ...


@pytest.fixture
def make_way(new_namespace: Callable[..., Namespace], cleanup: ExitStack) -> MakeWay:
    """``make_way("netkit-L3", IPV6)``: all of it, up, with addresses, neighbours and routes."""

    def make(kind: str, family: Family = IPV4) -> Way:
        host, inside = new_namespace("host"), new_namespace("pod")
        door, pod = add_pair(kind, host, inside)
        outside = host.rtnl.add_dummy("outside")
        if family is IPV6:
            for link in (door, pod, outside):
                _allow_ipv6(link)
            host.sysctl("net/ipv6/conf/all/forwarding", 1)
        else:
            host.sysctl("net/ipv4/ip_forward", 1)
        for link, address in ((pod, family.pod), (door, family.door), (outside, family.host)):
            link.add_address(f"{address}/{family.length}")
        outside.add_neighbour(family.outside, OUTSIDE_MAC)
        if kind != "netkit-L3":
            pod.add_neighbour(family.door, door.mac)
            door.add_neighbour(family.pod, pod.mac)
        inside.rtnl.add_route("default" if family is IPV4 else "::/0", via=family.door)
        return Way(pod, door, outside, family, cleanup)

    return make


def _allow_ipv6(link: Link) -> None:
    """IPv6 on a device of a quiet namespace, without what it would send on its own but for multicast reports."""
    for key, value in (("accept_dad", 0), ("addr_gen_mode", 1), ("router_solicitations", 0), ("disable_ipv6", 0)):
        link.namespace.sysctl(f"net/ipv6/conf/{link.name}/{key}", value)
