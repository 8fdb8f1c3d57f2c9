"""Files that are there completely or not at all, and what a full disk means."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.errors import InfraError, UserError

CHUNK = 1 << 20


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn what the disk refuses while kproof writes to ``folder`` into InfraError that says how to mend it."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise full(folder) from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            place = error.filename or folder
            raise InfraError(f"{place}: {error.strerror}; set KPROOF_CACHE to a folder that can be written") from error
        raise


def full(folder: Path, left: str = "no space left") -> InfraError:
    return InfraError(f"{left} on the disk of {folder}; free some (kproof kernels prune), or set KPROOF_CACHE")


def write(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write a file atomically: readers see the old one or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:60]}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        temporary.chmod(mode)
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    write(path, json.dumps(value, indent=1, sort_keys=True).encode() + b"\n")


def read_json(path: Path) -> Any:
    """The value in a file that kproof wrote; None when it is missing or cannot be read back."""
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def read_user_file(path: Path, what: str) -> bytes:
    """A file that the user named; UserError when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{what} {path}: {error.strerror or error}") from None


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def digest(value: Any) -> str:
    """16 hex digits over anything that JSON can say."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


@contextmanager
def scratch(parent: Path, prefix: str) -> Iterator[Path]:
    """A temporary folder beside what it will become, gone when the block is left."""
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=parent, prefix=f".{prefix}-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
