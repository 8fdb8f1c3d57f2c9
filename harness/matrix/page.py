"""A matrix as ``matrix.html``: one file that needs no network, and runs no script but its own.

The template (page.html) has the surprises and the grid; the script (page.js) opens what is behind a tile, from the data
in the page. All that tests, kernels and consoles said is text: Jinja escapes it, the script sets it as text only, and a
content security policy allows exactly this script, by its hash.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.matrix.plan import about
from harness.model import Version
from harness.pytest_plugin.junit import printable

Data = dict[str, Any]

HERE = Path(__file__).parent
CODES = {
    "passed": "p",
    "failed": "f",
    "skipped": "s",
    "xfailed": "x",
    "crashed": "c",
    "hung": "h",
    "error": "e",
    "not run": "n",
}
"""A letter for each result; a capital one is a surprise. ``.``: the cell has no such test."""
TEXTS = ("message", "why", "detail", "kernel_log", "console", "repro", "when")
FIRST = 8
"""Surprises that one sees at once."""
SHOWN = 300
"""Surprises that stand on top; the grid has all."""


@dataclass
class Column:
    """A cell of the matrix."""

    id: str
    title: str
    """The version, or what was asked for where there is no kernel."""
    kind: str
    """``ready-made``, ``built``, ``kasan``."""
    recipe: str
    state: str
    broken: str
    codes: str = ""
    """One for each test of the page."""


@dataclass
class Tile:
    """A group of tests on a kernel."""

    state: str
    """A class of the style sheet."""
    text: str
    told: str
    """In words."""


@dataclass
class Row:
    """A feature, or a file of it."""

    name: str
    feature: str
    tests: list[int] = field(default_factory=list)
    tiles: list[Tile] = field(default_factory=list)
    files: list[Row] = field(default_factory=list)


@dataclass
class Card:
    """A surprise, the same on one kernel or several."""

    kind: str
    nodeid: str
    text: str
    expected: str
    on: list[tuple[str, Data]]
    """Title of the kernel, and its outcome."""


def page(data: Data) -> str:
    """The whole page."""
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["printable"] = printable
    environment.filters["about"] = about
    script = (HERE / "page.js").read_text()
    columns, cells = _columns(data)
    cards = _cards(data, columns)
    return environment.get_template("page.html").render(
        data=data,
        columns=columns,
        rows=_rows(data["tests"], columns),
        cards=cards[:SHOWN],
        first=FIRST,
        hidden=len(cards) - len(cards[:SHOWN]),
        totals=Counter(code.lower() for column in columns for code in column.codes),
        reused=sum(cell["reused"] for cell in cells),
        cells=sorted(cells, key=lambda cell: -_seconds(cell)),
        longest=max(map(_seconds, cells), default=0.0) or 1.0,
        payload=_payload(data["tests"], columns, cells),
        style=(HERE / "page.css").read_text(),
        script=script,
        policy=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _seconds(cell: Data) -> float:
    return float(cell["kernel_seconds"] + cell["test_seconds"])


def _columns(data: Data) -> tuple[list[Column], list[Data]]:
    """The cells by version, the plain kernels of each first."""
    cells = sorted(data["cells"], key=lambda cell: (_version(cell), cell["flavour"] != "base", cell["kernel"]))
    surprised = {(one["cell"], one["nodeid"]) for one in data["surprises"]}
    whole = {one["cell"] for one in data["surprises"] if not one["nodeid"]}
    columns = []
    for cell in cells:
        column = Column(
            cell["id"], cell["version"] or cell["kernel"], _kind(cell), cell["recipe"], cell["state"], cell["broken"]
        )
        paths = cell["selftests"].split()
        for test in data["tests"]:
            outcome = cell["outcomes"].get(test)
            if outcome is None and not any(_is_within(test, path) for path in paths):
                code = "."
            else:
                code = CODES[outcome["result"] if outcome else "not run"]
                lost = outcome is None and cell["id"] in whole
                code = code.upper() if (cell["id"], test) in surprised or lost else code
            column.codes += code
        columns.append(column)
    return columns, cells


def _version(cell: Data) -> Version:
    return Version.parse(cell["version"]) if cell["version"] else Version(999, 0)


def _is_within(test: str, path: str) -> bool:
    from harness.matrix.collect import Test

    return Test(test).within(path)


def _kind(cell: Data) -> str:
    if cell["flavour"] != "base":
        return str(cell["flavour"])
    return "ready-made" if cell["kernel"].startswith("image:") else "built"


def _rows(tests: Sequence[str], columns: Sequence[Column]) -> list[Row]:
    features: dict[str, Row] = {}
    files: dict[str, Row] = {}
    for index, test in enumerate(tests):
        path = test.partition("::")[0]
        feature = path.split("/")[-2] if "/" in path else path
        row = features.setdefault(feature, Row(feature, feature))
        if path not in files:
            files[path] = Row(path.split("/")[-1].removesuffix(".py").removeprefix("test_"), feature)
            row.files.append(files[path])
        row.tests.append(index)
        files[path].tests.append(index)
    for row in [*features.values(), *files.values()]:
        row.tiles = [_tile([column.codes[index] for index in row.tests]) for column in columns]
    return list(features.values())


def _tile(codes: Iterable[str]) -> Tile:
    """What a group of tests looks like: the worst that it has decides."""
    counts = Counter(codes)
    surprises = sum(count for code, count in counts.items() if code.isupper())
    words = {code: result for result, code in CODES.items()}
    told = ", ".join(f"{count} {words[code.lower()]}" for code, count in counts.items() if code != ".")
    if surprises:
        return Tile("surprise", str(surprises), f"{surprises} surprises: {told}")
    if counts["n"]:
        return Tile("waiting", "·", told)
    if not told:
        return Tile("none", "", "no tests")
    if counts["p"]:
        return Tile("foretold" if counts["x"] else "passed", str(counts["p"]), told)
    return Tile("foretold" if counts["x"] else "skipped", "x" if counts["x"] else "–", told)


def _cards(data: Data, columns: Sequence[Column]) -> list[Card]:
    """The surprises; of whole cells first, then in the order of the tests, the same ones together."""
    titles = {column.id: f"{column.title} {column.kind}" for column in columns}
    cells = {cell["id"]: cell for cell in data["cells"]}
    order = {test: number for number, test in enumerate(data["tests"], 1)}
    cards: dict[tuple[str, str, str], Card] = {}
    for one in sorted(data["surprises"], key=lambda one: order.get(one["nodeid"], 0)):
        key = one["kind"], one["nodeid"], one["text"]
        card = cards.setdefault(key, Card(one["kind"], one["nodeid"], one["text"], one["expected"], []))
        cell = cells[one["cell"]]
        outcome = cell["outcomes"].get(one["nodeid"], {})
        if not one["nodeid"]:
            trouble = "\n\n".join(text for title, text in cell["trouble"] if title in one["text"])
            outcome = {"kernel_log": trouble, "repro": f"kproof matrix {data['file']} --only '{cell['id']}'"}
        card.on.append((titles[one["cell"]], {**outcome, "folder": cell["folder"]}))
    return list(cards.values())


def _payload(tests: Sequence[str], columns: Sequence[Column], cells: Sequence[Data]) -> Data:
    """For the script: letters for results, and what is more to say of some; each text stands there once."""
    texts: dict[str, int] = {"": 0}

    def number(text: str) -> int:
        return texts.setdefault(printable(text), len(texts))

    said = {
        f"{column}:{index}": {name: number(outcome[name]) for name in TEXTS if outcome.get(name)}
        for column, cell in enumerate(cells)
        for index, test in enumerate(tests)
        if (outcome := cell["outcomes"].get(test)) and any(outcome.get(name) for name in TEXTS)
    }
    return {
        "tests": [printable(test) for test in tests],
        "words": {code: result for result, code in CODES.items()},
        "kernels": [
            {"id": one.id, "title": f"{one.title} {one.kind}", "recipe": one.recipe, "codes": one.codes}
            for one in columns
        ],
        "seconds": [[cell["outcomes"].get(test, {}).get("seconds", 0) for test in tests] for cell in cells],
        "said": said,
        "texts": list(texts),
    }
