"""`make docs`: run in a guest what a document shows, and put the output between the document's markers, as it came.

``docs/transcripts/NAME.sh`` has the commands of a session, ``docs/NAME.md`` shows them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.guest.bpf import compile_objects
from harness.guest.image import SITE
from harness.guest.machine import qemu_program
from harness.paths import project_root

RECIPE = "debian:6.12"
"""With all series: the kernel that `make run` builds."""


@dataclass(frozen=True)
class Block:
    """A part of a document that is made."""

    document: str
    name: str
    program: tuple[str, ...]
    """A Python program that runs in the guest, and its arguments; what it writes is shown."""
    counts: bool = False
    """The guest's clock counts instructions, one as a nanosecond."""
    fence: str = "```\n"

    @property
    def begin(self) -> str:
        return f"<!-- {self.name}, made by `make docs`: begin -->\n{self.fence}"

    @property
    def end(self) -> str:
        return f"{self.fence}<!-- {self.name}, made by `make docs`: end -->\n"

    def parts(self, document: str) -> tuple[str, str, str]:
        """What stands before, between and behind the markers. Raises ValueError where they are not there, each once."""
        before, begin, rest = document.partition(self.begin)
        shown, end, after = rest.partition(self.end)
        if not begin or not end or self.begin in rest or self.end in after:
            raise ValueError(f"the markers of {self.name} are not there, or more than once")
        return before, shown, after


BLOCKS = (
    Block("xps-bpf", "session", ("ci/session.py", "docs/transcripts/xps-bpf.sh")),
    Block("xps-bpf", "cost", ("ci/xps_cost.py",), counts=True, fence=""),
)


def make(block: Block, recipe: str) -> str:
    """What the program of a block writes in a guest with two processors. Ends this one where it fails."""
    # the guest has the host's Python under the same path, in no folder of PATH, and its packages in a folder of its own
    python = ["env", f"PYTHONPATH={SITE}:{project_root()}", os.path.realpath(sys.executable), *block.program]
    kproof = [str(Path(sys.executable).with_name("kproof")), "exec", recipe, "--cpus", "2"]
    with tempfile.TemporaryDirectory(prefix="kproof-docs-") as folder:
        done = subprocess.run(
            [*kproof, *(["--accel", "tcg"] if block.counts else []), "--", *python],
            cwd=project_root(),
            env={**os.environ, **(counting(Path(folder)) if block.counts else {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
    if done.returncode:
        sys.stderr.write(done.stdout)
        sys.exit(f"{' '.join(block.program)}: it ended with status {done.returncode}")
    return done.stdout


def counting(folder: Path) -> Mapping[str, str]:
    """An environment in which QEMU's clock counts: a QEMU of ours in ``folder`` comes first, and adds the option."""
    qemu = shutil.which(qemu_program())
    if not qemu:
        sys.exit(f"{qemu_program()} is missing; run: apt install qemu-system-x86")
    ours = folder / qemu_program()
    ours.write_text(f'#!/bin/sh\nexec {qemu} "$@" -icount shift=0,sleep=off,align=off\n')
    ours.chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


def main() -> None:
    recipe = sys.argv[1] if len(sys.argv) > 1 else RECIPE
    compile_objects(project_root() / "bpf", project_root() / "build" / "bpf")
    for block in BLOCKS:
        document = project_root() / "docs" / f"{block.document}.md"
        block.parts(document.read_text())  # before the work
        shown = make(block, recipe)
        before, _, after = block.parts(document.read_text())
        document.write_text(before + block.begin + shown + block.end + after)
        print(f"{document.relative_to(project_root())}: {block.name}")


if __name__ == "__main__":
    main()
