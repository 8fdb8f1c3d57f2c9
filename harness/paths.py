"""Where kproof keeps things: the user's cache folder, and the project's ``build/`` and ``results/``. Nowhere else."""

from __future__ import annotations

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def project_root() -> Path:
    """The checkout that this package is in: the folder of ``kconfigs/``, ``patches/``, ``selftests/`` and ``bpf/``."""
    return PACKAGE.parent


def cache_root() -> Path:
    """``$KPROOF_CACHE``, else ``$XDG_CACHE_HOME/kproof``, else ``~/.cache/kproof``. Not created here."""
    if explicit := os.environ.get("KPROOF_CACHE"):
        return Path(explicit).absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "kproof"
