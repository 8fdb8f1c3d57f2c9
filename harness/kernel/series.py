"""Patch series: what ``patches/NAME/series.toml`` says, and what a series is to a given tree.

The file, every key:

    title = "one line"
    since = "6.7"                      # first mainline release that has it; left out: none has
    symbols = ["NETKIT"]               # its Kconfig symbols
    tools = ["iproute2"]               # programs that guests get with it, patches/NAME/tool.toml; may be left out

    [[commits]]                        # upstream, in order; what --upstream takes from a clone
    id = "35dfaad7188c"                # may be left out: then the subject finds it
    subject = "netkit, bpf: Add bpf programmable net device"
    since = "6.7"                      # may be left out; a tree of that version has this commit already

    [[evidence]]                       # a way in which a tree shows that it has the series; one of several suffices
    all = [{ file = "drivers/net/Kconfig", regex = "^config NETKIT$" }]

    [[patches]]                        # ours, for the versions that need them
    versions = ">=6.12,<6.13"
    files = ["6.12/0001-first.patch"]
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.kernel import patching
from harness.kernel.files import read_user_file
from harness.kernel.patching import Reader
from harness.model import Patch, SeriesState, SeriesStatus, Version, VersionRange


@dataclass(frozen=True)
class Commit:
    subject: str
    id: str = ""
    since: Version | None = None


@dataclass(frozen=True)
class Clue:
    """A line that a file of the tree has: ``regex`` is searched in each line."""

    file: str
    regex: str


@dataclass(frozen=True)
class PatchSet:
    versions: VersionRange
    files: tuple[Path, ...]


@dataclass(frozen=True)
class Series:
    name: str
    title: str
    since: Version | None
    symbols: tuple[str, ...]
    commits: tuple[Commit, ...]
    evidence: tuple[tuple[Clue, ...], ...]
    """Alternatives; all clues of one must be there."""
    patches: tuple[PatchSet, ...]
    definition: str
    """Hash over series.toml and the patches it names: what a status depends on besides the tree."""
    tools: tuple[str, ...] = ()
    """Folders beside its own that have a tool.toml."""


def load_series(folder: Path) -> tuple[Series, ...]:
    """All series under ``folder``, by name. UserError with file and line for a malformed series.toml."""
    return tuple(_load(path) for path in sorted(folder.glob("*/series.toml")))


def _load(path: Path) -> Series:
    raw = read_user_file(path, "series")
    table, reader = read_toml(path, raw)
    top = reader.table(table, "", required={"title": str, "symbols": list}, optional=_TOP)
    for symbol in top["symbols"]:
        if not isinstance(symbol, str) or not re.fullmatch(r"[A-Z0-9_]+", symbol):
            raise reader.error("symbols", f"{symbol!r} is no Kconfig symbol; write it without CONFIG_")
    commits = tuple(reader.commit(entry, index) for index, entry in enumerate(top.get("commits", [])))
    evidence = tuple(reader.alternative(entry, index) for index, entry in enumerate(top.get("evidence", [])))
    if not evidence:
        raise reader.error("evidence", "at least one [[evidence]] is needed: how a tree shows that it has the series")
    sets = tuple(reader.patches(entry, index) for index, entry in enumerate(top.get("patches", [])))
    tools = top.get("tools", [])
    for tool in tools:
        if not (path.parent.parent / str(tool) / "tool.toml").is_file():
            raise reader.error("tools", f"there is no tool {tool!r}: no {tool}/tool.toml beside {path.parent.name}/")
    digest = hashlib.sha256(raw)
    for patch_set in sets:
        for file in patch_set.files:
            digest.update(file.read_bytes())
    return Series(
        name=path.parent.name,
        title=top["title"],
        since=reader.version(top, "since", ""),
        symbols=tuple(top["symbols"]),
        commits=commits,
        evidence=evidence,
        patches=sets,
        definition=digest.hexdigest(),
        tools=tuple(tools),
    )


_TOP: dict[str, type] = {"since": str, "tools": list, "commits": list, "evidence": list, "patches": list}
_KINDS: dict[type, str] = {str: "a text", list: "a list", dict: "a table"}


def read_toml(path: Path, raw: bytes) -> tuple[dict[str, Any], Schema]:
    """What a file says, and the checks of it. UserError with file and line for what is no TOML."""
    try:
        text = raw.decode()
        return tomllib.loads(text), Schema(path, text)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}:{raw[: error.start].count(10) + 1}: not UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"line (\d+)", str(error))
        number = line[1] if line else str(text.count("\n") + 1)
        raise UserError(f"{path}:{number}: {error}") from None


class Schema:
    """Checks of one file; each error names the file and the line of the key."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        self.lines = text.splitlines()

    def error(self, key: str, message: str, header: str = "", index: int = 0) -> UserError:
        return UserError(f"{self.path}:{self._line(key, header, index)}: {message}")

    def _line(self, key: str, header: str, index: int) -> int:
        """The line of ``key`` in the ``index``-th ``[[header]]`` (or at the top), else of that header, else 1."""
        start = 0
        if header:
            heads = [n for n, line in enumerate(self.lines) if re.match(rf"\s*\[\[\s*{header}\s*\]\]", line)]
            start = heads[index] if index < len(heads) else 0
        for number in range(start, len(self.lines)):
            line = self.lines[number]
            if number > start and header and re.match(r"\s*\[", line):
                break
            if re.match(rf"\s*(\[\[?\s*)?\"?{re.escape(key)}\"?\s*(=|\])", line) or re.search(
                rf"[{{,]\s*{re.escape(key)}\s*=", line
            ):
                return number + 1
        return start + 1

    def table(
        self,
        table: Any,
        header: str,
        *,
        required: dict[str, type],
        optional: dict[str, type],
        index: int = 0,
    ) -> dict[str, Any]:
        where = f" in [[{header}]]" if header else ""
        if not isinstance(table, dict):
            raise self.error(header, f"{header} must be tables, written [[{header}]]")
        known = {**required, **optional}
        for key, value in table.items():
            if key not in known:
                raise self.error(key, f"unknown key {key!r}{where}; known are {', '.join(known)}", header, index)
            if not isinstance(value, known[key]):
                raise self.error(key, f"{key}{where} must be {_KINDS[known[key]]}", header, index)
        for key in required:
            if not table.get(key) and not (key == "symbols" and key in table):
                raise self.error(key, f"{key}{where} is missing", header, index)
        return table

    def version(self, table: dict[str, Any], key: str, header: str, index: int = 0) -> Version | None:
        if key not in table:
            return None
        try:
            return Version.parse(table[key])
        except UserError as error:
            raise self.error(key, str(error), header, index) from None

    def commit(self, entry: Any, index: int) -> Commit:
        table = self.table(entry, "commits", required={"subject": str}, optional={"id": str, "since": str}, index=index)
        id_ = table.get("id", "")
        if id_ and not re.fullmatch(r"[0-9a-f]{7,40}", id_):
            raise self.error("id", f"{id_!r} is no commit id", "commits", index)
        return Commit(table["subject"], id_, self.version(table, "since", "commits", index))

    def alternative(self, entry: Any, index: int) -> tuple[Clue, ...]:
        table = self.table(entry, "evidence", required={"all": list}, optional={}, index=index)
        clues = []
        for clue in table["all"]:
            read = self.table(clue, "evidence", required={"file": str, "regex": str}, optional={}, index=index)
            try:
                re.compile(read["regex"])
            except re.error as error:
                raise self.error("regex", f"regex {read['regex']!r}: {error}", "evidence", index) from None
            clues.append(Clue(read["file"], read["regex"]))
        return tuple(clues)

    def patches(self, entry: Any, index: int) -> PatchSet:
        table = self.table(entry, "patches", required={"versions": str, "files": list}, optional={}, index=index)
        versions = VersionRange(table["versions"])
        try:
            # a malformed term is an error now, not when a version meets it
            for term in table["versions"].split(","):
                _ = Version(0, 0) in VersionRange(term)
        except UserError as error:
            raise self.error("versions", str(error), "patches", index) from None
        files = []
        for name in table["files"]:
            file = self.path.parent / str(name)
            if not file.is_file():
                raise self.error("files", f"there is no patch {name}", "patches", index)
            files.append(file)
        return PatchSet(versions, tuple(files))


def patches_for(series: Series, version: Version) -> tuple[Patch, ...]:
    """Our patches of a series for a version; empty when it has none."""
    for patch_set in series.patches:
        if version in patch_set.versions:
            return tuple(patch for file in patch_set.files for patch in _named(file))
    return ()


def _named(file: Path) -> tuple[Patch, ...]:
    # patches/NAME/…: the name must not depend on where the checkout is
    name = "/".join(file.parts[-4:]) if file.parts[-4:][0] == "patches" else "/".join(file.parts[-3:])
    return tuple(Patch(name, patch.text) for patch in patching.load(file))


def status(series: Series, version: Version, read: Reader, *, workspace: Path) -> SeriesStatus:
    """What a series is to the pristine tree that ``read`` reads, and where that shows."""
    for alternative in series.evidence:
        places = [_place(clue, read) for clue in alternative]
        if all(places):
            return SeriesStatus(series.name, SeriesState.PRESENT, f"seen in {', '.join(places)}")
    patches = patches_for(series, version)
    if patches:
        reason = patching.applies(patches, read, workspace=workspace)
        if not reason:
            count = f"{len(patches)} patch" + ("es" if len(patches) > 1 else "")
            return SeriesStatus(series.name, SeriesState.APPLIES, f"{count} for {version} ({patches[0].name} …)")
        return SeriesStatus(series.name, SeriesState.ABSENT, f"{_since(series)}; {reason}")
    return SeriesStatus(series.name, SeriesState.ABSENT, f"{_since(series)}; no patches for {version}")


def _since(series: Series) -> str:
    if series.since is None:
        return "in no mainline release"
    return f"exists since {series.since.major}.{series.since.minor}"


def _place(clue: Clue, read: Reader) -> str:
    """``file:line`` of the first line that shows the clue; empty when none does."""
    content = read(clue.file)
    if content is None:
        return ""
    pattern = re.compile(clue.regex)
    for number, line in enumerate(content.data.decode(errors="replace").splitlines(), 1):
        if pattern.search(line):
            return f"{clue.file}:{number}"
    return ""


def select(names: Sequence[str] | None, series: Sequence[Series]) -> tuple[Series, ...]:
    """The series of those names, in the order of ``series``; None: all. UserError for a name that is none."""
    if names is None:
        return tuple(series)
    known = {one.name for one in series}
    for name in names:
        if name not in known:
            raise UserError(f"there is no series {name!r}; there are {', '.join(sorted(known)) or 'none'}")
    return tuple(one for one in series if one.name in names)
