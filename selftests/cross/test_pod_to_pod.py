"""From one pod to another on the same host, by a program of netkit: what each redirect does there, and what it skips.

35dfaad7188c "netkit, bpf: Add bpf programmable net device", 9aa1206e8f48 (bpf_redirect_peer()), b4ab31414970
(bpf_redirect_neigh()), skb_do_redirect() of net/core/filter.c.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from selftests.cross.conftest import NETKITS, PORT, MakeWay, Way
from selftests.lib import capture, packet, programs
from selftests.lib.asm import Fragment
from selftests.lib.bpf import AttachType
from selftests.lib.capture import Capture
from selftests.lib.netkit_nla import Mode
from selftests.lib.netns import Namespace
from selftests.lib.rtnl import Link

pytestmark = [pytest.mark.feature("netkit"), pytest.mark.feature("nf_egress")]

OTHER_TEST_TYPE = 0x88B6
"""IEEE Std 802, local experimental ethertype 2."""
OTHER = "10.6.0.2"
"""The other pod's address."""


@dataclass(frozen=True)
class Pods:
    """A way, and another pod of its host behind a netkit pair of its own."""

    way: Way
    door: Link
    other: Link

    def steer(self, *fragments: Fragment) -> None:
        """A program for what the first pod sends."""
        self.way.program(self.way.door, AttachType.NETKIT_PEER, *fragments)

    def send(self, payload: bytes) -> None:
        """A frame of the first pod."""
        capture.send(self.way.pod, capture.frame_to(self.other, self.way.pod, payload))


@pytest.fixture
def make_pods(make_way: MakeWay, new_namespace: Callable[..., Namespace]) -> Callable[[str], Pods]:
    """``make_pods("netkit-L3")``."""

    def make(kind: str) -> Pods:
        way = make_way(kind)
        mode = Mode.L2 if kind == "netkit-L2" else Mode.L3
        door, other = way.host.rtnl.add_netkit("door2", "other", new_namespace("other"), mode=mode)
        door.add_address("10.6.0.1/24")
        other.add_address(f"{OTHER}/24")
        if mode == Mode.L2:
            door.add_neighbour(OTHER, other.mac)
        return Pods(way, door, other)

    return make


@NETKITS
@pytest.mark.promise("pod-to-pod-redirect")
def test_redirect_to_the_other_pods_device_delivers(make_pods: Callable[[str], Pods], kind: str) -> None:
    """bpf_redirect() transmits through the other pair's primary, whose peer receives."""
    pods = make_pods(kind)
    pods.steer(programs.redirect(pods.door.index))
    with Capture(pods.other) as seen:
        pods.send(b"to the other pod")
        seen.up_to(b"to the other pod")


@NETKITS
@pytest.mark.promise("netkit-redirect-skips")
def test_redirect_passes_the_other_pods_chain_by(make_pods: Callable[[str], Pods], kind: str) -> None:
    """On tc's layer: the egress chain of the other pair's primary does not see it."""
    pods = make_pods(kind)
    pods.steer(programs.redirect(pods.door.index))
    chain = pods.way.chain(pods.door, "counter drop")
    with Capture(pods.other) as seen:
        pods.send(b"to the other pod")
        seen.up_to(b"to the other pod")
    assert chain.packets == 0


@NETKITS
@pytest.mark.promise("pod-to-pod-policy")
def test_program_of_the_other_pod_drops_what_is_redirected_to_it(make_pods: Callable[[str], Pods], kind: str) -> None:
    """The other pair's own program decides on what comes to its primary, by a redirect too."""
    pods = make_pods(kind)
    pods.steer(programs.redirect(pods.door.index))
    pods.way.program(pods.door, AttachType.NETKIT_PRIMARY, programs.ret(2))
    pods.send(b"refused")
    assert (pods.door.stats.tx_packets, pods.door.stats.tx_dropped) == (0, 1), "packets sent and dropped"


@NETKITS
@pytest.mark.promise("netkit-redirect-neigh")
def test_redirect_to_the_other_pod_as_a_neighbour_delivers(make_pods: Callable[[str], Pods], kind: str) -> None:
    """bpf_redirect_neigh() to the other pair: the datagram reaches a socket there."""
    pods = make_pods(kind)
    pods.steer(programs.redirect_neigh(pods.door.index))
    with pods.other.namespace.socket() as receiver, pods.way.pod.namespace.socket() as sock:
        receiver.bind(("", PORT))
        receiver.settimeout(20)
        sock.sendto(b"to a neighbour", (OTHER, PORT))
        assert receiver.recv(100) == b"to a neighbour"


@NETKITS
@pytest.mark.feature("redirect_peer")
@pytest.mark.promise("peer-only-from-tc-ingress")
def test_redirect_peer_from_netkit_goes_nowhere(make_pods: Callable[[str], Pods], kind: str) -> None:
    """skb_do_redirect(): bpf_redirect_peer() is for tc ingress; netkit has sent the packet, and it ends there."""
    pods = make_pods(kind)
    by_peer = programs.if_protocol(OTHER_TEST_TYPE, programs.redirect_peer(pods.door.index))
    pods.steer(by_peer, programs.redirect(pods.door.index))
    lost = packet.ethernet(bytes(46), dst=pods.other.mac or packet.NO_MAC, src=packet.NO_MAC, ethertype=OTHER_TEST_TYPE)
    with Capture(pods.other) as seen:
        capture.send(pods.way.pod, lost)
        pods.send(b"marker")
        before = seen.up_to(b"marker")
    assert not before, f"expected nothing by bpf_redirect_peer(), got {before[0]}"
