"""A virtual machine as a list of small devices, each with its own QEMU and kernel arguments."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from dataclasses import dataclass

from harness.guest.agent import CONTROL, PORT
from harness.model import Accelerator

EMULATED = (
    # its clocks are consistent: no need to calibrate them against each other
    "tsc=reliable",
    "no_timer_check",
    # TCG (of QEMU 7.2) translates a program anew for each address that it is loaded to, so for each modprobe
    "norandmaps",
)
"""What an emulated machine's kernel is told."""


@dataclass(frozen=True)
class Device:
    """One concern: what QEMU is told about it, and what the kernel is told."""

    qemu: tuple[str, ...] = ()
    kernel: tuple[str, ...] = ()


def qemu_program() -> str:
    return f"qemu-system-{platform.machine()}"


def accelerator(accel: Accelerator, cpus: int) -> str:
    """What ``-accel`` gets.

    Before 8.1, QEMU may keep the translation of code that one processor patches while another one comes upon it: a
    static key that is switched under load ends in "Oops: int3". One thread that serves all processors in turn cannot
    meet that, and two of them cost 5 % more CPU time than one.
    """
    return f"tcg,thread={'multi' if cpus == 1 else 'single'}" if accel == "tcg" else "kvm"


def machine(accel: Accelerator, memory_mb: int, cpus: int) -> Device:
    """A bare q35 without default devices: it boots 0.1 s faster than the older pc under TCG."""
    return Device(
        qemu=(
            "-machine", "q35",
            "-accel", accelerator(accel, cpus),
            # max under TCG makes the kernel set up features that are then emulated, 10 % slower to boot
            "-cpu", "host" if accel == "kvm" else "qemu64",
            "-m", str(memory_mb),
            "-smp", str(cpus),
            "-nodefaults", "-no-user-config", "-display", "none",
            # no new privileges, no spawned processes, no obsolete system calls
            "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
            "-nic", "none",
        ),
        kernel=EMULATED if accel == "tcg" else (),
    )  # fmt: skip


def grace_periods() -> Device:
    """synchronize_rcu() asks the processors by interrupts instead of waiting for their ticks (kernel-parameters.txt).

    A close, an attach, the end of a device or namespace each wait for one or more: 0.05 ms instead of 16 ms under TCG,
    half of a run. call_rcu() is as ever. A test that wants the other kind writes 0 to /sys/kernel/rcu_expedited.
    """
    return Device(kernel=("rcupdate.rcu_expedited=1",))


def direct_boot(kernel: str, initramfs: str = "") -> Device:
    """The kernel without a boot loader. A panic ends QEMU: reboot at once, and do not come back."""
    initrd = ("-initrd", initramfs) if initramfs else ()
    return Device(qemu=("-kernel", kernel, *initrd, "-no-reboot"), kernel=("panic=-1",))


def serial_console(log: str) -> Device:
    """All that the kernel says, in a file on the host. Evidence, never transport."""
    return Device(
        qemu=("-chardev", f"file,id=console,path={escape(log)}", "-serial", "chardev:console"),
        kernel=("console=ttyS0,115200", "earlyprintk=serial,ttyS0,115200"),
    )


def ports(channel: int, control: int) -> Device:
    """The virtio-serial ports that the agent serves, each on one end of a socket pair that QEMU inherits."""
    return Device(
        qemu=(
            "-device", "virtio-serial-pci,id=kproof-serial",
            "-chardev", f"socket,id=channel,fd={channel}",
            "-device", f"virtserialport,chardev=channel,name={PORT}",
            "-chardev", f"socket,id=control,fd={control}",
            "-device", f"virtserialport,chardev=control,name={CONTROL}",
        ),
    )  # fmt: skip


def monitor(fd: int) -> Device:
    """QMP on one end of a socket pair."""
    return Device(qemu=("-chardev", f"socket,id=monitor,fd={fd}", "-mon", "chardev=monitor,mode=control"))


def restored_from(fd: int) -> Device:
    """The memory and devices of a snapshot, read from an open file; the guest goes on where it was saved."""
    return Device(qemu=("-incoming", f"fd:{fd}"))


def root_disk(image: str, init: str) -> Device:
    """The frozen root, read-only, so that any number of guests share one file."""
    return Device(
        qemu=(
            "-drive", f"file={escape(image)},if=none,id=root,format=raw,readonly=on",
            "-device", "virtio-blk-pci,drive=root",
        ),
        kernel=("root=/dev/vda", "rootfstype=erofs", "ro", f"init={init}"),
    )  # fmt: skip


def disk(image: str, serial: str) -> Device:
    """Another disk, read-only, that the agent finds by its serial number (at most 20 characters)."""
    return Device(
        qemu=(
            "-drive", f"file={escape(image)},if=none,id={serial},format=raw,readonly=on",
            "-device", f"virtio-blk-pci,drive={serial},serial={serial}",
        ),
    )  # fmt: skip


def shared_folder(tag: str, path: str) -> Device:
    """A host folder over 9p, read-only. Mounted by the agent after boot."""
    return Device(
        qemu=(
            "-fsdev", f"local,id={tag},path={escape(path)},security_model=none,readonly=on,multidevs=remap",
            "-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}",
        ),
    )  # fmt: skip


def entropy() -> Device:
    """Random numbers from the host: without them an emulated guest waits for its pool to fill."""
    return Device(
        qemu=("-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng"),
    )


def command_line(devices: Iterable[Device]) -> list[str]:
    """QEMU's argument vector for these devices."""
    devices = list(devices)
    kernel = [word for device in devices for word in device.kernel]
    return [qemu_program(), *(word for device in devices for word in device.qemu), "-append", " ".join(kernel)]


def escape(value: str) -> str:
    """QEMU's option syntax writes a comma twice."""
    return value.replace(",", ",,")
