"""The way of bpf_redirect_peer(): a source, a host that steers, and a pod behind a veth or netkit pair."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from selftests.lib import asm, bpf, capture, hooks, packet
from selftests.lib.bpf import AttachType
from selftests.lib.netkit_nla import Mode
from selftests.lib.netns import Namespace
from selftests.lib.rtnl import Link


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
        """Put a program at ``entry``; closing the link takes it away, the end of the test does so too."""
        program = self.cleanup.enter_context(bpf.load_classifier(*fragments))
        return self.cleanup.enter_context(hooks.link(program, self.entry, hook))

    def frame(self, payload: bytes) -> bytes:
        """A frame as a router would send it to the pod."""
        return capture.frame_to(self.pod, self.source, payload)

    def send(self, payload: bytes, **options: Any) -> bytes:
        """Send a frame from the source; returns it."""
        frame = self.frame(payload)
        capture.send(self.source, frame, **options)
        return frame

    def send_udp(self, payload: bytes, *, target: str, port: int) -> bytes:
        """Send a UDP datagram from 10.1.0.1 in a frame to the pod; returns the frame."""
        datagram = packet.udp(payload, src="10.1.0.1", dst=target, sport=4000, dport=port)
        frame = packet.ethernet(datagram, dst=self.pod.mac, src=self.source.mac, ethertype=packet.ETH_P_IP)
        capture.send(self.source, frame)
        return frame


MakeWay = Callable[..., Way]


def _pair(kind: str, host: Namespace, pod: Namespace) -> list[Link]:
    if kind == "veth":
        return host.rtnl.add_veth("door", "pod", pod)
    return host.rtnl.add_netkit("door", "pod", pod, mode=Mode.L2 if kind == "netkit-L2" else Mode.L3)


@pytest.fixture
def make_way(new_namespace: Callable[..., Namespace], cleanup: ExitStack) -> MakeWay:
    """``make_way("veth")``, ``make_way("netkit-L2")``, ``make_way("netkit-L3", pod_is_host=True)``."""

    def make(kind: str = "veth", *, pod_is_host: bool = False) -> Way:
        outside, host = new_namespace("source"), new_namespace("host")
        source, entry = outside.rtnl.add_veth("source", "entry", host)
        door, pod = _pair(kind, host, host if pod_is_host else new_namespace("pod"))
        return Way(source, entry, door, pod, cleanup)

    return make


KINDS = pytest.mark.parametrize(
    "kind",
    [
        "veth",
        pytest.param("netkit-L2", marks=pytest.mark.feature("netkit")),
        pytest.param("netkit-L3", marks=pytest.mark.feature("netkit")),
    ],
)
"""Devices with a peer (ndo_get_peer_dev): drivers/net/veth.c, drivers/net/netkit.c."""
