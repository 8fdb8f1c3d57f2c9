"""The broken end without the culprit, or with the repair: does the test pass there?"""

from __future__ import annotations

import time
from pathlib import Path

from harness.bisect import decide
from harness.bisect.decide import Tally
from harness.bisect.kernels import Untestable
from harness.bisect.ranges import CannotProve
from harness.bisect.samples import compare
from harness.bisect.search import Answer, Making, Search
from harness.bisect.state import Proof
from harness.events import Phase, Sink


def prove(search: Search, answer: Answer, *, kernels: Making, folder: Path, events: Sink) -> Proof:
    """Try it, as often as the wanted confidence asks for. Raises InfraError for a machine that fails."""
    if answer.culprit is None:
        return Proof(False, "there is no single culprit")
    started = time.monotonic()
    try:
        request = search.range.proof(answer.culprit, breaks=search.breaks, folder=folder)
    except CannotProve as error:
        return Proof(False, str(error))
    end = search.range.revision(search.broken_end).name
    culprit = search.range.revision(answer.culprit).name
    what = f"{end} {'without' if search.breaks else 'with'} {culprit}"
    events(Phase("proof", what))
    tally = Tally()

    def found(text: str, *, proven: bool = False) -> Proof:
        return Proof(proven, f"{what} {text}", str(request), (tally.failures, tally.passes), time.monotonic() - started)

    try:
        made = kernels.make(request)
    except Untestable as error:
        return found(str(error))
    broken = search.broken_tally()
    needed = min(decide.passes_needed(broken, 1 - search.confidence), decide.MOST_RUNS)
    while tally.passes < needed:
        judged = compare(search.sample(made, runs=needed - tally.passes), search.state.hunted)
        if judged.untestable:
            return found(f"says nothing, {judged.untestable}")
        if judged.failed:
            tally += Tally(failures=1)
            return found(f"fails as well: {judged.message}")
        tally += Tally(passes=1)
    return found(f"passes, {needed} of {needed} runs", proven=True)
