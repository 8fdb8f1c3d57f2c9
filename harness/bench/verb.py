"""The verb: from a benchmark's name and recipes to tables on the screen, in files, and as an exit status."""

from __future__ import annotations

import re
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.bench.collect import Report, exact_table
from harness.bench.exact import Boot, run_boots
from harness.bench.initramfs import Closure, closure, initramfs
from harness.bench.judge import Margin, compare, nothing_to_compare, objections
from harness.bench.model import Comparison, Table, Verdict
from harness.bench.report import WIDTH, shown_changes, write_results
from harness.bench.report import shown as shown_table
from harness.display import display_for
from harness.errors import InfraError, UserError
from harness.events import Notice, Phase, Sink
from harness.model import Kernel, Request, SeriesState
from harness.paths import project_root
from harness.run import shown

if TYPE_CHECKING:
    from rich.console import Console

    from harness.bench import clocked

PACKAGE = "selftests.bench"
_NEW_SYMBOL = re.compile(r"^\+\s*(?:menu)?config (\w+)$", re.M)
_BENCHMARK = re.compile(r"^BENCHMARK\b", re.M)


@dataclass(frozen=True)
class Benched:
    """A benchmark's file, found."""

    name: str
    module: str
    folder: Path
    """Where the module's path begins."""


@dataclass(frozen=True)
class Wish:
    """What was asked for."""

    name: str
    request: Request
    base: Request | None = None
    """Given: both kernels are measured, and compared."""
    boots: int = 3
    packets: int = 0
    """For each row, at least; 0: as the benchmark has it."""
    margin: Margin = field(default_factory=Margin)
    fail_if: Verdict | None = None
    memory_mb: int = 512
    results: str | None = None
    update: bool = False
    profile: bool = False
    """In the first boot of each kernel, also count by function."""
    clock: clocked.Wish | None = None
    """Given: measure by time, and not instructions."""


@dataclass(frozen=True)
class _Measured:
    """A kernel, and what came of it."""

    table: Table
    kernel: Kernel
    report: Report
    """Of its first boot."""
    windows: Path
    """What that boot's plugin counted, where there was one."""


def check_exact(accel: str | None, cpus: int, memory_mb: int) -> None:
    """Raises UserError for a guest that cannot count."""
    from harness.guest.spec import check_size

    if accel == "kvm":
        raise UserError("--accel kvm: instructions are counted by QEMU's emulator, TCG; leave the option out")
    if cpus != 1:
        raise UserError(f"--cpus {cpus}: a guest that counts instructions has one processor; leave the option out")
    check_size(memory_mb, cpus)


def benchmarks() -> list[str]:
    """The names of all that selftests/bench has."""
    return sorted(
        path.stem
        for path in project_root().joinpath(*PACKAGE.split(".")).glob("*.py")
        if _BENCHMARK.search(path.read_text())
    )


def find(name: str) -> Benched:
    """A benchmark of selftests/bench, or a file of one's own. Raises UserError that names what there is."""
    path = Path(name)
    if path.suffix == ".py" and path.is_file():
        return Benched(path.stem, path.stem, path.resolve().parent)
    if name not in benchmarks():
        raise UserError(f"there is no benchmark {name!r}; there are {', '.join(benchmarks())}, or give a file")
    return Benched(name, f"{PACKAGE}.{name}", project_root())


def base_and_patched(
    request: Request, base: str | None, patched: str | None, series: Sequence[str], here: Path
) -> tuple[Request | None, Request]:
    """The requests of both kernels; no base: one kernel alone.

    ``request``: what the other options say; it is what of both is not given. ``series`` makes both: the kernel with it,
    and the one without.
    """
    if series:
        if base is not None or patched is not None or len(series) > 1:
            raise UserError("--series NAME makes both kernels: give one, and neither --base nor --patched")
        return _without(request, series[0]), replace(request, series=None)
    if base is None and patched is None:
        return None, request
    return tuple(  # type: ignore[return-value]
        request if text is None else Request.parse(text).anchored(here) for text in (base, patched)
    )


def _without(request: Request, name: str) -> Request:
    """The request without one of the series that apply, in the same configuration: what the series' fragment asks for
    besides its own symbols costs something as well. Raises UserError for a series that the source has by itself.
    """
    from harness.kernel.fragments import read
    from harness.kernel.obtain import resolve

    recipe = resolve(replace(request, series=None))
    states = {status.name: status for status in recipe.series}
    if name not in states:
        raise UserError(f"there is no series {name!r}; there are {', '.join(states)}")
    if states[name].state is not SeriesState.APPLIES:
        raise UserError(
            f"series {name} is {states[name].state} in {request.source} ({states[name].reason}), so there is no kernel"
            " without it to compare with; name one: --base 'SYMBOL=n'"
        )
    rest = tuple(one for one, status in states.items() if one != name and status.state is not SeriesState.ABSENT)
    own = {symbol for patch in recipe.patches for symbol in _NEW_SYMBOL.findall(patch.text.decode(errors="replace"))}
    fragment = project_root() / "kconfigs" / f"{name}.config"
    wanted = read(fragment, recipe.source.version) if fragment.exists() else {}
    settings = tuple(f"{symbol}={value}" for symbol, value in wanted.items() if symbol not in own)
    return replace(request, series=rest, settings=(*settings, *request.settings))


def bench(wish: Wish) -> int:
    """Measure, show and write down; returns the exit status: 1 where a verdict is what it must not be.

    Raises UserError for what cannot be measured, BootError for a kernel that dies of it, InfraError where the numbers
    mean nothing.
    """
    from rich.console import Console

    from harness.bench import plot

    if wish.clock:
        return _bench_by_time(wish, wish.clock)
    benchmark = find(wish.name)
    parts = closure(benchmark.module, benchmark.folder)
    with display_for(sys.stderr) as display:
        kernels = _kernels(wish, display.sink)
        folder = _folder(wish)
        measured = _measure(wish, benchmark, parts, kernels, folder, display.sink)
    tables = [one.table for one in measured]
    if not wish.base and (reason := nothing_to_compare(tables[0])):
        raise UserError(reason)
    comparison = compare(tables[0], tables[1], wish.margin) if wish.base else None
    said = [line for table in tables for line in objections(table, wish.margin)]
    console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
    for table in tables:
        console.print(shown_table(table, console.width))
    if comparison:
        console.print(shown_changes(comparison, str(wish.margin)))
    if wish.profile:
        said += _profile(wish, measured, comparison, folder / "profile", console)
    write_results(folder, tables, comparison, margin=str(wish.margin), objections=said, fail_if=wish.fail_if)
    plot.save(plot.kernels(comparison) if comparison else plot.rows(tables[0]), folder, benchmark.name)
    return _end(wish, comparison, said, folder)


def _bench_by_time(wish: Wish, clock: clocked.Wish) -> int:
    """The same, by a clock."""
    from rich.console import Console

    from harness.bench import clocked

    benchmark = find(wish.name)
    if benchmark.folder != project_root():
        raise UserError(f"{wish.name}: guests that measure time see the project's folder only; put the file there")
    with display_for(sys.stderr) as display:
        kernels = _kernels(wish, display.sink)
        folder = _folder(wish)
        found, trips = clocked.measured(benchmark.name, benchmark.module, kernels, clock, folder, display.sink)
    comparison = found.comparison() if wish.base else None
    said = [found.objection] if found.objection else []
    console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
    console.print(clocked.shown(found))
    if trips:
        print(clocked.shown_trips(trips))
    margin = f"{clock.margin:.2%}"
    write_results(folder, found.tables, comparison, margin=margin, objections=said, fail_if=wish.fail_if)
    clocked.written(folder, found, trips)
    return _end(wish, comparison, said, folder)


def _folder(wish: Wish) -> Path:
    """Where results go, without those of an earlier call: what fails leaves none that look like its own."""
    from harness.pytest_plugin.results import open_folder, run_folder

    folder = open_folder(run_folder(project_root() / "results", wish.results), latest=not wish.results)
    shutil.rmtree(folder / "profile", ignore_errors=True)
    for name in ("bench.json", "time.json"):
        (folder / name).unlink(missing_ok=True)
    return folder


def _end(wish: Wish, comparison: Comparison | None, said: Sequence[str], folder: Path) -> int:
    """The exit status. Raises InfraError where the numbers mean nothing."""
    print(shown(folder))
    if said:
        raise InfraError("no result: " + "; ".join(said))
    return int(comparison is not None and _fails(comparison, wish.fail_if))


def _profile(
    wish: Wish, measured: Sequence[_Measured], comparison: Comparison | None, folder: Path, console: Console
) -> list[str]:
    """Show and write down where the instructions are; returns why that means nothing, if it does."""
    from harness.bench.profiled import objections, profiled, shown_changes, shown_rows, write_profiles

    found = [profiled(one.table, 0, one.report, one.windows, one.kernel) for one in measured]
    for one in measured:
        one.windows.unlink()
    for grid in shown_changes(found[0], found[1], comparison) if comparison else shown_rows(found[0]):
        console.print(grid)
    write_profiles(folder, dict(zip(("base", "patched") if comparison else ("",), found, strict=True)))
    return [line for one in found for line in objections(one, wish.margin)]


def _fails(comparison: Comparison, fail_if: Verdict | None) -> bool:
    return any(change.verdict is fail_if for change in comparison.changes)


def _kernels(wish: Wish, events: Sink) -> list[Kernel]:
    """One, or base and patched. Raises UserError where these are the same."""
    from harness.kernel.obtain import obtain, resolve

    if not wish.base:
        return [obtain(wish.request, events=events, update=wish.update)]
    identities = [resolve(one, events=events, update=wish.update).identity for one in (wish.base, wish.request)]
    if identities[0] == identities[1]:
        raise UserError(f"base and patched are the same kernel, {identities[0]}: there is nothing to compare")
    return [obtain(one, events=events) for one in (wish.base, wish.request)]


def _measure(
    wish: Wish, benchmark: Benched, parts: Closure, kernels: Sequence[Kernel], folder: Path, events: Sink
) -> list[_Measured]:
    from harness.guest.accel import measured_host

    began = time.monotonic()
    root = initramfs(parts.files)
    rounds = max(1, -(-wish.packets // parts.packets))
    boots = [
        Boot(
            kernel=kernel,
            root=root,
            benchmark=benchmark.module,
            symbols=parts.symbols,
            folder=folder / "guests" / (f"{('base', 'patched')[index]}{number}" if wish.base else f"g{number}"),
            rounds=rounds,
            memory_mb=wish.memory_mb,
            profile=wish.profile and not number,
        )
        for number in range(wish.boots)
        for index, kernel in enumerate(kernels)
    ]
    events(
        Phase(
            "measure",
            f"{benchmark.name}: {wish.boots} boot{'s' * (wish.boots > 1)}" + (" of both kernels" if wish.base else ""),
        )
    )
    if rounds > 1:
        events(Notice(f"{rounds * parts.packets} for each row"))
    reports = run_boots(boots, speed=measured_host().speed, events=events)
    seconds = time.monotonic() - began
    return [
        _Measured(
            table=exact_table(benchmark.name, kernel, reports[index :: len(kernels)], seconds),
            kernel=kernel,
            report=reports[index],
            windows=boots[index].windows,
        )
        for index, kernel in enumerate(kernels)
    ]
