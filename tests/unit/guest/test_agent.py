"""The parts of a guest's agent that need no guest."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from harness.guest import agent

DEVNAME = """\
# Device nodes to trigger on-demand module loading.
tun net/tun c10:200
fuse fuse c10:229
dm_mod mapper/control c10:236
"""


def test_device_files_that_load_modules(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made: dict[str, tuple[int, int, int]] = {}

    def mknod(path: Path, mode: int, device: int) -> None:
        if path.name == "fuse":
            raise FileExistsError
        assert stat.S_ISCHR(mode)
        made[str(path)] = (stat.S_IMODE(mode), os.major(device), os.minor(device))

    monkeypatch.setattr(os, "mknod", mknod)
    monkeypatch.setattr(Path, "mkdir", lambda *words, **options: None)
    table = tmp_path / "modules.devname"
    table.write_text(DEVNAME)
    agent._make_nodes(table)
    assert made == {"/dev/net/tun": (0o600, 10, 200), "/dev/mapper/control": (0o600, 10, 236)}


def test_kernel_without_such_modules(tmp_path: Path) -> None:
    agent._make_nodes(tmp_path / "modules.devname")
