"""The cells of a matrix: one kernel, and the selftests that run on it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path

from harness.kernel.files import digest
from harness.matrix.definition import ALL, BASE, NONE, Choice
from harness.model import Request

LONGEST = 60
"""Characters of an id: it is a folder's name, a job's and a suite's."""


@dataclass(frozen=True)
class Cell:
    id: str
    """Unique in its matrix; a file name."""
    choice: Choice
    request: Request
    """With paths that mean the same from every folder."""

    @property
    def tests(self) -> list[str]:
        """Paths and ids as from the project's folder."""
        return self.choice.selftests.split()

    @cached_property
    def recipe(self) -> str:
        """Cells of an equal recipe share a kernel."""
        return str(self.request)

    @property
    def source(self) -> str:
        """Cells of an equal source share a tree."""
        return self.request.source

    def matches(self, pattern: str) -> bool:
        """Whether a pattern, as in a shell, is this cell's id or kernel."""
        return fnmatchcase(self.id, pattern) or fnmatchcase(self.choice.kernel, pattern)


def cells(choices: Sequence[Choice], root: Path) -> tuple[Cell, ...]:
    """Name the cells of a project: by what tells them apart."""
    several = len({choice.selftests for choice in choices}) > 1
    names = [_name(choice, several=several) for choice in choices]
    counts = Counter(names)
    return tuple(
        Cell(
            name if counts[name] == 1 else f"{name}-{digest(vars(choice))[:6]}",
            choice,
            request_of(choice).anchored(root),
        )
        for name, choice in zip(names, choices, strict=True)
    )


def request_of(choice: Choice) -> Request:
    """The request of a cell's kernel. Raises UserError for a text that is no recipe."""
    words = [choice.kernel]
    if choice.series == NONE:
        words.append("+none")
    elif choice.series != ALL:
        words += [f"+{name}" for name in choice.series.split("+")]
    if choice.flavour != BASE:
        words += [f"flavour={name}" for name in choice.flavour.split("+")]
    return Request.parse(" ".join(words))


def _name(choice: Choice, *, several: bool) -> str:
    parts = [choice.kernel]
    parts += [choice.flavour] if choice.flavour != BASE else []
    parts += [choice.series] if choice.series != ALL else []
    parts += [choice.selftests] if several else []
    name = "-".join(re.sub(r"[^A-Za-z0-9._+]+", "-", part).strip("-.") for part in parts)
    return name if len(name) <= LONGEST else f"{digest(vars(choice))[:6]}-{name[-LONGEST + 7 :].lstrip('-.')}"
