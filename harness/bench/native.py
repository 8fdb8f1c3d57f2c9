"""C of ours for the performance lab, compiled on the host into shared objects: QEMU's plugin, and workloads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness import command
from harness.kernel.files import digest, disk_errors, scratch, write
from harness.paths import cache_root, project_root

FLAGS = ("-O2", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror", "-fPIC", "-shared", "-fvisibility=hidden")
LIMIT = 60.0
KEPT = 4
"""Objects of one source: an edit, or another compiler, makes a new one."""


def shared_object(source: Path, headers: Sequence[Path] = ()) -> Path:
    """``source`` (one C file, which includes ``headers`` of its folder) as a shared object in the cache.

    Made again when one of them, the flags or the compiler changed. Raises InfraError when gcc is missing or fails.
    """
    command.require("gcc", "ld")
    compiler = command.run(["gcc", "--version"], limit=LIMIT).text.splitlines()[0]
    texts = [path.read_text() for path in (source, *headers)]
    folder = cache_root() / "native"
    target = folder / f"{source.stem}-{digest([compiler, FLAGS, texts])}.so"
    with disk_errors(folder):
        if target.exists():
            target.touch()
            return target
        with scratch(folder, source.stem) as work:
            fresh = work / target.name
            command.run(["gcc", *FLAGS, "-o", fresh, source], limit=LIMIT)
            fresh.rename(target)
        made = sorted(folder.glob(f"{source.stem}-*.so"), key=lambda path: path.stat().st_mtime)
        for old in made[:-KEPT]:
            old.unlink(missing_ok=True)
    return target


def workload(benchmark: str, folder: Path) -> dict[str, Path]:
    """What ``build/bench/NAME.so`` of the project is, for a benchmark that has a ``NAME.c`` beside it; else nothing.

    ``benchmark`` is its module below ``folder``, ``selftests.bench.NAME``. By path from the project's root, as a guest
    finds it.
    """
    source = folder.joinpath(*benchmark.split(".")).with_suffix(".c")
    if not source.exists():
        return {}
    made, name = shared_object(source), f"build/bench/{source.stem}.so"
    target = project_root() / name
    if not target.exists() or target.read_bytes() != made.read_bytes():
        write(target, made.read_bytes(), mode=0o755)
    return {name: target}
