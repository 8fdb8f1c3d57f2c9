"""PYTEST_DONT_REWRITE: a test that does not end is asked why, and then its guest is ended.

Which test a guest is in, since when, and how long it may take, is read from the markers on its console (evidence.py):
they are there even when nothing else of the guest answers. A guest that overstays is asked twice. A kernel that still
schedules answers on the console with the backtraces of processors and tasks; one that does not, even with interrupts
off, is made to panic by an NMI, with a backtrace of where it is.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from harness.errors import InfraError
from harness.guest.launch import Guest
from harness.guest.monitor import registers_and_nmi
from harness.pytest_plugin.evidence import BEGIN, END, SCAN

LOOK = 0.5  # seconds between two looks at the consoles
ANSWER = 4.0  # seconds, times the host's speed factor, that a guest has for each answer
QUIET = 1.0  # a console that says nothing for so long has said all

_BEGIN = re.compile(rb"(?:%b|%b)\((?P<limit>[\d.]+) s\) (?P<test>[^\r\n]*)" % (BEGIN.encode(), SCAN.encode()))
_END = re.compile(re.escape(END.encode()))


@dataclass
class _Watched:
    """How far a guest's console was read, and the test that has begun on it."""

    guest: Guest
    offset: int = 0
    rest: bytes = b""
    test: str = ""
    limit: float = 0.0
    since: float = field(default_factory=time.monotonic)

    def look(self) -> None:
        try:
            with open(self.guest.console, "rb") as file:
                file.seek(self.offset)
                new = file.read()
        except FileNotFoundError:
            return
        self.offset += len(new)
        *lines, self.rest = (self.rest + new).split(b"\n")
        for line in lines:
            if begin := _BEGIN.search(line):
                self.test = begin["test"].decode(errors="replace")
                self.limit = float(begin["limit"]) * self.guest.spec.speed
                self.since = time.monotonic()
            elif _END.search(line):
                self.test = ""

    @property
    def overdue(self) -> bool:
        return bool(self.test) and time.monotonic() - self.since > self.limit


@dataclass
class Hang:
    """A test that did not end."""

    title: str
    registers: str = ""
    over: threading.Event = field(default_factory=threading.Event)
    """Set when all evidence is there and the guest is gone."""


class Watch:
    """A context manager: a thread that looks at the consoles of guests as long as it is entered."""

    def __init__(self, guests: Callable[[], list[Guest]]) -> None:
        """``guests`` tells which guests have a worker now."""
        self._guests = guests
        self._watched: dict[str, _Watched] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hang-watch", daemon=True)
        self.hung: dict[str, Hang] = {}
        """By guest."""

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(LOOK):
            for guest in self._guests():
                watched = self._watched.setdefault(guest.name, _Watched(guest))
                if guest.name not in self.hung and guest.process.poll() is None:
                    watched.look()
                    if watched.overdue:
                        self._end(watched)

    def _end(self, watched: _Watched) -> None:
        """Ask for evidence, then end the guest. What its kernel says goes to the console."""
        guest = watched.guest
        hang = self.hung[guest.name] = Hang(f"no end within {watched.limit:.0f} s")
        limit = ANSWER * guest.spec.speed
        try:
            guest.control.sendall(b"dump\n")
            self._until_quiet(guest, limit)
            hang.registers = registers_and_nmi(guest, limit)
            self._until_quiet(guest, limit)
        except (OSError, InfraError) as error:
            hang.registers = f"QEMU was asked for registers and an NMI, and did not answer: {error}"
        finally:
            guest.kill()
            hang.over.set()

    def _until_quiet(self, guest: Guest, limit: float) -> None:
        """Wait until the console has not grown for a while, the guest has ended, or the limit."""
        end = time.monotonic() + limit
        size, since = -1, time.monotonic()
        while time.monotonic() < end and guest.process.poll() is None and not self._stop.wait(0.05):
            if (now := guest.console.stat().st_size) != size:
                size, since = now, time.monotonic()
            elif time.monotonic() - since > QUIET:
                return
