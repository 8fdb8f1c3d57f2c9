"""What the engine tells whoever watches: one small type, so that no engine module prints.

A verb gets a ``Sink``; the live display, the plain-line display and the tests each bring their own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from harness.model import Outcome


@dataclass(frozen=True)
class Phase:
    """A named stretch of work begins, for example ``source`` or ``build``. It ends when the next one begins."""

    name: str
    detail: str = ""


@dataclass(frozen=True)
class Progress:
    """``done`` of ``total`` units of the running phase (objects, bytes). ``total`` 0: not known."""

    done: int
    total: int
    unit: str = ""


@dataclass(frozen=True)
class Notice:
    """One line worth telling that is no failure: a suite that is gone, a lock that is waited for."""

    text: str


@dataclass(frozen=True)
class GuestEvent:
    """A guest changed its state: booting, ready, ended."""

    name: str
    state: str
    seconds: float = 0.0
    restored: bool = False
    """It came from a snapshot; else it was booted."""


@dataclass(frozen=True)
class TestEvent:
    """A test's outcome is known; ``selected`` tests were collected in all."""

    __test__ = False  # pytest: this is no test class

    outcome: Outcome
    selected: int


@dataclass(frozen=True)
class Finding:
    """One line that was asked for: what became of a mutant. ``good``: as it should be."""

    text: str
    good: bool


Event = Phase | Progress | Notice | GuestEvent | TestEvent | Finding
Sink = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The sink of a caller who does not watch."""
