"""A matrix as data: ``matrix.json``, from which all other reports are made, also those of several calls together.

    {"kproof": "0.1.0", "started": ISO 8601, "seconds": 812.3, "exit_status": 1, "file": "ci/matrix.toml",
     "interrupted": false, "jobs": 1, "guests": 2,
     "tests": [ID, ...],
     "cells": [{"id", "recipe", "kernel", "flavour", "series", "selftests", "state", "broken", "identity", "release",
                "version", "code", "root", "same_code", "kernel_seconds", "test_seconds", "folder", "ran", "reused",
                "summary": {RESULT: COUNT}, "trouble": [[TITLE, TEXT], ...],
                "outcomes": {ID: {"result", "expected", and where there is one: "why", "surprise", "seconds", "message",
                                  "detail", "kernel_log", "console", "repro", "when", "reused"}}}],
     "surprises": [{"cell", "nodeid", "kind", "text", "expected"}]}

A pass that was foretold keeps nothing but its time.
"""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from harness import __version__
from harness.display import WORST_FIRST
from harness.errors import InfraError, UserError
from harness.kernel.files import read_json, write
from harness.matrix.cells import Cell
from harness.matrix.definition import Skips
from harness.matrix.ledger import Record
from harness.matrix.plan import Forecast, Planned, State
from harness.matrix.run import Done, Stage
from harness.matrix.surprises import Expectation, Kind, Surprise, expect, of_cell
from harness.model import Result, Version
from harness.tables import table

NAME = "matrix.json"
PAGE = "matrix.html"
SURPRISED = 1
"""Exit status."""
NO_TESTS = 5
LOST = "no job left its results"
SHOWN = 40
"""Surprises that a terminal gets."""
SLOWEST = 12
"""Cells that the account of the time names."""
EVIDENCE = ("detail", "kernel_log", "console")

Data = dict[str, Any]


def expectations(done: Done, skips: Sequence[Skips]) -> dict[str, Expectation]:
    """What is foretold of each test of a cell; of a kernel that is not there, nothing is but a pass."""
    version = Version.parse(done.facts.version) if done.facts else None
    return {
        test.nodeid: expect(test, done.cell.choice, version, skips) if version else Expectation(Result.PASSED)
        for test in done.planned.tests
    }


def surprises(done: Done, skips: Sequence[Skips]) -> list[Surprise]:
    """Of a cell that has come to its end."""
    expected = expectations(done, skips)
    return of_cell(done.cell.id, expected, done.records, broken=done.broken, trouble=done.trouble)


def report(
    cells: Sequence[Done],
    skips: Sequence[Skips],
    *,
    folder: Path,
    file: str,
    started: float,
    seconds: float,
    jobs: int,
    guests: int,
    shape: Sequence[str],
    interrupted: bool,
) -> Data:
    """What ``matrix.json`` holds, but for the exit status. Of a cell that was interrupted, nothing is a surprise."""
    found = [surprise for done in cells if not done.stopped for surprise in surprises(done, skips)]
    kinds = {(one.cell, one.nodeid): str(one.kind) for one in found}
    return {
        "kproof": __version__,
        "started": datetime.fromtimestamp(started).astimezone().isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
        "exit_status": 0,
        "file": file,
        "interrupted": interrupted,
        "jobs": jobs,
        "guests": guests,
        "tests": list(dict.fromkeys(test.nodeid for done in cells for test in done.planned.tests)),
        "cells": [_cell(done, expectations(done, skips), kinds, folder, shape) for done in cells],
        "surprises": [_surprise(one) for one in found],
    }


def _cell(
    done: Done,
    expected: Mapping[str, Expectation],
    kinds: Mapping[tuple[str, str], str],
    folder: Path,
    shape: Sequence[str],
) -> Data:
    choice, facts = done.cell.choice, done.facts
    counts = Counter(str(done.records[nodeid].result) for nodeid in expected if nodeid in done.records)
    counts["not run"] += sum(nodeid not in done.records for nodeid in expected)
    return {
        "id": done.cell.id,
        "recipe": done.cell.recipe,
        **{axis: getattr(choice, axis) for axis in ("kernel", "flavour", "series", "selftests")},
        "state": "interrupted" if done.stopped else str(done.stage),
        "broken": done.broken,
        "identity": facts.identity if facts else "",
        "release": facts.release if facts else "",
        "version": facts.version if facts else "",
        "code": facts.code if facts else "",
        "root": facts.root if facts else "",
        "same_code": done.same_code,
        "kernel_seconds": round(done.kernel_seconds, 1),
        "test_seconds": round(done.test_seconds, 1),
        "folder": str(done.results.relative_to(folder)),
        "ran": len(done.records.keys() - done.reused),
        "reused": len(done.reused),
        "summary": {result: count for result, count in sorted(counts.items()) if count},
        "trouble": [list(one) for one in done.trouble],
        "outcomes": {
            nodeid: _outcome(
                record,
                expected.get(nodeid, Expectation(Result.PASSED)),
                kinds.get((done.cell.id, nodeid), ""),
                reused=nodeid in done.reused,
                repro=shlex.join(["kproof", "run", "--kernel", done.cell.recipe, *shape, nodeid]),
            )
            for nodeid, record in done.records.items()
        },
    }


def _outcome(record: Record, expected: Expectation, surprise: str, *, reused: bool, repro: str) -> Data:
    if record.result is Result.PASSED and not surprise:
        return {
            "result": "passed",
            "expected": "passed",
            "seconds": record.seconds,
            **({"reused": True} if reused else {}),
        }
    entry = {key: value for key, value in record.to_json().items() if key != "nodeid"}
    if record.result is Result.SKIPPED and not surprise:
        entry = {key: value for key, value in entry.items() if key not in EVIDENCE}
    entry |= {"expected": str(expected.result), "why": expected.why, "surprise": surprise, "reused": reused}
    if record.result is not Result.SKIPPED or surprise:
        entry["repro"] = repro
    return {key: value for key, value in entry.items() if value}


def exit_status(data: Data) -> int:
    """1: there is a surprise; 5: no test was selected."""
    if data["surprises"]:
        return SURPRISED
    return 0 if data["tests"] else NO_TESTS


def summary(data: Data) -> list[str]:
    """Where the time went, the surprises, and the counts: lines for a terminal."""
    slowest = sorted(data["cells"], key=_seconds, reverse=True)
    rows = [
        (cell["id"], cell["release"] or "-", *(f"{cell[key]:.1f} s" for key in ("kernel_seconds", "test_seconds")))
        for cell in slowest[:SLOWEST]
        if _seconds(cell)
    ]
    lines = ["where the time went:", *table(("CELL", "RELEASE", "KERNEL", "TESTS"), rows).splitlines()] if rows else []
    for number, one in enumerate(data["surprises"]):
        if number == SHOWN:
            lines.append(f"… and {len(data['surprises']) - SHOWN} more surprises: see {PAGE}")
            break
        what = one["nodeid"] or "the whole cell"
        lines.append(f"{one['kind'].upper()} {what} on {one['cell']}: {one['text'].partition(chr(10))[0]}")
    counts: Counter[str] = Counter()
    for cell in data["cells"]:
        counts.update(cell["summary"])
    told = ", ".join(f"{counts[result]} {result}" for result in map(str, WORST_FIRST) if counts[result])
    reused = sum(cell["reused"] for cell in data["cells"])
    found = len(data["surprises"])
    stopped = "interrupted: " if data["interrupted"] else ""
    surprised = f"{found} surprise{'s' if found != 1 else ''}" if found else "no surprise"
    cells = f"{len(data['cells'])} cell{'s' if len(data['cells']) != 1 else ''}"
    lines.append(f"{stopped}{surprised} in {cells}: {told}; {reused} reused; {data['seconds']:.1f} s in all")
    return lines


def _seconds(cell: Data) -> float:
    return float(cell["kernel_seconds"] + cell["test_seconds"])


def save(folder: Path, data: Data) -> None:
    """Leave all reports in a folder. Raises InfraError when they cannot be written."""
    from harness.matrix.junit import junit
    from harness.matrix.page import page

    try:
        write(folder / NAME, json.dumps(data, separators=(",", ":")).encode() + b"\n")
        write(folder / "junit.xml", junit(data).encode(errors="backslashreplace"))
        write(folder / PAGE, page(data).encode(errors="backslashreplace"))
    except OSError as error:
        raise InfraError(f"the results cannot be written to {folder}: {error.strerror}") from None


def merge(folders: Sequence[Path], wanted: Sequence[Cell] = ()) -> Data:
    """One matrix of several, each in a folder with its ``matrix.json``; of ``wanted`` cells, the missing are surprises.

    Raises UserError for a folder that has none.
    """
    parts: list[Data] = []
    for folder in folders:
        data = read_json(folder / NAME)
        if not isinstance(data, dict) or "cells" not in data:
            raise UserError(f"{folder} has no {NAME} that can be read")
        parts.append(data)
    ids = Counter(cell["id"] for part in parts for cell in part["cells"])
    if twice := [name for name, count in ids.items() if count > 1]:
        raise UserError(f"the cell {twice[0]} is in more than one of these folders")
    lost = [cell for cell in wanted if cell.id not in ids]
    gone = [Surprise(cell.id, "", Kind.MISSING, LOST) for cell in lost]
    return {
        **parts[0],
        "started": min(part["started"] for part in parts),
        "seconds": max(part["seconds"] for part in parts),
        "interrupted": any(part["interrupted"] for part in parts),
        "tests": list(dict.fromkeys(test for part in parts for test in part["tests"])),
        "cells": [
            *(
                {**cell, "folder": f"{folder.name}/{cell['folder']}"}
                for folder, part in zip(folders, parts, strict=True)
                for cell in part["cells"]
            ),
            *(_lost(cell) for cell in lost),
        ],
        "surprises": [*map(_surprise, gone), *(surprise for part in parts for surprise in part["surprises"])],
    }


def _lost(cell: Cell) -> Data:
    """A cell that nobody has run."""
    planned = Planned(cell, Forecast(State.BUILD), (), {}, 0.0)
    done = Done(planned, Path(cell.id), Stage.BROKEN, broken=LOST, stopped=False)
    return _cell(done, {}, {}, Path(), ())


def _surprise(one: Surprise) -> Data:
    return {**asdict(one), "kind": str(one.kind)}
