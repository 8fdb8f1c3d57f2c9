"""What is known from earlier calls: a small file for each mutant and kernel, written as soon as there is a verdict."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from harness.kernel.files import digest, read_json, write_json

COMMON = ("selftests/*.*", "selftests/lib/**/*", "bpf/**/*", "*.ini", "pyproject.toml")
"""What every test rests on, besides its own folder."""


class Kept:
    """Answers by name; a newer one takes the place of the older. A file that cannot be read is none."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, name: list[str], key: Any) -> Any:
        """What was put under this name for an equal key, which holds all that it depends on; else None."""
        kept = read_json(self._path(name))
        return kept.get("answer") if isinstance(kept, dict) and kept.get("key") == key else None

    def put(self, name: list[str], key: Any, answer: Any) -> None:
        write_json(self._path(name), {"name": name, "key": key, "answer": answer})

    def forget(self, name: list[str]) -> None:
        self._path(name).unlink(missing_ok=True)

    def _path(self, name: list[str]) -> Path:
        return self._folder / f"mutate-{digest(name)}.json"


def contents(root: Path, folders: Iterable[str]) -> str:
    """A hash over the files of these test folders, and all that every test rests on. Folders are as from ``root``."""
    patterns = (*COMMON, *(f"{folder}/**/*" for folder in folders))
    files = {path for pattern in patterns for path in root.glob(pattern)}
    found = hashlib.sha256()
    for path in sorted(files):
        if path.is_file() and path.suffix != ".pyc":
            data = path.read_bytes()
            found.update(f"{path.relative_to(root)} {len(data)}\n".encode())
            found.update(data)
    return found.hexdigest()[:16]
