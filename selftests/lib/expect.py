"""Refusals: what a test expects the kernel to say no with."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager


def name(code: int) -> str:
    """``EACCES (Permission denied)``."""
    return f"{errno.errorcode.get(code, code)} ({os.strerror(code)})"


@contextmanager
def refusal(code: int, what: str, *, text: str = "") -> Iterator[None]:
    """The block must raise an OSError with errno ``code``, whose text contains ``text``; else AssertionError."""
    refused: OSError | None = None
    try:
        yield
    except OSError as error:
        refused = error
    assert refused is not None, f"{what}: expected {name(code)}, but it was allowed"
    assert refused.errno == code, f"{what}: expected {name(code)}, got {name(refused.errno or 0)}"
    assert text in str(refused), f"{what}: expected the message {text!r}, got {refused}"
