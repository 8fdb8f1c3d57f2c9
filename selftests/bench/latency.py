"""Latencies of request and response with sockperf (https://github.com/Mellanox/sockperf), a pair of it per processor.

In the manner of percpu_netperf, which the figures of 9aa1206e8f48 "bpf: Add redirect_peer helper" come from: on each
processor a client of its own, bound to it, at nice -20, and what each of them has measured.
"""

from __future__ import annotations

import fcntl
import re
import socket
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from selftests.bench.benchmark import Refused
from selftests.lib import wait
from selftests.lib.netns import Namespace

PORT = 11111
"""Of the first processor's server; the others follow."""
STEPS = 1000
"""Of the curve."""

_SIOCGSKNS = 0x894C
"""The namespace that a socket is in: include/uapi/linux/sockios.h."""
_ROUND_TRIP = re.compile(r"^\d+, [\d.]+, [\d.]+, +([\d.]+)$", re.M)
"""Microseconds, of a line of sockperf's full log: ``0, 2.433423863, 2.433436952, 13.089``."""


def ping_pong(client: socket.socket, server: socket.socket, cpus: Sequence[int], seconds: int) -> list[dict[str, Any]]:
    """On each of ``cpus`` and all at once a sockperf where ``client`` is, and one where ``server`` is, for so long.

    It has their protocol and the server's address, and its own ports. For each processor: ``cpu``, ``said`` (the
    client's output), and ``curve``: the round trips' quantiles in steps of 1/STEPS, in ns. Raises Refused where
    sockperf fails.
    """
    tcp = server.type == socket.SOCK_STREAM
    address = server.getsockname()[0]
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        here, there = (
            stack.enter_context(Namespace(fcntl.ioctl(end, _SIOCGSKNS), name))
            for end, name in ((client, "client"), (server, "server"))
        )

        def start(where: Namespace, cpu: int, *words: str) -> subprocess.Popen[str]:
            with where.entered():
                process = _start(cpu, *words, "-i", address, "-p", str(PORT + cpu), *(["--tcp"] if tcp else []))
            stack.callback(_end, process)
            return process

        for cpu in cpus:
            start(there, cpu, "server")
        for cpu in cpus:
            wait.until(_listens(there, PORT + cpu, tcp=tcp), f"sockperf's server on processor {cpu} to listen")
        asked = ("-t", str(seconds), "--full-rtt", "--full-log")
        clients = [start(here, cpu, "ping-pong", *asked, str(scratch / str(cpu))) for cpu in cpus]
        told = []
        for cpu, process in zip(cpus, clients, strict=True):
            said, _ = process.communicate(timeout=wait.limit(seconds + 30))
            if process.returncode or "ERROR" in said:  # its status is 0 also where it could not connect
                raise Refused(f"sockperf failed: {(said.strip().splitlines() or ['it said nothing'])[-1]}")
            told.append({"cpu": cpu, "said": said, "curve": _curve((scratch / str(cpu)).read_text())})
        return told


def _start(cpu: int, *words: str) -> subprocess.Popen[str]:
    """Its own clock wants to know the processor's rate, which an emulated processor has not."""
    return subprocess.Popen(
        ["taskset", "-c", str(cpu), "sockperf", *words, "--no-rdtsc"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    if process.stdout:
        process.stdout.close()


def _listens(namespace: Namespace, port: int, *, tcp: bool) -> Callable[[], bool]:
    """Whether a socket is bound to a port: /proc/net has address and port in hexadecimal."""
    return lambda: f":{port:04X} " in namespace.read(f"/proc/net/{'tcp' if tcp else 'udp'}")


def _curve(log: str) -> list[float]:
    taken = sorted(1000 * float(value) for value in _ROUND_TRIP.findall(log))
    if not taken:
        raise Refused("sockperf has measured nothing: it takes half a second to begin")
    return [round(taken[round(step * (len(taken) - 1) / STEPS)], 1) for step in range(STEPS + 1)]
