"""Guests whose clock counts instructions: QEMU's TCG with ``-icount shift=0`` (docs/devel/tcg-icount.rst of QEMU).

One instruction is one nanosecond of the guest's time, whatever the host does meanwhile, and a processor that has
nothing to do lets time jump to the next timer. So a guest that no one reaches repeats to the instruction, and what its
clock says of a loop that never sleeps is the number of instructions in it.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.bench import initramfs
from harness.bench.windows import plugin
from harness.errors import BootError, InfraError, UserError
from harness.events import Progress, Sink, ignore
from harness.guest import machine
from harness.guest.console import death_title, read_tail
from harness.guest.launch import check_image, die_with, require_qemu
from harness.guest.machine import Device
from harness.guest.splats import splats
from harness.model import Kernel

LIMIT = 300.0
"""Seconds that a guest may take, times the host's speed."""
AT_ONCE = max(1, min(4, os.cpu_count() or 1))

JOB = "/kproof/job.json"
SYMBOLS = "/kproof/symbols"
_JUMP_TABLE = ("__start___jump_table", "__stop___jump_table")
_SYMBOL = re.compile(r"^([0-9a-f]+) (\w) (\S+)$", re.M)


@dataclass(frozen=True)
class Boot:
    """One guest of a kernel, to come."""

    kernel: Kernel
    root: Path
    """The archive of harness.bench.initramfs."""
    benchmark: str
    symbols: tuple[str, ...]
    folder: Path
    """Where its console, its report and QEMU's command line go."""
    memory_mb: int = 512
    rounds: int = 1
    """How often a row's sizes are run through."""
    profile: bool = False
    """With the plugin that counts by function, which changes nothing of what the guest does."""

    @property
    def windows(self) -> Path:
        """What the plugin counts."""
        return self.folder / "windows"


@dataclass
class _Guests:
    """Those that run, so that an interruption ends them."""

    running: set[subprocess.Popen[bytes]] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)
    ended: bool = False

    @contextmanager
    def one(self, command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
        with self.lock:
            if self.ended:
                raise InfraError("interrupted")
            with log.open("wb") as output:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                    preexec_fn=die_with(os.getpid()),
                )
            self.running.add(process)
        try:
            yield process
        finally:
            process.kill()
            process.wait()
            self.running.discard(process)

    def end(self) -> None:
        with self.lock:
            self.ended = True
            for process in self.running:
                process.kill()


def counting_machine(memory_mb: int) -> Device:
    """One processor, no devices, a clock of instructions, and a kernel that adds nothing by chance."""
    return Device(
        qemu=(
            "-machine", "q35",
            "-accel", "tcg,thread=single",
            "-icount", "shift=0,sleep=off,align=off",
            "-cpu", "qemu64,-rdrand",
            "-rtc", "base=2020-01-01,clock=vm",
            "-m", str(memory_mb),
            "-smp", "1",
            "-nodefaults", "-no-user-config", "-display", "none",
            "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
            "-nic", "none",
        ),
        kernel=(
            *("nokaslr", "norandmaps", "tsc=reliable", "no_timer_check", "random.trust_cpu=off", "mitigations=off"),
            # calibrating that timer, which then is found not to work, takes a kernel half of its boot
            "nolapic_timer",
            # not the kernel's: it hands on to init what it does not know
            "PYTHONHASHSEED=0",
        ),
    )  # fmt: skip


def root_in_memory(archives: Path, report: Path) -> Device:
    """The initramfs, and the second serial port that the report comes through."""
    return Device(
        qemu=(
            "-initrd", str(archives),
            "-chardev", f"file,id=report,path={machine.escape(str(report))}", "-serial", "chardev:report",
        ),
    )  # fmt: skip


def run_boots(
    boots: Sequence[Boot], *, speed: float, events: Sink = ignore, at_once: int = AT_ONCE
) -> list[dict[str, Any]]:
    """The reports of all boots (harness/bench/guest.py), as many at once as there are processors.

    Raises UserError for what the guest refuses, BootError for a kernel that dies or complains, InfraError for a guest
    that cannot be used.
    """
    require_qemu()
    for boot in boots:
        if boot.kernel.ready_made:
            raise UserError(
                f"{boot.kernel.request} is ready-made, with its drivers in modules: instructions are counted in"
                " kernels that are built (debian:6.12)"
            )
        check_image(boot.kernel.boot_image)
    guests = _Guests()
    with ThreadPoolExecutor(at_once) as pool:
        futures = [pool.submit(_run, boot, guests, LIMIT * speed) for boot in boots]
        try:
            for done, future in enumerate(as_completed(futures), 1):
                future.result()
                events(Progress(done, len(boots), "boots"))
            return [future.result() for future in futures]
        except BaseException:
            guests.end()
            raise


def _run(boot: Boot, guests: _Guests, limit: float) -> dict[str, Any]:
    folder = boot.folder
    folder.mkdir(parents=True, exist_ok=True)
    console, report = folder / "console.log", folder / "report.json"
    archives = folder / "initramfs"
    archives.write_bytes(boot.root.read_bytes() + _job(boot))
    command = machine.command_line(
        [
            counting_machine(boot.memory_mb),
            machine.direct_boot(str(boot.kernel.boot_image)),
            machine.serial_console(str(console)),
            root_in_memory(archives, report),
            *([plugin(boot.windows)] if boot.profile else []),
        ]
    )
    (folder / "qemu.sh").write_text("#!/bin/sh\nexec " + shlex.join(command) + "\n")
    try:
        with guests.one(command, folder / "qemu.log") as process:
            try:
                process.wait(limit)
            except subprocess.TimeoutExpired:
                raise BootError(f"the guest did not end within {limit:.0f} s: {_evidence(console)}") from None
    finally:
        archives.unlink()
    return read_report(report, console, folder / "qemu.log")


def read_report(report: Path, console: Path, log: Path) -> dict[str, Any]:
    """The guest's report. Raises as ``run_boots``."""
    try:
        told: dict[str, Any] = json.loads(report.read_text())
    except (OSError, ValueError):
        if complaint := log.read_text(errors="replace").strip():
            raise InfraError(f"QEMU failed: {complaint.splitlines()[-1]}") from None
        raise BootError(f"the kernel ended before the benchmark did: {_evidence(console)}") from None
    if found := splats(read_tail(console, lines=10_000)):
        raise BootError(f"the kernel complained while it was measured: {found[0].title}\n  whole console: {console}")
    if "refused" in told:
        raise UserError(str(told["refused"]))
    if "error" in told:
        raise InfraError(f"the guest failed: {told['error'].strip().splitlines()[-1]}; see {report}")
    return told


def _evidence(console: Path) -> str:
    tail = "\n".join("    " + line for line in read_tail(console, 20).splitlines())
    title = death_title(read_tail(console)) or "it says no reason"
    return f"{title}\n{tail or '    (the console is empty)'}\n  whole console: {console}"


def _job(boot: Boot) -> bytes:
    wanted = {*boot.symbols, *_JUMP_TABLE}
    lines = [line[0] for line in _SYMBOL.finditer(boot.kernel.system_map.read_text()) if line[3] in wanted]
    job = {"benchmark": boot.benchmark, "symbols": SYMBOLS, "rounds": boot.rounds}
    return initramfs.archive({JOB: json.dumps(job).encode(), SYMBOLS: "".join(f"{line}\n" for line in lines).encode()})
