"""Features a kernel may lack: a visible skip with its reason, or a failure where the feature was required.

A test says what it needs with ``@pytest.mark.feature("netkit")``; a conftest says how to find out by implementing the
hook ``pytest_kproof_features``. Each probe runs at most once in a session, in the process that runs the tests, and only
when a selected test needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from _pytest.outcomes import Failed

Probe = Callable[[], str | None]
"""Returns None where the feature is there, else why it is not: ``kernel lacks netkit: CONFIG_NETKIT is n``."""


class Lacking(Failed):
    """A required feature is not there: a failure of the test, told at its set-up."""


class Hooks:
    """Hook specifications of this plugin."""

    @pytest.hookspec
    def pytest_kproof_features(self) -> Mapping[str, Probe]:
        """Return probes by feature name. All implementations count; no two may name the same feature."""
        raise NotImplementedError


class Features:
    """The known features, what was required, and what the probes said (asked once each)."""

    def __init__(self, probes: Mapping[str, Probe], required: frozenset[str]) -> None:
        self.required = required
        self._probes = probes
        self._reasons: dict[str, str | None] = {}

    @property
    def names(self) -> list[str]:
        return sorted(self._probes)

    def lacking(self, name: str) -> str | None:
        """Why the running kernel or machine lacks feature ``name``; None when it is there. KeyError: unknown name."""
        if name not in self._reasons:
            self._reasons[name] = self._probes[name]()
        return self._reasons[name]


FEATURES = pytest.StashKey[Features]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("kproof").addoption(
        "--require-feature",
        action="append",
        default=[],
        metavar="NAME",
        help="a test that needs feature NAME fails where the kernel lacks it, instead of being skipped (repeatable)",
    )


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    pluginmanager.add_hookspecs(Hooks)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker; raises pytest.UsageError for a required feature that no conftest knows."""
    config.addinivalue_line("markers", "feature(name): needs a feature of the kernel or machine; skipped without it")
    probes: dict[str, Probe] = {}
    for answer in config.hook.pytest_kproof_features():
        if twice := probes.keys() & answer.keys():
            raise pytest.UsageError(f"feature {min(twice)!r} has two probes")
        probes |= answer
    required = frozenset(config.getoption("--require-feature"))
    if unknown := required - probes.keys():
        raise pytest.UsageError(f"--require-feature {min(unknown)}: {_unknown(min(unknown), sorted(probes))}")
    config.stash[FEATURES] = Features(probes, required)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip, or fail, a test whose feature is lacking; an unknown feature name in a marker is an error."""
    features = item.config.stash[FEATURES]
    for marker in item.iter_markers("feature"):
        name = _name(marker)
        if name not in features.names:
            pytest.fail(f"marker feature({name!r}): {_unknown(name, features.names)}", pytrace=False)
        reason = features.lacking(name)
        if reason is None:
            continue
        if name in features.required:
            raise Lacking(f"feature {name} is required: {reason}", pytrace=False)
        pytest.skip(reason)


def _name(marker: pytest.Mark) -> str:
    arguments: tuple[Any, ...] = marker.args
    if len(arguments) != 1 or marker.kwargs or not isinstance(arguments[0], str):
        pytest.fail(f"marker feature takes one name, got {arguments!r} {marker.kwargs!r}", pytrace=False)
    return arguments[0]


def _unknown(name: str, known: list[str]) -> str:
    return f"no feature is called {name!r}; known are: {', '.join(known) or 'none (no selftests were given)'}"
