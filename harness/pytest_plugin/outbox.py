"""PYTEST_DONT_REWRITE: what a guest tells the host of a test goes out at once when the test begins, and all together
when it has ended.

Each write to a virtio-serial port waits until the host has taken it (__send_to_port(), drivers/char/virtio_console.c).
With one for each message, that is a tenth of an emulated guest's time between two tests.
"""

from __future__ import annotations

import threading
from typing import Any, Protocol

HELD = ("testreport", "logfinish")
"""xdist's events (WorkerInteractor.sendevent) after which another follows without delay."""


class Way(Protocol):
    """execnet's way out: see Popen2IO in execnet/gateway_base.py."""

    def write(self, data: bytes, /) -> None: ...


class Outbox:
    """Stands before a gateway's ``_io``. Other threads' messages wait for nothing, and pass none that came before."""

    def __init__(self, way: Way) -> None:
        self.hold = False
        """Whether what the owner, who has made this, writes may wait for what he writes next."""
        self._way = way
        self._owner = threading.get_ident()
        self._lock = threading.Lock()
        self._kept: list[bytes] = []

    def write(self, data: bytes) -> None:
        with self._lock:
            self._kept.append(data)
            if not (self.hold and threading.get_ident() == self._owner):
                together = b"".join(self._kept)
                self._kept.clear()
                self._way.write(together)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._way, name)
