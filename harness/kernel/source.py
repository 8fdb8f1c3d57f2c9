"""From a source's name to an identified tree.

    debian:6.12          newest 6.12 kernel source of Debian's archive (the one downloaded already, until ``update``)
    debian:6.12.8        that release, from any suite that has it; debian:6.12.8-1 that Debian version
    tar:PATH             a tarball of a kernel tree
    git:PATH@REF         a commit of a git clone
    dir:PATH             a folder with a kernel tree, as it is now

What a source *is* (``Source``) is known without unpacking it a second time: only a build needs its tree.
"""

from __future__ import annotations

import re
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from harness import command
from harness.errors import InfraError, UserError
from harness.events import Phase, Sink
from harness.kernel.archive import Archive, Offer
from harness.kernel.files import read_json, scratch, sha256, write_json
from harness.kernel.layout import Layout
from harness.kernel.locks import locked
from harness.kernel.memo import memo
from harness.kernel.patching import Reader, read_content
from harness.kernel.tree import Tree
from harness.model import Source, Version

UNPACK_LIMIT = 1800.0
SCHEMES = "debian:VERSION, git:PATH@REF, dir:PATH, tar:PATH"


def locate(spec: str, *, layout: Layout, events: Sink, update: bool = False) -> Located:
    """Identify a source. UserError for a name that leads to no kernel tree, InfraError when the archive fails."""
    from harness.kernel.mirror import DirSource, GitSource

    scheme, colon, rest = spec.partition(":")
    if not colon or not rest:
        raise UserError(f"source {spec!r} is not understood; write one of {SCHEMES}")
    match scheme:
        case "debian":
            return DebianSource.locate(spec, rest, layout, events, update=update)
        case "tar":
            return TarSource.locate(spec, existing(rest, spec, folder=False), layout, events)
        case "git":
            path, at, ref = rest.rpartition("@")
            if not at or not path or not ref:
                raise UserError(f"source {spec!r} names no ref; write git:PATH@REF, for example git:~/linux@v6.12")
            return GitSource.locate(spec, existing(path, spec, folder=True), ref, layout, events)
        case "dir":
            return DirSource.locate(spec, existing(rest, spec, folder=True), layout, events)
    raise UserError(f"source scheme {scheme!r} is not known; write one of {SCHEMES}")


def existing(text: str, spec: str, *, folder: bool) -> Path:
    path = Path(text).expanduser().absolute()
    if not path.exists():
        raise UserError(f"{spec}: there is no {'folder' if folder else 'file'} {path}")
    if path.is_dir() != folder:
        raise UserError(f"{spec}: {path} is {'a file, not a folder' if folder else 'a folder, not a tarball'}")
    return path


def kernel_version(read: Reader, where: str) -> Version:
    """The version that a kernel tree's Makefile states. UserError when it is no kernel tree."""
    makefile = read("Makefile")
    text = makefile.data.decode(errors="replace") if makefile else ""
    parts = [re.search(rf"^{name}\s*=\s*(\d+)", text, re.M) for name in ("VERSION", "PATCHLEVEL", "SUBLEVEL")]
    if parts[0] is None or parts[1] is None or read("Kconfig") is None:
        raise UserError(f"{where} is no kernel tree: it has no Makefile with VERSION and PATCHLEVEL beside a Kconfig")
    return Version(int(parts[0][1]), int(parts[1][1]), int(parts[2][1]) if parts[2] else 0)


class Located(ABC):
    """A source that is known, and the way to its files."""

    source: Source
    tree_name: str
    """The tree folder in the cache. Sources that follow each other (commits of one clone) share one."""

    def __init__(self, source: Source, tree_name: str, layout: Layout) -> None:
        self.source = source
        self.tree_name = tree_name
        self.layout = layout

    @abstractmethod
    def prepare(self, events: Sink) -> Tree:
        """The tree with this source's files, unpacked or brought up to date. The caller holds ``writing``."""

    @abstractmethod
    def reading(self, events: Sink) -> AbstractContextManager[Reader]:
        """A context with a reader of the pristine files."""

    def sweep(self) -> None:
        """Remove what a process that was killed left of this tree. The caller holds ``writing``."""
        for left in self.layout.trees.glob(f".{self.tree_name}-*"):
            shutil.rmtree(left, ignore_errors=True)

    @contextmanager
    def writing(self, events: Sink) -> Iterator[None]:
        """Alone with the tree's files: while they are unpacked, updated or patched."""
        lock = self.layout.locks / f"tree-{self.tree_name}.lock"
        with locked(lock, what=f"changes the tree {self.tree_name}", events=events):
            yield

    @contextmanager
    def building(self, events: Sink) -> Iterator[None]:
        """Alone with the tree's content: from patching to the end of the build."""
        lock = self.layout.locks / f"build-{self.tree_name}.lock"
        with locked(lock, what=f"builds from the tree {self.tree_name}", events=events):
            yield


class Unpacked(Located):
    """A source that is one archive file: unpacked once, and then for ever."""

    @abstractmethod
    def archive(self, events: Sink) -> Path:
        """The archive file, complete and checked."""

    @property
    def tree(self) -> Tree:
        return Tree(self.layout.trees / self.tree_name)

    def prepare(self, events: Sink) -> Tree:
        if not self.tree.exists():
            path = self.archive(events)
            self.sweep()
            events(Phase("source", f"unpacking {path.name}"))
            with scratch(self.layout.trees, self.tree_name) as folder:
                top = unpack(path, folder / "unpacked")
                kernel_version(lambda name: read_content(top / name), self.source.spec)
                ready = Tree(folder / "tree")
                ready.folder.mkdir()
                top.rename(ready.src)
                self.tree.adopt(ready, attic=folder)
        return self.tree

    @contextmanager
    def reading(self, events: Sink) -> Iterator[Reader]:
        if not self.tree.exists():
            with self.writing(events):
                self.prepare(events)
        lock = self.layout.locks / f"tree-{self.tree_name}.lock"
        with locked(lock, what=f"changes the tree {self.tree_name}", events=events, shared=True):
            tree = self.tree
            yield tree.pristine


class DebianSource(Unpacked):
    _offer: Offer
    _archive: Archive

    @classmethod
    def locate(cls, spec: str, wanted: str, layout: Layout, events: Sink, *, update: bool) -> DebianSource:
        wanted_version = re.fullmatch(r"\d+\.\d+(\.\d+)?(-\S+)?", wanted)
        if not wanted_version:
            raise UserError(f"{spec}: write a series (debian:6.12), a release (debian:6.12.8) or a version with -1")
        archive = Archive(layout.apt, layout.downloads, layout.locks, events)
        record = layout.root / "sources" / f"debian-{wanted}.json"
        kept = read_json(record)
        offer = Offer(**kept) if isinstance(kept, dict) else None
        if offer is None or update:
            events(Phase("source", f"looking for {wanted} in the archive"))
            found = archive.newest(wanted, update=update)
            if offer != found:
                write_json(record, vars(found))
            offer = found
        source = Source(spec, Version.parse(offer.version), offer.sha256, f"debian {offer.version}")
        located = cls(source, f"debian-{offer.version}-{offer.sha256[:8]}".replace("~", "-"), layout)
        located._offer = offer
        located._archive = archive
        return located

    def archive(self, events: Sink) -> Path:
        return self._archive.fetch(self._offer)


class TarSource(Unpacked):
    _path: Path

    @classmethod
    def locate(cls, spec: str, path: Path, layout: Layout, events: Sink) -> TarSource:
        status = path.stat()
        key = [str(path.resolve()), status.st_size, status.st_mtime_ns]
        identity = str(memo(layout.memo, "tar", key, lambda: sha256(path)))
        name = f"tar-{identity[:16]}"

        def version() -> str:
            # the tarball tells its version, and whether it is a kernel at all, only when it is unpacked
            unknown = cls(Source(spec, Version(0, 0), identity, path.name), name, layout)
            unknown._path = path
            with unknown.reading(events) as read:
                return str(kernel_version(read, spec))

        parsed = Version.parse(str(memo(layout.memo, "tar-version", identity, version)))
        located = cls(Source(spec, parsed, identity, f"{path.name} ({parsed})"), name, layout)
        located._path = path
        return located

    def archive(self, events: Sink) -> Path:
        if sha256(self._path) != self.source.identity:
            raise UserError(f"{self.source.spec} changed while it was read; try again")
        return self._path


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack a tarball, or the tarball in a linux-source package, and return its top folder.

    Raises UserError for what is no tarball, InfraError when it does not end in time.
    """
    folder.mkdir(parents=True)
    if archive.suffix == ".deb":
        command.require("dpkg-deb", "xz", "tar")
        command.run(["dpkg-deb", "-x", archive, folder / "deb"], limit=UNPACK_LIMIT)
        inner = sorted((folder / "deb" / "usr" / "src").glob("linux-source-*.tar.*"))
        if not inner:
            raise InfraError(f"{archive.name} holds no linux-source tarball under usr/src")
        top = unpack(inner[0], folder / "tar")
        inner[0].unlink()
        return top
    command.require("tar")
    # several threads where the xz file has several blocks
    argv: list[str | Path] = ["tar", "--no-same-owner", "-xf", archive, "-C", folder]
    done = command.run(argv, limit=UNPACK_LIMIT, env={"XZ_OPT": "-T0"}, check=False)
    if done.status != 0:
        text = done.err.decode(errors="replace")
        if "No space left" in text:
            raise InfraError(f"no space left on the disk of {folder} to unpack {archive.name}; free 2 GiB")
        for program in ("xz", "bzip2", "zstd", "gzip", "lzip"):
            if f"{program}: Cannot exec" in text:
                command.require(program)
        raise UserError(f"{archive} cannot be unpacked: {done.complaint}")
    entries = list(folder.iterdir())
    return entries[0] if len(entries) == 1 and entries[0].is_dir() else folder
