"""The verbs that boot guests: ``run``, ``exec`` and ``shell``."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

from harness.display import display_for, summary
from harness.errors import InfraError, UserError
from harness.model import Kernel, Request
from harness.paths import cache_root, project_root

Launcher = Literal["image", "virtme"]

INTERRUPTED = 130  # as a shell reports a process that SIGINT ended
# pytest's own exit statuses in the terms of errors.py; the others mean the same on both sides. 2: stopped by -x.
FROM_PYTEST = {2: 1, 3: InfraError.exit_status, 4: UserError.exit_status}
NO_TESTS = 5


def run_selftests(
    request: Request,
    *,
    tests: Sequence[str] = (),
    guests: int,
    root: Launcher,
    memory_mb: int,
    cpus: int,
    accel: str | None,
    results: str | None,
    pytest_arguments: Sequence[str] = (),
) -> int:
    """Call pytest with our plugin, show what happens, and return the exit status.

    The call is what ``pytest --kernel RECIPE -n N TESTS`` is to a user, with our display instead of pytest's.
    Raises KproofError for what ended the run before its tests could.
    """
    import pytest

    from harness.guest.spec import check_size
    from harness.pytest_plugin.host import Watcher

    check_size(memory_mb, cpus)
    arguments = [
        *("--kernel", str(request), "-n", str(guests), "--guest-root", root),
        *("--guest-memory", str(memory_mb), "--guest-cpus", str(cpus)),
        *(["--accel", accel] if accel else []),
        *(["--results", results] if results else []),
        *("-p", "no:terminal", "-p", "no:cacheprovider"),
        *pytest_arguments,
        *(tests or [str(project_root() / "selftests")]),
    ]
    with display_for(sys.stdout) as display:
        watcher = Watcher(display.sink)
        status = int(pytest.main(arguments, plugins=[watcher]))
    if (run := watcher.run) and run.outcomes:
        summary(
            list(run.outcomes.values()),
            seconds=run.seconds,
            folder=shown(run.folder),
            remarks=run.remarks(),
            objections=list(run.objections().values()),
            peak_mb=run.peak_mb,
        )
    if watcher.error:
        raise watcher.error
    if watcher.interrupted:
        return INTERRUPTED
    if status == NO_TESTS:
        print("kproof: no test was selected", file=sys.stderr)
    return FROM_PYTEST.get(status, status)


def execute(
    request: Request, command: Sequence[str], *, root: Launcher, memory_mb: int, cpus: int, accel: str | None
) -> int:
    """Run one command in a fresh guest of this kernel, with our standard input and outputs; returns its exit status.

    127 for a command that does not exist, 128 + N for one that signal N ended, as a shell has it. Raises InfraError
    when the guest ends before the command does.
    """
    import paramiko

    from harness.guest import ssh
    from harness.guest.console import death_title, read_tail
    from harness.guest.handshake import END_LIMIT, wait_ready
    from harness.guest.launch import launch
    from harness.guest.spec import make_spec

    kernel = _kernel(request)
    folder = Path(tempfile.mkdtemp(prefix="exec-", dir=_logs()))
    with display_for(sys.stderr) as display:
        spec, _ = make_spec(
            kernel,
            launcher=root,
            memory_mb=memory_mb,
            cpus=cpus,
            accel=accel,
            project=project_root(),
            folder=folder,
            events=display.sink,
        )
    with ExitStack() as stack:
        guest = launch(spec, "exec")
        stack.callback(guest.kill)
        wait_ready(guest)
        here = Path.cwd()
        try:
            with ssh.session(guest) as transport:
                inside = str(here) if here.is_relative_to(project_root()) else "/"
                status = ssh.run_command(transport, command, inside, spec.env)
        except (EOFError, ConnectionResetError, paramiko.SSHException):
            how = guest.end(END_LIMIT)
            title = death_title(read_tail(guest.console)) or how
            tail = "\n".join("    " + line for line in read_tail(guest.console, 20).splitlines())
            raise InfraError(
                f"the guest ended before the command did: {title}\n{tail}\n  whole console: {guest.console}"
            ) from None
    shutil.rmtree(folder)  # kept where a message names it
    return status


def shell(request: Request, *, memory_mb: int, cpus: int, accel: str | None) -> int:
    """An interactive guest on this host's root, read-only, as virtme-ng has it. Does not return: it becomes QEMU."""
    from harness.guest.accel import choose
    from harness.guest.launch import virtme_command
    from harness.guest.spec import check_size

    check_size(memory_mb, cpus)
    kernel = _kernel(request)
    if kernel.ready_made:
        raise UserError(f"kproof shell needs a kernel of ours; kproof exec {kernel.request} -- bash has no such limit")
    host = choose(accel, kernel.boot_image)
    command = virtme_command(str(kernel.image), memory_mb=memory_mb, cpus=cpus, accel=host.accel)
    os.execvp(command[0], command)


def _logs() -> Path:
    """Where guests that belong to no run keep their console."""
    folder = cache_root() / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _kernel(request: Request) -> Kernel:
    """The kernel of a request; progress goes to standard error, so that standard output is the command's."""
    from harness.kernel.obtain import obtain

    with display_for(sys.stderr) as display:
        return obtain(request, events=display.sink)


def shown(folder: Path) -> str:
    """A path as a person at this prompt would type it."""
    here = Path.cwd()
    return str(folder.relative_to(here)) if folder.is_relative_to(here) else str(folder)
