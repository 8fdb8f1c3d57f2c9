"""What bpf_get_netns_cookie() costs: getpeername() under a program of the cgroup, with and without that call."""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from selftests.bench.benchmark import Benchmark, Refused, Row, Sample, nothing
from selftests.lib import asm, bpf, programs
from selftests.lib.asm import R0, R1, R6
from selftests.lib.bpf import AttachType, ProgType

LIBRARY = Path(__file__).parents[2] / "build" / "bench" / "cookie.so"
"""Made of cookie.c by the host (harness/bench/native.py)."""

ADDED = 50
"""Instructions of the control. The JIT makes one of each ``add``: ``add rax, 1``."""


@dataclass(frozen=True)
class Caller:
    """A socket, and the cgroup that it is in."""

    sock: socket.socket
    cgroup: int
    library: ctypes.CDLL


@contextmanager
def caller() -> Iterator[Caller]:
    library = ctypes.CDLL(str(LIBRARY))
    library.ask_often.restype = ctypes.c_int64
    library.ask_often.argtypes = [ctypes.c_int, ctypes.c_uint64]
    cgroup = os.open("/sys/fs/cgroup", os.O_RDONLY | os.O_DIRECTORY)
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect(("127.0.0.1", 9))
            yield Caller(sock, cgroup, library)
    finally:
        os.close(cgroup)


def program(name: str, *, calls: int = 0, added: int = 0, against: str = "") -> Row[Caller]:
    """A program that asks for the cookie so often, makes so many additions, and allows the call."""

    @contextmanager
    def state(scene: Caller) -> Iterator[None]:
        asking = [asm.mov_reg(R1, R6), asm.call(programs.HELPER_GET_NETNS_COOKIE)] * calls
        code = asm.program(asking, [asm.mov_imm(R0, 0), *[asm.add_imm(R0, 1)] * added], programs.ret(1))
        with (
            bpf.load(ProgType.CGROUP_SOCK_ADDR, code, expected_attach=AttachType.CGROUP_INET4_GETPEERNAME) as loaded,
            bpf.cgroup_link(loaded, scene.cgroup, AttachType.CGROUP_INET4_GETPEERNAME),
        ):
            yield

    if added:
        return Row(name, state, role="control", expected=added, against=against)
    return Row(name, state)


def ask(scene: Caller, row: Row[Caller], count: int) -> Sample:
    """That many calls. Raises Refused where one fails."""
    ns = scene.library.ask_often(scene.sock.fileno(), count)
    if ns < 0:
        raise Refused(f"getpeername() failed: {os.strerror(-ns)}")
    return Sample(count, ns)


BENCHMARK: Benchmark[Caller] = Benchmark(
    title="bpf_get_netns_cookie() in a program of a cgroup: getpeername() of a UDP socket",
    unit="call",
    scene=caller,
    rows=(
        Row("no program", nothing),
        program("program"),
        program("program, one cookie", calls=1),
        program("program, two cookies", calls=2),
        program(f"program and {ADDED} additions", added=ADDED, against="program"),
        Row("no program, again", nothing, role="again"),
    ),
    run=ask,
    sizes=tuple(range(200, 1800, 200)),
    needs=("netns_cookie",),
    source="f318903c0bf4, Linux 5.7",
)
