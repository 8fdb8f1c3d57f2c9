"""A kernel tree in the cache that is patched in place, so that its object directories stay warm.

``FOLDER/src`` is the tree; ``FOLDER/aside`` holds the originals of the files that patches touch; ``FOLDER/state.json``
says which patches are in. A file whose content does not change keeps its time stamp: make rebuilds only what differs.
The state is marked before the first file moves, so a crash half-way is undone by the next use.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from harness.kernel.files import read_json, scratch, write_json
from harness.kernel.patching import Content, patched, read_content, write_content
from harness.model import Patch


@dataclass
class State:
    """What is known of a tree's files. Paths are relative to ``src``."""

    patches: list[str] = field(default_factory=list)
    """sha256 of each applied patch, in order."""
    touched: dict[str, bool] = field(default_factory=dict)
    """Path to whether the pristine tree has it (then its original is kept aside)."""
    moving: bool = False
    """Files are being moved: if this is read back, a process died."""
    changed: dict[str, int] = field(default_factory=dict)
    """Path to when its content last changed here, in ns since the epoch."""
    born: int = 0
    """When the tree was unpacked, in ns since the epoch."""


class Tree:
    """One tree folder. Its user holds the tree's lock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.src = folder / "src"
        self._aside = folder / "aside"
        self._state_file = folder / "state.json"

    @property
    def name(self) -> str:
        return self.folder.name

    def exists(self) -> bool:
        return (self.src / "Makefile").exists()

    def adopt(self, ready: Tree, *, attic: Path) -> None:
        """Become the complete tree ``ready`` in one rename; what was here before goes to the folder ``attic``."""
        ready._save(State(born=time.time_ns()))
        if self.folder.exists():
            self.folder.rename(attic / "former")
        ready.folder.rename(self.folder)

    def state(self) -> State:
        kept = read_json(self._state_file)
        return State(**kept) if isinstance(kept, dict) else State()

    def pristine(self, path: str) -> Content | None:
        """The content of a file as the source has it, whatever is applied."""
        return self._pristine(self.state(), path)

    def _pristine(self, state: State, path: str) -> Content | None:
        if path not in state.touched:
            return read_content(self.src / path)
        if not state.touched[path]:
            return None
        # the original moves aside before the file changes: if it is not there, the file is still the original
        return read_content(self._aside / path) or read_content(self.src / path)

    def switch(self, patches: Sequence[Patch]) -> tuple[str, ...]:
        """Make the tree the pristine one with exactly ``patches``; return the paths whose content changed.

        Raises UserError, with the tree as it was, when a patch does not apply.
        """
        self.heal()
        state = self.state()
        wanted = [patch.sha256 for patch in patches]
        if state.patches == wanted:
            return ()
        target = patched(patches, lambda path: self._pristine(state, path), workspace=self.folder)
        pristine = {path: self._pristine(state, path) for path in {*state.touched, *target}}
        after = State(
            patches=wanted,
            touched={path: pristine[path] is not None for path in target},
            changed=dict(state.changed),
            born=state.born,
        )
        everything = {path: pristine[path] is not None for path in pristine}
        self._save(State(patches=[], touched=everything, moving=True, changed=state.changed, born=state.born))
        for path in target:
            content = pristine[path]
            if content is not None and path not in state.touched:
                self._put(self._aside / path, content)
        changed = [path for path in sorted(pristine) if self._set(path, target.get(path, pristine[path]))]
        now = time.time_ns()
        after.changed |= dict.fromkeys(changed, now)
        self._save(after)
        for path in everything.keys() - after.touched.keys():
            (self._aside / path).unlink(missing_ok=True)
        return tuple(changed)

    def heal(self) -> None:
        """Undo what a process that died while switching left: afterwards the tree is pristine."""
        state = self.state()
        if not state.moving:
            return
        for path, original in state.touched.items():
            content = read_content(self._aside / path)
            if not original:
                self._set(path, None)
            elif content is not None:
                self._set(path, content)
        now = time.time_ns()
        self._save(State(changed=state.changed | dict.fromkeys(state.touched, now), born=state.born))
        shutil.rmtree(self._aside, ignore_errors=True)

    def update(self, paths: Iterable[str], contents: Iterable[tuple[str, Content | None]]) -> None:
        """Change the pristine files ``paths`` (a mirrored source has moved on) to ``contents``.

        Patches to other files stay in, so that what they touch is not compiled again.
        """
        self.heal()
        if not self.state().touched.keys().isdisjoint(paths):
            self.switch(())
        state = self.state()
        now = time.time_ns()
        state.changed |= {path: now for path, content in contents if self._set(path, content)}
        self._save(state)

    def _save(self, state: State) -> None:
        write_json(self._state_file, asdict(state))

    def _set(self, path: str, content: Content | None) -> bool:
        """Give a file of the tree this content, atomically; False when it has it already."""
        if read_content(self.src / path) == content:
            return False
        if content is None:
            with suppress(FileNotFoundError):
                (self.src / path).unlink()
        else:
            self._put(self.src / path, content)
        return True

    def _put(self, path: Path, content: Content) -> None:
        with scratch(self.folder, "put") as folder:
            write_content(folder / "file", content)
            if not content.link:
                # finer than the file system's own clock: strictly newer than an object that was just written
                now = time.time_ns()
                os.utime(folder / "file", ns=(now, now))
            path.parent.mkdir(parents=True, exist_ok=True)
            (folder / "file").replace(path)
