"""QEMU's command line, as a transcript: a change of it is a change of every snapshot and every exact cost."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import UserError
from harness.guest import machine
from harness.guest.launch import check_image


def test_the_command_line_of_an_emulated_guest() -> None:
    devices = [
        machine.machine("tcg", 512, 1),
        machine.grace_periods(),
        machine.direct_boot("/k/vmlinux"),
        machine.serial_console("/r/a,b/console.log"),
        machine.entropy(),
        machine.ports(channel=7, control=8),
        machine.root_disk("/c/root.erofs", "/init"),
        machine.shared_folder("project", "/p"),
    ]
    words = machine.command_line(devices)
    text = " ".join(words)
    assert words[0].startswith("qemu-system-")
    assert words[-2] == "-append"
    assert words[-1] == (
        "tsc=reliable no_timer_check norandmaps rcupdate.rcu_expedited=1 panic=-1"
        " console=ttyS0,115200 earlyprintk=serial,ttyS0,115200 root=/dev/vda rootfstype=erofs ro init=/init"
    )
    for part in (
        "-machine q35 -accel tcg,thread=multi -cpu qemu64 -m 512 -smp 1",
        "-nodefaults -no-user-config -display none",
        "-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny -nic none",
        "-kernel /k/vmlinux -no-reboot",
        "file,id=console,path=/r/a,,b/console.log",
        "socket,id=channel,fd=7 -device virtserialport,chardev=channel,name=kproof.channel",
        "socket,id=control,fd=8 -device virtserialport,chardev=control,name=kproof.control",
        "file=/c/root.erofs,if=none,id=root,format=raw,readonly=on",
        "local,id=project,path=/p,security_model=none,readonly=on,multidevs=remap",
    ):
        assert part in text


def test_processors_of_an_emulated_guest_share_a_thread() -> None:
    """Patched code is seen by all of them at once: before QEMU 8.1, threads of their own may keep old bytes."""
    assert "tcg,thread=single" in machine.machine("tcg", 512, 2).qemu


def test_kvm_takes_the_hosts_processor_and_no_clock_tuning() -> None:
    device = machine.machine("kvm", 1024, 2)
    assert "-cpu host" in " ".join(device.qemu)
    assert device.kernel == ()


@pytest.mark.parametrize(
    ("content", "good"),
    [(b"\x7fELF...", True), (b"\0" * 0x202 + b"HdrS", True), (b"#!/bin/sh\n", False), (b"", False)],
)
def test_only_a_kernel_is_taken_for_one(tmp_path: Path, content: bytes, good: bool) -> None:
    path = tmp_path / "image"
    path.write_bytes(content)
    if good:
        check_image(path)
    else:
        with pytest.raises(UserError, match="is not a kernel image"):
            check_image(path)


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"vmlinuz cannot be read: No such file"):
        check_image(tmp_path / "vmlinuz")


def test_a_kernel_whose_drivers_are_modules_gets_an_initramfs_and_disks() -> None:
    assert machine.direct_boot("/k", "/i").qemu == ("-kernel", "/k", "-initrd", "/i", "-no-reboot")
    assert " ".join(machine.disk("/a,b", "modules").qemu) == (
        "-drive file=/a,,b,if=none,id=modules,format=raw,readonly=on"
        " -device virtio-blk-pci,drive=modules,serial=modules"
    )
