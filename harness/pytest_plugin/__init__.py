"""Floor 3, PYTEST_DONT_REWRITE: the pytest plugin. ``--kernel RECIPE`` turns xdist's workers into guests.

Loaded on both sides: on the host it builds the kernel, starts the guests and writes the results (host.py); in a guest
it keeps each test's evidence (guest.py). What a kernel lacks is told by features.py on either side, what a version is
known to do by predictions.py.
"""

from __future__ import annotations

import argparse

import pytest

from harness.pytest_plugin import features, order, predictions


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


OPTIONS = (
    (
        "--kernel",
        {"metavar": "RECIPE", "help": "run the tests in guests of this kernel, such as 'debian:6.12 +netkit'"},
    ),
    ("--guest-root", {"choices": ("image", "virtme"), "default": "image", "help": "what guests boot (image)"}),
    ("--guest-memory", {"type": int, "metavar": "MB", "default": 512, "help": "memory of a guest (512)"}),
    ("--guest-cpus", {"type": int, "metavar": "N", "default": 2, "help": "processors of a guest (2)"}),
    ("--accel", {"choices": ("kvm", "tcg"), "help": "accelerator (the best that works here)"}),
    ("--cold", {"action": "store_true", "help": "boot every guest instead of restoring a snapshot"}),
    ("--fresh", {"action": "store_true", "help": "give each test a guest of its own, as @pytest.mark.fresh does"}),
    ("--random-order", order.OPTION),
    ("--results", {"metavar": "DIR", "help": "where this run's results go (results/DATE-TIME)"}),
    ("--kmemleak", {"action": "store_true", "help": "look for leaks after each test; needs flavour=kmemleak"}),
    ("--max-skips", {"type": _count, "metavar": "N", "help": "more skipped tests make the run fail"}),
    ("--update", {"action": "store_true", "help": "ask the archive whether there is a newer source"}),
)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("kproof", "tests in guests of a kernel (kproof)")
    for name, settings in OPTIONS:
        group.addoption(name, **settings)
    features.pytest_addoption(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    features.pytest_addhooks(pluginmanager)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Register the half that belongs to this side; before xdist looks at its options (it configures last)."""
    features.pytest_configure(config)
    config.addinivalue_line("markers", "fresh: the test has a guest to itself, just restored, gone after it")
    config.addinivalue_line("markers", "expect_splat(regex): the kernel must complain in this way, and in no other")
    config.addinivalue_line(
        "markers", "timeout_s(seconds): the test is hung after this long, times the host's slowness"
    )
    for line in predictions.MARKERS:
        config.addinivalue_line("markers", line)
    if "kproof_folder" in getattr(config, "workerinput", {}):  # other workers of xdist are processes of this host
        from harness.pytest_plugin import slow
        from harness.pytest_plugin.guest import GuestSide
        from harness.pytest_plugin.packed import Packs
        from harness.pytest_plugin.schedule import TellsFresh

        config.pluginmanager.register(GuestSide(), "kproof-guest-side")
        config.pluginmanager.register(slow, "kproof-slow")
        config.pluginmanager.register(Packs(), "kproof-packs")
        config.pluginmanager.register(TellsFresh(), "kproof-tells-fresh")
        config.pluginmanager.register(predictions.GuestPredictions(), "kproof-predictions")
    elif config.getoption("--kernel") and not (hasattr(config, "workerinput") or config.option.collectonly):
        from harness.pytest_plugin.host import HostSide
        from harness.pytest_plugin.packed import Unpacks

        config.pluginmanager.register(HostSide(config), "kproof-host-side")
        config.pluginmanager.register(Unpacks(), "kproof-unpacks")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    predictions.check(items)


def pytest_runtest_setup(item: pytest.Item) -> None:
    features.pytest_runtest_setup(item)
