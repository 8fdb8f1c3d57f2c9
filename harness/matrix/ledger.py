"""Kept outcomes: one file for each place (a kernel's code, a root image, a shape of guests), one entry for each test.

An entry is good as long as the test's sources are what they were. Errors and what has not run are never kept, nor is
anything of a guest whose kernel complained, or died, outside of any test: that would never be told again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import median
from typing import Any

from harness.events import Sink, ignore
from harness.kernel.files import digest, disk_errors, read_json, write_json
from harness.kernel.locks import locked
from harness.model import BAD, Result

FORMAT = 1
KEPT = 200
"""Places; the one that was used longest ago goes."""
NEVER = frozenset({Result.ERROR, Result.NOT_RUN})
CONSOLE = 200
"""Last lines of a guest's console that are kept with a bad outcome."""


@dataclass(frozen=True)
class Record:
    """One outcome with its evidence."""

    nodeid: str
    result: Result
    seconds: float = 0.0
    message: str = ""
    detail: str = ""
    kernel_log: str = ""
    console: str = ""
    """The end of its guest's console, of a bad outcome."""
    when: str = ""
    """The day and time of its run, ISO 8601."""

    @classmethod
    def parse(cls, entry: Mapping[str, Any]) -> Record:
        """Of what ``to_json`` or an outcome in ``run.json`` says."""
        known = {field.name for field in fields(cls)}
        return cls(
            **{**{key: value for key, value in entry.items() if key in known}, "result": Result(entry["result"])}
        )

    def to_json(self) -> dict[str, Any]:
        """Without what is empty."""
        return {key: value for key, value in asdict(self).items() if value}


@dataclass(frozen=True)
class Found:
    """What a run's folder says."""

    records: dict[str, Record]
    """By test id."""
    tainted: frozenset[str]
    """Those of guests that complained or died outside of any test."""
    outside: tuple[tuple[str, str], ...] = ()
    """Title and text of such complaints, and how such guests died."""
    boot_failure: str = ""
    whole: bool = False
    """The run came to its own end."""


def read_run(folder: Path) -> Found:
    """What ``kproof run`` left in its folder: at its end, or, where it was killed, until then."""
    run = read_json(folder / "run.json")
    if isinstance(run, dict):
        outcomes = run["outcomes"]
        deaths = run["deaths_outside_tests"]
        complaints = [(title, text) for _, title, text in run["complaints_outside_tests"]]
        complaining = {guest for guest, _, _ in run["complaints_outside_tests"]} | deaths.keys()
        outside = (*complaints, *((title, _console(folder, guest)) for guest, title in deaths.items()))
        when, boot_failure = run["started"], run["boot_failure"]
    else:
        outcomes, complaining, outside, when, boot_failure = _journal(folder), set(), (), "", ""
    records = {}
    for one in outcomes:
        record = Record.parse({**one, "when": when})
        console = _console(folder, one["guest"]) if record.result in BAD and one["guest"] else ""
        records[record.nodeid] = Record(**{**vars(record), "console": console})
    tainted = frozenset(one["nodeid"] for one in outcomes if one["guest"] in complaining)
    return Found(records, tainted, outside, boot_failure, whole=isinstance(run, dict))


def _journal(folder: Path) -> list[dict[str, Any]]:
    """The outcomes of a run that was killed; its last line may be half."""
    from harness.pytest_plugin.results import JOURNAL

    outcomes: dict[str, dict[str, Any]] = {}
    try:
        lines = (folder / JOURNAL).read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return []
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if "nodeid" in entry:
            outcomes[entry["nodeid"]] = entry
    return list(outcomes.values())


def _console(folder: Path, guest: str) -> str:
    try:
        text = (folder / "guests" / guest / "console.log").read_text(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-CONSOLE:])


class Ledger:
    """The kept outcomes, in a folder of the cache."""

    def __init__(self, folder: Path, locks: Path, events: Sink = ignore) -> None:
        self._folder = folder
        self._locks = locks
        self._events = events

    def known(self, place: str, sources: Mapping[str, str]) -> dict[str, Record]:
        """What need not run again, by test id; ``sources`` are the hashes of the tests as they are now, by id."""
        return {
            nodeid: Record.parse(entry["outcome"])
            for nodeid, entry in self._read(place).items()
            if sources.get(nodeid) == entry["sources"]
        }

    def seconds(self) -> dict[str, float]:
        """How long each test usually takes where it is not skipped: the median of what any place knows."""
        known: dict[str, list[float]] = {}
        for path in self._folder.glob("*.json"):
            for nodeid, entry in self._entries(path).items():
                if entry["outcome"]["result"] != Result.SKIPPED:
                    known.setdefault(nodeid, []).append(entry["outcome"].get("seconds", 0.0))
        return {nodeid: median(seconds) for nodeid, seconds in known.items()}

    def put(self, place: str, found: Found, sources: Mapping[str, str]) -> None:
        """Keep what a run found out. Raises InfraError where the disk refuses."""
        new = {
            nodeid: {"sources": sources[nodeid], "outcome": record.to_json()}
            for nodeid, record in found.records.items()
            if record.result not in NEVER and nodeid not in found.tainted and nodeid in sources
        }
        if new:
            self._write(place, lambda entries: entries | new)

    def forget(self, place: str, tests: Iterable[str]) -> None:
        """As if these tests had never run there."""
        gone = set(tests)
        self._write(place, lambda entries: {nodeid: one for nodeid, one in entries.items() if nodeid not in gone})

    def _write(self, place: str, change: Any) -> None:
        with (
            disk_errors(self._folder),
            locked(self._locks / "outcomes.lock", what="keeps outcomes", events=self._events),
        ):
            entries = change(self._read(place))
            write_json(self._path(place), {"format": FORMAT, "outcomes": entries})
            kept = sorted(self._folder.glob("*.json"), key=lambda path: path.stat().st_mtime)
            for path in kept[:-KEPT]:
                path.unlink(missing_ok=True)

    def _read(self, place: str) -> dict[str, Any]:
        return self._entries(self._path(place))

    def _entries(self, path: Path) -> dict[str, Any]:
        kept = read_json(path)
        return kept["outcomes"] if isinstance(kept, dict) and kept.get("format") == FORMAT else {}

    def _path(self, place: str) -> Path:
        return self._folder / f"{place}.json"


class Pending:
    """Runs that have begun and whose outcomes are not kept yet: one note each, so that a killed call loses nothing."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def begin(self, run: Path, place: str, sources: Mapping[str, str]) -> None:
        write_json(self._path(run), {"run": str(run), "place": place, "sources": dict(sources)})

    def over(self, run: Path) -> None:
        self._path(run).unlink(missing_ok=True)

    def harvest(self, ledger: Ledger) -> int:
        """Keep what the runs of killed calls found out; returns how many outcomes those were.

        The caller is alone with the project: no other call of it goes on.
        """
        total = 0
        for path in sorted(self._folder.glob("*.json")):
            if isinstance(note := read_json(path), dict):
                found = read_run(Path(note["run"]))
                ledger.put(note["place"], found, note["sources"])
                total += len(found.records)
            path.unlink(missing_ok=True)
        return total

    def _path(self, run: Path) -> Path:
        return self._folder / f"{digest(str(run))}.json"
