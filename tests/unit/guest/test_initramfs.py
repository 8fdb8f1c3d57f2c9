"""What loads the modules of a ready-made kernel: in which order, and with what at its end."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from harness.guest.initramfs import initramfs
from harness.model import Kernel, Version


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    floor = tmp_path / "floor"
    floor.mkdir()
    for name in ("01-erofs.ko", "00-crc32.ko", "10-overlay.ko"):
        (floor / name).write_bytes(name.encode())
    return Kernel("0" * 16, tmp_path, Version(6, 12), "6.12.0", "image:x", (), (), 0.0, ready_made=True)


def unpacked(archive: Path, target: Path) -> dict[str, bytes]:
    target.mkdir()
    subprocess.run(["cpio", "-id", "--quiet", "init", "plan", "*.ko"], stdin=archive.open(), cwd=target, check=True)
    return {str(path.relative_to(target)): path.read_bytes() for path in target.rglob("*") if path.is_file()}


def test_modules_in_order_then_the_root(kernel: Kernel, tmp_path: Path) -> None:
    files = unpacked(initramfs(kernel, mount=("erofs", "/dev/vda"), init="/sbin/x"), tmp_path / "out")
    assert files.pop("init").startswith(b"\x7fELF")
    plan = files.pop("plan").decode()
    assert plan.splitlines() == [
        "load /00-crc32.ko",
        "load /01-erofs.ko",
        "load /10-overlay.ko",
        "mount erofs /dev/vda",
        "exec /sbin/x",
    ]
    assert files == {name: name.encode() for name in ("00-crc32.ko", "01-erofs.ko", "10-overlay.ko")}


def test_the_program_needs_no_library(kernel: Kernel, tmp_path: Path) -> None:
    unpacked(initramfs(kernel, mount=("erofs", "/dev/vda"), init="/sbin/x"), tmp_path / "out")
    done = subprocess.run(["readelf", "-ld", tmp_path / "out/init"], capture_output=True, text=True, check=True)
    assert "INTERP" not in done.stdout
    assert "no dynamic section" in done.stdout


def test_each_root_has_its_own(kernel: Kernel) -> None:
    one = initramfs(kernel, mount=("erofs", "/dev/vda"), init="/sbin/x")
    assert initramfs(kernel, mount=("erofs", "/dev/vda"), init="/sbin/x") == one
    assert initramfs(kernel, mount=("virtiofs", "host"), init="/sbin/x") != one
