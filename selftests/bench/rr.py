"""What a request and its response cost between a host far away and a pod: the ways of 9aa1206e8f48 "bpf: Add
redirect_peer helper", whose figures come from netperf's TCP_RR.

``client`` (its own namespace) -- veth -- ``entry`` (host), the door (host) -- pair -- the pod (its own). What differs
is how the host gets a packet from ``entry`` to the pod, and back: by routing, or by BPF programs at tc ingress of
``entry`` and of the door that know where to. Back from the pod, bpf_redirect() is all there is; netkit calls the
program before the packet leaves the pod. Who is addressed on layer 2 is set beforehand: no program rewrites anything.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from selftests.bench.benchmark import Benchmark, Refused, Row, Sample
from selftests.lib import asm, bpf, hooks, programs, qdisc
from selftests.lib.asm import R0
from selftests.lib.bpf import AttachType
from selftests.lib.netkit_nla import Mode
from selftests.lib.netns import Namespace
from selftests.lib.rtnl import Link

LIBRARY = Path(__file__).parents[2] / "build" / "bench" / "rr.so"
"""Made of rr.c by the host (harness/bench/native.py)."""

CLIENT, CLIENTS_GATEWAY = "10.1.0.1", "10.1.0.254"
CLIENTS_PORT, PORT = 4000, 5000
COST = 50
"""Instructions of the control. The JIT makes one of each: ``xor eax, eax``, then ``add rax, 1``."""

REDIRECT, REDIRECT_PEER = "veth, redirect()", "veth, redirect_peer()"

Protocol = Literal["TCP", "UDP"]
Kind = Literal["veth", "netkit"]
State = Callable[["Way"], AbstractContextManager[None]]


class _Outcome(ctypes.Structure):
    _fields_ = (("ns", ctypes.c_uint64), ("waits", ctypes.c_uint64))


@dataclass(frozen=True)
class Pod:
    """A namespace behind a pair."""

    door: Link
    """The host's end."""
    inner: Link
    address: str
    gateway: str


@dataclass
class Way:
    """A client, the host between, and a pod behind veth. One behind netkit is made for its rows only."""

    client: Link
    entry: Link
    pod: Pod
    library: ctypes.CDLL
    sockets: list[socket.socket] = field(default_factory=list)
    """Of the row that is measured: the client's, and the pod's."""

    @property
    def host(self) -> Namespace:
        return self.entry.namespace

    def set_next_hops(self, pod: Pod, *, routed: bool) -> None:
        """Whom both ends address on layer 2 if they mean each other: the host, or at once each other.

        Both are neighbours before already: so they stay where they are in the kernel's table, whatever the row.
        """
        to_client, to_pod = (pod.door, self.entry) if routed else (self.client, pod.inner)
        self.client.add_neighbour(CLIENTS_GATEWAY, to_pod.mac)
        pod.inner.add_neighbour(pod.gateway, to_client.mac)


@contextmanager
def way() -> Iterator[Way]:
    library = ctypes.CDLL(str(LIBRARY))
    library.rr.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_uint64, ctypes.POINTER(_Outcome))
    with Namespace.create("client") as outside, Namespace.create("host") as host:
        client, entry = outside.rtnl.add_veth("client", "entry", host)
        client.add_address(f"{CLIENT}/24")
        entry.add_address(f"{CLIENTS_GATEWAY}/24")
        entry.add_neighbour(CLIENT, client.mac)
        outside.rtnl.add_route("default", via=CLIENTS_GATEWAY)
        host.sysctl("net/ipv4/ip_forward", 1)
        with pod_behind("veth", host) as pod:
            yield Way(client, entry, pod, library)


@contextmanager
def pod_behind(kind: Kind, host: Namespace) -> Iterator[Pod]:
    with Namespace.create("pod") as inside:
        if kind == "veth":
            door, inner = host.rtnl.add_veth(kind, "pod", inside)
            pod = Pod(door, inner, "10.2.0.1", "10.2.0.254")
        else:
            door, inner = host.rtnl.add_netkit(kind, "pod", inside, mode=Mode.L2)
            pod = Pod(door, inner, "10.3.0.1", "10.3.0.254")
        inner.add_address(f"{pod.address}/24")
        door.add_address(f"{pod.gateway}/24")
        door.add_neighbour(pod.address, inner.mac)
        inside.rtnl.add_route("default", via=pod.gateway)
        try:
            yield pod
        finally:
            door.delete()


@contextmanager
def conversation(way: Way, pod: Pod, protocol: Protocol) -> Iterator[None]:
    """A connection between the client and the pod."""
    kind = socket.SOCK_STREAM if protocol == "TCP" else socket.SOCK_DGRAM
    with ExitStack() as stack:
        server = stack.enter_context(pod.inner.namespace.socket(socket.AF_INET, kind))
        client = stack.enter_context(way.client.namespace.socket(socket.AF_INET, kind))
        server.bind((pod.address, PORT))
        client.bind((CLIENT, CLIENTS_PORT))
        if protocol == "TCP":
            server.listen()
            client.connect((pod.address, PORT))
            server = stack.enter_context(server.accept()[0])
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # the end that closes first resets the connection, and leaves none in TIME_WAIT to the next row
            server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            client.connect((pod.address, PORT))
            server.connect((CLIENT, CLIENTS_PORT))
        way.sockets = [client, server]
        yield
        way.sockets = []


def routed(protocol: Protocol) -> Row[Way]:
    """The host routes; no program anywhere."""

    @contextmanager
    def state(way: Way) -> Iterator[None]:
        way.set_next_hops(way.pod, routed=True)
        with conversation(way, way.pod, protocol):
            yield

    return _row(protocol, "routing", state)


def redirected(
    protocol: Protocol,
    name: str,
    to_pod: Callable[[int], asm.Fragment],
    *needs: str,
    behind: Kind = "veth",
    cost: int = 0,
    role: Literal["plain", "again"] = "plain",
) -> Row[Way]:
    """A program at ``entry`` that ends with ``to_pod``, of the door's index, and one for the way back.

    With ``cost``: a control, whose first program has so many more instructions.
    """

    @contextmanager
    def state(way: Way) -> Iterator[None]:
        with ExitStack() as stack:
            pod = way.pod if behind == "veth" else stack.enter_context(pod_behind(behind, way.host))
            spin = [asm.mov_imm(R0, 0), *[asm.add_imm(R0, 1)] * (cost - 1)] if cost else []
            there = stack.enter_context(bpf.load_classifier(spin, to_pod(pod.door.index), name="to_pod"))
            back = stack.enter_context(bpf.load_classifier(programs.redirect(way.entry.index), name="from_pod"))
            stack.enter_context(_at_ingress(way.entry, there))
            if behind == "veth":
                stack.enter_context(_at_ingress(pod.door, back))
            else:
                stack.enter_context(hooks.link(back, pod.door, AttachType.NETKIT_PEER))
            way.set_next_hops(pod, routed=False)
            stack.enter_context(conversation(way, pod, protocol))
            yield

    needs = ("clsact", *needs)
    if cost:
        against = f"{protocol}, {name}"
        return Row(f"{against}, {cost} more", state, needs, role="control", expected=cost, against=against)
    return _row(protocol, name, state, needs, role=role)


@contextmanager
def _at_ingress(device: Link, program: bpf.Program) -> Iterator[None]:
    """With clsact and cls_bpf, which every kernel has that has bpf_redirect_peer()."""
    device.namespace.rtnl.add_clsact(device)
    try:
        device.namespace.rtnl.add_filter(device, program, ingress=True)
        yield
    finally:
        qdisc.delete(device, "clsact")


def _row(protocol: Protocol, name: str, state: State, needs: tuple[str, ...] = (), **more: Any) -> Row[Way]:
    """One that is compared with what the same protocol costs by bpf_redirect(), as in the published figures."""
    return Row(f"{protocol}, {name}", state, needs, against=f"{protocol}, {REDIRECT}", **more)


def rows(protocol: Protocol) -> tuple[Row[Way], ...]:
    """All of one protocol."""
    peer = programs.redirect_peer
    return (
        redirected(protocol, REDIRECT, programs.redirect),
        redirected(protocol, REDIRECT_PEER, peer),
        redirected(protocol, "netkit, redirect_peer()", peer, "netkit", behind="netkit"),
        routed(protocol),
    )


def transact(way: Way, row: Row[Way], count: int) -> Sample:
    """That many requests and responses. Raises Refused where something gets lost, or is not there at once."""
    client, server = way.sockets
    outcome = _Outcome()
    error = way.library.rr(client.fileno(), server.fileno(), count, ctypes.byref(outcome))
    if error:
        raise Refused(f"a request or its response got lost: {os.strerror(-error)}")
    if outcome.waits:
        raise Refused(f"nothing had arrived {outcome.waits} times: softirqs were put off, and waiting was counted")
    return Sample(count, outcome.ns)


BENCHMARK = Benchmark(
    title="request and response of a host and a pod: routing, bpf_redirect(), bpf_redirect_peer(), netkit",
    unit="transaction",
    scene=way,
    rows=(
        *rows("UDP"),
        redirected("UDP", REDIRECT, programs.redirect, cost=COST),
        redirected("UDP", f"{REDIRECT}, again", programs.redirect, role="again"),
        *rows("TCP"),
    ),
    run=transact,
    sizes=tuple(range(10, 90, 10)),
    source="9aa1206e8f48, Linux 5.10",
)
