"""Guests that boot ahead of their workers, and the socket over which workers come to fetch them.

xdist starts its workers one after the other and waits for each; so guests are started before, all at once. A worker's
process (worker.py) connects, gets the channel of a guest that is ready, and splices it to its standard input and
output. When a guest dies, xdist starts a new worker from the same specification: it gets the next guest.

The thread that starts QEMU lives as long as the pool, because a QEMU dies with the thread that started it
(PR_SET_PDEATHSIG is the thread's, prctl(2)): whatever kills this process, no QEMU stays behind.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from harness.errors import InfraError, KproofError
from harness.events import GuestEvent, Notice, Sink, ignore
from harness.guest.handshake import wait_ready
from harness.guest.launch import Guest, launch
from harness.guest.snapshot import discard
from harness.model import GuestSpec

LOST = "lost"
"""State of a guest that was ready and died before a worker came for it."""


class GuestPool:
    """A context manager: guests are started on entry and gone on exit."""

    def __init__(
        self, spec: GuestSpec, *, ahead: int, events: Sink = ignore, launcher: Callable[..., Guest] = launch
    ) -> None:
        """``spec.folder`` is the folder that holds one folder per guest; ``ahead`` guests are started at once."""
        self._spec = spec
        self._snapshot = Path(spec.snapshot)
        self._held = ExitStack()
        self._ahead = ahead
        self._events = events
        self._launch = launcher
        self._ready: deque[Guest] = deque()
        """Started, and not asked yet whether they are there."""
        self._spare: Guest | None = None
        """One that has obeyed its orders and waits for a worker."""
        self._expected = 0
        self._all: list[Guest] = []
        self._handed: list[Guest] = []
        self._lock = threading.Lock()
        self._closing = False
        self.error: KproofError | None = None
        """Why the last guest that was wanted could not be had."""
        # An abstract name (unix(7)): it goes with the process, so nothing is left to clean up.
        self.address = f"kproof-{os.getpid()}-{secrets.token_hex(8)}"
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._thread = threading.Thread(target=self._serve, name="guest-pool", daemon=True)
        self._started = threading.Event()

    def __enter__(self) -> GuestPool:
        self._hold_snapshot()
        self._server.bind("\0" + self.address)
        self._server.listen()
        self._thread.start()
        self._started.wait()
        if self.error:
            self.close()
            raise self.error
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill what still runs. Idempotent; takes milliseconds."""
        with self._lock:
            self._closing = True
            guests = list(self._all)
        for guest in guests:
            guest.kill()
        with contextlib.suppress(OSError):  # closed before
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._held.close()

    def _hold_snapshot(self) -> None:
        """Keep it open: another run may make newer ones, and remove it, while guests are still to come of it."""
        if not self._spec.snapshot:
            return
        try:
            fd = os.open(self._snapshot, os.O_RDONLY)
        except OSError as error:
            self._events(Notice(f"the snapshot cannot be read ({error.strerror}): this run's guests boot cold"))
            self._spec = replace(self._spec, snapshot="")
            return
        self._held.callback(os.close, fd)
        self._spec = replace(self._spec, snapshot=f"/proc/self/fd/{fd}")

    def expect(self, number: int) -> None:
        """After the next guest, so many more will be fetched: one is made ready as soon as that is handed out."""
        self._expected = number

    @property
    def guests(self) -> list[Guest]:
        """All that were started, in this order, also those that are gone."""
        return list(self._all)

    @property
    def last_handed(self) -> Guest:
        """The guest that the worker started last has got."""
        return self._handed[-1]

    def _serve(self) -> None:
        """The thread. It must not end before the pool does: workers would wait for ever, and its guests would die."""
        try:
            for _ in range(self._ahead):
                self._ready.append(self._start())
        except Exception as error:  # whatever it is, main thread and workers must hear of it
            self.error = _as_ours(error)
        finally:
            self._started.set()
        while not self._closing:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            with connection:
                try:
                    self._hand_out(connection)
                except Exception as error:  # the worker sees a closed connection
                    self.error = _as_ours(error)

    def _start(self) -> Guest:
        with self._lock:
            if self._closing:
                raise InfraError("the guests are being shut down")
            name = f"g{len(self._all)}"
            guest = self._launch(replace(self._spec, folder=str(Path(self._spec.folder, name))), name)
            self._all.append(guest)
        self._events(GuestEvent(name, "booting"))
        return guest

    def _start_cold(self, error: KproofError) -> Guest:
        """After a snapshot that does not come to life: it is thrown away, and the next run makes it anew."""
        reason = str(error).splitlines()[0]
        self._events(
            Notice(f"the snapshot cannot be restored ({reason}): it is discarded, this run's guests boot cold")
        )
        discard(self._snapshot)
        self._spec = replace(self._spec, snapshot="")
        for guest in self._ready:  # they would not come to life either
            guest.kill()
        self._ready.clear()
        return self._start()

    def _hand_out(self, connection: socket.socket) -> None:
        """Give a ready guest's channel to the process at the other end; close the connection if there is none."""
        _pid, uid, _gid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid != os.getuid():  # an abstract name is open to every user of the host
            return
        guest = self._take_spare() or self._make_ready()
        self._handed.append(guest)
        socket.send_fds(connection, [b"\n"], [guest.channel.fileno()])
        guest.channel.close()  # the worker's process holds it now: its end is the guest's end of file
        if self._expected > 0:
            self._spare = self._make_ready()

    def _take_spare(self) -> Guest | None:
        spare, self._spare = self._spare, None
        if spare and spare.process.poll() is not None:
            self._events(GuestEvent(spare.name, LOST))
            return None
        return spare

    def _make_ready(self) -> Guest:
        guest = self._ready.popleft() if self._ready else self._start()
        try:
            wait_ready(guest)
        except KproofError as error:
            if not guest.spec.snapshot or self._closing:  # it is we who killed it: that says nothing of the snapshot
                raise
            guest = self._start_cold(error)
            wait_ready(guest)
        waited = time.monotonic() - guest.started
        guest.weigh()  # it may be gone before anybody looks again
        self._events(GuestEvent(guest.name, "ready", waited, restored=bool(guest.spec.snapshot)))
        return guest


def _as_ours(error: Exception) -> KproofError:
    return error if isinstance(error, KproofError) else InfraError(f"a guest cannot be started: {error!r}")
