"""The store of finished kernels: one folder per identity, complete or not there.

``manifest.json`` is written first, with the command that reproduces the kernel, into a folder beside the final one;
the rename at the end is what makes a kernel exist. It lists every file with its size: an entry that does not match is
not served.
"""

from __future__ import annotations

import fcntl
import os
import re
import shlex
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.kernel.files import read_json, write, write_json
from harness.kernel.fragments import render
from harness.model import IMAGE, Kernel, Patch, Recipe, Request, SeriesState, SeriesStatus, Source, Version

FORMAT = 1
"""Of the manifest. A kernel with another one is not served."""
FILES = ("bzImage", "vmlinux", "System.map", "config", "build.log")
READY_FILES = ("bzImage", "System.map", "config", "modules.erofs")
"""Of a ready-made kernel, which may have more: vmlinux, and the modules in floor/."""
REQUESTED = "requested.config"
"""All settings that were asked of Kconfig, merged."""


@dataclass(frozen=True)
class Finished:
    """What a build gives to the store besides files."""

    release: str
    proof: tuple[tuple[str, str], ...]
    seconds: float
    objects: int
    """How many were compiled for this kernel."""


class Entry:
    """A kernel on its way into the store. Without ``finish`` nothing of it will be served."""

    def __init__(self, store: Store, recipe: Recipe, request: Request) -> None:
        self.store = store
        self.identity = recipe.identity
        self.folder = store.root / f".incoming-{self.identity}"
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        # whoever prunes sees that somebody works here
        self._hold = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(self._hold, fcntl.LOCK_EX)
        names = []
        for number, patch in enumerate(recipe.patches, 1):
            names.append(f"patches/{number:04}.patch")
            write(self.folder / names[-1], patch.text)
        write(self.folder / REQUESTED, render(recipe.settings).encode())
        pinned = _pinned(recipe, request, store.root / self.identity, names)
        self._manifest: dict[str, Any] = {
            "format": FORMAT,
            "identity": self.identity,
            "command": f"kproof exec {shlex.quote(str(pinned))} -- uname -r",
            "request": str(request),
            "source": {**asdict(recipe.source), "version": str(recipe.source.version)},
            "series": [asdict(one) for one in recipe.series],
            "patches": [
                {"name": patch.name, "sha256": patch.sha256, "file": name}
                for patch, name in zip(recipe.patches, names, strict=True)
            ],
            "settings": [list(pair) for pair in recipe.settings],
            "flavours": list(recipe.flavours),
            "toolchain": recipe.toolchain,
            "arch": recipe.arch,
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        write_json(self.folder / "manifest.json", self._manifest)

    @property
    def log(self) -> Path:
        return self.folder / "build.log"

    def finish(self, finished: Finished, files: Sequence[str] = FILES) -> Kernel:
        """Serve it from now on. All of ``files`` must be in ``folder``."""
        self._manifest |= {
            "release": finished.release,
            "proof": [list(pair) for pair in finished.proof],
            "seconds": round(finished.seconds, 3),
            "objects": finished.objects,
            "files": {name: (self.folder / name).stat().st_size for name in files},
        }
        write_json(self.folder / "manifest.json", self._manifest)
        final = self.store.root / self.identity
        # what is there was not served (half, or of another format)
        if final.exists():
            shutil.rmtree(final)
        self.folder.rename(final)
        self._release()
        kernel = self.store.get(self.identity)
        assert kernel is not None
        return kernel

    def fail(self, failed: Path) -> Path:
        """Keep log and manifest of a failed build under ``failed``; returns the log's path."""
        target = failed / self.identity
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        self.folder.rename(target)
        self._release()
        return target / "build.log"

    def discard(self) -> None:
        """Leave nothing of it. After ``finish`` or ``fail`` there is nothing to leave."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._release()

    def _release(self) -> None:
        if self._hold >= 0:
            os.close(self._hold)
            self._hold = -1


def _pinned(recipe: Recipe, request: Request, final: Path, patches: Sequence[str]) -> Request:
    """The request that means the same tomorrow; ``final`` is the folder that the kernel will have."""
    source = pin(recipe.source, request.source)
    if request.ready_made:
        return replace(request, source=source)
    return replace(
        request,
        source=source,
        # the saved copies hold the series' own patches, too
        series=tuple(one.name for one in recipe.series if one.state is SeriesState.PRESENT),
        patches=tuple(str(final / name) for name in patches),
        upstream="",
        # as fragments and flavours were then
        configs=(str(final / REQUESTED),),
        settings=(),
    )


def pin(source: Source, spec: str) -> str:
    """A source's name that means the same tree tomorrow."""
    scheme = re.match(f"(?:{IMAGE})?debian:", spec)
    return source.label.replace("debian ", scheme[0], 1) if scheme else spec


class Store:
    """Kernels under ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def begin(self, recipe: Recipe, request: Request) -> Entry:
        """A place for a kernel that is about to be built. The caller holds the kernel's lock."""
        return Entry(self, recipe, request)

    def get(self, identity: str) -> Kernel | None:
        """The kernel of exactly this identity; None when there is none that is complete."""
        folder = self.root / identity
        manifest = read_json(folder / "manifest.json")
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            return None
        ready_made = manifest["source"]["spec"].startswith(IMAGE)
        files = manifest.get("files", {})
        try:
            whole = all((folder / name).stat().st_size == size for name, size in files.items())
        except OSError:
            return None
        if not whole or not set(READY_FILES if ready_made else FILES) <= files.keys():
            return None
        return Kernel(
            identity=manifest["identity"],
            folder=folder,
            version=Version.parse(manifest["source"]["version"]),
            release=manifest["release"],
            request=manifest["request"],
            series=_series(manifest),
            config_proof=tuple((symbol, value) for symbol, value in manifest["proof"]),
            seconds=manifest["seconds"],
            ready_made=ready_made,
        )

    def find(self, prefix: str) -> Kernel:
        """The kernel whose identity begins with ``prefix``. UserError when there is none, or more than one."""
        if not prefix or not all(character in "0123456789abcdef" for character in prefix):
            raise UserError(f"kernel:{prefix}: an identity has the digits 0-9 and a-f; see kproof kernels")
        found = [kernel for name in self._names() if name.startswith(prefix) and (kernel := self.get(name))]
        if not found:
            raise UserError(f"kernel:{prefix}: the store has no such kernel; see kproof kernels")
        if len(found) > 1:
            names = ", ".join(kernel.identity for kernel in found)
            raise UserError(f"kernel:{prefix} means several kernels: {names}; write more digits")
        return found[0]

    def recipe(self, kernel: Kernel) -> Recipe:
        """The recipe that a stored kernel was built from."""
        manifest = read_json(kernel.manifest)
        source = manifest["source"]
        return Recipe(
            source=Source(source["spec"], Version.parse(source["version"]), source["identity"], source["label"]),
            series=_series(manifest),
            patches=tuple(
                Patch(patch["name"], (kernel.folder / patch["file"]).read_bytes()) for patch in manifest["patches"]
            ),
            settings=tuple((symbol, value) for symbol, value in manifest["settings"]),
            flavours=tuple(manifest["flavours"]),
            toolchain=manifest["toolchain"],
            arch=manifest["arch"],
        )

    def kernels(self) -> list[tuple[Kernel, int, float]]:
        """All kernels, newest first, each with its size in bytes and its time (seconds since the epoch)."""
        rows = []
        for name in self._names():
            if kernel := self.get(name):
                size = sum(path.stat().st_size for path in kernel.folder.rglob("*") if path.is_file())
                rows.append((kernel, size, kernel.manifest.stat().st_mtime))
        return sorted(rows, key=lambda row: row[2], reverse=True)

    def prune(self, keep: int) -> list[str]:
        """Remove all but the ``keep`` newest kernels, and entries that are not served; returns what was removed.

        What processes that were killed left goes, too.
        """
        if keep < 0:
            raise UserError(f"--keep {keep}: write 0 or more")
        kept = {kernel.identity for kernel, _, _ in self.kernels()[:keep]}
        removed = [name for name in self._names() if name not in kept]
        for name in removed:
            self.remove(name)
        for left in [*self.root.glob(".incoming-*"), *self.root.glob(".doomed-*")]:
            if _abandoned(left):
                shutil.rmtree(left, ignore_errors=True)
        return removed

    def remove(self, identity: str) -> None:
        """Remove one kernel that is there."""
        # renamed first: a reader sees all of it or nothing
        doomed = self.root / f".doomed-{identity}"
        shutil.rmtree(doomed, ignore_errors=True)
        (self.root / identity).rename(doomed)
        shutil.rmtree(doomed)

    def _names(self) -> list[str]:
        if not self.root.is_dir():
            return []
        return sorted(path.name for path in self.root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _abandoned(folder: Path) -> bool:
    """Whether nobody works in a folder any more; a new one has a minute to be taken."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return time.time() - os.fstat(descriptor).st_mtime > 60.0
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)


def _series(manifest: dict[str, Any]) -> tuple[SeriesStatus, ...]:
    return tuple(SeriesStatus(one["name"], SeriesState(one["state"]), one["reason"]) for one in manifest["series"])
