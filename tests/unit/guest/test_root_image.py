"""The frozen root's image: a damaged one is not used, what killed runs left goes."""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path

import pytest

from harness.guest import image


def erofs(blocks: int) -> bytes:
    """A superblock of 4096-byte blocks, and room for as many as it says."""
    head = struct.pack("<I8xB23xI", 0xE0F5E1E2, 12, blocks)
    return (bytes(1024) + head).ljust(blocks << 12, b"\0")


@pytest.mark.parametrize(
    ("data", "whole"),
    [
        (erofs(3), True),
        (erofs(3)[:-1], False),
        (erofs(3)[:1050], False),
        (b"", False),
        (bytes(3 << 12), False),
    ],
)
def test_an_image_is_as_long_as_it_says(tmp_path: Path, data: bytes, whole: bool) -> None:
    path = tmp_path / "root.erofs"
    assert not image._is_whole(path)
    path.write_bytes(data)
    assert image._is_whole(path) is whole


def test_what_a_killed_run_left_goes_after_an_hour(tmp_path: Path) -> None:
    for name, age in (("making-old", 4000), ("making-new", 10)):
        (tmp_path / name / "tree").mkdir(parents=True)
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    image._forget_old(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["making-new"]
