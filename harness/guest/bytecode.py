"""The byte code of a project's tests, made by the host: a guest takes ten times as long, and cannot keep it.

It is in the project's build folder, which guests see, under the paths that the sources have. In a guest, all byte code
is below agent.BYTECODE (``sys.pycache_prefix``): the frozen root's own, and a link to the project's. What is there is
checked like any byte code, by the time and size of its source; what is not, the guest compiles.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

from harness import command
from harness.errors import InfraError
from harness.events import Notice, Sink
from harness.guest.agent import PROJECT_BYTECODE
from harness.kernel.files import digest, read_json, write_json

LIMIT = 120.0
"""Seconds for a collection on the host: two, and two more the first time."""


def compile_tests(project: Path, folders: Sequence[str], events: Sink) -> None:
    """Compile what pytest imports to collect these top-level folders, unless that was done for the files as they are.

    pytest does it, because it rewrites assertions. Tests that cannot be collected are no concern of this: a guest will
    say why. Where nothing can be written, a Notice says so.
    """
    place = project / PROJECT_BYTECODE
    stamp = place / f"{digest(list(folders))}.json"
    state = digest([sys.version, version("pytest"), [list(one) for one in _sources(project, folders)]])
    if not folders or read_json(stamp) == state:
        return
    argv = [sys.executable, "-m", "pytest", "--collect-only", "--quiet", "-p", "no:cacheprovider", *folders]
    env = {"PYTHONPYCACHEPREFIX": str(place), "PYTHONDONTWRITEBYTECODE": ""}
    try:
        command.run(argv, limit=LIMIT, cwd=project, env=env, check=False)
        write_json(stamp, state)
    except (InfraError, OSError) as error:
        events(Notice(f"the tests' byte code is left to the guests: {error}"))


def _sources(project: Path, folders: Sequence[str]) -> Iterator[tuple[str, int, int]]:
    for folder in folders:
        for path in sorted((project / folder).rglob("*.py")):
            info = os.lstat(path)  # of a link that leads nowhere, too
            yield str(path), info.st_mtime_ns, info.st_size
