"""`make docs`: run the session of each document in a guest, and put what it showed between the document's markers.

``docs/transcripts/NAME.sh`` has the commands, ``docs/NAME.md`` shows them. The output stands there as it came.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from harness.guest.bpf import compile_objects
from harness.guest.image import SITE
from harness.paths import project_root

BEGIN, END = "<!-- made by `make docs`: begin -->\n```\n", "```\n<!-- made by `make docs`: end -->\n"
RECIPE = "debian:6.12"
"""With all series: the kernel that `make run` builds."""


def show(session: Path, recipe: str) -> str:
    """The transcript of a session, from a guest with two processors. Ends the program where a command fails."""
    # the guest has the host's Python under the same path, in no folder of PATH, and its packages in a folder of its own
    python = [os.path.realpath(sys.executable), "ci/session.py", str(session.relative_to(project_root()))]
    kproof = [str(Path(sys.executable).with_name("kproof")), "exec", recipe, "--cpus", "2", "--"]
    done = subprocess.run(
        [*kproof, "env", f"PYTHONPATH={SITE}:{project_root()}", *python],
        cwd=project_root(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.stderr.write(done.stdout)
        sys.exit(f"{session}: the session ended with status {done.returncode}")
    return done.stdout


def parts(document: str) -> tuple[str, str, str]:
    """What stands before, between and behind the markers. Raises ValueError where they are not there, each once."""
    before, begin, rest = document.partition(BEGIN)
    shown, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in after:
        raise ValueError("the markers of a transcript are not there, or more than once")
    return before, shown, after


def main() -> None:
    recipe = sys.argv[1] if len(sys.argv) > 1 else RECIPE
    compile_objects(project_root() / "bpf", project_root() / "build" / "bpf")
    for session in sorted((project_root() / "docs" / "transcripts").glob("*.sh")):
        document = project_root() / "docs" / f"{session.stem}.md"
        before, _, after = parts(document.read_text())
        document.write_text(before + BEGIN + show(session, recipe) + END + after)
        print(document.relative_to(project_root()))


if __name__ == "__main__":
    main()
