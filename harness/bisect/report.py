"""The end of a bisect: culprit and steps on the screen, ``bisect.json``, ``repro.sh``."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from harness import __version__
from harness.bisect import decide
from harness.bisect.decide import OLD_END
from harness.bisect.search import Answer, Search
from harness.bisect.state import Judgement
from harness.errors import InfraError
from harness.tables import table

JSON = "bisect.json"
REPRO = "repro.sh"
SHOWN = 20
"""Suspects of an inconclusive answer that are listed."""


@dataclass(frozen=True)
class Call:
    """What was called, to repeat it."""

    arguments: Sequence[str]
    """Of ``kproof bisect``."""
    tests: Sequence[str]
    options: Sequence[str]
    """Of ``kproof run``: what guests are like."""
    project: Path


def verdict_lines(search: Search, answer: Answer) -> list[str]:
    """What was found, and how sure that is."""
    what = "breaks" if search.breaks else "mends"
    sure = f"confidence {percent(answer.confidence)}"
    number = answer.culprit
    if number is not None:
        before = search.range.revision(_parent(search, number))
        lines = [f"first {'broken' if search.breaks else 'mended'} {search.range.kind}: {search.range.told(number)}"]
        lines.append(f"  the last {'good' if search.breaks else 'bad'} one is {before.name}; {sure}")
    else:
        names = [search.range.told(one) for one in answer.suspects]
        lines = [f"inconclusive: one of these {len(names)} {search.range.kinds} {what} it, and no more can be judged"]
        lines += [f"  {name}" for name in names[:SHOWN]]
        lines += [f"  … and {len(names) - SHOWN} more"] if len(names) > SHOWN else []
        lines.append(f"  {sure}")
    if search.state.proof:
        lines.append(f"  {'proven' if search.state.proof.proven else 'not proven'}: {search.state.proof.text}")
    lines.append(f"  hunted: {'; '.join(str(failure) for failure in search.state.hunted)}")
    return lines


def _parent(search: Search, number: int) -> int:
    return max(search.history.parents[number], default=OLD_END)


def percent(share: float) -> str:
    """Never rounded up to certainty."""
    return f"{int(share * 10000) / 100:g} %"


def steps_table(search: Search) -> str:
    """Each judgement, in the order in which it was made."""
    rows = [_row(search, number, one) for number, one in search.state.judgements.items()]
    return table(("STEP", search.range.kind.upper(), "VERDICT", "FAILED", "BUILD", "TEST", "WHY"), rows)


def _row(search: Search, number: int, one: Judgement) -> tuple[str, ...]:
    revision = search.range.revision(number)
    if one.same_as is not None:
        why = f"{one.why_same} ({search.range.revision(one.same_as).name})"
    else:
        why = one.untestable or one.message or revision.title
    failed = f"{one.failures} of {one.tally.runs}" if one.tally.runs else "-"
    return (
        _place(search, number),
        revision.name,
        search.verdict(number),
        failed,
        _seconds(one.build_seconds),
        _seconds(one.test_seconds),
        why,
    )


def _place(search: Search, number: int) -> str:
    if number in (OLD_END, search.history.new_end):
        return "end"
    between = [one for one in search.state.judgements if one not in (OLD_END, search.history.new_end)]
    return str(between.index(number) + 1)


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 0.05 else "-"


def summary_line(search: Search, answer: Answer, folder: str) -> str:
    skips = f", {answer.skips} skipped" if answer.skips else ""
    same = sum(one.same_as is not None for one in search.state.judgements.values())
    reused = f", {same} known by their code" if same else ""
    rate = decide.rate(search.broken_tally())
    often = f"; fails in {percent(rate)} of runs" if rate < 1 else ""
    of_all = f"{answer.steps} step{'s' * (answer.steps != 1)} among {len(search.history)} {search.range.kinds}"
    return f"{of_all}{skips}{reused}{often}; {search.state.elapsed:.1f} s; {folder}"


def write(folder: Path, search: Search, answer: Answer, *, call: Call, status: int) -> None:
    """Leave all of it in ``folder``. InfraError when it cannot be written."""
    try:
        left = search.range.leave(folder)
        facts = _facts(search, answer, call, status=status, files=left)
        _write(folder / JSON, json.dumps(facts, indent=1) + "\n")
        _write(folder / REPRO, repro(search, answer, call))
        (folder / REPRO).chmod(0o755)
    except OSError as error:
        raise InfraError(f"the results cannot be written to {folder}: {error.strerror}") from None


def _write(path: Path, text: str) -> None:
    scratch = path.with_name(f".{path.name}")
    scratch.write_text(text, encoding="utf-8", errors="backslashreplace")
    scratch.replace(path)


def _facts(search: Search, answer: Answer, call: Call, *, status: int, files: Sequence[str]) -> dict[str, Any]:
    def revision(number: int) -> dict[str, str]:
        one = search.range.revision(number)
        return {"name": one.name, "title": one.title, "request": str(one.request)}

    broken = search.broken_tally()
    return {
        "kproof": __version__,
        "ended": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": ["kproof", "bisect", *call.arguments],
        "exit_status": status,
        "seconds": round(search.state.elapsed, 2),
        "find": "broken" if search.breaks else "fixed",
        "kind": search.range.kind,
        "candidates": len(search.history),
        "ends": {"old": revision(OLD_END), "new": revision(search.history.new_end)},
        "hunted": [asdict(failure) for failure in search.state.hunted],
        "culprit": revision(answer.culprit) if answer.culprit is not None else None,
        "suspects": [revision(number) for number in answer.suspects],
        "confidence": round(answer.confidence, 6),
        "wanted_confidence": search.confidence,
        "rate": round(decide.rate(broken), 4),
        "proof": asdict(search.state.proof) if search.state.proof else None,
        "steps": answer.steps,
        "skips": answer.skips,
        "most_steps": search.history.most_steps + answer.skips,
        "judgements": [
            {
                **revision(number),
                "verdict": search.verdict(number),
                "failures": one.failures,
                "passes": one.passes,
                "untestable": one.untestable,
                "message": one.message,
                "same_as": search.range.revision(one.same_as).name if one.same_as is not None else None,
                "why_same": one.why_same,
                "kernel": one.kernel,
                "code": one.code,
                "build_seconds": round(one.build_seconds, 2),
                "test_seconds": round(one.test_seconds, 2),
            }
            for number, one in search.state.judgements.items()
        ],
        "files": list(files),
    }


def repro(search: Search, answer: Answer, call: Call) -> str:
    """A script: without an argument the whole bisect; ``broken``, ``whole``: a run on either side of the answer."""

    def run(number: int) -> str:
        request = str(search.range.revision(number).request)
        return shlex.join(
            ["kproof", "run", "--kernel", request, "-n", "1", *call.options, *call.tests, "--", "--runxfail"]
        )

    sides = {"broken": search.broken_end, "whole": search.whole_end}
    if answer.culprit is not None:
        before = _parent(search, answer.culprit)
        pair = (answer.culprit, before) if search.breaks else (before, answer.culprit)
        sides = dict(zip(("broken", "whole"), pair, strict=True))
    lines = [
        "#!/bin/sh",
        "# Repeats this bisect; `repro.sh broken` and `repro.sh whole` run the test on either side of the answer:",
        *(f"#   {side:6}  {search.range.told(number)}" for side, number in sides.items()),
        f"cd {shlex.quote(str(call.project))} || exit 3",
        'PATH="$PWD/.venv/bin:$PATH"',
        'case "${1-}" in',
        f'"") exec {shlex.join(["kproof", "bisect", "--rerun", *call.arguments])} ;;',
        *(f"{side}) exec {run(number)} ;;" for side, number in sides.items()),
        '*) echo "repro.sh: write nothing, broken or whole, not $1" >&2; exit 2 ;;',
        "esac",
    ]
    return "\n".join(lines) + "\n"
