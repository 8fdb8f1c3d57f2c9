"""The selftests as pytest finds them, without a guest: their ids, and what is foretold of each."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import UserError

if TYPE_CHECKING:
    import pytest

    from harness.pytest_plugin.predictions import Said


@dataclass(frozen=True)
class Test:
    """One test with one set of parameters."""

    nodeid: str
    features: tuple[str, ...] = ()
    """What it needs of a kernel, in the order in which that is asked for."""
    said: tuple[Said, ...] = ()
    """What its markers say of versions."""
    slow: bool = False
    """It is skipped unless it is named."""

    __test__ = False

    @property
    def file(self) -> str:
        return self.nodeid.partition("::")[0]

    def within(self, path: str) -> bool:
        """Whether it belongs to a test path or id."""
        return self.nodeid == path or self.nodeid.startswith((f"{path.rstrip('/')}/", f"{path}::", f"{path}["))


@dataclass(frozen=True)
class Selftests:
    tests: tuple[Test, ...]
    """In the order of their collection."""
    features: frozenset[str]
    """All that a test can need."""


def collect(root: Path, paths: Iterable[str]) -> Selftests:
    """The tests of these paths, as from the project's folder ``root``.

    Raises UserError with what pytest says where it cannot collect them.
    """
    import pytest

    seen = _Collection()
    said = io.StringIO()
    wanted = [str(root / path) for path in dict.fromkeys(paths)]
    for path in wanted:
        if not Path(path.partition("::")[0]).exists():
            raise UserError(f"there are no selftests {path}")
    arguments = ["--collect-only", "--rootdir", str(root), "-p", "no:terminal", "-p", "no:cacheprovider", *wanted]
    with contextlib.redirect_stderr(said):
        status = pytest.main(arguments, plugins=[seen])
    if status != pytest.ExitCode.OK:
        why = "\n".join(seen.failures) or said.getvalue().strip() or "there are none"
        raise UserError(f"the selftests {' '.join(wanted)} cannot be collected:\n{why}")
    return Selftests(tuple({item.nodeid: _test(item) for item in seen.items}.values()), seen.features)


class _Collection:
    """A plugin that keeps what pytest has collected, or could not."""

    def __init__(self) -> None:
        self.items: Sequence[pytest.Item] = []
        self.failures: list[str] = []
        self.features: frozenset[str] = frozenset()

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            last = report.longreprtext.strip().splitlines()[-1]
            self.failures.append(f"{report.nodeid}: {last.removeprefix('E').strip()}")

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        from harness.pytest_plugin.features import FEATURES

        self.items = session.items
        self.features = frozenset(session.config.stash[FEATURES].names)


def _test(item: pytest.Item) -> Test:
    from harness.pytest_plugin.predictions import of_test

    features = tuple(str(marker.args[0]) for marker in item.iter_markers("feature") if marker.args)
    return Test(item.nodeid, features, tuple(of_test(item)), slow=item.get_closest_marker("slow") is not None)
