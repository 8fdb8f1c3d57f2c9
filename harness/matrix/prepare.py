"""A cell's kernel, made ready by a process of its own, so that what breaks there breaks nothing else.

python -m harness.matrix.prepare RECIPE FACTS.json LAUNCHER
"""

from __future__ import annotations

import signal
import sys
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, Literal

from harness.errors import KproofError
from harness.kernel.files import read_json, write_json
from harness.model import Kernel, Request, Version


@dataclass(frozen=True)
class Facts:
    """What is known of a kernel that is there."""

    identity: str
    release: str
    version: str
    code: str
    """Kernels of equal code do the same; where no vmlinux tells, the identity."""
    root: str
    """Identity of the guests' root image; empty where that is the host's own root."""
    seconds: float = 0.0
    """What its build took, whenever that was; 0: it is a ready-made one."""

    @classmethod
    def read(cls, path: Path) -> Facts | None:
        """What a process left there; None: nothing that is whole."""
        kept: Any = read_json(path)
        if not isinstance(kept, dict) or kept.keys() != {field.name for field in fields(cls)}:
            return None
        return cls(**kept)

    @property
    def parsed(self) -> Version:
        return Version.parse(self.version)


def describe(kernel: Kernel, launcher: Literal["image", "virtme"]) -> Facts:
    """Look at a kernel of the store. Raises InfraError where it cannot be read, or no root image be made."""
    from harness.guest.image import frozen_root
    from harness.guest.tools import programs_for
    from harness.kernel import code
    from harness.kernel.layout import Layout
    from harness.kernel.memo import memo

    identity = kernel.identity
    if kernel.vmlinux.exists():
        compute = partial(code.code_identity, kernel.vmlinux)
        identity = memo(Layout.default().memo, "code", [code.FORMAT, kernel.identity], compute)
    root = frozen_root(programs_for(kernel)).identity if launcher == "image" else ""
    return Facts(kernel.identity, kernel.release, str(kernel.version), str(identity), root, kernel.seconds)


def main(recipe: str, facts: str, launcher: Literal["image", "virtme"]) -> None:
    """Obtain the kernel of a recipe and write its facts. Raises KproofError."""
    from harness.display import display_for
    from harness.kernel.obtain import obtain

    with display_for(sys.stdout) as display:
        kernel = obtain(Request.parse(recipe), events=display.sink)
        write_json(Path(facts), asdict(describe(kernel, launcher)))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        main(*sys.argv[1:])  # type: ignore[arg-type]
    except KproofError as error:
        print(f"kproof: {error}")
        sys.exit(error.exit_status)
