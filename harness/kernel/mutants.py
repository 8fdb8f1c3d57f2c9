"""Mutants: patches that each break one promise of the kernel, and say which tests must notice.

``patches/FEATURE/mutants/NAME.patch``. Before the diff stand

    Mutant: netkit ignores its default policy

    Breaks: a packet meets the default policy of the device that sends it
    Base:   >=6.12,<6.13 +xps_bpf
    Killed by:
      selftests/netkit/test_policy.py::test_policy_drop_drops

    Prose for the reader.
    ---

*Base* is a version range as in series.toml, then the series that the diff needs, each with a ``+``. *Killed by* has the
likeliest killers first, one in a line, with or without parameters. ``Equivalent: reason`` instead of it, or beside it,
marks a mutant that no test can tell from the kernel. A value goes on in lines that are indented.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UserError
from harness.kernel.files import read_user_file
from harness.kernel.patching import touched
from harness.model import Kernel, SeriesState, Version, VersionRange

KEYS = ("Breaks", "Base", "Killed by", "Equivalent")
FOLDER = "mutants"
"""Of a feature's mutants, beside its series.toml."""


@dataclass(frozen=True)
class Mutant:
    """One of them, as its header describes it."""

    path: Path
    feature: str
    """The folder under patches/, or, of a file that stands elsewhere, the folder of the first test that it names."""
    title: str
    breaks: str
    """The promise."""
    versions: VersionRange
    series: tuple[str, ...]
    """What the tree must have for the diff to make sense."""
    killers: tuple[str, ...]
    """Tests that must notice, the likeliest first."""
    equivalent: str
    """Why no test can notice; empty: one can."""
    touches: tuple[str, ...]
    """The kernel's files that it changes."""
    sha256: str

    @property
    def name(self) -> str:
        return f"{self.feature}/{self.path.stem}"

    def misfit(self, kernel: Kernel) -> str:
        """Why it is no mutant of this kernel; empty: it is one."""
        if kernel.version not in self.versions:
            return f"it is for {self.versions.text}, this is {kernel.version}"
        there = {one.name for one in kernel.series if one.state is not SeriesState.ABSENT}
        if lacking := [name for name in self.series if name not in there]:
            return f"it needs the series {', '.join(lacking)}"
        return ""

    def names(self, test: str) -> bool:
        """Whether the header names this test, or the function that it is an instance of."""
        return any(covers(killer, test) for killer in self.killers)

    def error(self, text: str, message: str) -> UserError:
        """What is wrong about the line of the header that has ``text``."""
        lines = self.path.read_text(errors="replace").splitlines()
        number = next((number for number, line in enumerate(lines, 1) if text in line), 1)
        return UserError(f"{self.path}:{number}: {message}")


def covers(killer: str, test: str) -> bool:
    """Whether a test is the named one, a set of parameters of it, or in the named class."""
    return test == killer or test.startswith((f"{killer}[", f"{killer}::"))


def find(names: Sequence[str], root: Path) -> tuple[Mutant, ...]:
    """The mutants that are meant: of a feature, ``feature/name``, a file, a folder of files; without a name all.

    ``root`` is the folder of ``patches/``. Raises UserError for a name that is none, and with file and line for a
    header that cannot be read.
    """
    known = sorted((root / "patches").glob(f"*/{FOLDER}/*.patch"))
    paths = [path for name in names for path in _meant(name, root, known)] if names else known
    if not paths:
        raise UserError(f"there are no mutants in {root / 'patches'}")
    return tuple(load(path) for path in dict.fromkeys(paths))


def _meant(name: str, root: Path, known: list[Path]) -> list[Path]:
    feature, _, single = name.partition("/")
    folder = root / "patches" / feature / FOLDER
    found = [path for path in known if path.parent == folder and single in ("", path.stem, path.name)]
    given = Path(name)
    if not found and given.is_dir():
        found = sorted(given.absolute().glob("*.patch"))
    if not found and given.is_file():
        found = [given.absolute()]
    if not found:
        features = sorted({path.parent.parent.name for path in known})
        there = sorted(path.stem for path in known if path.parent == folder)
        hint = f"{feature} has {', '.join(there)}" if there else f"features with mutants are {', '.join(features)}"
        raise UserError(f"there is no mutant {name!r}; {hint}")
    return found


def load(path: Path) -> Mutant:
    """Read a mutant's header. UserError with file and line for what is missing, malformed or not known."""
    raw = read_user_file(path, "mutant")
    header = _Header(path, raw.decode(errors="replace"))
    equivalent = header.text("Equivalent")
    killers = header.fields.get("Killed by", [])
    if not killers and not equivalent:
        raise header.error(1, "'Killed by:' must name a test, or 'Equivalent:' say why there is none")
    for number, test in killers:
        if not re.fullmatch(r"[\w./-]+\.py::\S.*", test):
            raise header.error(number, f"{test!r} is no test id; write it like selftests/netkit/test_a.py::test_b")
    versions, series = header.base()
    if not (touches := touched(raw)):
        raise header.error(len(header.lines), "the mutant holds no diff")
    tests = tuple(test for _, test in killers)
    return Mutant(
        path=path,
        feature=_feature(path, tests),
        title=header.title,
        breaks=header.text("Breaks", required=True),
        versions=versions,
        series=series,
        killers=tests,
        equivalent=equivalent,
        touches=touches,
        sha256=hashlib.sha256(raw).hexdigest(),
    )


class _Header:
    """What stands before the diff: a title, a blank line, a paragraph of fields."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        self.lines = text.splitlines() or [""]
        key, colon, title = self.lines[0].partition(":")
        if key != "Mutant" or not colon or not title.strip():
            raise self.error(1, "a mutant begins with 'Mutant: what it does, in one line'")
        self.title = title.strip()
        self.fields: dict[str, list[tuple[int, str]]] = {}
        """By key: the lines of a value that are not empty, each with its number."""
        if len(self.lines) < 2 or self.lines[1].strip():
            raise self.error(2, "a blank line belongs behind the title")
        self._read()

    def error(self, number: int, message: str) -> UserError:
        return UserError(f"{self.path}:{number}: {message}")

    def _read(self) -> None:
        values: list[tuple[int, str]] | None = None
        for number, line in enumerate(self.lines[2:], 3):
            if not line.strip():
                return
            key, colon, value = line.partition(":")
            if not line[0].isspace():
                if not colon or key not in KEYS:
                    raise self.error(number, f"{line.strip()!r}: here stand {', '.join(KEYS)}, then a blank line")
                if key in self.fields:
                    raise self.error(number, f"'{key}:' was there before")
                values = self.fields[key] = []
                line = value
            if values is None:
                raise self.error(number, "an indented line goes on with a value, and there is none before it")
            if line.strip():
                values.append((number, line.strip()))

    def text(self, key: str, *, required: bool = False) -> str:
        found = " ".join(text for _, text in self.fields.get(key, []))
        if required and not found:
            raise self.error(1, f"'{key}:' is missing")
        return found

    def base(self) -> tuple[VersionRange, tuple[str, ...]]:
        words = self.text("Base", required=True).split()
        series = tuple(word.removeprefix("+") for word in words if word.startswith("+"))
        versions = VersionRange(" ".join(word for word in words if not word.startswith("+")))
        try:
            for term in versions.text.split(","):
                # a malformed term is an error now, not when a version meets it
                _ = Version(0, 0) in VersionRange(term)
        except UserError as error:
            raise self.error(self.fields["Base"][0][0], str(error)) from None
        return versions, series


def _feature(path: Path, tests: Sequence[str]) -> str:
    if path.parent.name == FOLDER:
        return path.parent.parent.name
    return Path(tests[0].partition("::")[0]).parent.name if tests else path.parent.name
