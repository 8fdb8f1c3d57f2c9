"""What a bisect knows, saved after each run of the test: killed and called again, it goes on."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from harness.bisect.decide import Tally
from harness.bisect.samples import Failure
from harness.kernel.files import read_json, write_json

FORMAT = 1
STATE = "state.json"


@dataclass
class Judgement:
    """What is known of one revision."""

    number: int
    failures: int = 0
    passes: int = 0
    settled: bool = False
    """Enough passes to take it for whole, or a failure."""
    untestable: str = ""
    """Why it is skipped."""
    message: str = ""
    """What the test said when it failed."""
    same_as: int | None = None
    """The revision whose kernel this one's is: what is known of that holds for this."""
    why_same: str = ""
    kernel: str = ""
    """Identity of its kernel; empty: none was made."""
    code: str = ""
    """Of the kernel's code: equal for kernels that behave the same; empty: not known."""
    build_seconds: float = 0.0
    test_seconds: float = 0.0

    @property
    def tally(self) -> Tally:
        return Tally(self.failures, self.passes)


@dataclass
class Proof:
    """Whether the broken end is whole without the culprit, or with the repair."""

    proven: bool
    text: str
    """One line: what was seen, or why it could not be."""
    request: str = ""
    tally: tuple[int, int] = (0, 0)
    seconds: float = 0.0


@dataclass
class State:
    """All of it; ``save`` writes it down."""

    folder: Path
    key: list[Any]
    hunted: list[Failure] = field(default_factory=list)
    judgements: dict[int, Judgement] = field(default_factory=dict)
    """By revision, in the order in which they were judged."""
    made: list[str] = field(default_factory=list)
    """Identities of kernels that were not in the store before."""
    proof: Proof | None = None
    seconds: float = 0.0
    """That earlier calls took."""
    forgotten: int = 0
    """Judgements of an earlier call that hold no more."""
    _began: float = field(default_factory=time.monotonic)

    @property
    def elapsed(self) -> float:
        """Seconds that all calls took until now."""
        return self.seconds + time.monotonic() - self._began

    @classmethod
    def load(cls, folder: Path, key: list[Any], *, anew: bool = False) -> State:
        """What was saved there for an equal key; else, and ``anew``, only which kernels must go at the end."""
        kept = read_json(folder / STATE)
        state = cls(folder, key)
        if not isinstance(kept, dict) or kept.get("format") != FORMAT:
            return state
        if anew or kept.get("key") != key:
            state.made = kept["made"]
            state.forgotten = len(kept["judgements"])
            return state
        state.hunted = [Failure(**one) for one in kept["hunted"]]
        state.judgements = {one["number"]: Judgement(**one) for one in kept["judgements"]}
        state.made = kept["made"]
        state.seconds = kept["seconds"]
        if kept["proof"]:
            state.proof = Proof(**{**kept["proof"], "tally": tuple(kept["proof"]["tally"])})
        return state

    def save(self) -> None:
        write_json(
            self.folder / STATE,
            {
                "format": FORMAT,
                "key": self.key,
                "hunted": [asdict(one) for one in self.hunted],
                "judgements": [asdict(one) for one in self.judgements.values()],
                "made": self.made,
                "proof": asdict(self.proof) if self.proof else None,
                "seconds": round(self.elapsed, 2),
            },
        )
