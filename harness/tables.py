"""What the listing verbs print: plain tables, the same on a terminal and in a pipe."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.kernel.store import Store


def series_list() -> str:
    """All known series: name, since, title."""
    from harness.kernel.series import load_series
    from harness.paths import project_root

    rows = [
        (series.name, f"{series.since.major}.{series.since.minor}" if series.since else "never merged", series.title)
        for series in load_series(project_root() / "patches")
    ]
    return table(("SERIES", "SINCE", "TITLE"), rows)


def series_status(source: str) -> str:
    """What each series is to a source, and why."""
    import sys

    from harness.display import display_for
    from harness.kernel.obtain import series_status as statuses

    with display_for(sys.stderr) as display:
        rows = [(status.name, str(status.state), status.reason) for status in statuses(source, events=display.sink)]
    return table(("SERIES", "STATE", "WHERE OR WHY"), rows)


def kernels_list() -> str:
    """The stored kernels, newest first, with their snapshots of warm guests."""
    from harness.guest.snapshot import snapshots_of

    rows = []
    for kernel, size, made in _store().kernels():
        snapshots = [path.stat().st_size for path in snapshots_of(kernel.identity)]
        warm = f"{len(snapshots)} of {sum(snapshots) / 1e6:.0f} MB" if snapshots else "-"
        age = _age(time.time() - made)
        rows.append((kernel.identity, kernel.release, age, f"{size / 1e6:.0f} MB", warm, kernel.request))
    if not rows:
        return "no kernel is stored yet; `kproof run` makes the first"
    return table(("KERNEL", "RELEASE", "AGE", "SIZE", "SNAPSHOTS", "RECIPE"), rows)


def kernels_prune(keep: int) -> str:
    """Remove all but the newest kernels, and every snapshot that belongs to none that stays."""
    from harness.guest.snapshot import discard, orphans

    removed = _store().prune(keep)
    for path in orphans({kernel.identity for kernel, _, _ in _store().kernels()}):
        discard(path)
    return f"removed {len(removed)}: {', '.join(removed)}" if removed else "nothing to remove"


def kernels_available(since: str, *, update: bool) -> str:
    """Kernels that the archive has, newest first: what to write, what it is, its suites, the size of the download."""
    import sys

    from harness.display import display_for
    from harness.kernel.layout import Layout
    from harness.kernel.ready import catalogue
    from harness.model import IMAGE, Version

    oldest = Version.parse(since)
    with display_for(sys.stderr) as display:
        archive = catalogue(Layout.default(), display.sink)
        listed = [*archive.images(update=update), *archive.sources(update=update)]
    rows = []
    for one in sorted(listed, key=lambda one: (one.release, one.kind), reverse=True):
        if one.release >= oldest:
            name = f"{IMAGE if one.kind == 'image' else ''}debian:{one.version}"
            size = "modules are gone" if one.missing else f"{one.size / 1e6:.0f} MB"
            rows.append((name, str(one.kind), ", ".join(one.suites), size))
    return table(("KERNEL", "KIND", "SUITES", "DOWNLOAD"), rows) if rows else f"the archive has no kernel since {since}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Left-aligned columns, two blanks between them; the last column is not padded."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [header, *rows])
    return "\n".join(line.rstrip() for line in lines)


def _store() -> Store:
    from harness.kernel.store import Store
    from harness.paths import cache_root

    return Store(cache_root() / "kernels")


def _age(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
