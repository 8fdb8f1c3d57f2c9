"""netkit pairs, and the places of bpf_mprog where programs go: both of a netkit device, and both of tcx."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Protocol

import pytest

from selftests.lib import bpf, capture, hooks, packet
from selftests.lib.bpf import AttachType, Verdict
from selftests.lib.netkit_nla import Mode
from selftests.lib.netns import Namespace
from selftests.lib.rtnl import Link

HOOKS = {"primary": AttachType.NETKIT_PRIMARY, "peer": AttachType.NETKIT_PEER}
"""Attach types by the end whose transmit path they are in."""

TCX = {"ingress": AttachType.TCX_INGRESS, "egress": AttachType.TCX_EGRESS}

ADDRESSES = {"IPv4": ("10.7.0.1", "10.7.0.2"), "IPv6": ("fd07::1", "fd07::2")}
"""Of primary and peer."""

FAMILIES = pytest.mark.parametrize("family", ADDRESSES)
MODES = pytest.mark.parametrize("mode", [pytest.param(Mode.L2, id="L2"), pytest.param(Mode.L3, id="L3")])
SENDERS = pytest.mark.parametrize("sender", ["primary", "peer"])


@dataclass(frozen=True)
class Pair:
    """Both ends of a netkit device."""

    primary: Link
    peer: Link

    def ends(self, sender: str) -> tuple[Link, Link]:
        """(sender, receiver); ``sender`` is "primary" or "peer"."""
        return (self.primary, self.peer) if sender == "primary" else (self.peer, self.primary)

    def send(self, payload: bytes, *, sender: str = "primary", **options: Any) -> None:
        """One frame from one end to the other; OSError ENOBUFS when the device drops it."""
        source, target = self.ends(sender)
        capture.send(source, capture.frame_to(target, source, payload), **options)

    def send_datagram(self, family: str, payload: bytes, *, sender: str = "primary", **options: Any) -> None:
        """One UDP datagram of IPv4 or IPv6, as a frame like those of ``send``."""
        source, target = self.ends(sender)
        addresses = ADDRESSES[family] if sender == "primary" else ADDRESSES[family][::-1]
        datagram = packet.udp(payload, src=addresses[0], dst=addresses[1], sport=7, dport=9)
        frame = packet.in_ethernet(datagram, dst=target.mac or packet.NO_MAC, src=source.mac or packet.NO_MAC)
        capture.send(source, frame, **options)

    def set_policy(self, end: str, policy: int) -> None:
        """Change what becomes of packets that ``end`` sends while no program is attached there."""
        attribute = {"primary": "IFLA_NETKIT_POLICY", "peer": "IFLA_NETKIT_PEER_POLICY"}[end]
        self.primary.namespace.rtnl.change_netkit(self.primary.index, {attribute: policy})


def give_addresses(pair: Pair, family: str) -> tuple[str, str]:
    """Both ends get an address of one network; IPv6 is switched on where it is not, without anything sent for it."""
    for link, address in zip((pair.primary, pair.peer), ADDRESSES[family], strict=True):
        if family == "IPv6":
            for name in ("lo", link.name):
                link.namespace.sysctl(f"net/ipv6/conf/{name}/disable_ipv6", 0)
            link.namespace.sysctl(f"net/ipv6/conf/{link.name}/accept_dad", 0)
        link.add_address(f"{address}/{64 if family == 'IPv6' else 24}")
    return ADDRESSES[family]


class MakePair(Protocol):
    def __call__(self, mode: Mode = Mode.L2, *, same_namespace: bool = False, **options: Any) -> Pair: ...


@pytest.fixture
def make_pair(new_namespace: Callable[..., Namespace]) -> MakePair:
    """``make_pair(Mode.L3, policy=Policy.DROP)``: a pair, both ends up; options are those of Rtnl.add_netkit."""

    def make(mode: Mode = Mode.L2, *, same_namespace: bool = False, **options: Any) -> Pair:
        host = new_namespace("host")
        other = host if same_namespace else new_namespace("pod")
        primary, peer = host.rtnl.add_netkit("nk0", "nk1", other, mode=mode, **options)
        return Pair(primary, peer)

    return make


class Load(Protocol):
    def __call__(
        self, verdict: int = Verdict.NEXT, counters: bpf.Counters | None = None, slot: int = 0
    ) -> bpf.Program: ...


@pytest.fixture
def load(cleanup: ExitStack) -> Load:
    """``load()``: a program of its own that says NEXT, or what it is told to, and counts where it is told to."""

    def load(verdict: int = Verdict.NEXT, counters: bpf.Counters | None = None, slot: int = 0) -> bpf.Program:
        return cleanup.enter_context(bpf.classifier_returning(verdict, counters, slot))

    return load


@dataclass(frozen=True)
class Hook:
    """A place for programs under bpf_mprog, empty, and a device whose packets run them."""

    kind: str
    """``netkit`` or ``tcx``."""
    side: str
    """``primary``, ``peer``, ``ingress`` or ``egress``: what links say of themselves."""
    type: AttachType
    device: Link
    """Its index names the hook."""
    owner: Link
    """The device that links tell: of netkit's peer that is the peer."""

    @property
    def link_type(self) -> int:
        return bpf.LINK_TYPE_NETKIT if self.kind == "netkit" else bpf.LINK_TYPE_TCX

    @property
    def keeps_revision(self) -> bool:
        """Whether the revision goes on after the last program went: netkit's hook lives as long as its device."""
        return self.kind == "netkit"

    def attach(self, program: bpf.Program, **options: int) -> None:
        """PROG_ATTACH; options are those of hooks.attach."""
        hooks.attach(program, self.device, self.type, **options)

    def detach(self, program: bpf.Program | None = None, **options: int) -> None:
        """PROG_DETACH."""
        hooks.detach(program, self.device, self.type, **options)

    def link(self, program: bpf.Program, **options: int) -> bpf.Link:
        """LINK_CREATE."""
        return hooks.link(program, self.device, self.type, **options)

    def query(self) -> bpf.Query:
        """PROG_QUERY with room for all."""
        return hooks.query(self.device, self.type)

    def run(self) -> None:
        """Send one packet that runs the programs; those at tcx ingress, a moment later."""
        capture.send(self.owner, packet.ethernet(bytes(46), dst=self.owner.mac, src=self.owner.mac))


def make_hook(namespace: Namespace, kind: str, side: str, name: str = "nk") -> Hook:
    """A hook in ``namespace``: of a new netkit pair there, or tcx of its loopback device."""
    if kind == "netkit":
        ends = namespace.rtnl.add_netkit(f"{name}0", f"{name}1")
        return Hook(kind, side, HOOKS[side], device=ends[0], owner=ends[side == "peer"])
    loopback = namespace.rtnl.find("lo")
    return Hook(kind, side, TCX[side], device=loopback, owner=loopback)


PLACES = (("netkit", "primary"), ("netkit", "peer"), ("tcx", "ingress"), ("tcx", "egress"))
"""Kind and side of each hook."""

EVERY_HOOK = [pytest.param(place, id="-".join(place), marks=pytest.mark.feature(place[0])) for place in PLACES]

ONE_OF_EACH = pytest.mark.parametrize("hook", EVERY_HOOK[1:3], indirect=True)
"""For long tables of what kernel/bpf/mprog.c decides: one hook of each of its two users."""

ONE_WAY_EACH = pytest.mark.parametrize(
    ("hook", "way"),
    [
        pytest.param(place, way, id=f"{way}-at-{'-'.join(place)}", marks=pytest.mark.feature(place[0]))
        for place, way in zip(PLACES[1:3], ("link", "program"), strict=True)
    ],
    indirect=["hook"],
)
"""For the longest ones: a link to the one, a plain program to the other."""

TCX_ONLY = pytest.mark.parametrize("hook", EVERY_HOOK[2:], indirect=True)


@pytest.fixture(params=EVERY_HOOK)
def hook(request: pytest.FixtureRequest, namespace: Namespace) -> Hook:
    """Each of the four places in turn."""
    kind, side = request.param
    return make_hook(namespace, kind, side)
