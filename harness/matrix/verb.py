"""The verb: from a file to a plan on the screen, outcomes, reports, and an exit status."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from harness.display import display_for
from harness.errors import UserError
from harness.kernel.files import digest
from harness.kernel.layout import Layout
from harness.kernel.locks import locked
from harness.matrix.cells import Cell, cells
from harness.matrix.collect import Test, collect
from harness.matrix.definition import Definition, Skips, load
from harness.matrix.emit import Service, emit
from harness.matrix.forecast import Forecaster, machine, seconds_of_tests
from harness.matrix.identity import Sources, place_of
from harness.matrix.ledger import Ledger, Pending, Record
from harness.matrix.live import view_for
from harness.matrix.plan import Plan, plan
from harness.matrix.prepare import Facts
from harness.matrix.report import PAGE, Data, exit_status, merge, report, save, summary, surprises
from harness.matrix.run import Matrix
from harness.matrix.steps import Shape, Steps
from harness.paths import project_root
from harness.run import INTERRUPTED, shown

FILE = Path("ci", "matrix.toml")
MARKS = ("pyproject.toml", "pytest.ini", "selftests")
"""What a project's folder has one of."""


def matrix(
    file: str | None,
    *,
    only: Sequence[str],
    jobs: int | None,
    shape: Shape,
    guests: int | None,
    anew: bool,
    list_only: bool,
    results: str | None,
) -> int:
    """Plan, run and report the cells of a file (ci/matrix.toml); returns the exit status. Raises KproofError.

    ``guests``: so many for each cell; None: as many as there are cores for.
    """
    from harness.pytest_plugin.results import open_folder, run_folder

    path = file_of(file)
    root = project_of(path)
    definition = load(path)
    wanted = chosen(definition, root, only)
    layout = Layout.default()
    with ExitStack() as stack:
        events = stack.enter_context(display_for(sys.stderr)).sink
        lock = layout.locks / f"matrix-{digest(str(root))}.lock"
        stack.enter_context(locked(lock, what="runs a matrix of this project", events=events))
        ledger = Ledger(layout.root / "outcomes", layout.locks, events)
        pending = Pending(layout.root / "outcomes" / f"pending-{digest(str(root))}")
        pending.harvest(ledger)
        selftests = collect(root, [path for cell in wanted for path in cell.tests])
        definition.check(selftests.features)
        planned = _plan(wanted, selftests.tests, root, definition.skips, ledger, shape, guests, jobs, anew=anew)
        print(planned, flush=True)
        if list_only:
            return 0
        started, began = time.time(), time.monotonic()
        folder = open_folder(run_folder(root / "results", results), latest=not results)
        campaign = Matrix(
            planned,
            steps=Steps(root, shape, planned.guests),
            ledger=ledger,
            pending=pending,
            sources=lambda: Sources(root).of,
            shape=shape.options,
            folder=folder,
            watch=lambda done: view.watch(done),
            anew=anew,
        )
        view = view_for(sys.stdout, lambda: campaign.cells, lambda done: len(surprises(done, definition.skips)))
        interrupted = False
        try:
            with view:
                campaign.run()
        except KeyboardInterrupt:
            interrupted = True
        data = report(
            campaign.cells,
            definition.skips,
            folder=folder,
            file=str(path),
            started=started,
            seconds=time.monotonic() - began,
            jobs=planned.jobs,
            guests=planned.guests,
            shape=shape.options,
            interrupted=interrupted,
        )
        data["exit_status"] = INTERRUPTED if interrupted else exit_status(data)
        return _leave(folder, data)


def merged(file: str | None, folders: Sequence[str], *, only: Sequence[str], results: str) -> int:
    """One report of several calls' results, for example of the jobs of a CI pipeline; returns the exit status.

    Where a file is named, a cell of it that is in none of them is a surprise.
    """
    wanted = chosen(load(Path(file)), project_of(Path(file)), only) if file else ()
    data = merge([Path(folder) for folder in folders], wanted)
    data["exit_status"] = exit_status(data)
    return _leave(Path(results).absolute(), data)


def _leave(folder: Path, data: Data) -> int:
    save(folder, data)
    for line in summary(data):
        print(line)
    print(shown(folder / PAGE))
    return int(data["exit_status"])


def chosen(definition: Definition, root: Path, only: Sequence[str]) -> tuple[Cell, ...]:
    """The cells that one of these patterns matches; without any, all. UserError for a pattern that matches none."""
    every = cells(definition.choices, root)
    for pattern in only:
        if not any(cell.matches(pattern) for cell in every):
            names = ", ".join(cell.id for cell in every)
            raise UserError(f"--only {pattern} matches no cell of {definition.path}; there are {names}")
    return tuple(cell for cell in every if not only or any(cell.matches(pattern) for pattern in only))


def project_of(file: Path) -> Path:
    """The project of a matrix: the nearest folder above its file that has selftests or pytest's settings."""
    for folder in file.absolute().parents:
        if any((folder / mark).exists() for mark in MARKS):
            return folder
    raise UserError(f"{file} is in no project: no folder above it has {', '.join(MARKS)}")


def file_of(name: str | None) -> Path:
    """The matrix that is meant: by default ci/matrix.toml of the nearest folder that has one, from here upwards."""
    if name:
        return Path(name)
    here = Path.cwd()
    for folder in (here, *here.parents, project_root()):
        if (folder / FILE).is_file():
            return folder / FILE
    raise UserError(f"there is no {FILE} here; name the matrix: kproof matrix FILE")


def _plan(
    wanted: Sequence[Cell],
    tests: Sequence[Test],
    root: Path,
    skips: Sequence[Skips],
    ledger: Ledger,
    shape: Shape,
    guests: int | None,
    jobs: int | None,
    *,
    anew: bool,
) -> Plan:
    of = Sources(root).of

    def known(facts: Facts, own: Sequence[Test]) -> Mapping[str, Record]:
        place = place_of(facts.code, facts.root, shape.options)
        return {} if anew else ledger.known(place, {test.nodeid: of(test.file) for test in own})

    return plan(
        wanted,
        tests,
        forecast=Forecaster(shape.launcher),
        known=known,
        seconds=seconds_of_tests(skips, ledger.seconds()),
        machine=machine(),
        guests=guests,
        memory_mb=shape.memory_mb,
        jobs=jobs,
    )


def emitted(file: str | None, service: Service, *, only: Sequence[str]) -> str:
    """The CI file of a service that runs each cell as a job of its own."""
    path = file_of(file)
    root = project_of(path)
    return emit(service, chosen(load(path), root, only), file=path, root=root)
