"""The kernels: the base, and each mutant built from it, which is gone after its verdict."""

from __future__ import annotations

from dataclasses import replace

from harness.errors import UserError
from harness.events import Event, Notice, Progress, Sink
from harness.guest.snapshot import discard, snapshots_of
from harness.kernel.layout import Layout
from harness.kernel.mutants import Mutant
from harness.kernel.obtain import obtain, resolve
from harness.kernel.store import Store
from harness.model import Kernel, Request


class Kernels:
    """Kernels of one request, each with one mutant on top. The store keeps those that it had before."""

    def __init__(self, request: Request, events: Sink) -> None:
        if request.source.startswith("kernel:"):
            raise UserError(f"{request.source} is a finished kernel; mutants need a source, such as {Request.source}")
        self._request = request
        self._events = events
        self._store = Store(Layout.default().kernels)
        self._made: set[str] = set()

    def base(self, *, update: bool = False) -> Kernel:
        """The kernel without any mutant. Raises as ``obtain`` does."""
        return obtain(self._request, events=self._events, update=update)

    def build(self, mutant: Mutant) -> Kernel:
        """Raises UserError where the mutant does not apply or compile, InfraError for a machine that fails."""
        request = replace(self._request, patches=(*self._request.patches, str(mutant.path)))
        identity = resolve(request).identity
        if self._store.get(identity) is None:
            self._made.add(identity)
        return obtain(request, events=self._tell)

    def discard(self, kernel: Kernel) -> None:
        """Forget a mutant's kernel, if it was built here."""
        self._remove(kernel.identity)

    def close(self) -> None:
        """Forget all that were built here, also one that an interrupt kept from being returned."""
        for identity in sorted(self._made):
            self._remove(identity)

    def _remove(self, identity: str) -> None:
        if identity in self._made and self._store.get(identity):
            self._store.remove(identity)
            for path in snapshots_of(identity):
                discard(path)

    def _tell(self, event: Event) -> None:
        """Of a mutant's build one need not know every phase."""
        if isinstance(event, Progress | Notice):
            self._events(event)
