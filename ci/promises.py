"""What the selftests promise to check: ``selftests/FEATURE/promises.toml``, the tests' markers, and whether they agree.

    [policy-drop]
    text = "while no program is attached, policy DROP drops what the device sends"
    source = "35dfaad7188c, drivers/net/netkit.c netkit_xmit()"
    not_tested = "why no test checks it"        # only where none does

A test names promises of its own folder, ``@pytest.mark.promise("policy-drop")``, or ``other_feature/id``.
"""

from __future__ import annotations

import contextlib
import io
import re
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.errors import UserError
from harness.kernel.mutants import Mutant, covers
from harness.pytest_plugin import predictions

FILE = "promises.toml"
REQUIRED = ("text", "source")
KEYS = (*REQUIRED, "not_tested")


@dataclass(frozen=True)
class Promise:
    feature: str
    """The folder under selftests/."""
    name: str
    text: str
    source: str
    """Where it is made: commit, file, RFC."""
    not_tested: str = ""
    """Why no test checks it; empty: one does."""

    @property
    def id(self) -> str:
        return f"{self.feature}/{self.name}"


@dataclass(frozen=True)
class Test:
    """A test function with all its sets of parameters."""

    feature: str
    nodeid: str
    """Without parameters."""
    sets: dict[str, frozenset[str]]
    """By id with parameters, the ``feature/id`` of each promise that it names."""
    versions: tuple[str, ...]
    """What its markers say of versions."""

    __test__ = False

    @property
    def promises(self) -> frozenset[str]:
        return frozenset().union(*self.sets.values())


def load(root: Path) -> dict[str, tuple[Promise, ...]]:
    """The promises by feature, of each folder in ``root`` that has some. UserError names file and id of a wrong one."""
    return {path.parent.name: tuple(_read(path)) for path in sorted(root.glob(f"*/{FILE}"))}


def _read(path: Path) -> Iterable[Promise]:
    try:
        entries = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not TOML: {error}") from None
    for name, entry in entries.items():
        where = f"{path}: [{name}]"
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
            raise UserError(f"{where}: an id is of small letters and digits, with - between words")
        if not isinstance(entry, dict):
            raise UserError(f"{where} is no table")
        if unknown := [key for key in entry if key not in KEYS]:
            raise UserError(f"{where}: {unknown[0]!r} is not understood; a promise has {', '.join(KEYS)}")
        for key in KEYS:
            if not (isinstance(value := entry.get(key, "" if key in REQUIRED else "any"), str) and value.strip()):
                raise UserError(f"{where}: {key!r} must be a text that is not empty")
        yield Promise(path.parent.name, name, **{key: " ".join(value.split()) for key, value in entry.items()})


def collect(root: Path) -> tuple[Test, ...]:
    """The tests below a folder, in order, without a guest. Raises UserError with what pytest says where it cannot."""
    seen = _Collection()
    said = io.StringIO()
    arguments = ["--collect-only", "-p", "no:terminal", "-p", "no:cacheprovider", str(root)]
    with contextlib.redirect_stderr(said):
        status = pytest.main(arguments, plugins=[seen])
    if status != pytest.ExitCode.OK:
        why = "\n".join(seen.failures) or said.getvalue().strip() or "there are none"
        raise UserError(f"the tests of {root} cannot be collected:\n{why}")
    by_function: dict[str, list[pytest.Item]] = {}
    for item in seen.items:
        by_function.setdefault(item.nodeid.partition("[")[0], []).append(item)
    return tuple(_test(nodeid, group, root) for nodeid, group in by_function.items())


class _Collection:
    """A plugin that keeps what pytest has collected, or could not."""

    def __init__(self) -> None:
        self.items: list[pytest.Item] = []
        self.failures: list[str] = []

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.failures.append(
                f"{report.nodeid}: {report.longreprtext.strip().splitlines()[-1].removeprefix('E').strip()}"
            )

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.items = list(session.items)


def _test(nodeid: str, items: Sequence[pytest.Item], root: Path) -> Test:
    feature = items[0].path.relative_to(root).parts[0]
    versions = dict.fromkeys(str(said) for item in items for said in predictions.of_test(item))
    return Test(feature, nodeid, {item.nodeid: _named(item, feature) for item in items}, tuple(versions))


def _named(item: pytest.Item, feature: str) -> frozenset[str]:
    ids: list[str] = []
    for marker in item.iter_markers("promise"):
        if not marker.args or marker.kwargs or not all(isinstance(name, str) for name in marker.args):
            raise UserError(f"{item.nodeid}: marker promise takes ids of promises, nothing else")
        ids += marker.args
    return frozenset(name if "/" in name else f"{feature}/{name}" for name in ids)


def disagreements(
    promises: dict[str, tuple[Promise, ...]], tests: Sequence[Test], mutants: Sequence[Mutant]
) -> list[str]:
    """A line for each promise without a test, test without a promise, and name of what does not exist.

    The tests of a feature without promises.toml need name none.
    """
    known = {promise.id: promise for group in promises.values() for promise in group}
    checked = {name for test in tests for name in test.promises}
    lines: list[str] = []
    for promise in known.values():
        if promise.not_tested and promise.id in checked:
            lines.append(f"{promise.id}: a test names it, and not_tested says that none does")
        if not promise.not_tested and promise.id not in checked:
            lines.append(f"{promise.id}: no test names it, and no not_tested says why")
    for test in tests:
        if test.feature in promises:
            lines += [f"{nodeid}: it names no promise" for nodeid, named in test.sets.items() if not named]
        lines += [f"{test.nodeid}: there is no promise {name}" for name in sorted(test.promises - known.keys())]
    ids = [nodeid for test in tests for nodeid in test.sets]
    for mutant in mutants:
        missing = [killer for killer in mutant.killers if not any(covers(killer, nodeid) for nodeid in ids)]
        lines += [f"mutant {mutant.name}: killed by {killer}, which does not exist" for killer in missing]
    return lines
