"""What the netfilter egress hook costs: the rows of the message of 42df6e1d221d "netfilter: Introduce egress hook".

pktgen sends through a dummy device in mode queue_xmit (samples/pktgen/pktgen_bench_xmit_mode_queue_xmit.sh): all of
__dev_queue_xmit(), and a driver that does nothing.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from selftests.bench.benchmark import Benchmark, Row, nothing
from selftests.bench.sending import SIZES, THREAD, send
from selftests.lib import qdisc, rtnetlink, static_key
from selftests.lib.netns import Namespace
from selftests.lib.rtnl import Link
from selftests.lib.static_key import NF_NETDEV_EGRESS, NFPROTO_NETDEV, Key

OK, SHOT = 0, 2
"""TC_ACT_…: include/uapi/linux/pkt_cls.h"""

_TC_H_MIN_EGRESS = 0xFFFFFFF3
_TCA_KIND, _TCA_OPTIONS = 1, 2
_TCA_BPF_OPS_LEN, _TCA_BPF_OPS, _TCA_BPF_FLAGS = 4, 5, 8
_ACT_DIRECT = 1
_ETH_P_ALL = 3

_RETURN, _ADD = 0x06, 0x04
"""Classic BPF: ``ret #k`` and ``add #k`` (Documentation/networking/filter.rst)."""

ADDED = 50
"""Instructions of the control. The JIT makes one of each ``add``: ``add eax, 1``."""


@dataclass(frozen=True)
class Devices:
    """Up, without a link to anything."""

    foo: Link
    """Packets leave through it."""
    other: Link

    @property
    def namespace(self) -> Namespace:
        return self.foo.namespace


@contextmanager
def devices() -> Iterator[Devices]:
    with Namespace.create("bench") as namespace:
        yield Devices(namespace.rtnl.add_dummy("foo"), namespace.rtnl.add_dummy("bar"))


@contextmanager
def clsact(scene: Devices) -> Iterator[None]:
    """``tc qdisc add dev foo clsact``"""
    qdisc.add(scene.foo, "clsact")
    try:
        yield
    finally:
        qdisc.delete(scene.foo, "clsact")


def bytecode(scene: Devices, *instructions: tuple[int, int]) -> None:
    """``tc filter add dev foo egress bpf da bytecode '…'``; instructions are pairs of code and constant."""
    filters = b"".join(struct.pack("<HBBI", code, 0, 0, constant) for code, constant in instructions)
    rtnetlink.change_tc(
        scene.namespace,
        rtnetlink.RTM_NEWTFILTER,
        scene.foo.index,
        rtnetlink.text(_TCA_KIND, "bpf"),
        rtnetlink.nest(
            _TCA_OPTIONS,
            rtnetlink.attribute(_TCA_BPF_OPS_LEN, struct.pack("<H", len(instructions))),
            rtnetlink.attribute(_TCA_BPF_OPS, filters),
            rtnetlink.u32(_TCA_BPF_FLAGS, _ACT_DIRECT),
        ),
        parent=_TC_H_MIN_EGRESS,
        info=1 << 16 | socket.htons(_ETH_P_ALL),
    )


def tc(verdict: int, added: int = 0) -> Row[Devices]:
    """``bytecode '1,6 0 0 VERDICT,'``, or the same behind so many additions."""

    @contextmanager
    def state(scene: Devices) -> Iterator[None]:
        with clsact(scene):
            bytecode(scene, *[(_ADD, 1)] * added, (_RETURN, verdict))
            yield

    if added:
        return Row(f"tc accept and {added} additions", state, ("clsact",), role="control", expected=added,
                   against="tc accept")  # fmt: skip
    return Row("tc drop" if verdict == SHOT else "tc accept", state, ("clsact",), drops=verdict == SHOT)


def nft(name: str, *rules: str, elsewhere: bool = False, drops: bool = False) -> Row[Devices]:
    """``nft add chain netdev t c { type filter hook egress device foo priority 0 ; }``, and rules."""

    @contextmanager
    def state(scene: Devices) -> Iterator[None]:
        scene.namespace.nft.add_chain(scene.other if elsewhere else scene.foo, rules=rules)
        try:
            yield
        finally:
            scene.namespace.nft.delete_table()

    return Row(name, state, ("nf_egress",), drops=drops)


def tc_key() -> Key:
    """On while tc or a chain is at egress of any device: what __dev_queue_xmit() looks at first."""
    return Key.named("egress_needed_key")


def hook_key() -> Key:
    """On while a chain is at the egress hook of any device."""
    return static_key.netfilter_hook(NFPROTO_NETDEV, NF_NETDEV_EGRESS)


BENCHMARK: Benchmark[Devices] = Benchmark(
    title="the netfilter egress hook: pktgen, queue_xmit on a dummy device",
    unit="packet",
    scene=devices,
    rows=(
        Row("none", nothing),
        Row("clsact", clsact, ("clsact",)),
        tc(OK),
        tc(SHOT),
        nft("nft on another device", elsewhere=True),
        nft("nft, empty chain"),
        nft("nft, one rule", "counter"),
        nft("nft, drop", "drop", drops=True),
        tc(OK, ADDED),
        Row("none, again", nothing, role="again"),
    ),
    run=lambda scene, row, count: send(scene.foo, row, count),
    sizes=SIZES,
    thread=THREAD,
    needs=("pktgen",),
    keys=(tc_key, hook_key),
    symbols=("egress_needed_key", "nf_hooks_needed"),
    source="42df6e1d221d, Linux 5.16",
)
