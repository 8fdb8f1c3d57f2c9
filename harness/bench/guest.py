"""Process 1 of a guest that counts: mounts what is needed, measures every row of a benchmark, tells it, powers off.

All of it, the job included, is in the initramfs; nothing from the host reaches the guest while it counts. The job is
``JOB``, JSON: ``{"benchmark": MODULE, "symbols": PATH, "rounds": 1}``. What came of it is one line of JSON on the
second serial port, at the very end:

    {"release": …, "title": …, "unit": …, "source": …, "thread": …,
     "rows": [{"name": …, "role": …, "expected": …, "against": …, "samples": [[COUNT, NS, QUANTUM], …],
               "keys": {NAME: [BEFORE, DURING, AFTER]}}, …]}
    {"refused": REASON}, or {"error": TRACEBACK}

A row that the kernel cannot do has ``absent``, a reason, and no samples. A state of a key is a list of its sites,
``["NOP" or "JMP", ADDRESS, INSTRUCTION]``, the latter two hexadecimal.
"""

from __future__ import annotations

import ctypes
import fcntl
import importlib
import json
import os
import struct
import termios
import traceback
import tty
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.bench.mark import Marks
from harness.guest import agent

if TYPE_CHECKING:
    from selftests.bench.benchmark import Benchmark, Row
    from selftests.lib.static_key import Key

JOB = Path("/kproof/job.json")
REPORT = "/dev/ttyS1"
WARM_UP = 3
"""Runs before those that count: they fill caches of the kernel's allocator."""

_SHORT, _SHORT_BEGIN = 2, (b"\x66\x90", b"\xeb")
"""x86's patched instructions of two bytes: their length, and how they begin."""

_RNDADDENTROPY = 0x40085203
"""random(4), for a pointer of int, int and bytes."""


def main() -> None:
    """Does not return: the guest powers off."""
    try:
        report = _report()
    except BaseException:
        report = {"error": traceback.format_exc()}
    try:
        _tell(report)
    finally:
        ctypes.CDLL(None).reboot(agent.RB_POWER_OFF)


def _report() -> dict[str, Any]:
    agent.prepare()
    _seed()
    job = json.loads(JOB.read_text())
    from selftests.bench.benchmark import Refused
    from selftests.lib import static_key
    from selftests.lib.features import PROBES

    os.environ[static_key.SYMBOLS] = job["symbols"]
    benchmark: Benchmark[Any] = importlib.import_module(job["benchmark"]).BENCHMARK
    for feature in benchmark.needs:
        if reason := PROBES[feature]():
            return {"refused": reason}
    try:
        with benchmark.scene() as scene:
            rows = [_measure(benchmark, scene, row, job["rounds"]) for row in benchmark.rows]
    except Refused as error:
        return {"refused": str(error)}
    return {
        "release": os.uname().release,
        "title": benchmark.title,
        "unit": benchmark.unit,
        "source": benchmark.source,
        "thread": benchmark.thread,
        "rows": rows,
    }


def _measure(benchmark: Benchmark[Any], scene: Any, row: Row[Any], rounds: int) -> dict[str, Any]:
    from selftests.bench.benchmark import Refused
    from selftests.lib.features import PROBES

    told = {"name": row.name, "role": row.role, "expected": row.expected, "against": row.against}
    for feature in row.needs:
        if reason := PROBES[feature]():
            return {**told, "absent": reason}
    keys = _known(benchmark)
    marks, samples = Marks(), []
    before = [_sites(key) for key in keys]
    try:
        with row.state(scene):
            during = [_sites(key) for key in keys]
            for size in (*benchmark.sizes[-WARM_UP:], *benchmark.sizes * rounds):
                with marks.window():
                    samples.append(benchmark.run(scene, row, size))
    except Refused as error:
        raise Refused(f"{row.name}: {error}") from None
    after = [_sites(key) for key in keys]
    return {
        **told,
        "samples": [[sample.count, sample.ns, sample.quantum] for sample in samples[WARM_UP:]],
        "keys": {key.name: states for key, *states in zip(keys, before, during, after, strict=True)},
    }


def _known(benchmark: Benchmark[Any]) -> list[Key]:
    """Those of the benchmark's keys that this kernel has."""
    found = []
    for key in benchmark.keys:
        try:
            found.append(key())
        except LookupError:
            continue
    return found


def _sites(key: Key) -> list[list[str]]:
    found = []
    for site in key.state().sites:
        length = _SHORT if site.instruction.startswith(_SHORT_BEGIN) else len(site.instruction)
        state = "NOP" if site.falls_through else "JMP"
        found.append([state, f"{site.address:x}", site.instruction[:length].hex()])
    return found


def _seed() -> None:
    """Something to begin with, the same each time: without it, whoever asks for random numbers waits for a second."""
    seed = bytes(64)
    with open("/dev/random", "wb", buffering=0) as device:
        fcntl.ioctl(device, _RNDADDENTROPY, struct.pack("ii", len(seed) * 8, len(seed)) + seed)


def _tell(report: dict[str, Any]) -> None:
    fd = os.open(REPORT, os.O_RDWR | os.O_NOCTTY)
    tty.setraw(fd)
    data = json.dumps(report).encode() + b"\n"
    while data:
        data = data[os.write(fd, data) :]
    termios.tcdrain(fd)


if __name__ == "__main__":
    main()
