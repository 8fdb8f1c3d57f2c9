"""virtme-ng's command line with virtio-fs in place of 9p, and whom it is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness.errors import InfraError, UserError
from harness.guest import virtiofs

COMMAND = [
    *("qemu", "-m", "512M", "-fsdev", "local,id=virtfs3,path=/,security_model=none,readonly=on"),
    *("-device", "virtio-9p-pci,fsdev=virtfs3,mount_tag=/dev/root", "-device", "i6300esb,id=watchdog0"),
    *("-kernel", "/k", "-append", "-fsdev is a word of the kernel's"),
]


def test_9p_goes_and_all_else_stays() -> None:
    words = virtiofs.over_virtiofs(COMMAND, fd=9, memory_mb=512)
    text = " ".join(words)
    assert words[:8] == ["qemu", "-m", "512M", "-device", "i6300esb,id=watchdog0", "-kernel", "/k", "-append"]
    assert "9p" not in text
    assert "-fsdev is a word of the kernel's" in words
    assert "memory-backend-memfd,id=memory,size=512M,share=on -machine memory-backend=memory" in text
    assert "socket,id=rootfs,fd=9 -device vhost-user-fs-pci,chardev=rootfs,tag=ROOTFS" in text


def test_no_daemon(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(virtiofs, "DAEMONS", {str(tmp_path / "virtiofsd"): ()})
    with (tmp_path / "log").open("wb") as log, pytest.raises(InfraError, match="apt install virtiofsd"):
        virtiofs.serve_root(log, lambda: None)


def test_who_is_not_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(virtiofs, "DAEMONS", {"/bin/true": ()})
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with (tmp_path / "log").open("wb") as log, pytest.raises(UserError, match="leave --root virtme out"):
        virtiofs.serve_root(log, lambda: None)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts are root's")
def test_it_runs_where_nothing_can_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "daemon"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/written\n")
    program.chmod(0o755)
    monkeypatch.setattr(virtiofs, "DAEMONS", {str(program): ()})
    with (tmp_path / "log").open("wb") as log:
        process, end = virtiofs.serve_root(log, lambda: None)
        end.close()
        assert process.wait(30) != 0
    assert not (tmp_path / "written").exists()
    assert "Read-only file system" in (tmp_path / "log").read_text()
    (tmp_path / "ours").write_text("is not read-only")
