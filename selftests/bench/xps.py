"""What choosing a transmit queue by a BPF program costs (patches/xps_bpf): pktgen through a device with four queues.

While no device has a program, a static key keeps the hook out of the way.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from selftests.bench.benchmark import Benchmark, Row, nothing
from selftests.bench.egress import ADDED, OK, Devices, tc
from selftests.bench.sending import SIZES, THREAD, send
from selftests.lib import bpf, programs, xps
from selftests.lib.netns import Namespace
from selftests.lib.static_key import Key

QUEUES = 4


@contextmanager
def devices() -> Iterator[Devices]:
    with Namespace.create("bench") as namespace:
        foo, other = (namespace.rtnl.add_dummy(name, num_tx_queues=QUEUES) for name in ("foo", "bar"))
        yield Devices(foo, other)


def program(name: str, queue: int, *, elsewhere: bool = False) -> Row[Devices]:
    """A program that returns a queue."""

    @contextmanager
    def state(scene: Devices) -> Iterator[None]:
        with (
            bpf.load_filter(programs.ret(queue)) as loaded,
            xps.link(loaded, scene.other if elsewhere else scene.foo),
        ):
            yield

    return Row(name, state, ("xps_bpf",))


def key() -> Key:
    """On while any device has a program."""
    return Key.named("netdev_xps_bpf_key")


BENCHMARK: Benchmark[Devices] = Benchmark(
    title="XPS by BPF programs: pktgen, queue_xmit on a dummy device with four queues",
    unit="packet",
    scene=devices,
    rows=(
        Row("none", nothing),
        program("program on another device", 1, elsewhere=True),
        program("program returns -1", -1),
        program("program returns 1", 1),
        tc(OK),
        tc(OK, ADDED),
        Row("none, again", nothing, role="again"),
    ),
    run=lambda scene, row, count: send(scene.foo, row, count),
    sizes=SIZES,
    thread=THREAD,
    needs=("pktgen",),
    keys=(key,),
    symbols=("netdev_xps_bpf_key",),
    source="patches/xps_bpf, after an RFC of 2019",
)
