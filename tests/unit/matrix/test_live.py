"""What one sees while a matrix runs."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from harness.matrix.live import Grid, Journal, Lines, ending
from harness.matrix.run import Stage

from .conftest import World, as_foretold, facts


def test_a_journal_is_read_as_it_grows(tmp_path: Path) -> None:
    path = tmp_path / "outcomes.jsonl"
    journal = Journal(path)
    assert journal.look() == 0
    path.write_text('{"selected": ["a", "b"]}\n{"nodeid": "a"}\n{"node')
    assert journal.look() == 1
    path.write_text('{"selected": ["a", "b"]}\n{"nodeid": "a"}\n{"nodeid": "b"}\n')
    assert journal.look() == 2
    path.unlink()
    assert journal.look() == 2


def test_lines_tell_each_step(world: World) -> None:
    matrix = world.matrix()
    first, second = matrix.cells
    stream = io.StringIO()
    with Lines(stream, lambda done: 2) as view:
        first.stage = Stage.PREPARING
        view.watch(first)
        first.facts, first.stage = facts("6.12.8"), Stage.TESTING
        view.watch(first)
        first.records, first.stage = as_foretold("6.12.8"), Stage.DONE
        view.watch(first)
        second.broken, second.stage = "it does not compile\nlong story", Stage.BROKEN
        view.watch(second)
    said = [line.partition("] ")[2] for line in stream.getvalue().splitlines()]
    assert said == [
        "debian-6.12.8: kernel: build",
        "debian-6.12.8: 5 tests on 6.12.8",
        "debian-6.12.8: 2 passed, 2 xfailed, 1 skipped, 2 surprises; 0.0 s",
        "debian-6.12.100: BROKEN: it does not compile",
    ]
    first.same_code = True
    assert ending(first, 0).endswith("no surprise; 0.0 s; its code is that of a kernel which was tested")


def test_the_grid_has_a_line_for_each_cell(world: World) -> None:
    cells = world.matrix().cells
    grid = Grid(io.StringIO(), lambda: cells, lambda done: 1)
    cells[0].facts, cells[0].stage = facts("6.12.8"), Stage.TESTING
    cells[0].results.mkdir(parents=True)
    (cells[0].results / "outcomes.jsonl").write_text('{"nodeid": "a"}\n{"nodeid": "b"}\n')
    cells[1].stage = Stage.WAITING
    grid.watch(cells[0])
    shown = io.StringIO()
    Console(file=shown, width=100).print(grid._render())
    first, second, last = shown.getvalue().splitlines()
    assert "debian-6.12.8" in first
    assert "2/5" in first
    assert "waiting" in second
    assert last.strip() == "0 of 2 cells"
    cells[0].records, cells[0].stage = as_foretold("6.12.8"), Stage.DONE
    grid.watch(cells[0])
    shown = io.StringIO()
    Console(file=shown, width=100).print(grid._render())
    assert "2 passed  1 skipped  2 xfailed  1 surprise" in shown.getvalue()
