"""PYTEST_DONT_REWRITE: which test runs in which guest: ordinary ones in a row, a *fresh* one in a guest of its own.

A test is fresh by its marker ``@pytest.mark.fresh``, or because ``--fresh`` says so of all. The guest's half tells the
host which tests are; the host's half stands in for xdist's LoadScheduling (hook ``pytest_xdist_make_scheduler``), whose
way with ordinary tests it keeps. A fresh test goes alone to a node that has run nothing and that is told to end after
it; when a node has ended and tests are left that want another, one is added in its place. A node that dies is replaced
by xdist itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from math import ceil
from typing import Any, Protocol

import pytest

from harness.pytest_plugin.order import shuffled

AHEAD = 3
"""Tests that a worker has at least, while there are: one that runs, the one after it (pytest wants to know it), and one
on its way."""

WORTH_A_GUEST = 4
"""Ordinary tests that are worth the start of another guest, when others can take them, too."""


class TellsFresh:
    """In a guest: says which of the collected tests are fresh.

    The message is xdist's "unscheduled", of indices into the collection: the only one of a worker's that goes to the
    scheduler and to nobody else. It comes before the collection itself.
    """

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        from xdist.remote import WorkerInteractor

        every = session.config.getoption("--fresh")
        indices = [index for index, item in enumerate(session.items) if every or item.get_closest_marker("fresh")]
        for plugin in session.config.pluginmanager.get_plugins():
            if indices and isinstance(plugin, WorkerInteractor):
                plugin.sendevent("unscheduled", indices=indices)


class Node(Protocol):
    """What is used of xdist's WorkerController. One that has ended as told has an attribute ``workeroutput``."""

    gateway: Any

    @property
    def shutting_down(self) -> bool: ...
    def send_runtest_some(self, indices: Sequence[int]) -> None: ...
    def shutdown(self) -> None: ...


class Session(Protocol):
    """What is used of xdist's DSession."""

    config: Any
    shuttingdown: bool
    shouldstop: bool | str
    _active_nodes: set[Any]

    def _clone_node(self, node: Any) -> Any: ...


class Scheduler:
    """Implements ``xdist.scheduler.Scheduling``.

    Tests are sent as soon as one node has collected them; the others must have collected the same.
    """

    def __init__(self, session: Session, count: int, expect: Callable[[int], None], seed: int | None = None) -> None:
        """``count`` nodes run at once. ``expect`` is told, before a node is added, how many more are sure to follow.

        Tests are sent in the random order of ``seed``, without one in that of their collection.
        """
        self._session = session
        self._count = count
        self._expect = expect
        self._seed = seed
        self._chunk: int | None = session.config.getoption("maxschedchunk")
        self._collection: list[str] | None = None
        self._told: dict[Node, frozenset[int]] = {}
        """Which tests are fresh, by the node that says so."""
        self._fresh_ones: frozenset[int] = frozenset()
        self._fresh: deque[int] = deque()
        """Fresh tests that no node has been sent."""
        self._ordinary: deque[int] = deque()
        """The same of ordinary tests."""
        self._sent: dict[Node, list[int]] = {}
        """What a node was sent and has not completed, in order."""
        self._ready: set[Node] = set()
        """The nodes that have collected."""
        self._used: set[Node] = set()
        """The nodes that have been sent a test."""
        self._started = False

    # -- what xdist asks ---------------------------------------------------------------------------------------------

    @property
    def nodes(self) -> list[Node]:
        return list(self._sent)

    @property
    def collection_is_completed(self) -> bool:
        return self._collection is not None

    @property
    def has_pending(self) -> bool:
        return bool(self._fresh or self._ordinary or any(self._sent.values()))

    @property
    def tests_finished(self) -> bool:
        return self._started and not self.has_pending

    # -- what xdist tells --------------------------------------------------------------------------------------------

    def add_node(self, node: Node) -> None:
        self._sent[node] = []

    def remove_pending_tests_from_node(self, node: Node, indices: Sequence[int]) -> None:
        """The message of ``TellsFresh``."""
        self._told[node] = frozenset(indices)

    def add_node_collection(self, node: Node, collection: Sequence[str]) -> None:
        if self._collection is None:
            self._collection = list(collection)
            self._fresh_ones = self._told.get(node, frozenset())
        elif list(collection) != self._collection:
            self._differs(node, collection)
            return
        self._ready.add(node)

    def schedule(self) -> None:
        """A node has collected."""
        if not self._started:
            self._started = True
            for index in range(len(self._tests)) if self._seed is None else shuffled(self._tests, self._seed):
                self._queue_of(index).append(index)
        self._give_all()

    def mark_test_complete(self, node: Node, item_index: int, duration: float = 0) -> None:
        self._sent[node].remove(item_index)
        self._give(node)

    def mark_test_pending(self, item: str) -> None:
        """A test that was sent has not begun, and its node is gone."""
        index = self._tests.index(item)
        self._queue_of(index).appendleft(index)
        self._give_all()

    def remove_node(self, node: Node) -> str | None:
        """A node is gone: returns the test that it was in. KeyError: it was never added."""
        unfinished = self._sent.pop(node)
        for nodes in (self._ready, self._used):
            nodes.discard(node)
        self._ordinary.extendleft(reversed(unfinished[1:]))  # a fresh test has none behind it
        self._give_all()
        self._replace(node)
        return self._tests[unfinished[0]] if unfinished else None

    # -- who gets what -----------------------------------------------------------------------------------------------

    @property
    def _tests(self) -> list[str]:
        assert self._collection is not None
        return self._collection

    def _queue_of(self, index: int) -> deque[int]:
        return self._fresh if index in self._fresh_ones else self._ordinary

    def _give_all(self) -> None:
        for node in sorted(self._sent, key=lambda node: len(self._sent[node])):  # who has nothing comes first
            self._give(node)

    def _give(self, node: Node) -> None:
        """Send a node what it can take. Fresh tests come first: then the small pieces are at the end of a run."""
        if node not in self._ready or node.shutting_down:
            return
        if self._fresh and node not in self._used:
            self._send(node, [self._fresh.popleft()])
            node.shutdown()
            return
        if self._ordinary and (number := self._portion(len(self._sent[node]))):
            self._send(node, [self._ordinary.popleft() for _ in range(number)])
        # A worker does not begin its last test before it knows that it is the last. With one only, and more to give,
        # what is left is the share of the others.
        if not self._ordinary or len(self._sent[node]) < 2:
            node.shutdown()

    def _portion(self, has: int) -> int:
        """How many ordinary tests a node gets that has so many: a quarter of its share, while that is much."""
        if has >= AHEAD:
            return 0
        left = len(self._ordinary)
        coming = max(0, self._coming() - len(self._fresh))
        takers = len(self._open()) + coming
        number = min(max(AHEAD - has, left // takers // 4), ceil(left / takers))
        if has:  # one for each that comes and has none
            number = min(number, max(0, left - coming))
        return number if self._chunk is None else min(number, max(2 - has, self._chunk))

    def _send(self, node: Node, indices: list[int]) -> None:
        self._used.add(node)
        self._sent[node] += indices
        with suppress(OSError):  # it has just died: xdist will say so, and remove_node returns what it was sent
            node.send_runtest_some(indices)

    # -- nodes -------------------------------------------------------------------------------------------------------

    def _open(self) -> list[Node]:
        """The nodes that take tests."""
        return [node for node in self._ready if not node.shutting_down]

    def _coming(self, gone: Node | None = None) -> int:
        """How many nodes were started and have not collected yet."""
        active = self._session._active_nodes - self._ready - {gone}
        return sum(not node.shutting_down for node in active)

    def _replace(self, gone: Node) -> None:
        """Add a node where one has ended as told, if there are tests for it. What has died, xdist replaces anyway."""
        if self._session.shouldstop or self._session.shuttingdown:
            self._expect(0)
            return
        coming, takers = self._coming(gone), len(self._open())
        worthy = min(ceil(len(self._ordinary) / WORTH_A_GUEST), self._count) - takers
        sure = bool(self._ordinary) and not takers
        self._expect(len(self._fresh) + sure - coming - 1)
        if hasattr(gone, "workeroutput") and len(self._fresh) + max(0, worthy) > coming:
            self._session._clone_node(gone)

    def _differs(self, node: Node, collection: Sequence[str]) -> None:
        """Tests that are not the same in each guest cannot be shared out: what was not sent is not run."""
        from xdist.report import report_collection_diff

        text = report_collection_diff(self._tests, list(collection), "the guests before", node.gateway.id)
        report = pytest.CollectReport(nodeid=node.gateway.id, outcome="failed", longrepr=text, result=[])
        self._session.config.hook.pytest_collectreport(report=report)
        self._fresh.clear()
        self._ordinary.clear()
        node.shutdown()
        self._give_all()
