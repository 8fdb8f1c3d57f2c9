"""What a program's result means: negative goes on to XPS, a queue in use is that queue, all else is queue 0.

Source: patches/xps_bpf, the hook in netdev_pick_tx(). The RFC took the result modulo the number of queues.
"""

from __future__ import annotations

import pytest

from selftests.lib import bpf, static_key
from selftests.lib.features import fresh_where_built
from selftests.lib.tracing import Events
from selftests.lib.xps import Attachment, Way
from selftests.xps_bpf.conftest import INT_MAX, INT_MIN, KINDS, NETKIT, WAYS, Load, MakeDevice

pytestmark = pytest.mark.feature("xps_bpf")

VALUES = (0, 1, 2, 3, 255, 256, 257, 65536, 65537, INT_MAX, -1, -256, INT_MIN)


def meaning(value: int, real: int, fallback: int) -> int:
    """The queue that a result stands for, where ``real`` are in use and XPS says ``fallback``."""
    if value < 0:
        return fallback
    return value if value < real else 0


@pytest.mark.parametrize("queues", [2, 4, 16])
@KINDS
def test_every_queue_in_use(make_device: MakeDevice, load: Load, kind: str, queues: int) -> None:
    """All queues of a device can be chosen; what is no queue is queue 0, and what is negative is left to XPS."""
    device = make_device(kind, queues)
    device.maps_to(queues - 1)
    assert device.queue("no program") == queues - 1, "queue by XPS"
    values = (*VALUES, queues - 1, queues, queues + 1)
    expected = {value: meaning(value, queues, queues - 1) for value in values}
    found = {}
    for value in values:
        with Attachment("link", load(value), device.link):
            found[value] = device.queue(f"result {value}")
    assert found == expected, "queue by result"
    assert device.queue("no program again") == queues - 1, "queue by XPS after all programs"


@WAYS
@pytest.mark.parametrize(("kind", "queues"), [("veth", 4), ("tap", 4)])
def test_queues_that_are_not_in_use(make_device: MakeDevice, load: Load, way: Way, kind: str, queues: int) -> None:
    """A queue that the device has but does not use (real_num_tx_queues is 2) is no queue: 0, and not modulo 2."""
    device = make_device(kind, queues, real=2) if kind == "veth" else make_device(kind, 2)
    device.maps_to(1)
    found = {}
    for value in (0, 1, 2, 3, 255):
        with Attachment(way, load(value), device.link):
            found[value] = device.queue(f"result {value}")
    assert found == {0: 0, 1: 1, 2: 0, 3: 0, 255: 0}, "queue by result"


@pytest.mark.parametrize("kind", ["dummy", "veth", NETKIT])
def test_negative_without_a_map_is_the_flows_hash(make_device: MakeDevice, load: Load, kind: str) -> None:
    """A device without XPS maps: each flow keeps the queue that it had by its hash when the program says -1."""
    device = make_device(kind, 4)
    ports = range(4000, 4016)
    before = [device.flow(port) for port in ports]
    assert len(set(before)) > 1, f"all flows have the same queue, which shows nothing: {before}"
    with Attachment("link", load(-1), device.link):
        assert [device.flow(port) for port in ports] == before, "queues by hash with a program that says -1"


@fresh_where_built("NET_XPS_BPF")
def test_no_map_was_ever_set(make_device: MakeDevice, load: Load) -> None:
    """The hook does not hang on XPS's own static key, which is off until the first map of the machine."""
    assert static_key.state("xps_needed").is_off
    device = make_device()
    with Attachment("link", load(2), device.link):
        assert [device.flow(port) for port in range(4000, 4008)] == [2] * 8
    assert static_key.state("xps_needed").is_off


@pytest.mark.feature("bpf_events")
def test_tracepoint_tells_of_results_out_of_range(make_device: MakeDevice, load: Load) -> None:
    """net:xps_bpf_out_of_range: once for each such packet, with the device, the result and the queues in use."""
    device = make_device("veth", 4, real=2)
    with Events("net/xps_bpf_out_of_range") as events:
        for value in (0, 1, -1, INT_MIN):
            with Attachment("link", load(value), device.link):
                device.queue(f"result {value}")
        assert events.read() == [], "events of results in range"
        for value in (2, INT_MAX):
            with Attachment("link", load(value), device.link):
                assert device.queue(f"result {value}") == 0
        found = [(event["dev"], int(event["ret"]), int(event["real_num_tx_queues"])) for event in events.read()]
        assert found == [("x0", 2, 2), ("x0", INT_MAX, 2)]


def test_one_queue_in_use_is_not_asked_about(make_device: MakeDevice, load: Load, counters: bpf.Counters) -> None:
    """With real_num_tx_queues 1 there is nothing to choose, and no program runs."""
    device = make_device("veth", 4, real=1)
    with Attachment("link", load(3, counters), device.link):
        assert device.queue() == 0
    assert counters[0] == 0, "runs of the program"
