"""PYTEST_DONT_REWRITE: a test that does not end is asked why, and then its guest is ended.

Which test a guest is in, since when, and how long it may take, is read from the markers on its console (evidence.py):
they are there even when nothing else of the guest answers. A guest that overstays is asked twice. A kernel that still
schedules answers on the console with the backtraces of processors and tasks; one that does not, even with interrupts
off, is made to panic by an NMI, with a backtrace of where it is.

A test whose end is on the console while its report does not come has spoilt the channel: closed it, or written to it.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import InfraError
from harness.guest.launch import Guest
from harness.guest.monitor import registers_and_nmi
from harness.guest.stuck import where_stuck
from harness.pytest_plugin.evidence import BEGIN, END, SCAN

LOOK = 0.5  # seconds between two looks at the consoles
ANSWER = 4.0  # seconds, times the host's speed factor, that a guest has for each answer
COLLECT = 60.0  # seconds, times the host's speed factor, in which a worker has to tell what it has collected
REPORT = 15.0  # seconds, times the host's speed factor, that a test's report may take after its end
QUIET = 1.0  # a console that says nothing for so long has said all
CHUNK = 1 << 20  # bytes of a console that are read at once
LONGEST = 1 << 13  # bytes of an unfinished line that are kept: its end may be a marker, and none is longer
EXCERPT = 1 << 18  # bytes at either end of a console's part that are searched for the reason of a hang

COLLECTION = "(collection)"
"""In place of a test: what a worker does first."""

_MARKER = re.compile(
    rb"(?:%b|%b)\((?P<limit>[\d.]+) s\) (?P<test>[^\r\n]*)|%b" % (BEGIN.encode(), SCAN.encode(), END.encode())
)


@dataclass
class _Watched:
    """How far a guest's console was read, and the test that has begun on it."""

    guest: Guest
    offset: int = 0
    rest: bytes = b""
    test: str = COLLECTION
    ended: bool = True
    """So its marker says; its report is under way."""
    limit: float = COLLECT
    since: float = field(default_factory=time.monotonic)
    """Of what ``limit`` is for: the test, or its report."""
    began_at: int = 0
    """Offset on the console."""

    def __post_init__(self) -> None:
        self.limit *= self.guest.spec.speed

    def look(self) -> None:
        """Read on, in pieces: a console may have grown by any amount."""
        try:
            with open(self.guest.console, "rb") as file:
                file.seek(self.offset)
                while new := file.read(CHUNK):
                    self.offset += len(new)
                    self._take(self.rest + new)
        except FileNotFoundError:
            return

    def _take(self, text: bytes) -> None:
        whole = text.rfind(b"\n") + 1
        self.rest = text[whole:][-LONGEST:]
        for marker in _MARKER.finditer(text, 0, whole):
            self.since = time.monotonic()
            if marker["limit"]:
                test = marker["test"].decode(errors="replace")
                if test != self.test:
                    self.began_at = self.offset - len(text) + marker.end()
                self.test, self.ended = test, False
                self.limit = float(marker["limit"]) * self.guest.spec.speed
            elif not self.ended:
                self.ended = True
                self.limit = REPORT * self.guest.spec.speed

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

    def __init__(
        self, guests: Callable[[], list[Guest]], reported: Callable[[Guest, str], bool] = lambda guest, test: True
    ) -> None:
        """``guests`` tells which guests have a worker now, ``reported`` whether a guest's word on a test has come."""
        self._guests = guests
        self._reported = reported
        self._watched: dict[str, _Watched] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hang-watch", daemon=True)
        self._asking: list[threading.Thread] = []
        """One for each hung guest: their answers take seconds, and the others have limits, too."""
        self.hung: dict[str, Hang] = {}
        """By guest."""

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()
        for thread in self._asking:
            thread.join()

    def _run(self) -> None:
        while not self._stop.wait(LOOK):
            for guest in self._guests():
                watched = self._watched.setdefault(guest.name, _Watched(guest))
                if guest.name not in self.hung and guest.process.poll() is None:
                    watched.look()
                    if watched.ended and self._reported(guest, watched.test):
                        watched.test = ""
                    if watched.overdue:
                        hang = self.hung[guest.name] = Hang(self._title(watched))
                        thread = threading.Thread(target=self._end, args=(watched, hang), name="hang", daemon=True)
                        self._asking.append(thread)
                        thread.start()

    @staticmethod
    def _title(watched: _Watched) -> str:
        within = f"within {watched.limit:.0f} s"
        if watched.test == COLLECTION:
            return f"no end of the collection {within}"
        if watched.ended:
            return f"it ended, but no report of it came {within}: the guest's channel is spoilt"
        return f"no end {within}"

    def _end(self, watched: _Watched, hang: Hang) -> None:
        """Ask for evidence, then end the guest. What its kernel says goes to the console."""
        guest = watched.guest
        try:
            if _is_stopped(guest):
                hang.title += " (QEMU is stopped by a signal)"
                return
            asked = guest.console.stat().st_size
            self._ask(guest, hang)
            during = _excerpt(guest.console, watched.began_at, asked)
            if not watched.ended and (where := where_stuck(during, _excerpt(guest.console, asked))):
                hang.title += f" ({where})"
        except OSError as error:
            hang.registers += f"\nthe console cannot be read: {error}"
        finally:
            guest.kill()
            hang.over.set()

    def _ask(self, guest: Guest, hang: Hang) -> None:
        limit = ANSWER * guest.spec.speed
        try:
            guest.control.sendall(b"dump\n")
            self._until_quiet(guest, limit)
            hang.registers = registers_and_nmi(guest, limit)
            # A panic ends QEMU. It says nothing before it has stopped the other processors, for which it waits a second
            # where one of them has its interrupts off (native_stop_other_cpus() in arch/x86/kernel/smp.c).
            self._until_quiet(guest, limit, quiet=limit)
        except (OSError, InfraError) as error:
            hang.registers = f"QEMU was asked for registers and an NMI, and did not answer: {error}"

    def _until_quiet(self, guest: Guest, limit: float, *, quiet: float = QUIET) -> None:
        """Wait until the console has not grown for a while, the guest has ended, or the limit."""
        end = time.monotonic() + limit
        size, since = -1, time.monotonic()
        while time.monotonic() < end and guest.process.poll() is None and not self._stop.wait(0.05):
            if (now := guest.console.stat().st_size) != size:
                size, since = now, time.monotonic()
            elif time.monotonic() - since > quiet:
                return


def _is_stopped(guest: Guest) -> bool:
    """Whether job control or a debugger holds QEMU (proc_pid_stat(5))."""
    try:
        return Path(f"/proc/{guest.process.pid}/stat").read_text().rpartition(") ")[2][0] in "tT"
    except FileNotFoundError:
        return False


def _excerpt(console: Path, start: int, end: int | None = None) -> str:
    """A part of a console from one offset to another, or to its end; of a long part the first and the last bytes."""
    with open(console, "rb") as file:
        end = file.seek(0, 2) if end is None else end
        file.seek(start)
        data = file.read(min(end - start, 2 * EXCERPT))
        if end - start > 2 * EXCERPT:
            file.seek(end - EXCERPT)
            data = data[:EXCERPT] + b"\n" + file.read(EXCERPT)
    return data.decode(errors="backslashreplace").replace("\r", "")
