"""Programs of ours for guests: in place of the host's, because they know what a series adds to the kernel.

A series names them (series.toml, ``tools``). ``patches/NAME/tool.toml``, every key but ``optional`` needed:

    package = "iproute2"                    # Debian's source package
    version = "6.1.0"                       # the upstream version that the patches are for
    sha256 = "5ce12a…"                      # of its .orig.tar
    patches = ["0001-first.patch"]
    build = [["sh", "configure"], ["make"]] # in the patched tree; make gets as many jobs as there are processors
    programs = { ip = "ip/ip" }             # name in the guest, and the file in the built tree
    libraries = { libmnl = "libmnl-dev" }   # what pkg-config must know, and the Debian package that brings it
    optional = ["libcap"]                   # what the build would use if pkg-config knows it

Each is built once per identity (source, patches, toolchain, libraries) and kept in the cache.
"""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import command, paths
from harness.errors import InfraError, UserError
from harness.events import Phase, Sink, ignore
from harness.kernel import patching, toolchain
from harness.kernel.archive import Archive
from harness.kernel.files import digest, disk_errors, read_user_file, scratch
from harness.kernel.layout import Layout
from harness.kernel.locks import locked
from harness.kernel.series import Schema, Series, load_series, read_toml
from harness.kernel.source import unpack
from harness.model import Kernel, Patch, SeriesState

FILE = "tool.toml"
KEPT = 3
"""Builds of each tool; an edit of a patch makes a new one."""
BUILD_LIMIT = 1800.0
"""Seconds that one of its commands may take."""

_KEYS: dict[str, type] = {
    **dict.fromkeys(("package", "version", "sha256"), str),
    **dict.fromkeys(("patches", "build"), list),
    **dict.fromkeys(("programs", "libraries"), dict),
}


@dataclass(frozen=True)
class Tool:
    """What a tool.toml says."""

    name: str
    package: str
    version: str
    sha256: str
    patches: tuple[Patch, ...]
    build: tuple[tuple[str, ...], ...]
    programs: dict[str, str]
    libraries: dict[str, str]
    optional: tuple[str, ...]

    def __str__(self) -> str:
        count = len(self.patches)
        return f"{self.package} {self.version} with {count} patch{'es' if count > 1 else ''} of ours"


def load(path: Path) -> Tool:
    """Read one tool.toml. UserError, with file and line, for one that is malformed."""
    table, schema = read_toml(path, read_user_file(path, "tool"))
    schema.table(table, "", required=_KEYS, optional={"optional": list})
    _check_texts(schema, table)
    if not re.fullmatch(r"[0-9a-f]{64}", table["sha256"]):
        raise schema.error("sha256", f"{table['sha256']!r} is no sha256")
    for name in table["patches"]:
        if not (path.parent / name).is_file():
            raise schema.error("patches", f"there is no patch {name}")
    return Tool(
        name=path.parent.name,
        package=table["package"],
        version=table["version"],
        sha256=table["sha256"],
        patches=tuple(patch for name in table["patches"] for patch in patching.load(path.parent / name)),
        build=tuple(tuple(argv) for argv in table["build"]),
        programs=table["programs"],
        libraries=table["libraries"],
        optional=tuple(table.get("optional", [])),
    )


def _check_texts(schema: Schema, table: dict[str, Any]) -> None:
    """Whether what stands in lists and tables is texts."""
    for key in ("patches", "optional", "programs", "libraries", "build"):
        value = table.get(key, [])
        items = value.values() if isinstance(value, dict) else value
        if key == "build":
            if not all(isinstance(argv, list) and argv for argv in value):
                raise schema.error(key, "build must be a list of commands, each a list of texts")
            items = [word for argv in value for word in argv]
        if not all(isinstance(item, str) for item in items):
            raise schema.error(key, f"{key} must hold texts only")


def programs_for(kernel: Kernel, *, events: Sink = ignore) -> dict[str, Path]:
    """The programs that a kernel's series bring, by name; those not built yet are built (some seconds).

    Raises UserError for a tool.toml that is malformed or a patch that does not apply, InfraError when the archive has
    not its source, a library is missing or the build fails.
    """
    folder = paths.project_root() / "patches"
    names = {tool: None for series in load_series(folder) if _has(kernel, series) for tool in series.tools}
    found: dict[str, Path] = {}
    for name in names:
        found |= built(load(folder / name / FILE), events=events)
    return found


def _has(kernel: Kernel, series: Series) -> bool:
    """Whether a series is in a kernel: found or applied there, or its symbols are set, its patches given one by one."""
    if any(one.name == series.name and one.state is not SeriesState.ABSENT for one in kernel.series):
        return True
    return bool(series.symbols) and {(symbol, "y") for symbol in series.symbols} <= set(kernel.config_proof)


def built(tool: Tool, *, events: Sink = ignore) -> dict[str, Path]:
    """The programs of one tool, by name. Raises as ``programs_for`` does."""
    layout = Layout.default()
    with disk_errors(layout.root):
        folder = layout.tools / f"{tool.name}-{_identity(tool, layout)}"
        if not _is_whole(folder, tool):
            with locked(layout.locks / f"tool-{tool.name}.lock", what=f"builds {tool.name}", events=events):
                if not _is_whole(folder, tool):
                    _build(tool, folder, layout, events)
        os.utime(folder)
        return {name: folder / "bin" / name for name in tool.programs}


def _identity(tool: Tool, layout: Layout) -> str:
    command.require("pkg-config", "make")
    versions = {name: _library(name) for name in (*tool.libraries, *tool.optional)}
    if missing := [name for name in tool.libraries if not versions[name]]:
        packages = " ".join(tool.libraries[name] for name in missing)
        raise InfraError(f"{tool.name} is built with {', '.join(missing)}: not found; run: apt install {packages}")
    facts = {
        "source": tool.sha256,
        "patches": [patch.sha256 for patch in tool.patches],
        "build": tool.build,
        "programs": tool.programs,
        "libraries": versions,
        "toolchain": toolchain.describe(layout.memo),
        "machine": os.uname().machine,
    }
    return digest(facts)


def _library(name: str) -> str:
    """The version of a library as pkg-config knows it; empty when it does not."""
    done = command.run(["pkg-config", "--modversion", name], limit=30, check=False)
    return done.text.strip() if done.status == 0 else ""


def _is_whole(folder: Path, tool: Tool) -> bool:
    return all((folder / "bin" / name).is_file() for name in tool.programs)


def _build(tool: Tool, target: Path, layout: Layout, events: Sink) -> None:
    """Make ``target``, in one rename. The caller holds the tool's lock."""
    tarball = _tarball(tool, layout, events)
    for left in layout.tools.glob(f".{tool.name}-*"):  # of a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    events(Phase("tools", str(tool)))
    with scratch(layout.tools, tool.name) as folder:
        tree = unpack(tarball, folder / "tree")
        contents = patching.patched(
            tool.patches, lambda path: patching.read_content(tree / path), workspace=folder / "patching"
        )
        for path, content in contents.items():
            (tree / path).unlink(missing_ok=True)
            if content is not None:
                patching.write_content(tree / path, content)
        ready = folder / "ready"
        (ready / "bin").mkdir(parents=True)
        _run_commands(tool, tree, ready / "build.log", keep=layout.failed / target.name)
        for name, path in tool.programs.items():
            if not (tree / path).is_file():
                raise UserError(f"{tool.name}: the build made no {path}, which {FILE} names")
            shutil.copyfile(tree / path, ready / "bin" / name)
            (ready / "bin" / name).chmod(0o755)
        if target.exists():  # a part of one
            shutil.rmtree(target)
        ready.rename(target)
    _forget_old(tool, target)


def _tarball(tool: Tool, layout: Layout, events: Sink) -> Path:
    archive = Archive(layout.apt, layout.downloads, layout.locks, events)
    events(Phase("tools", f"looking for {tool.package} {tool.version} in the archive"))
    offer = archive.find_source(tool.package, tool.version)
    if offer.sha256 != tool.sha256:
        raise UserError(f"{tool.name}: {FILE} names another {offer.filename} than the archive has ({offer.sha256})")
    return archive.fetch(offer)


def _run_commands(tool: Tool, tree: Path, log: Path, *, keep: Path) -> None:
    """Build. InfraError with the last line that was no make's own; the log is kept below ``keep`` then."""
    # what made kproof itself may have been a make with job slots of its own
    env = {"MAKEFLAGS": f"-j{len(os.sched_getaffinity(0))}", "MAKELEVEL": ""}
    said: list[str] = []

    def on_line(line: str) -> None:
        if line.strip() and not re.match(r"make(\[\d+\])?: ", line):
            said.append(line.strip())

    with log.open("wb") as file:
        for argv in tool.build:
            file.write(f"$ {' '.join(argv)}\n".encode())
            file.flush()
            status = command.follow(argv, cwd=tree, limit=BUILD_LIMIT, on_line=on_line, log=file, env=env)
            if status != 0:
                break
        else:
            return
    shutil.rmtree(keep, ignore_errors=True)
    keep.mkdir(parents=True)
    kept = log.replace(keep / log.name)
    last = said[-1] if said else f"{argv[0]} exited {status}"
    raise InfraError(f"building {tool} failed: {last}\nbuild log: {kept}")


def _forget_old(tool: Tool, newest: Path) -> None:
    """Keep the builds used last: their folders have the time of their last use."""
    builds = [folder for folder in newest.parent.glob(f"{tool.name}-*") if folder != newest]
    for folder in sorted(builds, key=lambda build: build.stat().st_mtime)[: -(KEPT - 1)]:
        shutil.rmtree(folder, ignore_errors=True)
