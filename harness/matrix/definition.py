"""What a matrix is, from its file: axes, exceptions, and the skips that are foretold.

    kernel = ["image:debian:6.12.94", "debian:6.12"]   # sources of recipes, or whole recipe texts
    flavour = ["base", "kasan"]                        # base: no debug flavour (the default); kasan+kmemleak is both
    series = ["all"]                                   # all: those that apply (the default); none; netkit+nf_egress
    selftests = ["selftests"]                          # paths from the project's folder (the default); "a b" is both

    [[exclude]]                                        # cells that all these patterns match are left out
    kernel = "image:*"
    flavour = "kasan"

    [[include]]                                        # a cell more; what it does not say is as in the defaults
    kernel = "debian:6.12.8"

    [[skips]]                                          # these tests must be skipped on these kernels
    features = ["netkit"]                              # those that need one of these, or tests = ["selftests/x/*"]
    versions = "<6.7"                                  # and where the cell matches kernel =, flavour =, series =
    because = "35dfaad7188c, Linux 6.7"

The defaults of ``selftests`` in an ``[[include]]`` are all values of the axis. A skip that neither a ``since`` nor
``[[skips]]`` foretells is a surprise.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.kernel.files import read_user_file
from harness.kernel.series import Schema, read_toml
from harness.model import Version, VersionRange

AXES = ("kernel", "flavour", "series", "selftests")
BASE = "base"
ALL = "all"
NONE = "none"
DEFAULTS = {"flavour": [BASE], "series": [ALL], "selftests": ["selftests"]}
FINISHED = ("image:", "kernel:")
"""Kernels that exist: nothing can be added to them."""


@dataclass(frozen=True)
class Choice:
    """One value of each axis."""

    kernel: str
    flavour: str = BASE
    series: str = ALL
    selftests: str = "selftests"

    def matches(self, patterns: dict[str, str]) -> bool:
        """Whether each pattern, by axis, matches the value; as in a shell, and case counts."""
        return all(fnmatchcase(getattr(self, axis), pattern) for axis, pattern in patterns.items())


@dataclass(frozen=True)
class Skips:
    """Tests that must be skipped on some kernels."""

    features: tuple[str, ...]
    tests: tuple[str, ...]
    """Patterns of test ids."""
    versions: VersionRange
    cells: dict[str, str] = field(hash=False)
    """Patterns by axis."""
    because: str

    def holds(self, choice: Choice, version: Version) -> bool:
        return version in self.versions and choice.matches(self.cells)


@dataclass(frozen=True)
class Definition:
    path: Path
    choices: tuple[Choice, ...]
    """What shall run, in the file's order."""
    skips: tuple[Skips, ...]

    def check(self, features: Iterable[str]) -> None:
        """Raises UserError, with file and line, for a foretold skip by a feature that is none of these."""
        table, schema = read_toml(self.path, read_user_file(self.path, "matrix"))
        known = set(features)
        for index, entry in enumerate(table.get("skips", [])):
            for name in entry.get("features", []):
                if name not in known:
                    raise schema.error("features", f"no feature is called {name!r}", "skips", index)


def load(path: Path) -> Definition:
    """Read a matrix. UserError with file and line for what is unknown, malformed, twice there, or matches nothing."""
    table, schema = read_toml(path, read_user_file(path, "matrix"))
    schema.table(
        table,
        "",
        required={},
        optional={**dict.fromkeys(AXES, list), **dict.fromkeys(("include", "exclude", "skips"), list)},
    )
    axes = {axis: _texts(schema, axis, table.get(axis, DEFAULTS.get(axis, []))) for axis in AXES}
    choices = [
        Choice(kernel, flavour, series, selftests)
        for kernel in axes["kernel"]
        for flavour in axes["flavour"]
        for series in axes["series"]
        for selftests in axes["selftests"]
    ]
    for index, entry in enumerate(table.get("exclude", [])):
        patterns = _patterns(schema, entry, "exclude", index)
        left = [choice for choice in choices if not choice.matches(patterns)]
        if len(left) == len(choices):
            raise schema.error("", "excludes nothing: no cell of the axes matches all its patterns", "exclude", index)
        choices = left
    lines = dict.fromkeys(choices, ("kernel", "", 0))
    for index, entry in enumerate(table.get("include", [])):
        for choice in _included(schema, entry, index, axes["selftests"]):
            if choice in lines:
                raise schema.error(
                    "kernel", f"{choice.kernel} is there already, with all else the same", "include", index
                )
            lines[choice] = ("kernel", "include", index)
    if not lines:
        raise schema.error("kernel", 'names no kernel; write kernel = ["debian:6.12"]')
    for choice, (key, header, index) in lines.items():
        if wrong := _wrong(choice):
            raise schema.error(key, wrong, header, index)
    skips = tuple(_skips(schema, entry, index) for index, entry in enumerate(table.get("skips", [])))
    return Definition(path, tuple(lines), skips)


def _texts(schema: Schema, key: str, values: list[Any], header: str = "", index: int = 0) -> list[str]:
    """Texts that are not empty, each once."""
    for number, value in enumerate(values):
        if not isinstance(value, str) or not value.strip():
            raise schema.error(key, f"{key}: {value!r} is no text", header, index)
        if value in values[:number]:
            raise schema.error(key, f"{key}: {value!r} is there twice", header, index)
    return [" ".join(value.split()) for value in values]


def _patterns(schema: Schema, entry: Any, header: str, index: int) -> dict[str, str]:
    read = schema.table(entry, header, required={}, optional=dict.fromkeys(AXES, str), index=index)
    if not read:
        raise schema.error("", f"[[{header}]] must say which cells", header, index)
    return read


def _included(schema: Schema, entry: Any, index: int, selftests: list[str]) -> list[Choice]:
    read = schema.table(
        entry,
        "include",
        required={"kernel": str},
        optional={"flavour": str, "series": str, "selftests": list},
        index=index,
    )
    tests = _texts(schema, "selftests", read.get("selftests", selftests), "include", index)
    kernel = " ".join(read["kernel"].split())
    return [Choice(kernel, read.get("flavour", BASE), read.get("series", ALL), each) for each in tests]


def _wrong(choice: Choice) -> str:
    """What cannot be in a cell; empty: nothing. What a recipe's words mean is found out when it is used."""
    from harness.matrix.cells import request_of

    try:
        request = request_of(choice)
    except UserError as error:
        return str(error)
    finished = request.source.startswith(FINISHED)
    if finished and (choice.flavour != BASE or choice.series != ALL):
        return f"{choice.kernel} is a finished kernel: exclude all but flavour {BASE!r} with series {ALL!r}"
    return ""


def _skips(schema: Schema, entry: Any, index: int) -> Skips:
    read = schema.table(
        entry,
        "skips",
        required={"because": str},
        optional={"features": list, "tests": list, "versions": str, "kernel": str, "flavour": str, "series": str},
        index=index,
    )
    features = _texts(schema, "features", read.get("features", []), "skips", index)
    tests = _texts(schema, "tests", read.get("tests", []), "skips", index)
    if not features and not tests:
        raise schema.error("features", "[[skips]] needs features or tests", "skips", index)
    try:
        _ = [Version(0, 0) in VersionRange(term) for term in read.get("versions", "").split(",")]
    except UserError as error:
        raise schema.error("versions", str(error), "skips", index) from None
    cells = {axis: str(read[axis]) for axis in AXES if axis in read}
    return Skips(tuple(features), tuple(tests), VersionRange(read.get("versions", "")), cells, read["because"])
