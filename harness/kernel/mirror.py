"""Sources that move: a git clone and a folder. Each is mirrored into a tree of ours, and only what differs is copied.

The user's own files are read and never written. The identity is the same for a commit and for a folder that holds
exactly that commit: a hash over (mode, git blob id, path) of all files.
"""

from __future__ import annotations

import hashlib
import os
import stat
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from harness import command
from harness.errors import InfraError, UserError
from harness.events import Notice, Phase, Sink
from harness.kernel.files import digest, read_json, scratch, write_json
from harness.kernel.layout import Layout
from harness.kernel.memo import memo
from harness.kernel.patching import Content, Reader, read_content, write_content
from harness.kernel.source import Located, kernel_version
from harness.kernel.tree import Tree
from harness.model import Source, Version

GIT_LIMIT = 900.0

Files = dict[str, tuple[str, str]]
"""Path to (git mode, git blob id)."""

BUILT_DIRECTORIES = frozenset(
    {".git", "include/config", "include/generated", "arch/x86/include/generated", ".tmp_versions"}
)
BUILT_SUFFIXES = (".o", ".a", ".ko", ".cmd", ".mod", ".order", ".dtb", ".so.dbg", ".o.d")
BUILT_FILES = frozenset({".config", ".config.old", "vmlinux", "System.map", ".version", "Module.symvers"})
"""What a build inside a folder that is no git work tree leaves there; none of it is source."""


def identity(files: Mapping[str, tuple[str, str]]) -> str:
    text = "".join(f"{mode} {blob} {path}\n" for path, (mode, blob) in sorted(files.items()))
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def blob_id(data: bytes, *, algorithm: str = "sha1") -> str:
    """git's name for a content, in a repository of that object format."""
    return hashlib.new(algorithm, b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _is(content: Content, blob: str) -> bool:
    return blob_id(content.data, algorithm="sha1" if len(blob) == 40 else "sha256") == blob


class Mirror(Located):
    """A source whose tree follows it."""

    def prepare(self, events: Sink) -> Tree:
        tree = Tree(self.layout.trees / self.tree_name)
        mark = tree.folder / "mirrored.json"
        have = read_json(mark)
        files = self.files()
        if have == {"identity": self.source.identity} and tree.exists():
            return tree
        listing = tree.folder / "files.json"
        before = read_json(listing)
        if tree.exists() and isinstance(have, dict) and isinstance(before, dict):
            old = {path: (str(entry[0]), str(entry[1])) for path, entry in before.items()}
            paths = {path for path in old.keys() | files.keys() if old.get(path) != files.get(path)}
            events(Phase("source", f"updating {len(paths)} files of {self.tree_name}"))
            # from here to the last line the mirror is neither the old nor the new source
            mark.unlink()
            tree.update(paths, self.contents(paths, files))
        else:
            events(Phase("source", f"mirroring {self.source.label}"))
            self.sweep()
            with scratch(self.layout.trees, self.tree_name) as folder:
                ready = Tree(folder / "tree")
                ready.folder.mkdir()
                self.populate(ready.src, files)
                tree.adopt(ready, attic=folder)
        write_json(listing, files)
        write_json(mark, {"identity": self.source.identity})
        return tree

    def contents(self, paths: Iterable[str], files: Files) -> Iterator[tuple[str, Content | None]]:
        """The content of each path, None where the source has no such file; read one by one."""
        with self.reader() as read:
            for path in sorted(paths):
                content = read(path) if path in files else None
                if path in files and (content is None or not _is(content, files[path][1])):
                    raise UserError(f"{self.source.spec}: {path} changed while it was read; try again")
                yield path, content

    @abstractmethod
    def files(self) -> Files:
        """All files of the source."""

    @abstractmethod
    def reader(self) -> AbstractContextManager[Reader]:
        """A context with a reader of the source's own files."""

    @abstractmethod
    def populate(self, folder: Path, files: Files) -> None:
        """Write all files below ``folder``, with new time stamps: objects of an earlier mirror are then older."""

    @contextmanager
    def reading(self, events: Sink) -> Iterator[Reader]:
        with self.reader() as read:
            yield read


class GitSource(Mirror):
    _clone: Path
    _tree_id: str

    @classmethod
    def locate(cls, spec: str, clone: Path, ref: str, layout: Layout, events: Sink) -> GitSource:
        command.require("git")
        folder = git(clone, "rev-parse", "--git-common-dir", check=False)
        if folder.status != 0:
            raise UserError(f"{spec}: {clone} is no git clone")
        found = git(clone, "rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}", check=False)
        if found.status != 0:
            raise UserError(f"{spec}: {clone} has no commit {ref!r}; see git -C {clone} branch -a, or fetch it")
        commit = found.text.strip()
        common = (clone / folder.text.strip()).resolve()

        def look() -> dict[str, str]:
            tree_id = git(clone, "rev-parse", f"{commit}^{{tree}}").text.strip()
            files = list_tree(clone, tree_id)
            with _cat(clone, files) as read:
                version = kernel_version(read, spec)
            described = git(clone, "describe", "--always", "--tags", commit, check=False).text.strip() or commit[:12]
            return {
                "tree": tree_id,
                "identity": identity(files),
                "version": str(version),
                "label": f"git {described}",
            }

        facts: dict[str, str] = memo(layout.memo, "git", [str(common), commit], look)
        source = Source(spec, Version.parse(facts["version"]), facts["identity"], facts["label"])
        located = cls(source, f"git-{digest(str(common))}", layout)
        located._clone = clone
        located._tree_id = facts["tree"]
        return located

    def files(self) -> Files:
        return list_tree(self._clone, self._tree_id)

    def reader(self) -> AbstractContextManager[Reader]:
        return _cat(self._clone, self.files())

    def populate(self, folder: Path, files: Files) -> None:
        folder.mkdir(parents=True)
        # an index of our own: the user's is not touched
        env = {"GIT_INDEX_FILE": str(folder.parent / "index")}
        git(self._clone, "read-tree", self._tree_id, env=env)
        git(self._clone, "checkout-index", "--all", f"--prefix={folder}/", env=env)
        (folder.parent / "index").unlink()


def git(
    clone: Path, *words: str, check: bool = True, env: Mapping[str, str] | None = None, stdin: bytes = b""
) -> command.Completed:
    return command.run(["git", "-C", clone, *words], limit=GIT_LIMIT, check=check, env=env, stdin=stdin)


def list_tree(clone: Path, tree_id: str) -> Files:
    files: Files = {}
    for entry in git(clone, "ls-tree", "-r", "-z", tree_id).out.split(b"\0"):
        if entry:
            facts, _, path = entry.partition(b"\t")
            mode, kind, blob = facts.decode().split()
            if kind == "blob":
                files[os.fsdecode(path)] = (mode, blob)
    return files


@contextmanager
def _cat(clone: Path, files: Files) -> Iterator[Reader]:
    """Read blobs through one ``git cat-file``."""
    import subprocess

    process = subprocess.Popen(
        ["git", "-C", str(clone), "cat-file", "--batch"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )

    def read(path: str) -> Content | None:
        if path not in files:
            return None
        mode, blob = files[path]
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(blob.encode() + b"\n")
        process.stdin.flush()
        header = process.stdout.readline().split()
        if len(header) != 3:
            raise InfraError(f"git cannot read {path} ({blob}) in {clone}; a partial clone must be completed first")
        data = process.stdout.read(int(header[2]))
        process.stdout.read(1)
        return Content(data, executable=mode == "100755", link=mode == "120000")

    try:
        yield read
    finally:
        command.end(process)


class DirSource(Mirror):
    _folder: Path
    _files: Files

    @classmethod
    def locate(cls, spec: str, folder: Path, layout: Layout, events: Sink) -> DirSource:
        version = kernel_version(lambda path: read_content(folder / path), spec)
        files = scan(folder, layout.memo / f"dir-{digest(str(folder.resolve()))}.json", events)
        located = cls(
            Source(spec, version, identity(files), f"folder {folder}"), f"dir-{digest(str(folder.resolve()))}", layout
        )
        located._folder = folder
        located._files = files
        return located

    def files(self) -> Files:
        return self._files

    @contextmanager
    def reader(self) -> Iterator[Reader]:
        yield lambda path: read_content(self._folder / path) if path in self._files else None

    def populate(self, folder: Path, files: Files) -> None:
        for path, content in self.contents(files, files):
            if content is not None:
                write_content(folder / path, content)


def scan(folder: Path, cache: Path, events: Sink) -> Files:
    """All source files of a folder. Only files whose size, mode or time stamps moved since the last scan are read."""
    kept = read_json(cache)
    known: dict[str, list[Any]] = kept if isinstance(kept, dict) else {}
    now: dict[str, list[Any]] = {}
    fresh = 0
    for path in _list(folder):
        try:
            status = (folder / path).lstat()
        except (FileNotFoundError, NotADirectoryError):
            # git's index names a file that the user has deleted
            continue
        stamp = [status.st_mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
        entry = known.get(path)
        if entry is None or entry[0] != stamp:
            content = read_content(folder / path)
            if content is None:
                continue
            mode = "120000" if content.link else "100755" if content.executable else "100644"
            entry = [stamp, mode, blob_id(content.data)]
            fresh += 1
        now[path] = entry
    if fresh > 1000:
        events(Notice(f"read {fresh} files of {folder}; the next time only changed ones"))
    if now != known:
        write_json(cache, now)
    return {path: (entry[1], entry[2]) for path, entry in now.items()}


def _list(folder: Path) -> Iterator[str]:
    """In a git work tree what git counts as source, elsewhere all but what a build leaves."""
    top = git(folder, "rev-parse", "--show-toplevel", check=False)
    if top.status == 0 and Path(top.text.strip()).resolve() == folder.resolve():
        listed = git(folder, "ls-files", "-z", "--cached", "--others", "--exclude-standard").out
        yield from sorted({os.fsdecode(path) for path in listed.split(b"\0") if path})
        return
    pending = [""]
    while pending:
        prefix = pending.pop()
        with os.scandir(folder / prefix) as entries:
            for entry in entries:
                path = f"{prefix}{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    if path not in BUILT_DIRECTORIES:
                        pending.append(f"{path}/")
                elif not (path in BUILT_FILES or entry.name.endswith(BUILT_SUFFIXES) or _is_special(entry)):
                    yield path


def _is_special(entry: os.DirEntry[str]) -> bool:
    mode = entry.stat(follow_symlinks=False).st_mode
    return not (stat.S_ISREG(mode) or stat.S_ISLNK(mode))
