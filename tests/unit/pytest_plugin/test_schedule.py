"""Who gets which test: xdist's own session loop, with our scheduler, over workers that are simulated and may die.

What is checked holds for every order of events and every death: one outcome per test, and a fresh test alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st
from xdist.dsession import DSession, Interrupted

from harness.pytest_plugin.order import shuffled
from harness.pytest_plugin.schedule import Scheduler

SHUTDOWN = -1

Event = tuple[str, dict[str, Any]]


class Worker:
    """A worker as xdist's remote.py has it: it begins a test when it knows what comes after, and says what it does."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.gateway = SimpleNamespace(id=name, spec=SimpleNamespace(id=name))
        self.told: list[int] = []
        """Tests, and SHUTDOWN."""
        self.ran: list[str] = []
        self.ended = False
        self.has_collected = False
        self._shutdown_sent = False
        self._events: Iterator[Event] = self._live()
        self._waits = False

    def __repr__(self) -> str:
        return str(self.gateway.id)

    # -- what the host calls --

    @property
    def shutting_down(self) -> bool:
        return self.ended or self._shutdown_sent

    def send_runtest_some(self, indices: Sequence[int]) -> None:
        if self.ended:
            raise OSError("cannot send")
        assert self.has_collected, "its tests may be others"
        assert SHUTDOWN not in self.told, "a test behind a shutdown is never run"
        self.told += indices
        self.world.sent.update(self.world.tests[index] for index in indices)

    def shutdown(self) -> None:
        self._shutdown_sent = True
        self.told.append(SHUTDOWN)

    # -- what it does --

    @property
    def can_go_on(self) -> bool:
        return not self.ended and not (self._waits and len(self.told) < 2 and SHUTDOWN not in self.told)

    def step(self) -> Event:
        """Do the next thing, and tell it; or, if that is to be, die."""
        if self.world.may_die():
            return self.die()
        return next(self._events)

    def die(self) -> Event:
        self.ended = True
        return "errordown", {"node": self, "error": "Not properly terminated"}

    def _live(self) -> Iterator[Event]:
        world = self.world
        yield "workerready", {"node": self, "workerinfo": {}}
        if world.fresh:
            yield "unscheduled", {"node": self, "indices": sorted(world.fresh)}
        self.has_collected = True
        yield "collectionfinish", {"node": self, "ids": world.collected_by(self)}
        stop = ""
        while True:
            self._waits = True  # here step() is not called before there is enough to know
            yield "warning_recorded", {}
            self._waits = False
            index = self.told.pop(0)
            if index == SHUTDOWN or stop:
                break
            test = world.tests[index]
            self.ran.append(test)
            yield "logstart", {"node": self, "nodeid": test, "location": ("", 0, "")}
            failed = index in world.failing
            report = SimpleNamespace(nodeid=test, failed=failed, passed=not failed)
            yield "testreport", {"node": self, "rep": report}
            yield "logfinish", {"node": self, "nodeid": test, "location": ("", 0, "")}
            yield "runtest_protocol_complete", {"node": self, "item_index": index, "duration": 0.1}
            if failed and world.exitfirst:
                stop = "stopping after 1 failures"
                break
        self.ended = True
        self.workeroutput = {"exitstatus": 0, "shouldfail": stop, "shouldstop": False}
        yield "workerfinished", {"node": self}


class World:
    """The host's side of xdist, real, and its workers."""

    def __init__(
        self,
        draw: Callable[[st.SearchStrategy[Any]], Any],
        *,
        tests: int,
        fresh: set[int],
        count: int,
        deaths: int = 0,
        failing: set[int] | None = None,
        exitfirst: bool = False,
        chunk: int | None = None,
        seed: int | None = None,
    ) -> None:
        self.draw = draw
        self.tests = [f"test_it.py::test_{number}" for number in range(tests)]
        self.fresh = fresh
        self.failing = failing or set()
        self.exitfirst = exitfirst
        self.seed = seed
        self.deaths_left = deaths
        self.deaths = 0
        self.sent: Counter[str] = Counter()
        self.begun: set[str] = set()
        self.outcomes: list[str] = []
        self.workers: list[Worker] = []
        self.expected = 0
        self.spares = 0
        self.count = count
        self.collection_reports: list[Any] = []
        self.workers_at_failure = 0
        """How many workers there were when a test failed for the first time."""
        self.odd_one: int | None = None
        """The worker that collects other tests than the first."""
        options = {"maxfail": 1 if exitfirst else 0, "maxschedchunk": chunk}
        hooks = dict.fromkeys(
            ("pytest_testnodeready", "pytest_testnodedown", "pytest_xdist_node_collection_finished"), _nothing
        )
        config = SimpleNamespace(
            option=SimpleNamespace(debug=False, maxworkerrestart="1000", numprocesses=count, verbose=0),
            getvalue=options.get,
            getoption=options.get,
            pluginmanager=SimpleNamespace(getplugin=_nothing),
            hook=SimpleNamespace(
                pytest_xdist_make_scheduler=self._make_scheduler,
                pytest_handlecrashitem=self._handle_crash,
                pytest_runtest_logreport=self._take,
                pytest_runtest_logstart=lambda nodeid, location: self.begun.add(nodeid),
                pytest_runtest_logfinish=lambda nodeid, location: self.begun.discard(nodeid),
                pytest_warning_recorded=SimpleNamespace(call_historic=_nothing),
                pytest_collectreport=lambda report: self.collection_reports.append(report),
                **hooks,
            ),
        )
        self.session = DSession(config)
        self.session.worker_warning_recorded = _nothing
        self.session.queue = SimpleNamespace(get=self._next, put=_nothing)
        self.session.nodemanager = SimpleNamespace(
            group=SimpleNamespace(allocate_id=_nothing), setup_node=lambda spec, put: self._start()
        )
        self.session._session = SimpleNamespace(testscollected=0)
        self.session._active_nodes.update([self._start() for _ in range(count)])

    def run(self) -> None:
        self.session.pytest_runtestloop()

    def may_die(self) -> bool:
        if self.deaths_left and self.draw(st.integers(0, 9)) == 0:
            self.deaths_left -= 1
            self.deaths += 1
            return True
        return False

    def collected_by(self, worker: Worker) -> list[str]:
        return [*self.tests, "test_odd"] if self.odd_one == self.workers.index(worker) else list(self.tests)

    @property
    def alive(self) -> list[Worker]:
        return [worker for worker in self.workers if not worker.ended]

    def _start(self) -> Worker:
        """As the pool does it: a spare guest is taken if there is one; one more is started if more are expected."""
        worker = Worker(self, f"gw{len(self.workers)}")
        self.workers.append(worker)
        assert len(self.alive) <= self.count, "more guests at once than were asked for"
        self.spares = max(0, self.spares - 1)
        if self.expected > 0:
            self.spares = 1
        return worker

    def _next(self, timeout: float) -> Event:
        """The next event of any worker."""
        able = [worker for worker in self.alive if worker.can_go_on]
        assert able, f"every worker waits: {[(worker, worker.told) for worker in self.alive]}"
        worker: Worker = able[self.draw(st.integers(0, len(able) - 1))]
        return worker.step()

    def _make_scheduler(self, config: Any, log: Any) -> Scheduler:
        def expect(number: int) -> None:
            self.expected = number

        return Scheduler(self.session, self.count, expect, self.seed)

    def _take(self, report: Any) -> None:
        if getattr(report, "outcome", "") != "rescheduled":
            self.outcomes.append(report.nodeid)
        if self.exitfirst and report.failed and getattr(report, "outcome", "failed") == "failed":
            self.workers_at_failure = self.workers_at_failure or len(self.workers)

    def _handle_crash(self, crashitem: str, report: Any, sched: Any) -> None:
        """As host.py does it."""
        if crashitem in self.begun:
            self.begun.discard(crashitem)
            if crashitem in self.outcomes:  # it had reported, and died before its end: results.py takes the last word
                self.outcomes.remove(crashitem)
            self.session._handlefailures(report)
            return
        report.outcome = "rescheduled"
        if crashitem not in self.outcomes:
            sched.mark_test_pending(crashitem)


def _nothing(*_: object, **__: object) -> None:
    return None


SIZES = st.integers(0, 30)


@st.composite
def cases(draw: Callable[[st.SearchStrategy[Any]], Any]) -> dict[str, Any]:
    tests = draw(SIZES)
    some = st.sets(st.integers(0, tests - 1)) if tests else st.just(set())
    return {
        "tests": tests,
        "fresh": draw(st.one_of(some, st.just(set()), st.just(set(range(tests))))),
        "count": draw(st.integers(1, 4)),
        "chunk": draw(st.sampled_from([None, 1, 3])),
        "seed": draw(st.sampled_from([None, 1])),
    }


def check_fresh_ones_were_alone(world: World) -> None:
    fresh = {world.tests[index] for index in world.fresh}
    for worker in world.workers:
        assert len(worker.ran) < 2 or not fresh & set(worker.ran), f"{worker} ran {worker.ran}"


@settings(max_examples=400, deadline=None)
@given(cases(), st.integers(0, 6), st.data())
def test_each_test_has_one_outcome_whoever_dies_and_when(
    case: dict[str, Any], deaths: int, data: st.DataObject
) -> None:
    world = World(data.draw, **case, deaths=deaths)
    world.run()
    assert sorted(world.outcomes) == sorted(world.tests)
    ran = Counter(test for worker in world.workers for test in worker.ran)
    assert ran == Counter(world.tests), "each was begun exactly once"
    check_fresh_ones_were_alone(world)
    assert world.alive == []


@settings(max_examples=200, deadline=None)
@given(cases(), st.data())
def test_no_guest_is_made_in_vain(case: dict[str, Any], data: st.DataObject) -> None:
    """As long as none dies: no test is sent twice, and neither a node nor a spare guest is too many."""
    world = World(data.draw, **case)
    world.run()
    assert world.sent == Counter(world.tests)
    assert world.spares == 0
    if len(case["fresh"]) == case["tests"]:
        assert len(world.workers) == max(case["count"], case["tests"])
    ordinary = case["tests"] - len(case["fresh"])
    at_most = case["count"] if ordinary else 0
    assert len(world.workers) <= max(case["count"], len(case["fresh"]) + at_most)


@settings(max_examples=200, deadline=None)
@given(cases(), st.integers(0, 3), st.data())
def test_after_a_failure_with_exitfirst_nothing_begins_in_a_new_guest(
    case: dict[str, Any], deaths: int, data: st.DataObject
) -> None:
    assume(case["tests"])
    failing = data.draw(st.sets(st.integers(0, case["tests"] - 1), min_size=1))
    world = World(data.draw, **case, deaths=deaths, failing=failing, exitfirst=True)
    with suppress(Interrupted):  # a failing test may be one whose guest died
        world.run()
    after = world.workers[world.workers_at_failure :] if world.workers_at_failure else []
    assert [worker.ran for worker in after if worker.ran] == []
    assert world.deaths or not after, "a worker that nobody needs"
    assert len(set(world.outcomes)) == len(world.outcomes)
    check_fresh_ones_were_alone(world)
    assert world.alive == []


@given(st.integers(2, 12), st.integers(2, 4))
def test_ordinary_tests_are_shared_out(tests: int, count: int) -> None:
    """Workers that go on in turn all get something to do, as long as there is enough for each."""
    turn = iter(range(10**6))
    world = World(lambda _: next(turn), tests=tests, fresh=set(), count=count)
    able = world._next

    def in_turn(timeout: float) -> Event:
        world.draw = lambda _: next(turn) % len([worker for worker in world.alive if worker.can_go_on])
        return able(timeout)

    world.session.queue.get = in_turn
    world.run()
    assert sum(bool(worker.ran) for worker in world.workers) == min(tests, count)


@given(st.integers(0, 20), st.integers(0, 9))
def test_one_guest_runs_the_tests_in_the_order_of_the_seed(tests: int, seed: int) -> None:
    world = World(lambda _: 0, tests=tests, fresh=set(), count=1, seed=seed)
    world.run()
    assert world.workers[0].ran == [world.tests[index] for index in shuffled(world.tests, seed)]


def step(world: World, number: int) -> None:
    """Let one worker do its next thing, and the host hear of it."""
    world.draw = lambda _: [worker for worker in world.alive if worker.can_go_on].index(world.workers[number])
    world.session.loop_once()


def loop(world: World) -> None:
    """What pytest_runtestloop does before its loop."""
    world.session.sched = world._make_scheduler(None, None)
    world.session.shouldstop = False


def test_a_worker_begins_its_only_test_before_the_others_are_there() -> None:
    world = World(lambda _: 0, tests=2, fresh=set(), count=2)
    loop(world)
    while not world.outcomes:
        step(world, 0)
    assert world.outcomes == ["test_it.py::test_0"]


def test_a_fresh_test_that_comes_back_does_not_go_to_a_guest_that_has_run_others() -> None:
    world = World(lambda _: 0, tests=12, fresh={0}, count=2)
    loop(world)
    for _ in range(3):  # ready, what is fresh, what was collected: it is sent the fresh test
        step(world, 0)
    while not world.workers[1].ran:
        step(world, 1)
    event = world.workers[0].die()
    world.session.worker_errordown(**event[1])
    assert world.workers[1].told.count(0) == 0
    while not world.session.session_finished:
        step(world, world.workers.index(world.alive[-1]))
    assert sorted(world.outcomes) == sorted(world.tests)
    check_fresh_ones_were_alone(world)


def test_guests_that_collect_different_tests_are_an_error_and_end_the_run() -> None:
    world = World(lambda _: 0, tests=40, fresh=set(range(40)), count=2)
    world.odd_one = 3
    world.run()
    assert len(world.collection_reports) == 1
    assert "Different tests were collected" in world.collection_reports[0].longrepr
    assert "+test_odd" in world.collection_reports[0].longrepr
    assert len(world.outcomes) < 10
    assert len(world.outcomes) == len(set(world.outcomes))


def test_a_node_that_died_unnoticed_is_sent_tests_without_harm() -> None:
    """The host sends before it has heard: the tests come back with the notice."""
    world = World(lambda _: 0, tests=6, fresh=set(), count=1)
    (first,) = world.workers
    real = world._next
    events: list[Event] = []

    def get(timeout: float) -> Event:
        if events:
            return events.pop()
        event = real(timeout)
        if event[0] == "collectionfinish" and event[1]["node"] is first:
            events.append(first.die())
            first.ended = False  # nobody has told WorkerController yet, but what is sent cannot arrive
            first.send_runtest_some = _refuse
        return event

    world.session.queue.get = get
    first_down = world.session.worker_errordown

    def down(node: Worker, error: object) -> None:
        node.ended = True
        first_down(node, error)

    world.session.worker_errordown = down
    world.run()
    assert sorted(world.outcomes) == sorted(world.tests)


def _refuse(indices: Sequence[int]) -> None:
    raise OSError("cannot send (already closed?)")
