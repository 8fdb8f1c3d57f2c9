"""The RFC's transcript: a tap with two queues, one for each processor by xps_cpus, and programs that decide instead.

Source: "[RFC PATCH net-next 0/2] XPS: add a BPF hook" (September 2019), whose cover letter pings from either processor
and reads ``trace_pipe``; there, the program could be neither unloaded nor asked for.
"""

from __future__ import annotations

import socket
from contextlib import ExitStack

import pytest

from selftests.lib import bpf, packet, programs, xps
from selftests.lib.netns import Namespace
from selftests.lib.tap import Tap
from selftests.lib.tracing import TracePipe
from selftests.lib.txqueues import XpsMaps, pinned
from selftests.lib.xps import Attachment, Way
from selftests.xps_bpf.conftest import WAYS

pytestmark = [pytest.mark.feature("xps_bpf"), pytest.mark.feature("two_processors")]

NEIGHBOUR, NEIGHBOUR_MAC = "10.8.0.2", bytes.fromhex("020000000802")
BY_PROCESSOR = (0, 1)


@pytest.fixture
def tap(namespace: Namespace, cleanup: ExitStack) -> Tap:
    """tap0 with two queues: the first for processor 0, the second for processor 1."""
    made = cleanup.enter_context(Tap(namespace, "tap0", 2))
    made.link.add_address("10.8.0.1/24")
    made.link.add_neighbour(NEIGHBOUR, NEIGHBOUR_MAC)
    cleanup.enter_context(XpsMaps(namespace)).set_cpus(made.link, [1, 2])
    return made


def ping(tap: Tap, cpu: int) -> int:
    """One echo request from a processor: the queue whose descriptor it comes out of."""
    text = f"ping from {cpu}".encode()
    with pinned(cpu), tap.link.namespace.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sock:
        sock.sendto(packet.echo_request(src="10.8.0.1", dst=NEIGHBOUR, payload=text)[20:], (NEIGHBOUR, 0))
    return tap.queue_of(text)


def queues(tap: Tap) -> tuple[int, int]:
    """Where processors 0 and 1 send to."""
    return ping(tap, 0), ping(tap, 1)


@WAYS
@pytest.mark.parametrize(
    ("returns", "expected"),
    [
        pytest.param(0, (0, 0), id="return-0"),
        pytest.param(1, (1, 1), id="return-1"),
        pytest.param(2, (0, 0), id="return-2-of-two-queues"),
        pytest.param(-1, BY_PROCESSOR, id="return-minus-1"),
    ],
)
def test_transcript(tap: Tap, cleanup: ExitStack, way: Way, returns: int, expected: tuple[int, int]) -> None:
    """Before: by processor. Loaded: what the program says, and its id is shown. Unloaded: by processor, and no id."""
    assert queues(tap) == BY_PROCESSOR, "queues before"
    assert xps.state(tap.link) is None, "a program is shown before one is loaded"
    program = cleanup.enter_context(bpf.filter_returning(returns))
    with Attachment(way, program, tap.link):
        assert queues(tap) == expected, f"queues with a program that returns {returns}"
        shown = xps.state(tap.link)
        assert shown is not None, "nothing is shown while a program is loaded"
        assert shown.prog_id == program.id
    assert queues(tap) == BY_PROCESSOR, "queues after it was unloaded"
    assert xps.state(tap.link) is None, "a program is shown after it was unloaded"


@pytest.mark.feature("bpf_events")
def test_trace_pipe(tap: Tap, cleanup: ExitStack) -> None:
    """The program runs on the processor that sends: bpf_trace_printk() says so in trace_pipe, one line a packet."""
    code = [programs.trace_printk("Hello, queue 1!"), programs.ret(1)]
    program = cleanup.enter_context(bpf.load_filter(*code))
    with TracePipe() as pipe, Attachment("netlink", program, tap.link):
        for cpu in (0, 1):
            assert ping(tap, cpu) == 1
            line = pipe.line_with("Hello, queue 1!")
            assert f"[{cpu:03d}]" in line, f"not from processor {cpu}: {line}"
