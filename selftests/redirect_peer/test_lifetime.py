"""What becomes of redirected packets when the pod goes: its namespace, its end of the pair, the host's.

Source of the promises: skb_do_redirect() of net/core/filter.c, which looks the device up with each packet and holds
none between them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from selftests.lib import programs, wait
from selftests.lib.bpf import Counters
from selftests.lib.capture import Capture
from selftests.lib.netns import Namespace
from selftests.redirect_peer.conftest import KINDS, MakeWay, Way, make_pair

pytestmark = pytest.mark.feature("redirect_peer")


@contextmanager
def traffic(way: Way) -> Iterator[None]:
    """Frames for the pod, as fast as a thread sends them, for the length of the block."""
    stop = threading.Event()
    failed: list[Exception] = []

    def flood() -> None:
        try:
            while not stop.is_set():
                way.send(b"flood")
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    assert not failed, f"sending from the source failed: {failed[0]}"


def runs(way: Way, counters: Counters) -> None:
    """Wait until the steering program has run some more: packets are on their way."""
    seen = counters[0]
    wait.until(lambda: counters[0] > seen + 5, "the steering program to run")


def steer_and_count(way: Way, counters: Counters) -> None:
    way.steer(programs.count(counters.fd, 0), programs.redirect_peer(way.door.index))


@pytest.mark.promise("pod-goes")
@KINDS
def test_namespace_goes_under_traffic(make_way: MakeWay, counters: Counters, kind: str) -> None:
    """The pod's namespace is destroyed while packets are redirected into it: both ends go, and the host goes on."""
    way = make_way(kind)
    steer_and_count(way, counters)
    host = way.door.namespace.rtnl
    with traffic(way):
        runs(way, counters)
        way.pod.namespace.close()
        wait.until(lambda: "door" not in host.names(), "the pair to go with the namespace")
        runs(way, counters)
    assert host.names() == {"lo", "entry"}, "devices of the host"


@pytest.mark.promise("pod-goes")
@KINDS
def test_pair_is_deleted_under_traffic(
    make_way: MakeWay, new_namespace: Callable[..., Namespace], counters: Counters, kind: str
) -> None:
    """The pair is deleted while packets are redirected to it; a new pair of the same names gets none of them."""
    way = make_way(kind)
    steer_and_count(way, counters)
    with traffic(way):
        runs(way, counters)
        way.door.delete()
        runs(way, counters)
    assert "pod" not in way.pod.namespace.rtnl.names(), "the pod's end after the host's was deleted"
    door, pod = make_pair(kind, way.door.namespace, new_namespace("next"))
    before = pod.stats
    way.send(b"nobody there")
    assert pod.stats == before, f"the new pair, ifindex {door.index} instead of {way.door.index}, got a packet"


@pytest.mark.promise("pod-goes")
@KINDS
def test_ends_go_down_and_up_under_traffic(make_way: MakeWay, counters: Counters, kind: str) -> None:
    """The pod's end goes down and up ten times while packets are redirected to it; then they arrive again."""
    way = make_way(kind)
    steer_and_count(way, counters)
    with traffic(way):
        for _ in range(10):
            way.pod.down()
            way.pod.up()
        runs(way, counters)
    with Capture(way.pod) as captured:
        way.send(b"still there")
        captured.up_to(b"still there")
