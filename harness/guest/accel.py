"""Which accelerator works here, and how fast this host emulates. Both are found out by running a guest.

/dev/kvm may exist, open and create a virtual machine and still not run one (nested virtualisation does that), so its
presence proves nothing.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from harness.errors import InfraError, UserError
from harness.guest.machine import qemu_program
from harness.kernel.files import disk_errors, read_json, write_json
from harness.model import Accelerator
from harness.paths import cache_root

FORMAT = 2
"""Of what is remembered."""
ENOUGH = 2
"""Kernels that must fail under KVM until no other one is tried: one that does not end takes the whole limit."""
PROBE_LIMIT = 5.0  # seconds
# Seconds that the ROM's loop took under TCG on the host that all limits were set on: two cores of 2.6 GHz.
REFERENCE_SECONDS = 0.42
SLOWEST = 20.0
LOOPS = 1 << 26
DONE = 33  # isa-debug-exit: (0x10 << 1) | 1


@dataclass(frozen=True)
class Host:
    """What was measured of this host since it booted."""

    accel: Accelerator
    reason: str
    """Why not KVM, or how it was seen to work."""
    speed: float
    """At least 1.0: how much slower than the reference this host emulates; every limit is multiplied by it."""


def measured_host(kernel: Path | None = None) -> Host:
    """What this host can do, measured at most once per boot of the host.

    Where a few instructions of a ROM run under KVM, a whole boot of ``kernel`` decides. Its success is remembered for
    all kernels, its failure for this one, because the kernel may be what is broken; the failure of ENOUGH kernels is
    the host's.
    """
    memory = cache_root() / "host.json"
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    known = read_json(memory) or {}
    if (known.get("format"), known.get("boot")) != (FORMAT, boot):
        known = {"format": FORMAT, "boot": boot, "speed": _speed(), "no_kvm": _why_no_kvm(None)}
        known |= {"kernel_ran": False, "failed": {}}
    why_not = known["no_kvm"]
    if kernel and not why_not and not known["kernel_ran"]:
        failed: dict[str, str] = known["failed"]
        if str(kernel) not in failed:
            known["kernel_ran"] = not (why_not := _why_no_kvm(kernel))
            if why_not:
                failed[str(kernel)] = why_not
        why_not = why_not or failed.get(str(kernel), "")
        if len(failed) >= ENOUGH and not known["kernel_ran"]:
            known["no_kvm"] = why_not
    with disk_errors(memory.parent):
        write_json(memory, known)
    ran = "a kernel booted" if known["kernel_ran"] else "a probe ran"
    return Host(accel="tcg" if why_not else "kvm", reason=why_not or ran, speed=known["speed"])


def choose(asked: str | None, kernel: Path) -> Host:
    """The accelerator to use: what was asked for, if it works, else the best that does.

    Raises UserError when KVM is asked for and does not run a guest here.
    """
    host = measured_host(kernel)
    if asked == "kvm" and host.accel != "kvm":
        raise UserError(f"--accel kvm: KVM does not run a guest here ({host.reason}); leave the option out, or use tcg")
    if asked == "tcg":
        return Host("tcg", "asked for", host.speed)
    return host


def _why_no_kvm(kernel: Path | None) -> str:
    """Empty when a KVM guest ran to its end, else the reason in a few words."""
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR))
    except OSError as error:
        return f"/dev/kvm: {error.strerror}"
    with tempfile.TemporaryDirectory(prefix="kproof-probe-") as scratch:
        if kernel:
            # It finds no root, panics and reboots, which ends QEMU: a whole boot of a real kernel.
            what, ends = ["-kernel", str(kernel), "-append", "panic=-1", "-m", "256"], 0
        else:
            what, ends = ["-bios", _rom(Path(scratch), 1), "-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"], DONE
        command = [*_bare("kvm"), "-cpu", "host", *what]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_LIMIT, check=False)
        except FileNotFoundError:
            raise _no_qemu() from None
        except subprocess.TimeoutExpired:
            return f"a probe guest did not end within {PROBE_LIMIT:.0f} s"
    if done.returncode == ends:
        return ""
    complaint = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
    return f"a probe guest failed: {complaint}"


def _speed() -> float:
    """How much slower than the reference a fixed loop runs under TCG; raises InfraError when it does not run."""
    with tempfile.TemporaryDirectory(prefix="kproof-probe-") as scratch:
        command = [*_bare("tcg"), "-bios", _rom(Path(scratch), LOOPS), "-device", "isa-debug-exit,iobase=0xf4,iosize=4"]
        start = time.monotonic()
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        except FileNotFoundError:
            raise _no_qemu() from None
        except subprocess.TimeoutExpired:
            raise InfraError(
                "QEMU did not finish a probe of half a second within 60 s: is this host overloaded?"
            ) from None
    if done.returncode != DONE:
        raise InfraError(f"QEMU does not work here: {done.stderr.strip() or f'status {done.returncode}'}")
    return round(min(SLOWEST, max(1.0, (time.monotonic() - start) / REFERENCE_SECONDS)), 2)


def _bare(accel: str) -> list[str]:
    return [qemu_program(), "-machine", "q35", "-accel", accel, "-nodefaults", "-display", "none", "-no-reboot"]


def _rom(folder: Path, loops: int) -> str:
    """A 64 KiB BIOS that counts down from ``loops`` and leaves through isa-debug-exit, in 16-bit real mode."""
    code = (
        b"\x66\xb9" + loops.to_bytes(4, "little")  # mov ecx, loops
        + b"\x66\x49"  # again: dec ecx
        + b"\x75\xfc"  # jnz again
        + b"\xba\xf4\x00"  # mov dx, 0xf4
        + b"\xb0\x10"  # mov al, 0x10
        + b"\xee"  # out dx, al
        + b"\xf4"  # hlt
    )  # fmt: skip
    rom = bytearray(b"\xf4" * 0x10000)
    rom[: len(code)] = code
    rom[0xFFF0:0xFFF3] = b"\xe9\x0d\x00"  # the reset vector: jmp 0
    path = folder / "probe.rom"
    path.write_bytes(rom)
    return str(path)


def _no_qemu() -> InfraError:
    return InfraError(f"{qemu_program()} is missing; run: apt install qemu-system-x86")
