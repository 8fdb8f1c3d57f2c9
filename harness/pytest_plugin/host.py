"""The host's side: from ``--kernel RECIPE`` to guests, and from what the guests say to one outcome per test."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Generator
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import pytest

from harness.errors import BootError, InfraError, KproofError, UserError
from harness.events import Event, GuestEvent, Notice, Phase, Sink, TestEvent, ignore
from harness.guest import worker
from harness.guest.bytecode import compile_tests
from harness.guest.console import death_title, read_tail
from harness.guest.handshake import END_LIMIT
from harness.guest.launch import Guest
from harness.guest.pool import LOST, GuestPool
from harness.guest.snapshot import top_level, warmed
from harness.guest.spec import check_size, make_spec
from harness.guest.splats import splats
from harness.kernel.obtain import obtain, resolve
from harness.model import Outcome, Request, Result
from harness.paths import project_root
from harness.pytest_plugin import known_issues, predictions
from harness.pytest_plugin.evidence import part_of_console
from harness.pytest_plugin.results import Life, Run, open_folder, run_folder
from harness.pytest_plugin.schedule import Scheduler
from harness.pytest_plugin.watch import COLLECTION, Watch


class Watcher:
    """Given to ``pytest.main(plugins=[…])`` by a caller who shows the session himself."""

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self.error: KproofError | None = None
        """What ended the session early."""
        self.run: Run | None = None
        """The results, as soon as there is a kernel."""
        self.interrupted = False


# xdist's word for a worker that is gone without an exception of its own (xdist/workermanage.py).
NOT_TERMINATED = "Not properly terminated"

# A guest that dies before it has collected the tests will do so again: the third time is enough.
COLLECTION_DEATHS = 3

# A test that had not begun when its guest died is run in another guest, unless this was the third: then it is why.
NOT_BEGUN_DEATHS = 3


# Bytes of a console that are worth a word on the disk's use.
LARGE = 32 << 20

RETIRED = "it was ended after an oops"


class NoTempFolder:
    """In place of pytest's: xdist makes one for each run on the host, where no test runs."""

    _basetemp = None

    def getbasetemp(self) -> Path:
        return Path("/tmp")


class HostSide:
    """Owns the kernel, the guests and the results of one pytest session."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        watchers = [plugin for plugin in config.pluginmanager.get_plugins() if isinstance(plugin, Watcher)]
        self.watcher = watchers[0] if watchers else Watcher(ignore)
        self.stack = ExitStack()
        self.guests: dict[str, Guest] = {}
        """By xdist's name of the worker."""
        self.heard: set[str] = set()
        """The tests whose end was reported, guests that have collected; known before that is looked at."""
        self.dying: dict[str, Guest] = {}
        """Guests whose kernel met an oops and lives on, by the test that provoked it, until all of that is told."""
        self.retired: set[str] = set()
        """The names of those that were ended for it."""
        self.watch = Watch(lambda: list(self.guests.values()), self._is_heard)
        self.collected: set[str] = set()
        """Workers that have told what they collected."""
        self.running: dict[str, float] = {}
        """The tests that have begun and not ended, and since when."""
        self.foretold: dict[str, list[predictions.Told]] = {}
        """The deaths that are predicted, by test."""
        self.deaths_before_tests = 0
        self.not_begun: Counter[str] = Counter()
        """How often a test's guest died before it began."""
        self.count: int = config.option.numprocesses or 1
        # Makes xdist distribute; the addresses are known when it asks for them, in pytest_sessionstart.
        config.option.tx = ["popen"] * self.count
        config.option.dist = "load" if config.option.dist == "no" else config.option.dist
        # Only guests that die before their first test end a run; see pytest_testnodedown.
        config.option.maxworkerrestart = config.option.maxworkerrestart or str(10**6)

    @cached_property
    def run(self) -> Run:
        """The results; kernel and guest specification are made on the way."""
        option = self.config.getoption
        _check_paths(self.config)
        if (way := self.config.option.dist) != "load":
            raise UserError(f"tests are shared out among guests in one way only: leave --dist {way} out")
        check_size(option("--guest-memory"), option("--guest-cpus"))
        request = Request.parse(option("--kernel")).anchored(self.config.invocation_params.dir)
        issues = known_issues.load(self.config.rootpath / known_issues.FILE)
        if option("--kmemleak"):
            _check_kmemleak(request, self.tell)
        kernel = obtain(request, events=self.tell, update=option("--update"))
        folder = run_folder(self.config.rootpath / "results", option("--results"))
        spec, host = make_spec(
            kernel,
            launcher=option("--guest-root"),
            memory_mb=option("--guest-memory"),
            cpus=option("--guest-cpus"),
            accel=option("--accel"),
            project=self.config.rootpath,
            folder=folder / "guests",
            events=self.tell,
        )
        _compile_programs()
        folder = open_folder(folder, latest=not option("--results"))
        spec = replace(spec, folder=str(folder / "guests"))
        tests = list(self.config.args)
        seed = option("--random-order")
        self.watcher.run = Run(
            folder,
            request=request,
            kernel=kernel,
            spec=spec,
            host=host,
            count=self.count,
            tests=[_from_root(self.config, test) for test in tests],
            options=_selecting(self.config),
            known=known_issues.KnownIssues(issues, version=kernel.version),
            max_skips=option("--max-skips"),
            seed=seed,
        )
        return self.watcher.run

    @cached_property
    def pool(self) -> GuestPool:
        """The guests, booting or restored."""
        run = self.run
        if run.spec.launcher == "image":
            if self.config.getoption("--cold"):
                compile_tests(self.config.rootpath, top_level(run.spec, run.tests), self.tell)
            else:
                run.spec = warmed(run.spec, run.tests, self.tell)
        self.tell(Phase("guests", run.kernel.release))
        return self.stack.enter_context(GuestPool(run.spec, ahead=self.count, events=self.tell))

    def tell(self, event: Event) -> None:
        """Pass an event on to whoever watches; keep what belongs into the results."""
        if isinstance(event, GuestEvent) and event.state == "ready":
            self.run.boots[event.name] = event.seconds
            self.run.lives[event.name] = Life(len(self.run.lives) + 1, event.restored, event.seconds)
        if isinstance(event, GuestEvent) and event.state == LOST:
            self._died(next(guest for guest in self.pool.guests if guest.name == event.name))
            return
        self.watcher.sink(event)

    def leave(self, error: KproofError) -> NoReturn:
        """End the session with this error, and nothing of pytest's own around it."""
        self.watcher.error = error
        if self.watcher.run and isinstance(error, BootError):
            self.watcher.run.boot_failure = str(error)
        if self.watcher.sink is not ignore:  # who watches shows it; this is how pytest ends without a word
            raise pytest.Session.Failed(str(error))
        pytest.exit(str(error), returncode=error.exit_status)

    # -- guests ------------------------------------------------------------------------------------------------------

    @pytest.hookimpl(wrapper=True)
    def pytest_sessionstart(self) -> Generator[None, Any, Any]:
        """Start the guests, then let xdist connect its workers to them."""
        self.config._tmp_path_factory = NoTempFolder()  # type: ignore[attr-defined]
        try:
            self.stack.enter_context(self.watch)  # before the pool: at the end, guests go first
            command = f"popen//python={sys.executable} -IS {worker.__file__} {self.pool.address}"
            self.config.option.tx = [command] * self.count
        except KproofError as error:
            self.leave(error)
        return (yield from self._explained())

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self) -> Generator[None, Any, Any]:
        return (yield from self._explained())

    def _explained(self) -> Generator[None, Any, Any]:
        """That xdist cannot have a worker is ours to explain: it knows of an end of file only."""
        try:
            return (yield)
        except KproofError as error:  # the results cannot be written
            self.leave(error)
        except Exception:
            if self.pool.error is None:
                raise
            self.leave(self.pool.error)

    def pytest_xdist_getremotemodule(self) -> object:
        from harness.pytest_plugin import remote

        return remote

    def pytest_xdist_make_scheduler(self, config: pytest.Config) -> Scheduler:
        return Scheduler(config.pluginmanager.getplugin("dsession"), self.count, self.pool.expect, self.run.seed)

    def pytest_configure_node(self, node: Any) -> None:
        self.guests[node.gateway.id] = self.pool.last_handed
        folder = self.config.invocation_params.dir
        node.workerinput["kproof_folder"] = str(
            folder if folder.is_relative_to(self.config.rootpath) else self.config.rootpath
        )
        self._listen(node)
        node.workerinput["kproof_known_issues"] = self.run.known.regexes
        node.workerinput["kproof_kmemleak"] = self.config.getoption("--kmemleak")

    def _listen(self, node: Any) -> None:
        """Note at once what a worker reports: this thread may be busy with another one's guest for a while.

        What xdist would not know stays here.
        """
        take = node.process_from_remote

        def note(event: Any) -> None:
            if isinstance(event, tuple) and event[0] == predictions.EVENT:
                self.foretold.update(event[1]["deaths"])
                return
            if isinstance(event, tuple) and event[0] == "logfinish":
                self.heard.add(event[1]["nodeid"])
            elif isinstance(event, tuple) and event[0] == "collectionfinish":
                self.heard.add(self.guests[node.gateway.id].name)
            take(event)

        node.process_from_remote = note

    def _is_heard(self, guest: Guest, test: str) -> bool:
        """Whether a test's report has come, or what a guest has collected; so it is with a marker of no test."""
        run = self.watcher.run
        if test == COLLECTION:
            return guest.name in self.heard
        return run is None or test not in run.ids or test in self.heard

    def pytest_xdist_node_collection_finished(self, node: Any, ids: list[str]) -> None:
        if not self.collected:
            self.tell(Phase("tests", f"{len(ids)} selected"))
        self.collected.add(node.gateway.id)
        self.run.selected(ids)

    @pytest.hookimpl(tryfirst=True)
    def pytest_testnodedown(self, node: Any, error: object | None) -> None:
        """A worker ended: as told (no error), or with its guest."""
        guest = self.guests[node.gateway.id]
        if error is None:
            self.tell(GuestEvent(guest.name, "ended"))
            if complaint := node.workeroutput.get("kproof_usage_error"):
                self.leave(UserError(" ".join(complaint.split())))
            self.run.outside_tests(guest.name, node.workeroutput["kproof_outside"])
            guest.kill()  # it has told all; another may need its processor
            return
        if str(error) != NOT_TERMINATED and node.gateway.id not in self.collected:  # the guest is well
            self.leave(UserError(f"pytest does not start in the guest: {str(error).strip().splitlines()[-1]}"))
        title = self._died(guest)
        if node.gateway.id not in self.collected:
            self.deaths_before_tests += 1
            if self.deaths_before_tests >= COLLECTION_DEATHS:
                self.leave(
                    InfraError(f"guests end before they have collected the tests: {title}; console: {guest.console}")
                )

    def _died(self, guest: Guest) -> str:
        """Note how a guest ended that was not told to; returns that."""
        if guest.name in self.retired:
            self.tell(GuestEvent(guest.name, "ended"))
            return RETIRED
        how = guest.end(END_LIMIT)
        hang = self.watch.hung.get(guest.name)
        if hang:
            hang.over.wait()  # its evidence is being written down; each step of that has a limit
        title = hang.title if hang else death_title(read_tail(guest.console)) or how
        guest.kill()  # closes what is open to it
        self.run.deaths[guest.name] = title
        self.tell(GuestEvent(guest.name, f"died: {title}"))
        return title

    # -- tests -------------------------------------------------------------------------------------------------------

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.running[nodeid] = time.monotonic()

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self.running.pop(nodeid, None)
        if guest := self.dying.pop(nodeid, None):
            self.retired.add(guest.name)
            guest.kill()

    def pytest_handlecrashitem(self, crashitem: str, report: Any, sched: Any) -> None:
        """Say what xdist cannot know: how the guest ended. A test that had not begun is run in another guest."""
        guest = self.guests[report.node.gateway.id]
        title = self.run.deaths.get(guest.name, RETIRED)
        began = self.running.pop(crashitem, None)
        report.kproof_guest = guest.name
        self.not_begun[crashitem] += began is None and guest.name not in self.retired
        if began is None and (crashitem in self.run.outcomes or self.not_begun[crashitem] < NOT_BEGUN_DEATHS):
            # neither pytest nor results.py count what is not passed, failed or skipped
            report.outcome = "rescheduled"
            report.longrepr = f"guest {guest.name} ended outside of any test: {title}"
            if crashitem not in self.run.outcomes:
                sched.mark_test_pending(crashitem)
            return
        report.duration = time.monotonic() - began if began else 0.0
        report.kproof_kernel_log = part_of_console(guest.console, crashitem)
        console = f"console of guest {guest.name}, last lines:\n{read_tail(guest.console)}"
        if hang := self.watch.hung.get(guest.name):
            report.kproof_hung = hang.title
            report.longrepr = f"hung: {hang.title}\n\n{console}\n\nregisters:\n{hang.registers}"
        elif why := self._foretold(report, title):
            report.kproof_foretold = report.wasxfail = f"{why}; crashed: {title}"
            report.outcome = "skipped"  # so pytest has what is xfailed
            report.longrepr = f"crashed as predicted: {title}\n\n{console}"
        else:
            report.kproof_crash = title
            others = [f"predicted was {match!r}: {why}\n" for why, match in self.foretold.get(crashitem, [])]
            report.longrepr = f"crashed: {title}\n{''.join(others)}\n{console}"
        self.config.pluginmanager.getplugin("dsession")._handlefailures(report)  # -x: xdist forgets it after a crash

    def _foretold(self, report: Any, title: str) -> str | None:
        """Why a guest's death was to be, if it was: by its title, or by one of the splats before it."""
        titles = [title, *map(predictions.place_of, splats(report.kproof_kernel_log))]
        return predictions.reason_of_death(self.foretold.get(report.nodeid, []), titles)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: Any) -> None:
        outcome = self.run.report(report)
        if getattr(report, "kproof_died", False):
            self.dying[report.nodeid] = self.guests[report.node.gateway.id]
        if outcome:
            self.guests[report.node.gateway.id].weigh()
            self.tell(TestEvent(outcome, len(self.run.ids)))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            outcome = Outcome(
                nodeid=report.nodeid,
                result=Result.ERROR,
                message=f"cannot be collected: {str(report.longrepr).strip().splitlines()[-1]}",
                detail=str(report.longrepr),
            )
            self.run.record(outcome)
            self.tell(TestEvent(outcome, len(self.run.ids)))

    # -- the end -----------------------------------------------------------------------------------------------------

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Ctrl-C: guests go at once; xdist would wait for each to end by itself."""
        self.watcher.interrupted = excinfo.type is KeyboardInterrupt  # -x and pytest.exit derive from it
        self.stack.close()

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        run = self.watcher.run
        if exitstatus == pytest.ExitCode.OK and run and run.is_bad:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        try:
            self._finish(session.exitstatus)
        except InfraError as error:
            self.watcher.error = error
            if self.watcher.sink is ignore:  # nobody else shows it; of all exceptions, pytest takes only this one here
                pytest.exit(str(error), returncode=error.exit_status)

    def pytest_unconfigure(self) -> None:
        """The end of all ends: pytest finishes no session that did not start, but what is known is written."""
        self._finish(pytest.ExitCode.INTERNAL_ERROR)

    def _finish(self, status: int) -> None:
        self.stack.close()
        if (run := self.watcher.run) and not run.finished:
            for guest in self.pool.guests if "pool" in vars(self) else []:
                if (size := guest.console.stat().st_size if guest.console.exists() else 0) > LARGE:
                    self.tell(Notice(f"guest {guest.name} has filled {size >> 20} MB of the disk: {guest.console}"))
                if guest.name in run.lives:
                    run.lives[guest.name].peak_mb = guest.peak_mb
            error = self.watcher.error
            run.finish(error.exit_status if error else 130 if self.watcher.interrupted else int(status))

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if run := self.watcher.run:
            for line in [*run.remarks(), *run.objections().values()]:
                terminalreporter.write_line(f"kproof: {line}")
            terminalreporter.write_line(f"results: {run.folder}")


def _from_root(config: pytest.Config, test: str) -> str:
    """A test's path or id as one writes it in the project's folder."""
    path, separator, name = test.partition("::")
    absolute = (config.invocation_params.dir / path).resolve()
    return str(absolute.relative_to(config.rootpath)) + separator + name


def _selecting(config: pytest.Config) -> list[str]:
    """The options that select tests or decide on them, as `kproof run` takes them."""
    options = [f"--require-feature={name}" for name in config.getoption("--require-feature")]
    for name, value in (("-k", config.option.keyword), ("-m", config.option.markexpr)):
        options += [name, value] if value else []
    options += ["--kmemleak"] if config.getoption("--kmemleak") else []
    options += ["--fresh"] if config.getoption("--fresh") else []
    options += [f"--random-order={seed}"] if (seed := config.getoption("--random-order")) is not None else []
    if (allowed := config.getoption("--max-skips")) is not None:
        options += ["--max-skips", str(allowed)]
    return options + (["-x"] if config.option.maxfail == 1 else [])


def _check_kmemleak(request: Request, events: Sink) -> None:
    """Raises UserError for a kernel that will not have the leak detector, before it is built."""
    if dict(resolve(request, events=events).settings).get("DEBUG_KMEMLEAK") != "y":
        hint = "choose one that was built with" if request.source.startswith("kernel:") else "add"
        raise UserError(f"--kmemleak needs a kernel with the leak detector: {hint} --flavour kmemleak")


def _compile_programs() -> None:
    from harness.guest.bpf import compile_objects

    source = project_root() / "bpf"
    if source.is_dir():
        compile_objects(source, project_root() / "build" / "bpf")


def _check_paths(config: pytest.Config) -> None:
    """pytest leaves this to the workers; here each would answer with a traceback from its guest."""
    for argument in config.args:
        path = config.invocation_params.dir / argument.split("::")[0]
        if not path.exists():
            raise UserError(f"no such test path: {argument}")
        if not path.resolve().is_relative_to(config.rootpath):
            raise UserError(f"{argument} is outside of {config.rootpath}, which is all that guests see of this host")
