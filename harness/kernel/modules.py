"""Modules of a ready-made kernel: found, unpacked, indexed, and packed for guests.

They are kept uncompressed in an erofs image: a guest would pay for each xz stream under emulation.
"""

from __future__ import annotations

import gzip
import lzma
import os
import re
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from harness import command
from harness.errors import InfraError, UserError

LIMIT = 300.0
KEPT = ("modules.order", "modules.builtin", "modules.builtin.modinfo")
"""What depmod reads besides the modules."""


def folder_of(release: str, folder: Path) -> Path:
    """The folder with the modules of ``release`` in a folder that a user named, or in what a package holds.

    That may be the folder itself, or one that has it at lib/modules/RELEASE. UserError when there is none.
    """
    for candidate in (folder, folder / release, *(folder / top / "modules" / release for top in ("lib", "usr/lib"))):
        if (candidate / "modules.builtin").is_file() or (candidate / "kernel").is_dir():
            return candidate
    raise UserError(f"{folder} has no modules of {release}: neither a folder kernel/ nor lib/modules/{release}")


def unpack_modules(source: Path, release: str, base: Path) -> Path:
    """Copy modules to ``base``/lib/modules/RELEASE, uncompressed and indexed; returns that folder."""
    command.require("depmod")
    target = base / "lib" / "modules" / release
    target.mkdir(parents=True)
    for name in KEPT:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    found = [path for path in (source / "kernel").rglob("*.ko*") if path.is_file()]
    for folder in {path.parent.relative_to(source) for path in found}:
        (target / folder).mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(lambda path: _plain(path, target / path.relative_to(source)), found))
    command.run(["depmod", "-b", base, release], limit=LIMIT)
    return target


def _plain(path: Path, target: Path) -> None:
    data = path.read_bytes()
    match path.suffix:
        case ".xz":
            data = lzma.decompress(data)
        case ".gz":
            data = gzip.decompress(data)
        case ".zst":
            data = command.run(["zstd", "-dc", "-q"], stdin=data, limit=LIMIT).out
        case ".ko":
            target.write_bytes(data)
            return
        case _:
            return
    target.with_suffix("").write_bytes(data)


def closure(names: list[str], release: str, base: Path) -> list[Path]:
    """The modules of these names and all that they need, in the order of loading; what is built in is left out.

    Raises InfraError that names the first one that does not exist.
    """
    command.require("modprobe")
    if not names:
        return []
    with tempfile.TemporaryDirectory(prefix="kproof-modprobe-") as nothing:
        argv: list[str | Path] = [
            "modprobe",
            "-C",
            nothing,
            "-d",
            base,
            "-S",
            release,
            "--show-depends",
            "--all",
            *names,
        ]
        done = command.run(argv, limit=LIMIT)
    return [Path(path) for path in dict.fromkeys(re.findall(r"^insmod (\S+)", done.text, re.M))]


def pack(folder: Path, image: Path) -> None:
    """An erofs image of a folder. Raises InfraError when mkfs.erofs fails."""
    command.require("mkfs.erofs")
    identical = ["--all-root", "-T0", "-U00000000-0000-0000-0000-000000000000"]
    done = command.run(["mkfs.erofs", "-zlz4", *identical, image, folder], limit=LIMIT, check=False)
    if done.status != 0:
        raise InfraError(f"mkfs.erofs failed: {done.complaint}")
