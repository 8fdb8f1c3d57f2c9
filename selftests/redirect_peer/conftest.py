"""The way of bpf_redirect_peer(): a source, a host that steers, and a pod behind a veth or netkit pair."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from selftests.lib import asm, bpf, capture, hooks, packet, programs
from selftests.lib.bpf import AttachType, Verdict
from selftests.lib.netkit_nla import Mode
from selftests.lib.netns import Namespace
from selftests.lib.rtnl import Link


@dataclass(frozen=True)
class Addresses:
    """Of one family: a host far away, and the pod."""

    outside: str
    pod: str
    length: int


IPV4 = Addresses("10.1.0.1", "10.2.0.2", 24)
IPV6 = Addresses("fd00:1::1", "fd00:2::2", 64)
FAMILIES = pytest.mark.parametrize("addresses", [pytest.param(IPV4, id="IPv4"), pytest.param(IPV6, id="IPv6")])


@dataclass(frozen=True)
class Way:
    """``source`` (its own namespace) -- veth -- ``entry`` (host), ``door`` (host) -- pair -- ``pod`` (its own).

    A program at tcx ingress of ``entry`` steers to ``door``'s peer, which is ``pod``.
    """

    source: Link
    entry: Link
    door: Link
    pod: Link
    cleanup: ExitStack

    def steer(self, *fragments: asm.Fragment, hook: int = AttachType.TCX_INGRESS) -> bpf.Link:
        """Put a program at ``entry``."""
        return self.attach(self.entry, hook, *fragments)

    def to_pod(self) -> bpf.Link:
        """All that comes in at ``entry`` goes to the pod by bpf_redirect_peer()."""
        return self.steer(programs.redirect_peer(self.door.index))

    def watch(self, *fragments: asm.Fragment, hook: int = AttachType.TCX_INGRESS, verdict: int = Verdict.NEXT) -> None:
        """Put a program at the pod's own end, which goes on with ``verdict``."""
        self.attach(self.pod, hook, *fragments, programs.ret(verdict))

    def attach(self, device: Link, hook: int, *fragments: asm.Fragment) -> bpf.Link:
        """Put a program at any device; closing the link takes it away, the end of the test does so too."""
        program = self.cleanup.enter_context(bpf.load_classifier(*fragments))
        return self.cleanup.enter_context(hooks.link(program, device, hook))

    def frame(self, payload: bytes) -> bytes:
        """A frame as a router would send it to the host, which is its next hop.

        So it is the host's own (PACKET_HOST) when the program sees it: of other frames the pod's stack would take none
        before c43272299488, which scrubs them.
        """
        return capture.frame_to(self.entry, self.source, payload)

    def send(self, payload: bytes) -> bytes:
        """Send ``frame(payload)`` from the source; returns it."""
        return self.send_frame(self.frame(payload))

    def in_frame(self, what: bytes) -> bytes:
        """An IP packet in such a frame."""
        return packet.in_ethernet(what, dst=self.entry.mac, src=self.source.mac)

    def send_frame(self, frame: bytes, **options: Any) -> bytes:
        """Send a frame from the source; returns it. Options are those of capture.send."""
        capture.send(self.source, frame, **options)
        return frame

    def send_packet(self, what: bytes) -> bytes:
        """Send an IP packet in a frame to the pod; returns the frame."""
        return self.send_frame(self.in_frame(what))

    def send_udp(self, payload: bytes, *, addresses: Addresses = IPV4, port: int = 5000) -> bytes:
        """Send a UDP datagram from far away, port 4000, to the pod; returns the frame."""
        return self.send_packet(packet.udp(payload, src=addresses.outside, dst=addresses.pod, sport=4000, dport=port))


MakeWay = Callable[..., Way]


def assign(link: Link, addresses: Addresses) -> None:
    """The pod's address of this family becomes the device's."""
    link.add_address(f"{addresses.pod}/{addresses.length}")


def with_ipv6(namespace: Namespace) -> Namespace:
    """A namespace with IPv6 whose devices have no address and ask for no router of their own accord."""
    for where in ("all", "default"):
        for key, value in (("addr_gen_mode", 1), ("router_solicitations", 0)):
            namespace.sysctl(f"net/ipv6/conf/{where}/{key}", value)
    return namespace


def make_pair(kind: str, host: Namespace, pod: Namespace, door: str = "door") -> list[Link]:
    """(the host's end, the pod's end) of a pair; with ``netkit-primary`` that is where the pod's end is."""
    if kind == "veth":
        return host.rtnl.add_veth(door, "pod", pod)
    if kind == "netkit-primary":
        primary, peer = pod.rtnl.add_netkit("pod", door, host, mode=Mode.L2)
        return [peer, primary]
    return host.rtnl.add_netkit(door, "pod", pod, mode=Mode.L2 if kind == "netkit-L2" else Mode.L3)


@pytest.fixture
def make_way(new_namespace: Callable[..., Namespace], cleanup: ExitStack) -> MakeWay:
    """``make_way("veth")``, ``make_way("netkit-L2", ipv6=True)``, ``make_way("netkit-L3", pod_is_host=True)``."""

    def make(kind: str = "veth", *, pod_is_host: bool = False, ipv6: bool = False) -> Way:
        outside, host = new_namespace("source"), new_namespace("host")
        inside = with_ipv6(new_namespace("pod", quiet=False)) if ipv6 else new_namespace("pod")
        source, entry = outside.rtnl.add_veth("source", "entry", host)
        door, pod = make_pair(kind, host, host if pod_is_host else inside)
        return Way(source, entry, door, pod, cleanup)

    return make


def _kinds(*names: str) -> pytest.MarkDecorator:
    marks = {True: (), False: (pytest.mark.feature("netkit"),)}
    return pytest.mark.parametrize("kind", [pytest.param(name, marks=marks[name == "veth"]) for name in names])


KINDS = _kinds("veth", "netkit-L2", "netkit-L3", "netkit-primary")
"""Devices with a peer (ndo_get_peer_dev): drivers/net/veth.c, drivers/net/netkit.c."""

KINDS_OF_LAYER_2 = _kinds("veth", "netkit-L2", "netkit-primary")
"""Those on which a VLAN device can be: they have an address."""
