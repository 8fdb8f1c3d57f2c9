"""The kernels of revisions: made once, gone at the end unless the store had them before."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from harness.bisect.sameness import files_read
from harness.bisect.state import State
from harness.errors import InfraError, UserError
from harness.events import Event, Notice, Progress, Sink
from harness.guest.snapshot import discard, snapshots_of
from harness.kernel import code
from harness.kernel.build import object_folder
from harness.kernel.files import read_json, write_json
from harness.kernel.layout import Layout
from harness.kernel.memo import memo
from harness.kernel.obtain import obtain, resolve
from harness.kernel.source import locate
from harness.kernel.store import Store
from harness.kernel.tree import Tree
from harness.model import Kernel, Request

T = TypeVar("T")

TRIES = 3
"""Of what the machine or the network made fail."""


class Untestable(Exception):
    """Why a revision has no kernel, one line."""


@dataclass(frozen=True)
class Made:
    """A revision's kernel."""

    identity: str
    recipe: str
    """What ``kproof run --kernel`` takes."""
    code: str
    """Of what runs; empty: not known."""
    seconds: float


class Kernels:
    def __init__(self, state: State, events: Sink) -> None:
        self._state = state
        self._events = events
        self._layout = Layout.default()
        self._store = Store(self._layout.kernels)

    def make(self, request: Request) -> Made:
        """Build or fetch it. Raises Untestable for one that cannot be built, InfraError for a machine that fails."""
        started = time.monotonic()
        try:
            kernel = again(partial(self._obtain, request), self._events)
        except UserError as error:
            raise Untestable(_reason(error)) from None
        recipe = f"kernel:{kernel.identity}" if self._store.get(kernel.identity) else str(request)
        return Made(kernel.identity, recipe, self._code(kernel), time.monotonic() - started)

    def read(self, identity: str) -> frozenset[str] | None:
        """The source files that the build of a kernel has read, if it was built here; None: not known."""
        kept = read_json(self._record(identity)) if identity else None
        return frozenset(kept) if isinstance(kept, list) else None

    def alike(self, one: Request, other: Request) -> bool:
        """Whether the same is added to both sources, and the same asked of their configuration."""
        try:
            recipes = [resolve(request) for request in (one, other)]
        except UserError:  # a build says it
            return False
        added = [([patch.sha256 for patch in recipe.patches], sorted(recipe.settings)) for recipe in recipes]
        return added[0] == added[1]

    def close(self) -> None:
        """Forget the kernels that were made here."""
        for identity in list(self._state.made):
            if self._store.get(identity):
                self._store.remove(identity)
            for path in snapshots_of(identity):
                discard(path)
            self._state.made.remove(identity)

    def _obtain(self, request: Request) -> Kernel:
        if request.ready_made:  # what was downloaded once stays
            return obtain(request, events=self._tell)
        recipe = resolve(request)
        there = self._store.get(recipe.identity) is not None
        if not there and recipe.identity not in self._state.made:
            self._state.made.append(recipe.identity)
            self._state.save()
        kernel = obtain(request, events=self._tell)
        if not there and request.source.startswith("git:"):
            located = locate(request.source, layout=self._layout, events=self._tell)
            with located.building(self._tell):
                tree = Tree(self._layout.trees / located.tree_name)
                if tree.state().patches == [patch.sha256 for patch in recipe.patches]:
                    write_json(self._record(recipe.identity), sorted(files_read(object_folder(tree, recipe))))
        return kernel

    def _record(self, identity: str) -> Path:
        return self._state.folder / f"read-{identity}.json"

    def _code(self, kernel: Kernel) -> str:
        if not kernel.vmlinux.exists():
            return ""
        compute = partial(code.code_identity, Path(kernel.vmlinux))
        return str(memo(self._layout.memo, "code", [code.FORMAT, kernel.identity], compute))

    def _tell(self, event: Event) -> None:
        """Of a step's build one need not know every phase."""
        if isinstance(event, Progress | Notice):
            self._events(event)


def again(do: Callable[[], T], events: Sink) -> T:
    """What ``do`` gives; tried again where the machine or the network fails. Raises InfraError of the last try."""
    for left in reversed(range(TRIES)):
        try:
            return do()
        except InfraError as error:
            if not left:
                raise
            events(Notice(f"{str(error).splitlines()[0]}; once more"))
    raise AssertionError


def _reason(error: UserError) -> str:
    said = str(error).splitlines()
    text = said[0].removeprefix("the kernel does not compile: ")
    return f"does not build: {text}" if text != said[0] else text
