"""PYTEST_DONT_REWRITE: a worker's session in a guest: what ``xdist.remote`` runs, with the guest's own ``sys.path``.

A guest that will be saved gets as far as one can without knowing what to run: it has a session and has collected the
tests. It stands by there; restored, it goes on with those that are asked for. Options that pytest reads only when it
selects or runs tests may differ from those that the session was made with; where others do, or a file is not as it was,
a new session is made.
"""

from __future__ import annotations

import inspect
import os
import threading
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import _pytest.mark
import pytest
import xdist.plugin
import xdist.remote
from _pytest.config import Config, _prepareconfig
from _pytest.main import _main, wrap_session

import harness.pytest_plugin
import harness.pytest_plugin.guest  # what a session needs is in memory before it begins
import harness.pytest_plugin.packed
import harness.pytest_plugin.slow
from harness.pytest_plugin.outbox import HELD, Outbox

LATE = frozenset(
    (
        *("file_or_dir", "keyword", "markexpr", "maxfail", "verbose", "tbstyle", "showlocals"),
        *("numprocesses", "tx", "dist", "rootdir"),
        *(name.removeprefix("--").replace("-", "_") for name, _ in harness.pytest_plugin.OPTIONS),
    )
)
"""Options that nothing reads before the tests are collected, or nothing in a guest at all."""

BLOCKED = ("terminal", "cacheprovider")
"""Plugins that have nothing to do in a guest."""


class Job:
    """A session that the host wants: asked for by the channel's thread, run by the main one."""

    def __init__(self, channel: Any, workerinput: dict[str, Any], args: list[str]) -> None:
        self.channel = channel
        self.workerinput = workerinput
        self.args = args
        self.error: BaseException | None = None
        self.done = threading.Event()


class _Desk:
    """Where a main thread that stands by finds its job."""

    def __init__(self) -> None:
        self._job: Job | None = None
        self._arrived = threading.Event()

    def put(self, job: Job) -> None:
        self._job = job
        self._arrived.set()

    def take(self) -> Job:
        self._arrived.wait()
        assert self._job
        return self._job


_desk: _Desk | None = None


def run(channel: Any, workerinput: dict[str, Any], args: list[str]) -> None:
    """Run the session of one worker, here or in the main thread that stands by; raises what ended it early."""
    job = Job(channel, workerinput, args)
    if not _desk:
        _from_the_beginning(job)
        return
    _desk.put(job)
    job.done.wait()
    if job.error:
        raise job.error


def stand_by(tests: list[str], park: Callable[[list[str]], bool]) -> None:
    """Make a session and collect, wait in ``park``, then do the job that comes. For the main thread of a guest.

    The current folder is the project's. ``park`` is given the files that the session rests on besides modules, and
    returns whether all is as it was. What cannot be collected is not in memory either: the job will say why.
    """
    global _desk
    desk = _desk = _Desk()
    job: Job | None = None
    done = False

    def session_of_a_job(config: Config, session: pytest.Session) -> Any:
        nonlocal job, done
        session.perform_collect()
        collected = [] if session.testsfailed else list(session.items)
        _remember(session)
        made = _parse(config, tests)
        inspect.getmodule(session_of_a_job.__code__)  # which remembers where each module is: a traceback asks
        xdist.remote.getinfodict()  # of which platform.py remembers what it has to look for in a large file
        capture: Any = config.pluginmanager.getplugin("capturemanager")
        capture.suspend_global_capture(in_=True)
        unchanged = park(_rests_on(config, tests))
        job = desk.take()
        capture.resume_global_capture()  # standard input and output were the channel's meanwhile
        capture.suspend_global_capture()
        if not (unchanged and _takes(config, made, job) and _select(session, collected)):
            return 0
        done = True
        return _work(config, session, job, _run_selected)

    error: BaseException | None = None
    try:
        wrap_session(_config(tests, {"kproof_folder": os.getcwd()}), session_of_a_job)
    except Exception as caught:  # the project's: told when it matters to somebody
        error = caught
    if not job:
        park([])
        job = desk.take()
    try:
        if not done:
            error = None
            _from_the_beginning(job)
    except BaseException as caught:
        error = caught
    job.error = error
    job.done.set()


def _from_the_beginning(job: Job) -> None:
    os.chdir(job.workerinput["kproof_folder"])
    config = _config(job.args, job.workerinput)
    wrap_session(config, lambda config, session: _work(config, session, job, _main))


def _work(config: Config, session: pytest.Session, job: Job, main: Callable[[Config, pytest.Session], Any]) -> Any:
    """Be xdist's worker."""
    given = job.workerinput
    os.environ["PYTEST_XDIST_TESTRUNUID"] = given["testrunuid"]
    os.environ["PYTEST_XDIST_WORKER"] = given["workerid"]
    os.environ["PYTEST_XDIST_WORKER_COUNT"] = str(given["workercount"])
    config._parser.prog = os.path.basename(given["mainargv"][0])
    interactor = _Worker(config, job.channel)
    xdist.remote.interactor = interactor  # it takes itself for a script's variable
    interactor.pytest_sessionstart(session)
    return main(config, session)


class _Worker(xdist.remote.WorkerInteractor):  # type: ignore[misc]
    """xdist's, which tells of a test when it has ended."""

    def __init__(self, config: Config, channel: Any) -> None:
        super().__init__(config, channel)
        self._outbox = channel.gateway._io = Outbox(channel.gateway._io)

    def sendevent(self, name: str, **kwargs: object) -> None:
        self._outbox.hold = name in HELD
        super().sendevent(name, **kwargs)

    @pytest.hookimpl
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        _remember(session)
        super().pytest_collection_finish(session)


def _remember(session: pytest.Session) -> None:
    """Once all are collected, what pytest finds out anew at each step of each test does not change."""
    if "gethookproxy" not in vars(session):
        session.gethookproxy = cache(session.gethookproxy)  # type: ignore[assignment, method-assign]
    for item in session.items:
        item.location  # noqa: B018  cached


def _run_selected(config: Config, session: pytest.Session) -> int:
    """What is left of pytest's ``_main`` when all is collected."""
    _pytest.mark.pytest_collection_modifyitems(session.items, config)  # -k and -m
    session.testscollected = len(session.items)
    config.hook.pytest_collection_finish(session=session)
    config.hook.pytest_runtestloop(session=session)
    return pytest.ExitCode.TESTS_FAILED if session.testsfailed else pytest.ExitCode.OK


def _config(args: list[str], workerinput: dict[str, Any]) -> Config:
    for off in ("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "HYPOTHESIS_NO_PLUGINS"):
        os.environ[off] = "1"  # looking for entry points costs an emulated guest half a second
    config = _prepareconfig(["-p", "no:cacheprovider", *args], [xdist.plugin, harness.pytest_plugin])
    for name in BLOCKED:
        config.pluginmanager.set_blocked(name)
    xdist.remote.setup_config(config, None)
    config.workerinput = workerinput  # type: ignore[attr-defined]
    config.workeroutput = {}  # type: ignore[attr-defined]
    return config


def _rests_on(config: Config, tests: list[str]) -> list[str]:
    """The ini file, and every folder that was looked through: with an entry more or less it has another time."""
    folders = [str(folder) for test in tests for folder in [Path(test), *Path(test).rglob("*")] if folder.is_dir()]
    folders = [str(Path(folder).absolute()) for folder in folders if "__pycache__" not in folder]
    return [*folders, *([str(config.inipath)] if config.inipath else [])]


def _parse(config: Config, args: list[str]) -> dict[str, Any]:
    """Options by name, with what the project's ini file adds; raises pytest.UsageError."""
    options = vars(config._parser.parse([*config.getini("addopts"), *args]))
    options["plugins"] = {name for name in options["plugins"] if name.removeprefix("no:") not in BLOCKED}
    return options


def _takes(config: Config, made: dict[str, Any], job: Job) -> bool:
    """Give a session that was made with some options those of a job; false where that cannot be done."""
    folder = config.invocation_params.dir
    if config.rootpath != folder or job.workerinput["kproof_folder"] != str(folder):
        return False
    try:
        wanted = _parse(config, job.args)
    except pytest.UsageError:  # an option of a conftest that this session does not know
        return False
    differing = {name for name in wanted if wanted[name] != made.get(name)}
    if not differing <= LATE:
        return False
    for name in differing:
        setattr(config.option, name, wanted[name])
    xdist.remote.setup_config(config, None)
    config.args = wanted["file_or_dir"]
    config.workerinput.update(job.workerinput)  # type: ignore[attr-defined]
    os.chdir(folder)
    return True


def _select(session: pytest.Session, collected: Sequence[pytest.Item]) -> bool:
    """Make those of the collected tests that the arguments name the session's; false unless each names some."""
    chosen: dict[pytest.Item, None] = {}
    for argument in session.config.args:
        path, separator, name = argument.partition("::")
        where = Path(path).absolute()
        if separator:
            prefix = f"{os.path.relpath(where, session.config.rootpath)}::{name}"
            found = [item for item in collected if _is_below(item.nodeid, prefix)]
        else:
            found = [item for item in collected if item.path.is_relative_to(where)]
        if not found:
            return False
        chosen |= dict.fromkeys(found)
    session.items = list(chosen)
    return bool(chosen)


def _is_below(nodeid: str, prefix: str) -> bool:
    """Whether a test is the one named, one of a class or one set of parameters of it."""
    return nodeid == prefix or nodeid.startswith((f"{prefix}::", f"{prefix}["))
