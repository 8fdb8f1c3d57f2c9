"""The project as a disk, for kernels without 9p: an erofs image of its files as they are now.

Modification times are kept to the nanosecond: they tell a restored guest which of its modules are old. The disk has the
same size whatever is on it, because a restored guest believes the size that it has seen when it booted.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from harness import command
from harness.errors import InfraError, UserError
from harness.kernel.files import digest, disk_errors, scratch
from harness.paths import cache_root

LEFT_OUT = r"(^|/)(\.[^/]+|__pycache__|[^/]*\.egg-info|node_modules)(/|$)|^results(/|$)"
"""Paths, as from the project's folder, that no guest reads: hidden files, virtual environments, results."""
SPAN = 1 << 28
"""Bytes of the disk; most of them are a hole in the file."""
LIMIT = 120.0
KEPT = 4
"""Images: each edit of a test makes another."""


def project_disk(project: Path) -> Path:
    """The image, from the cache or made now (a tenth of a second for 2 MB).

    Raises UserError for a project that is too large, InfraError when mkfs.erofs is missing or fails.
    """
    files = list(_files(project))
    if (total := sum(size for _, _, size in files)) > SPAN // 2:
        raise UserError(
            f"{project} has {total >> 20} MB of files, and this kernel has no 9p to share it: guests get at most"
            f" {SPAN >> 21} MB; move what tests do not need to a folder whose name begins with a dot"
        )
    folder = cache_root() / "projects"
    with disk_errors(folder):
        path = folder / f"{digest([LEFT_OUT, str(project), files])}.erofs"
        if path.exists():
            path.touch()
        else:
            _make(project, path)
            for old in sorted(folder.glob("*.erofs"), key=lambda image: image.stat().st_mtime)[:-KEPT]:
                old.unlink(missing_ok=True)
    return path


def _files(project: Path) -> Iterator[tuple[str, int, int]]:
    """Path, modification time (ns) and size of what guests see, folders included."""
    for here, folders, names in os.walk(project):
        inside = os.path.relpath(here, project)
        prefix = "" if inside == "." else f"{inside}/"
        folders[:] = sorted(
            name
            for name in folders
            if not re.search(LEFT_OUT, prefix + name) and not Path(here, name, "pyvenv.cfg").exists()
        )
        for name in [*folders, *sorted(names)]:
            if not re.search(LEFT_OUT, prefix + name):
                info = os.lstat(Path(here, name))
                yield prefix + name, info.st_mtime_ns, info.st_size


def _make(project: Path, target: Path) -> None:
    command.require("mkfs.erofs")
    target.parent.mkdir(parents=True, exist_ok=True)
    environments = [path.parent.relative_to(project) for path in project.glob("*/pyvenv.cfg")]
    with scratch(target.parent, "making") as folder:
        image = folder / "image"
        words: list[str | Path] = ["-Eforce-inode-extended", "--preserve-mtime", f"--exclude-regex={LEFT_OUT}"]
        words += [f"--exclude-path={path}" for path in environments]
        done = command.run(["mkfs.erofs", *words, image, project], limit=LIMIT, check=False)
        if done.status != 0:
            raise InfraError(f"mkfs.erofs failed: {done.complaint}")
        os.truncate(image, SPAN)
        image.replace(target)
