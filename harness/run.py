"""The verbs that boot guests: ``run``, ``exec`` and ``shell``."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from harness.display import display_for, summary
from harness.errors import InfraError, UserError
from harness.model import Kernel, Request
from harness.paths import project_root

Launcher = Literal["image", "virtme"]

INTERRUPTED = 130  # as a shell reports a process that SIGINT ended
# pytest's own exit statuses in the terms of errors.py; the others mean the same on both sides.
FROM_PYTEST = {2: INTERRUPTED, 3: InfraError.exit_status, 4: UserError.exit_status}
NO_TESTS = 5

# Runs in the guest: the command's output goes back as (descriptor, bytes), its exit status as the last item.
REMOTE_COMMAND = """
import subprocess, threading
command, folder = channel.receive()

def pump(stream, descriptor):
    while data := stream.read1(65536):
        channel.send((descriptor, data))

try:
    process = subprocess.Popen(
        command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
except OSError as error:
    channel.send((2, f"{command[0]}: {error.strerror}\\n".encode()))
    channel.send(127)
else:
    pumps = [threading.Thread(target=pump, args=a) for a in ((process.stdout, 1), (process.stderr, 2))]
    for thread in pumps:
        thread.start()
    for thread in pumps:
        thread.join()
    status = process.wait()
    channel.send(status if status >= 0 else 128 - status)
"""


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

    from harness.pytest_plugin.host import Watcher

    arguments = [
        *("--kernel", str(request), "-n", str(guests), "--guest-root", root),
        *("--guest-memory", str(memory_mb), "--guest-cpus", str(cpus)),
        *(["--accel", accel] if accel else []),
        *(["--results", results] if results else []),
        *("-p", "no:terminal", "-p", "no:cacheprovider"),
        *pytest_arguments,
        *(tests or [str(project_root() / "selftests")]),
    ]
    # SIGTERM ends a run as Ctrl-C does: guests go, results stay.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with display_for(sys.stdout) as display:
        watcher = Watcher(display.sink)
        status = int(pytest.main(arguments, plugins=[watcher]))
    if watcher.run:
        run = watcher.run
        summary(list(run.outcomes.values()), seconds=run.seconds, folder=_shown(run.folder))
    if watcher.error:
        raise watcher.error
    if status == NO_TESTS:
        print("kproof: no test was selected", file=sys.stderr)
    return FROM_PYTEST.get(status, status)


def execute(
    request: Request, command: Sequence[str], *, root: Launcher, memory_mb: int, cpus: int, accel: str | None
) -> int:
    """Run one command in a fresh guest of this kernel; its output is ours, its exit status is returned.

    128 + N for a command that signal N ended, 127 for one that does not exist, as a shell has it. Raises InfraError
    when the guest ends before the command does.
    """
    import execnet

    from harness.guest.console import death_title, read_tail
    from harness.guest.pool import END_LIMIT, GuestPool
    from harness.guest.spec import make_spec

    kernel = _kernel(request)
    with tempfile.TemporaryDirectory(prefix="kproof-exec-") as folder:
        spec, _ = make_spec(
            kernel,
            launcher=root,
            memory_mb=memory_mb,
            cpus=cpus,
            accel=accel,
            project=project_root(),
            folder=Path(folder),
        )
        with GuestPool(spec, ahead=1) as pool:
            group = execnet.Group()
            try:
                gateway = group.makegateway(f"popen//python={sys.executable} -m harness.guest.worker {pool.address}")
                channel = gateway.remote_exec(REMOTE_COMMAND)
                here = Path.cwd()
                channel.send((list(command), str(here if here.is_relative_to(project_root()) else "/")))
                while isinstance(item := channel.receive(), tuple):
                    descriptor, data = item
                    os.write(descriptor, data)
                return int(item)
            except (EOFError, OSError):
                if pool.error:
                    raise pool.error from None
                guest = pool.last_handed
                how = guest.end(END_LIMIT)
                title = death_title(read_tail(guest.console)) or how
                tail = "\n".join("    " + line for line in read_tail(guest.console, 20).splitlines())
                raise InfraError(f"the guest ended before the command did: {title}\n{tail}") from None
            finally:
                pool.close()
                group.terminate(timeout=1)


def shell(request: Request, *, memory_mb: int, cpus: int, accel: str | None) -> int:
    """An interactive guest on this host's root, read-only, through virtme-ng. Does not return: it becomes vng."""
    from harness.guest.accel import choose

    kernel = _kernel(request)
    host = choose(accel, kernel.boot_image)
    vng = Path(sys.executable).with_name("vng")
    if not vng.exists():
        raise InfraError("virtme-ng is missing; run: make setup")
    command = [str(vng), "--run", str(kernel.image), "--memory", f"{memory_mb}M", "--cpus", str(cpus)]
    command += ["--disable-kvm"] if host.accel == "tcg" else []
    os.execv(vng, command)


def _kernel(request: Request) -> Kernel:
    """The kernel of a request; progress goes to standard error, so that standard output is the command's."""
    from harness.kernel.obtain import obtain

    with display_for(sys.stderr) as display:
        return obtain(request, events=display.sink)


def _shown(folder: Path) -> str:
    """A path as a person at this prompt would type it."""
    here = Path.cwd()
    return str(folder.relative_to(here)) if folder.is_relative_to(here) else str(folder)
