"""What is bisected: revisions in their order, and the kernel of each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.bisect import decide
from harness.bisect.decide import History
from harness.model import Request


@dataclass(frozen=True)
class Revision:
    """One of a range."""

    name: str
    """What a person calls it: a version, an abbreviated commit, ``3/5``."""
    title: str
    """One line more: a commit's subject, a patch's; may be empty."""
    request: Request
    """Its kernel."""


class CannotProve(Exception):
    """Why the culprit cannot be taken out of the broken end, one line."""


class Range(ABC):
    """From an old end to a new one."""

    kind: str
    """What its revisions are: ``version``, ``commit``, ``patch``."""
    history: History

    @property
    def kinds(self) -> str:
        """Many of them."""
        return f"{self.kind}{'es' if self.kind.endswith('ch') else 's'}"

    @property
    @abstractmethod
    def key(self) -> list[str]:
        """What it is, so that an interrupted bisect finds its state again."""

    @abstractmethod
    def revision(self, number: int) -> Revision:
        """``OLD_END`` is one, too."""

    @property
    def new_end(self) -> int:
        return self.history.new_end

    def next(self, suspects: Collection[int], untestable: Collection[int], new: Collection[int]) -> int | None:
        """What to judge next; None: nothing that is left can be judged."""
        return decide.choose(self.history, suspects, untestable, new)

    def note(self, number: int, verdict: str) -> None:  # noqa: B027
        """Remember that a revision is ``old`` or ``new``, or a ``skip``, where somebody else keeps that, too."""

    def begin(self) -> None:  # noqa: B027
        """Forget what ``note`` was told."""

    def same_code(self, number: int, judged: Mapping[int, Collection[str] | None]) -> tuple[int, str] | None:
        """One of ``judged`` from which a revision differs in nothing that is built, and why; None: none is known.

        Each comes with the source files that its build read, None where that is not known.
        """
        return None

    @abstractmethod
    def proof(self, culprit: int, *, breaks: bool, folder: Path) -> Request:
        """The broken end's kernel without what broke it, or with what mends it. Raises CannotProve.

        ``breaks``: the culprit does, else it mends. Files that the request names go to ``folder``.
        """

    def leave(self, folder: Path) -> list[str]:
        """Write what a person may want of it beside the report; the names of the files."""
        return []

    def told(self, number: int) -> str:
        """A revision in one line."""
        one = self.revision(number)
        return f"{one.name} {one.title}".rstrip()
