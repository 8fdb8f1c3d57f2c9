"""What a packet from the host to a pod costs: over veth with a program at tcx, over netkit with the program inside.

The packet ends in the pod's IP, because another is addressed; or the program sends it on through another device.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from selftests.bench.benchmark import Benchmark, Row, Sample, nothing
from selftests.bench.sending import SIZES, THREAD, send
from selftests.lib import asm, bpf, hooks, programs
from selftests.lib.asm import R0, Fragment
from selftests.lib.bpf import AttachType, Verdict
from selftests.lib.netns import Namespace
from selftests.lib.rtnl import Link

ADDED = 50
"""Instructions of the control. The JIT makes one of each ``add``: ``add rax, 1``."""
VETH, NETKIT = "veth", "netkit"


@dataclass(frozen=True)
class Pairs:
    """Host's ends of two pairs, whose other ends are in a pod."""

    veth: Link
    netkit: Link
    out: Link
    """A dummy device, for what is sent on."""

    def of(self, name: str) -> Link:
        return self.veth if name.startswith(VETH) else self.netkit


@contextmanager
def pairs() -> Iterator[Pairs]:
    with Namespace.create("host") as host, Namespace.create("pod") as pod:
        veth, _ = host.rtnl.add_veth("veth0", "veth1", pod)
        netkit, _ = host.rtnl.add_netkit("nk0", "nk1", pod)
        yield Pairs(veth, netkit, host.rtnl.add_dummy("out"))


def program(name: str, hook: AttachType, *, redirect: bool = False, added: int = 0, against: str = "") -> Row[Pairs]:
    """A program that lets packets pass, or sends them on, after so many additions."""

    @contextmanager
    def state(scene: Pairs) -> Iterator[None]:
        spin: Fragment = [asm.mov_imm(R0, 0), *[asm.add_imm(R0, 1)] * added]
        end = programs.redirect(scene.out.index) if redirect else programs.ret(Verdict.PASS)
        with bpf.load_classifier(spin, end) as loaded, hooks.link(loaded, scene.of(name), hook):
            yield

    if added:
        return Row(name, state, role="control", expected=added, against=against)
    return Row(name, state)


def run(scene: Pairs, row: Row[Pairs], count: int) -> Sample:
    # a packet that goes up a stack is that stack's alone
    return send(scene.of(row.name), row, count, options=("flag !SHARED",))


BENCHMARK: Benchmark[Pairs] = Benchmark(
    title="host to pod: veth with a program at tcx, netkit; pktgen, queue_xmit",
    unit="packet",
    scene=pairs,
    rows=(
        Row("veth", nothing),
        program("veth, tcx pass", AttachType.TCX_EGRESS),
        program("veth, tcx redirect", AttachType.TCX_EGRESS, redirect=True),
        Row("netkit", nothing),
        program("netkit pass", AttachType.NETKIT_PRIMARY),
        program("netkit redirect", AttachType.NETKIT_PRIMARY, redirect=True),
        program(f"netkit pass and {ADDED} additions", AttachType.NETKIT_PRIMARY, added=ADDED, against="netkit pass"),
        Row("veth, again", nothing, role="again"),
    ),
    run=run,
    sizes=SIZES,
    thread=THREAD,
    needs=("pktgen", "tcx", "netkit"),
    source="35dfaad7188c, Linux 6.7",
)
