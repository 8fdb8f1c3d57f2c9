"""PYTEST_DONT_REWRITE: one run's folder: ``junit.xml``, ``run.json``, ``repro.sh``, ``guests/*/console.log``."""

from __future__ import annotations

import json
import os
import platform
import shlex
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import __version__
from harness.errors import InfraError
from harness.guest.symbols import source_lines
from harness.model import BAD, GuestSpec, Kernel, Outcome, Request, Result
from harness.pytest_plugin.evidence import taint_letters
from harness.pytest_plugin.junit import junit
from harness.pytest_plugin.known_issues import KnownIssues
from harness.pytest_plugin.phases import PHASES, durations, outcome_of

if TYPE_CHECKING:
    from harness.guest.accel import Host

JOURNAL = "outcomes.jsonl"
"""What a run leaves that was killed: ``{"selected": [ID, ...]}``, then one outcome a line; run.json takes its place."""
ENDS = (("kproof_foretold", Result.XFAILED), ("kproof_crash", Result.CRASHED), ("kproof_hung", Result.HUNG))
"""What a test is whose guest did not live to tell, by the attribute of its report that has the one line on it."""
FILES = ("junit.xml", "run.json", "repro.sh", JOURNAL)


def run_folder(base: Path, wanted: str | None) -> Path:
    """The folder of a run that begins now: ``wanted``, or ``base/DATE-TIME``, which is not there yet."""
    if wanted:
        return Path(wanted).absolute()
    folder = base / datetime.now().strftime("%Y%m%d-%H%M%S")
    number = 1
    while folder.exists():  # two runs in one second
        number += 1
        folder = folder.with_name(f"{folder.name.partition('.')[0]}.{number}")
    return folder


def open_folder(folder: Path, *, latest: bool) -> Path:
    """Make a run's folder, without the results of an earlier run in it; ``latest`` beside it points to it then.

    Returns it: another one than asked for where a run of the same second has that by now, unless it was the user who
    asked (not ``latest``). Raises InfraError when it cannot be made.
    """
    try:
        while latest:
            folder.parent.mkdir(parents=True, exist_ok=True)
            try:
                folder.mkdir()
                break
            except FileExistsError:
                folder = run_folder(folder.parent, None)
        folder.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            (folder / name).unlink(missing_ok=True)
        shutil.rmtree(folder / "guests", ignore_errors=True)
        if latest:
            link = folder.parent / f".latest-{os.getpid()}"
            link.symlink_to(folder.name)
            link.replace(folder.parent / "latest")
        return folder
    except OSError as error:
        raise InfraError(f"the results folder {folder} cannot be made: {error.strerror}") from None


@dataclass
class Life:
    """One guest's: from its start to its end."""

    number: int
    """In which place it came to life among the guests of this run, from 1."""
    restored: bool
    """From a snapshot; else booted."""
    seconds: float
    """From power-on to ready."""
    peak_mb: float = 0.0
    """The most memory that its QEMU was seen to have resident; 0: nobody saw it."""


class Run:
    """Takes in what is reported, holds exactly one outcome per selected test, and writes it all down at the end."""

    def __init__(
        self,
        folder: Path,
        *,
        request: Request,
        kernel: Kernel,
        spec: GuestSpec,
        host: Host,
        count: int,
        tests: list[str],
        options: Sequence[str] = (),
        known: KnownIssues | None = None,
        max_skips: int | None = None,
        seed: int | None = None,
    ) -> None:
        self.folder = folder
        self.request = request
        self.kernel = kernel
        self.spec = spec
        self.host = host
        self.count = count
        self.tests = tests
        """The paths and test ids that were asked for, as a shell in the project's folder would write them."""
        self.options = list(options)
        """What else selects tests, or decides on them."""
        self.known = known or KnownIssues()
        self.max_skips = max_skips
        self.seed = seed
        """Of the random order; None: the tests ran as they were collected."""
        self.lives: dict[str, Life] = {}
        """By guest."""
        self.finished = False
        self.started = time.time()
        self._began = time.monotonic()
        self.ids: dict[str, None] = {}
        """Every selected test, in order of collection."""
        self.outcomes: dict[str, Outcome] = {}
        self.boots: dict[str, float] = {}
        """Seconds from power-on to ready, by guest."""
        self.boot_failure = ""
        self.deaths: dict[str, str] = {}
        """How guests ended that were not told to, by guest."""
        self.foretold: set[str] = set()
        """The guests of these whose end was predicted of the test that they were in."""
        self.complaints: list[tuple[str, str, str]] = []
        """Guest, title and text of what kernels complained of outside of any test."""
        self.no_source_lines = ""
        """Why the frames of traces have no source lines; empty: they have, or there are none."""
        self._phases: dict[str, list[Any]] = {}

    # -- taking in ---------------------------------------------------------------------------------------------------

    def selected(self, ids: list[str]) -> None:
        if new := [nodeid for nodeid in ids if nodeid not in self.ids]:
            self._note({"selected": new})
        self.ids.update(dict.fromkeys(ids))

    def record(self, outcome: Outcome) -> Outcome:
        """Keep an outcome. Raises InfraError when it cannot be written down: what follows would be lost, too."""
        self.outcomes[outcome.nodeid] = outcome
        if not self.finished:
            self._note(outcome.to_json())
        return outcome

    def report(self, report: Any) -> Outcome | None:
        """Take a phase of a test (set-up, call, teardown) or a crash; returns the outcome once it is known."""
        guest = getattr(report, "kproof_guest", "")
        self.outside_tests(guest, getattr(report, "kproof_outside", []))
        self.known.note(getattr(report, "kproof_known", []))
        for attribute, result in ENDS:
            if title := getattr(report, attribute, ""):
                if result is Result.XFAILED:
                    self.foretold.add(guest)
                return self.record(
                    Outcome(
                        report.nodeid,
                        result,
                        round(report.duration, 3),
                        title,
                        str(report.longrepr),
                        guest,
                        kernel_log=getattr(report, "kproof_kernel_log", ""),
                        phases=durations(self._phases.pop(report.nodeid, [])),
                    )
                )
        if report.when not in PHASES:  # its guest died before it began: it runs in another
            return None
        phases = self._phases.setdefault(report.nodeid, [])
        phases.append(report)
        if report.when != "teardown":
            return None
        del self._phases[report.nodeid]
        return self.record(outcome_of(phases, guest))

    @property
    def seconds(self) -> float:
        """Since there was a kernel."""
        return time.monotonic() - self._began

    @property
    def deaths_outside_tests(self) -> dict[str, str]:
        ended = (Result.CRASHED, Result.HUNG)
        inside = {outcome.guest for outcome in self.outcomes.values() if outcome.result in ended} | self.foretold
        return {name: title for name, title in self.deaths.items() if name not in inside}

    def outside_tests(self, guest: str, complaints: list[list[str]]) -> None:
        """Take in what a guest's kernel complained of outside of any test: titles with their texts."""
        self.complaints += [(guest, title, text) for title, text in complaints if not self.known.excuse(title)]

    def counts(self) -> Counter[Result]:
        return Counter(outcome.result for outcome in self.outcomes.values())

    @property
    def whole(self) -> bool:
        """Whether every selected test has run."""
        results = [self.outcomes[nodeid].result if nodeid in self.outcomes else Result.NOT_RUN for nodeid in self.ids]
        return Result.NOT_RUN not in results

    def objections(self) -> dict[str, str]:
        """Why the run as a whole is not good although none of its tests is bad: by what it is about, a line each."""
        counts = self.counts()
        found: dict[str, str] = {}
        if self.max_skips is not None and counts[Result.SKIPPED] > self.max_skips:
            found["skips"] = f"{_tests(counts[Result.SKIPPED])} skipped, and --max-skips allows {self.max_skips}"
        if self.ids and not counts[Result.PASSED]:
            told = ", ".join(f"{number} {result}" for result, number in sorted(counts.items())) or "none was run"
            found["passed"] = f"not one test passed ({told}): such a run is never green"
        if not self.whole:
            missing = [nodeid for nodeid in self.ids if self._lacks(nodeid)]
            found["complete"] = f"{_tests(len(missing))} not run, the first is {missing[0]}"
        return found

    @property
    def is_bad(self) -> bool:
        """Whether the run is red for something that is no test's."""
        return bool(self.deaths_outside_tests or self.complaints or self.objections())

    def _lacks(self, nodeid: str) -> bool:
        return nodeid not in self.outcomes or self.outcomes[nodeid].result is Result.NOT_RUN

    def remarks(self) -> list[str]:
        """What else a person should know at the end, a line each."""
        order = [] if self.seed is None else [f"random order: --random-order={self.seed} repeats it"]
        return order + self.known.remarks(whole=self.whole)

    @property
    def peak_mb(self) -> float:
        """The most memory that one guest's QEMU had resident."""
        return max((life.peak_mb for life in self.lives.values()), default=0.0)

    # -- writing down ------------------------------------------------------------------------------------------------

    def finish(self, exit_status: int) -> None:
        """Write the results; a test without an outcome is "not run". Raises InfraError when the disk is full."""
        self.finished = True
        for nodeid in self.ids:
            if nodeid not in self.outcomes:
                self.record(Outcome(nodeid, Result.NOT_RUN, message="the run ended before this test"))
        self._read_splats()
        try:
            self._write("run.json", json.dumps(self._as_json(exit_status), indent=1) + "\n")
            self._write("junit.xml", junit(self))
            self._write("repro.sh", self._repro())
            (self.folder / "repro.sh").chmod(0o755)
            (self.folder / JOURNAL).unlink(missing_ok=True)
        except OSError as error:
            raise self._unwritable(error) from None

    def _read_splats(self) -> None:
        """Give the outcomes their splats, and every trace in the results the source lines of its frames."""
        told = [text for outcome in self.outcomes.values() for text in (outcome.detail, outcome.kernel_log)]
        lines = source_lines(self.kernel, [*told, self.boot_failure, *(text for _, _, text in self.complaints)])
        self.no_source_lines = lines.why_not
        for outcome in list(self.outcomes.values()):
            if outcome.detail or outcome.kernel_log:
                self.record(lines.outcome(outcome))
        self.boot_failure = lines.text(self.boot_failure)
        self.complaints = [(guest, title, lines.text(text)) for guest, title, text in self.complaints]

    def _note(self, entry: dict[str, Any]) -> None:
        """Append a line to the journal, with one write(2)."""
        try:
            with open(self.folder / JOURNAL, "ab", buffering=0) as file:
                file.write(json.dumps(entry).encode() + b"\n")
        except OSError as error:
            raise self._unwritable(error) from None

    def _unwritable(self, error: OSError) -> InfraError:
        return InfraError(f"the results cannot be written to {self.folder}: {error.strerror}")

    def _write(self, name: str, text: str) -> None:
        scratch = self.folder / f".{name}"
        scratch.write_text(text, encoding="utf-8", errors="backslashreplace")
        scratch.replace(self.folder / name)

    def _as_json(self, exit_status: int) -> dict[str, Any]:
        return {
            "kproof": __version__,
            "started": datetime.fromtimestamp(self.started).astimezone().isoformat(timespec="seconds"),
            "seconds": round(self.seconds, 2),
            "exit_status": exit_status,
            "request": str(self.request),
            "random_order": self.seed,
            "kernel": {
                "identity": self.kernel.identity,
                "release": self.kernel.release,
                "folder": str(self.kernel.folder),
                "series": [asdict(status) for status in self.kernel.series],
                "build_seconds": self.kernel.seconds,
            },
            "host": {**asdict(self.host), "machine": platform.machine(), "cores": os.cpu_count()},
            "guest": {
                "launcher": self.spec.launcher,
                "root": Path(self.spec.root).stem,
                "memory_mb": self.spec.memory_mb,
                "cpus": self.spec.cpus,
                "count": self.count,
            },
            "boots": {name: round(seconds, 2) for name, seconds in self.boots.items()},
            "guests": {name: _rounded(asdict(life)) for name, life in self.lives.items()},
            "boot_failure": self.boot_failure,
            "deaths": self.deaths,
            "deaths_outside_tests": self.deaths_outside_tests,
            "complaints_outside_tests": [list(complaint) for complaint in self.complaints],
            "known_issues": self.known.to_json(whole=self.whole),
            "objections": self.objections(),
            "no_source_lines": self.no_source_lines,
            "summary": {str(result): number for result, number in sorted(self.counts().items())},
            "outcomes": [self._outcome_as_json(outcome) for outcome in self.outcomes.values()],
        }

    def _outcome_as_json(self, outcome: Outcome) -> dict[str, Any]:
        life = self.lives.get(outcome.guest)
        return {
            **outcome.to_json(),
            "boot": life.number if life else None,
            "restored": life.restored if life else None,
            "taint_letters": [taint_letters(flags) for flags in outcome.taint] if outcome.taint else None,
        }

    def _repro(self) -> str:
        """A script: without an argument it repeats the run, with a number one failure."""
        spec = self.spec
        command = ["kproof", "run", "--kernel", str(self.request), "--root", spec.launcher, "-n", str(self.count)]
        command += ["--memory", str(spec.memory_mb), "--cpus", str(spec.cpus), "--accel", spec.accel]
        failed = [outcome for outcome in self.outcomes.values() if outcome.result in BAD]
        judging = ("--require-feature", "--kmemleak")
        features = [option for option in self.options if option.startswith(judging)]
        lines = [
            "#!/bin/sh",
            "# Repeats this run; `repro.sh N` repeats only failure N:",
            *(f"#   {number}  {outcome.nodeid}" for number, outcome in enumerate(failed, 1)),
            f"cd {shlex.quote(self.spec.project)} || exit 3",
            'PATH="$PWD/.venv/bin:$PATH"',
            'case "${1-}" in',
            f'"") exec {shlex.join([*command, *self.options, *self.tests])} ;;',
            *(f"{n}) exec {shlex.join([*command, *features, o.nodeid])} ;;" for n, o in enumerate(failed, 1)),
            f'*) echo "repro.sh: there is no failure $1; this run has {len(failed)}" >&2; exit 2 ;;',
            "esac",
        ]
        return "\n".join(lines) + "\n"


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    return {key: round(value, 2) if isinstance(value, float) else value for key, value in values.items()}


def _tests(count: int) -> str:
    return "1 test was" if count == 1 else f"{count} tests were"
