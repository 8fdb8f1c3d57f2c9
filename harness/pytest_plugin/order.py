"""PYTEST_DONT_REWRITE: tests in random order, to find those that depend on others: ``--random-order [SEED]``.

A test's place follows from the seed and its id alone. So the order is the same again for the seed, and that of some of
the tests the same as among all. Which guest gets which of them is not foretold: with one guest, it is all of them.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from hashlib import sha256

NEW = "new"
"""The option's value for a seed that nobody has chosen."""


def seed_of(text: str) -> int:
    """The seed that an option's value means. Raises argparse.ArgumentTypeError."""
    if text == NEW:
        return random.randrange(10**6)
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no seed, which is a whole number")
    return int(text)


OPTION = {
    "nargs": "?",
    "type": seed_of,
    "const": NEW,
    "metavar": "SEED",
    "help": "run the tests in a random order, or in that of this seed",
}


def shuffled(ids: Sequence[str], seed: int) -> list[int]:
    """The indices of tests in their random order."""
    return sorted(range(len(ids)), key=lambda index: sha256(f"{seed} {ids[index]}".encode()).digest())
