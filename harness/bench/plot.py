"""Plots of results: what each row costs and adds, the same on two kernels, and how latencies are spread.

Each is an SVG, the same to the byte for the same result, and a PNG. The colours are those of Okabe and Ito ("Color
Universal Design", 2008), which all kinds of colour vision tell apart; nothing is told by colour alone.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.bench.model import Comparison, Role, Row, Table
from harness.bench.report import number, signed
from harness.errors import InfraError, UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from harness.bench.stats import Judgement

BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"),
)
INK, SOFT, FAINT, BAR, AID = "#222222", "#5A5A5A", "#E4E4E4", "#9CC7E3", "#D5D5D5"
CYCLE = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
DASHES = ("-", "--", "-.", ":")

STYLE: Any = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so it is the same everywhere
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "xtick.color": SOFT,
    "xtick.labelcolor": SOFT,
    "ytick.color": SOFT,
    "ytick.labelcolor": INK,
    "svg.hashsalt": "kproof",  # without one, ids are random
    "svg.fonttype": "path",
}
WIDTH = 9.6
"""Inches; text has 10 points."""
TITLE_WIDTH = 78
"""Letters, which are bold and have 13 points."""
PNG_DPI = 160
TAIL = 0.995
"""Of the latencies, the share that is drawn: the rest are the host's, many times as long as all others."""


STEPS = 500
"""Of a curve: as fine as two tenths of a per cent."""


def rows(table: Table, verdicts: Mapping[str, Judgement] | None = None) -> Figure:
    """What each row costs, and what it adds to the first one.

    ``verdicts``, by row: the differences in per cent with their intervals (time mode), in place of plain differences.
    Raises UserError where nothing was measured.
    """
    measured = [row for row in table.rows if row.measurements]
    if not measured or not table.first.measurements:
        raise UserError(f"nothing to draw: no row of {table.benchmark} was measured")
    with _style():
        figure, left, right = _panels(len(measured), 0.36)
        _costs(left, table, measured)
        if verdicts is None:
            _differences(right, table, measured)
        else:
            _intervals(right, table, measured, verdicts)
        _headline(figure, table.title, _about(table))
    return figure


def kernels(comparison: Comparison) -> Figure:
    """What each row costs on the base and on the patched kernel, and what the patch adds.

    Raises UserError where no row was measured on both.
    """
    changes = [change for change in comparison.changes if change.base is not None and change.patched is not None]
    if not changes:
        raise UserError(f"nothing to draw: no row of {comparison.base.benchmark} was measured on both kernels")
    base = comparison.base
    places = _places(len(changes))
    with _style():
        figure, left, right = _panels(len(changes), 0.56)
        for label, offset, colour, values in (
            ("base", 0.2, AID, [change.base or 0.0 for change in changes]),
            ("patched", -0.2, BAR, [change.patched or 0.0 for change in changes]),
        ):
            left.barh([place + offset for place in places], values, height=0.38, color=colour, label=label)
            for place, value in zip(places, values, strict=True):
                _beside(left, value, place + offset, _number(value, base), size=8.5)
        left.set_yticks(places, [change.row for change in changes])
        _room(left, [value for change in changes for value in (change.base or 0.0, change.patched or 0.0)])
        left.set_xlabel(f"{base.quantity} per {base.unit}")
        left.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, borderaxespad=0, fontsize=9)
        differences = [change.difference or 0.0 for change in changes]
        texts = [f"{_signed(change.difference or 0.0, base)}, {change.verdict}" for change in changes]
        _signed_bars(right, differences, texts, [change.margin for change in changes])
        right.set_xlabel("patched − base; grey: the margin")
        _headline(figure, base.title, f"base: {base.subject.recipe}\npatched: {comparison.patched.subject.recipe}")
    return figure


def latencies(title: str, about: str, samples: Mapping[str, Sequence[float]]) -> Figure:
    """The share of transactions that take no longer than so many nanoseconds, for each row (ECDF).

    Raises UserError where no row has a sample.
    """
    found = {name: sorted(taken) for name, taken in samples.items() if taken}
    if not found:
        raise UserError("nothing to draw: no latency was measured")
    with _style():
        figure = _figure(5.0)
        axes = figure.subplots()
        for index, (name, taken) in enumerate(found.items()):
            ranks = sorted({round(step * (len(taken) - 1) / STEPS) for step in range(STEPS + 1)})
            share = [100 * (rank + 1) / len(taken) for rank in ranks]
            middle = taken[len(taken) // 2] / 1000
            colour, dashes = CYCLE[index % len(CYCLE)], DASHES[index % len(DASHES)]
            axes.step([taken[rank] / 1000 for rank in ranks], share, where="post", lw=2, color=colour, ls=dashes,
                      label=f"{name}: half within {middle:,.1f} µs")  # fmt: skip
        for percentile in (50, 90, 99):
            axes.axhline(percentile, color=SOFT, lw=0.8, ls=(0, (1, 3)))
            axes.annotate(f"P{percentile}", (1, percentile), xycoords=("axes fraction", "data"), xytext=(4, 0),
                          textcoords="offset points", va="center", color=SOFT, fontsize=9)  # fmt: skip
        ends = [taken[int(TAIL * (len(taken) - 1))] for taken in found.values()]
        axes.set_xscale("log")
        axes.set_xlim(0.95 * min(taken[0] for taken in found.values()) / 1000, 1.1 * max(ends) / 1000)
        _plain_ticks(axes)
        axes.set_ylim(0, 102)
        axes.set_xlabel("latency in µs")
        axes.set_ylabel("transactions that take no longer, in %")
        axes.grid(axis="x", lw=0.6)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, borderaxespad=0.2, fontsize=9)
        _headline(figure, title, about)
    return figure


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write ``NAME.svg`` and ``NAME.png``; returns both. Raises InfraError when they cannot be written."""
    paths = [folder / f"{name}.svg", folder / f"{name}.png"]
    try:
        with _style():
            _settle(figure)
            figure.savefig(paths[0], metadata={"Date": None})
            figure.savefig(paths[1], dpi=PNG_DPI)
    except OSError as error:
        raise InfraError(f"the plots cannot be written to {folder}: {error.strerror}") from None
    return paths


def _costs(axes: Axes, table: Table, measured: Sequence[Row]) -> None:
    """A bar for each row; where boots differ, a dot for each."""
    places = _places(len(measured))
    colours = [BAR if row.role is Role.PLAIN else AID for row in measured]
    axes.barh(places, [row.value for row in measured], height=0.68, color=colours)
    for place, row in zip(places, measured, strict=True):
        if not row.identical:
            axes.plot(row.values, [place] * len(row.values), "o", ms=3.2, mfc="white", mec=INK, mew=0.7)
        _beside(axes, max(row.values), place, _number(row.value, table))
        if (reference := table.reference(row)).measurements:
            axes.vlines(reference.value, place - 0.5, place + 0.5, color=SOFT, lw=0.8, ls=(0, (4, 3)))
    axes.set_yticks(places, [_label(row) for row in measured])
    _room(axes, [max(row.values) for row in measured])
    axes.set_xlabel(f"{table.quantity} per {table.unit}")


def _differences(axes: Axes, table: Table, measured: Sequence[Row]) -> None:
    values = [table.delta(row) if table.reference(row).measurements else 0.0 for row in measured]
    texts = ["reference" if table.reference(row) is row else _signed(value, table)
             for row, value in zip(measured, values, strict=True)]  # fmt: skip
    _signed_bars(axes, values, texts, [table.resolution] * len(values))
    axes.set_xlabel(f"more than {_references(table)}, ±{_number(table.resolution, table)}")


def _intervals(axes: Axes, table: Table, measured: Sequence[Row], verdicts: Mapping[str, Judgement]) -> None:
    """Differences with their intervals, the verdicts in a column beside; the margin is a grey band."""
    for place, row in zip(_places(len(measured)), measured, strict=True):
        text = "reference" if table.reference(row) is row else ""
        if verdict := verdicts.get(row.name):
            mean, low, high = (100 * value for value in (verdict.difference, verdict.low, verdict.high))
            told = {"equivalent": BLUE, "undecided": SOFT}
            colour = told.get(verdict.kind) or (VERMILION if mean > 0 else GREEN)
            axes.errorbar(mean, place, xerr=[[mean - low], [high - mean]], fmt="o", ms=5, capsize=3.5, color=colour)
            text = str(verdict).replace("-", "−")
        axes.annotate(text, (1, place), xycoords=("axes fraction", "data"), xytext=(6, 0), textcoords="offset points",
                      va="center_baseline", fontsize=9)  # fmt: skip
    margin = 100 * max((verdict.margin for verdict in verdicts.values()), default=0.0)
    axes.axvspan(-margin, margin, color=FAINT, zorder=0)
    axes.axvline(0, color=SOFT, lw=0.8)
    axes.margins(x=0.08)
    axes.set_xlabel(f"slower than {_references(table)}, in %")


def _signed_bars(axes: Axes, values: Sequence[float], texts: Sequence[str], margins: Sequence[float]) -> None:
    """Differences with their texts; what lies within its margin is grey, as the margin is."""
    places = _places(len(values))
    for place, value, text, margin in zip(places, values, texts, margins, strict=True):
        axes.barh(place, 2 * margin, left=-margin, height=0.82, color=FAINT, zorder=0)
        axes.barh(place, value, height=0.44, color=SOFT if abs(value) <= margin else VERMILION if value > 0 else GREEN)
        _beside(axes, max(value, margin), place, text)
    axes.axvline(0, color=SOFT, lw=0.8)
    low, high = min(0.0, *values, *(-margin for margin in margins)), max(0.0, *values, *margins)
    width = (high - low) or 1.0
    longest = max(map(len, texts))
    axes.set_xlim(low - 0.06 * width, high + (0.1 + 0.045 * longest) * width)


def _beside(axes: Axes, x: float, y: float, text: str, size: float = 9.5) -> None:
    axes.annotate(text, (x, y), xytext=(5, 0), textcoords="offset points", va="center_baseline", fontsize=size,
                  bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.6})  # fmt: skip


def _room(axes: Axes, values: Sequence[float]) -> None:
    """Bars begin at zero; to the right of the longest there is room for its number."""
    axes.set_xlim(0, 1.25 * max(values))


def _places(count: int) -> list[float]:
    """The first row is on top."""
    return [float(count - 1 - index) for index in range(count)]


def _references(table: Table) -> str:
    """``“none”``, or that there are several."""
    several = any(table.reference(row) is not table.first for row in table.rows)
    return "the reference" if several else f"“{table.first.name}”"


def _label(row: Row) -> str:
    return {Role.AGAIN: f"{row.name} (A/A)", Role.CONTROL: f"{row.name} (control)"}.get(row.role, row.name)


def _number(value: float, table: Table) -> str:
    return number(round(value) if value >= 100 and table.mode == "time" else value)


def _signed(value: float, table: Table) -> str:
    return signed(round(value) if abs(value) >= 100 and table.mode == "time" else value).replace("-", "−")


def _about(table: Table) -> str:
    how = "counted: the same on any host" if table.mode == "exact" else "measured by time"
    boots = max(len(row.measurements) for row in table.rows)
    return f"Linux {table.subject.release}; {boots} boot{'s' if boots > 1 else ''}; {table.quantity} {how}"


def _figure(height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH, height), layout="constrained", facecolor="white")


def _panels(count: int, each: float) -> tuple[Figure, Axes, Axes]:
    """Two panels with the same rows, ``each`` inches high: costs, and beside them the differences."""
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    figure = _figure(1.75 + each * count)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(5 if axes is left else 4))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
        axes.grid(axis="x", lw=0.6)
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(-0.6, count - 0.4)
        axes.spines["left"].set_visible(False)
    right.tick_params(axis="y", labelleft=False)
    return figure, left, right


def _headline(figure: Figure, title: str, about: str) -> None:
    """Title and, in smaller letters below it, what was measured; above the panels, at the left margin."""
    title = textwrap.fill(title[:1].upper() + title[1:], TITLE_WIDTH)
    height = float(figure.get_size_inches()[1])
    below = 0.43 + 0.22 * title.count("\n")
    top = 1 - (below + 0.31 + 0.19 * about.count("\n")) / height
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.set(rect=(0.005, 0.01, 0.985, top), wspace=0.06)  # type: ignore[call-arg]
    figure.text(0.015, 1 - 0.14 / height, title, fontsize=13, fontweight="bold", va="top")
    figure.text(0.015, 1 - below / height, about, fontsize=9.5, color=SOFT, va="top", linespacing=1.35)


def _settle(figure: Figure) -> None:
    """Keep what the layout has come to, without its last digits: they are not the same each time, and so no file is."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes in figure.axes:
        left, bottom, width, height = (round(float(number), 5) for number in axes.get_position().bounds)
        axes.set_position((left, bottom, width, height))


def _plain_ticks(axes: Axes) -> None:
    """On a logarithmic axis: 20, 50, 100 instead of powers of ten."""
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    axes.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())


def _style() -> AbstractContextManager[None]:
    import matplotlib

    return matplotlib.rc_context(STYLE)
