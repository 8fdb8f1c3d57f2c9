"""Answers that are worth keeping: a pure function of its key, one small JSON file each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.kernel.files import digest, read_json, write_json


def memo(folder: Path, name: str, key: Any, compute: Callable[[], Any]) -> Any:
    """``compute()``, or what it answered before for an equal ``key``. Failures (exceptions) are never kept.

    ``key`` and answer are JSON values; the key must hold everything that the answer depends on.
    """
    path = folder / f"{name}-{digest(key)}.json"
    kept = read_json(path)
    if isinstance(kept, dict) and kept.get("key") == key:
        return kept["answer"]
    answer = compute()
    write_json(path, {"key": key, "answer": answer})
    return answer
