"""Waiting with a limit. Limits are given for a machine of speed 1 and scaled by ``KPROOF_SPEED``."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_STEP = 0.002
"""Seconds between two looks at a condition that has no event to wait for."""


def limit(seconds: float) -> float:
    """``seconds`` scaled by how slow this machine was measured to be (``KPROOF_SPEED``, 1 when not set)."""
    return seconds * float(os.environ.get("KPROOF_SPEED", "1"))


def readable(fd: int, seconds: float = 5.0) -> bool:
    """Wait until ``fd`` has something to read; False when the limit passed first."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(limit(seconds) * 1000))


def until(condition: Callable[[], T | None], what: str, seconds: float = 5.0) -> T:
    """The first true value of ``condition``. Raises TimeoutError that says ``what`` did not happen."""
    deadline = time.monotonic() + limit(seconds)
    pause = select.poll()
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {limit(seconds):g} s for {what}; last seen: {value!r}")
        pause.poll(_STEP * 1000)
