"""Guests that are booted once, saved, and restored for every worker.

A snapshot is QEMU's migration stream of a guest that has imported pytest, collected the project's tests and waits for
its orders (agent.py). It belongs to a kernel, a root image, a machine shape and a QEMU: all of that is its name, so
another of any of them never finds it. Beside it, ``NAME.json`` holds its SHA-256 and the project files that it rests
on.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from harness.errors import BootError, InfraError
from harness.events import Notice, Phase, Sink
from harness.guest import agent
from harness.guest.bytecode import compile_tests
from harness.guest.handshake import BOOT_LIMIT, receive, wait_waiting
from harness.guest.launch import Guest, launch, own_machine
from harness.guest.machine import command_line, qemu_program
from harness.guest.monitor import save
from harness.kernel.files import disk_errors, write_json
from harness.kernel.locks import locked
from harness.model import GuestSpec
from harness.paths import cache_root

FORMAT = "3"
WORKER = "harness.pytest_plugin.session"
"""What collects tests in a guest, and stands by: on the plugin's floor, and known here by its name only."""
STALE_RUNS = 8
"""A snapshot that is older than some test files costs each run an eighth of what a new one does."""
SAVE_LIMIT = 60.0  # seconds, times the host's speed factor
KEPT = 6
"""Snapshots of one kernel, of all projects and shapes: every edit of the plugin's guest side makes a new one."""


def warmed(spec: GuestSpec, tests: list[str], events: Sink) -> GuestSpec:
    """The same specification with a snapshot to restore, made now if there is none that serves.

    ``tests`` are paths as from the project's folder. Where no snapshot can be made or kept (a full disk), a Notice says
    so and guests boot cold. Raises BootError when the kernel does not boot.
    """
    folder = snapshots_root()
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    collected = top_level(spec, tests)
    path = folder / f"{spec.kernel_identity}-{_key(spec, collected)}.snap"
    lock = cache_root() / "locks" / f"snapshot-{spec.kernel_identity}.lock"
    with locked(lock, what="makes a snapshot of this kernel", events=events):
        for left in folder.glob(f"making-{spec.kernel_identity}-*"):  # by a run that was killed: the lock is ours
            shutil.rmtree(left, ignore_errors=True)
        if why_not := _unusable(path):
            if path.exists():
                events(Notice(f"the snapshot of this kernel {why_not}: booting once to make it anew"))
            discard(path)
            try:
                _make(spec, collected, path, events)
            except (OSError, InfraError) as error:
                events(Notice(f"no snapshot could be made ({error}): guests boot cold"))
                return spec
            _forget_old(folder, spec.kernel_identity)
        path.touch()
    return replace(spec, snapshot=str(path))


def discard(path: Path) -> None:
    """Remove a snapshot. A QEMU that is reading it has it open."""
    for suffix in (".json", ".snap"):
        path.with_suffix(suffix).unlink(missing_ok=True)


def snapshots_root() -> Path:
    return cache_root() / "snapshots"


def snapshots_of(kernel_identity: str) -> list[Path]:
    """The snapshots that belong to a kernel."""
    return sorted(snapshots_root().glob(f"{kernel_identity}-*.snap"))


def orphans(kernel_identities: set[str]) -> list[Path]:
    """The snapshots that belong to none of these kernels."""
    return [path for path in snapshots_root().glob("*.snap") if path.name.partition("-")[0] not in kernel_identities]


def top_level(spec: GuestSpec, tests: list[str]) -> tuple[str, ...]:
    """What to collect before saving: for a test anywhere in a folder, all of that top-level folder of the project."""
    names = set()
    for test in tests:
        path = Path(spec.project, test.split("::")[0]).resolve()
        if path.is_relative_to(spec.project) and path != Path(spec.project):
            names.add(path.relative_to(spec.project).parts[0])
    return tuple(sorted(names))


def _key(spec: GuestSpec, collected: tuple[str, ...]) -> str:
    program = qemu_program()
    try:
        version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise InfraError(f"{program} cannot be asked for its version: {error}") from None
    command = command_line(own_machine(replace(spec, folder="")))
    return hashlib.sha256(json.dumps([FORMAT, version, command, spec.project, collected]).encode()).hexdigest()[:16]


def _unusable(path: Path) -> str:
    """Why a snapshot does not serve, or an empty text."""
    try:
        about = json.loads(path.with_suffix(".json").read_text())
        with open(path, "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != about["sha256"]:
                return "is damaged"
        modules: agent.Modules = about["modules"]
        rest: agent.Modules = about["rest"]
    except FileNotFoundError:
        return "is not there"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"cannot be read ({error})"
    changed = [name for name, before in modules.items() if agent.state(name) != before]
    for name in changed:
        # A changed test file is loaded again by the guest; behind a changed helper stands everything that uses it.
        if not Path(name).name.startswith("test_"):
            return f"has an older {Path(name).name} in it"
    if changed or any(agent.state(name) != before for name, before in rest.items()):
        about["stale_runs"] = about.get("stale_runs", 0) + 1
        if about["stale_runs"] > STALE_RUNS:
            return "is older than the tests"
        write_json(path.with_suffix(".json"), about)
    return ""


def _make(spec: GuestSpec, collected: tuple[str, ...], path: Path, events: Sink) -> None:
    """Boot a guest, let it collect the tests, and save it: whole, or not at all."""
    events(Phase("snapshot", "booting once"))
    compile_tests(Path(spec.project), collected, events)
    with tempfile.TemporaryDirectory(prefix=f"making-{spec.kernel_identity}-", dir=path.parent) as scratch:
        cold = replace(spec, folder=str(Path(spec.folder, "snapshot")), snapshot="")
        guest = launch(cold, "snapshot")
        try:
            wait_waiting(guest)
            rests_on = _let_stand_by(guest, collected)
            saved = Path(scratch, "saved")
            with open(saved, "wb", buffering=0) as file:
                save(guest, file.fileno(), SAVE_LIMIT * spec.speed)
        finally:
            guest.kill()
        with open(saved, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        about = Path(scratch, "about")
        about.write_text(json.dumps({"sha256": digest, **rests_on}, indent=1))
        saved.replace(path)
        about.replace(path.with_suffix(".json"))


def _let_stand_by(guest: Guest, tests: tuple[str, ...]) -> dict[str, agent.Modules]:
    """Returns what the guest's memory rests on: see agent.py."""
    if not tests:
        return {"modules": {}, "rest": {}}
    order = {
        "stand_by": WORKER,
        "tests": tests,
        "folder": guest.spec.project,
        "mounts": guest.orders()["mounts"],
    }
    guest.channel.sendall(json.dumps(order).encode() + b"\n")
    try:
        answer = receive(guest, time.monotonic() + BOOT_LIMIT * guest.spec.speed)
    except BootError as error:  # it has booted; the run will find out which test cannot be collected
        raise InfraError(
            str(error).splitlines()[0].replace("the kernel does not boot", "collecting the tests")
        ) from None
    rests_on: dict[str, agent.Modules] = answer["standing_by"]
    return rests_on


def _forget_old(folder: Path, kernel_identity: str) -> None:
    ours = sorted(snapshots_of(kernel_identity), key=lambda path: path.stat().st_mtime)
    for path in ours[:-KEPT]:
        discard(path)
