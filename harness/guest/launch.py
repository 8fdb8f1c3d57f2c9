"""Two launchers behind one interface: both start QEMU with our channel in it, as a child that dies with us.

*image* boots the frozen root on a machine of ours. *virtme* boots the host's own root, read-only, as virtme-ng says.
"""

from __future__ import annotations

import ctypes
import os
import re
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import InfraError, UserError
from harness.guest import machine
from harness.guest.agent import ENVIRONMENT, KEEP, MODULES
from harness.guest.image import INIT
from harness.guest.machine import Device
from harness.guest.share import project_disk
from harness.guest.virtiofs import over_virtiofs, serve_root
from harness.model import Accelerator, GuestSpec
from harness.paths import project_root

PROJECT_TAG = "project"
PR_SET_PDEATHSIG = 1


@dataclass
class Guest:
    """A running QEMU, and the host's end of its channel. ``kill`` is idempotent."""

    name: str
    spec: GuestSpec
    process: subprocess.Popen[bytes]
    channel: socket.socket
    monitor: socket.socket
    """QMP (JSON lines); nobody need speak on it."""
    control: socket.socket
    """A line on it makes the guest's kernel say what it is doing (agent.py)."""
    helpers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    """What serves this QEMU, and ends with it."""
    started: float = field(default_factory=time.monotonic)
    peak_mb: float = 0.0
    """The most memory that QEMU was seen to have resident; see ``weigh``."""

    @property
    def folder(self) -> Path:
        return Path(self.spec.folder)

    @property
    def console(self) -> Path:
        return self.folder / "console.log"

    def orders(self) -> dict[str, object]:
        """What the agent is told before it becomes a Python; see agent.py."""
        own_root = self.spec.launcher == "image"
        return {
            "name": self.name,
            "time": time.time(),
            "env": {**self.spec.env, "KPROOF_GUEST": self.name, "KPROOF_SPEED": str(self.spec.speed)},
            "mounts": [[PROJECT_TAG, self.spec.project]] if own_root else [],
            "seed": secrets.token_hex(32),
        }

    def end(self, limit: float) -> str:
        """Wait up to ``limit`` seconds for QEMU to end by itself and say how it did: never raises, never hangs."""
        try:
            code = self.process.wait(limit)
        except subprocess.TimeoutExpired:
            self.kill()
            return "its channel closed but QEMU went on; it was killed"
        if code < 0:
            return f"QEMU was killed by {signal.Signals(-code).name}"
        return "the guest powered off" if code == 0 else f"QEMU ended with status {code}: {self.complaint()}"

    def complaint(self) -> str:
        """The last line that QEMU itself wrote, or an empty text."""
        try:
            lines = (self.folder / "qemu.log").read_text(errors="replace").strip().splitlines()
        except FileNotFoundError:
            return ""
        return lines[-1] if lines else ""

    def weigh(self) -> None:
        """Note how much memory QEMU has had resident at most (VmHWM, proc_pid_status(5)): told only while it runs."""
        if self.process.returncode is not None:  # the number may be another's by now
            return
        try:
            status = Path(f"/proc/{self.process.pid}/status").read_text()
        except OSError:
            return
        if peak := re.search(r"^VmHWM:\s+(\d+) kB", status, re.M):  # a zombie has none
            self.peak_mb = int(peak[1]) / 1024

    def kill(self) -> None:
        self.weigh()
        for end in (self.channel, self.monitor, self.control):
            end.close()
        for process in (self.process, *self.helpers):
            process.kill()
            process.wait()


def launch(spec: GuestSpec, name: str) -> Guest:
    """Start a guest; it boots while the caller goes on. The calling thread must live as long as the guest may.

    Raises InfraError when QEMU is missing, UserError when the kernel image cannot be read.
    """
    folder = Path(spec.folder)
    folder.mkdir(parents=True, exist_ok=True)
    check_image(Path(spec.kernel))
    pairs = [socket.socketpair() for _ in range(3)]
    with ExitStack() as unless_done, ExitStack() as stack:
        for ours, _ in pairs:
            unless_done.callback(ours.close)
        fds = [stack.enter_context(theirs).fileno() for _, theirs in pairs]
        extra = [machine.ports(channel=fds[0], control=fds[2]), machine.monitor(fds[1])]
        helpers: list[subprocess.Popen[bytes]] = []
        if spec.snapshot:
            fds.append(stack.enter_context(open(spec.snapshot, "rb", buffering=0)).fileno())
            extra.append(machine.restored_from(fds[3]))
        command = _image_command(spec, extra) if spec.launcher == "image" else _virtme_command(spec, extra)
        if spec.launcher == "virtme" and spec.shares == "disk":
            daemon_log = stack.enter_context(open(folder / "virtiofsd.log", "wb", buffering=0))
            daemon, end = serve_root(daemon_log, die_with(os.getpid()))
            helpers.append(daemon)
            unless_done.callback(daemon.wait)
            unless_done.callback(daemon.kill)
            fds.append(stack.enter_context(end).fileno())
            command = over_virtiofs(command, fd=fds[-1], memory_mb=spec.memory_mb)
        (folder / "qemu.sh").write_text("#!/bin/sh\nexec " + shlex.join(command) + "\n")
        log = stack.enter_context(open(folder / "qemu.log", "wb", buffering=0))
        # virtme-run lets QEMU write the console to standard error
        console = stack.enter_context(open(folder / "console.log", "ab")) if spec.launcher == "virtme" else log
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=console,
                pass_fds=fds,
                # out of the terminal's reach: Ctrl-C is ours to handle
                start_new_session=True,
                preexec_fn=die_with(os.getpid()),
            )
        except FileNotFoundError:
            raise InfraError(f"{command[0]} is missing; run: apt install qemu-system-x86") from None
        unless_done.pop_all()
    channel, monitor, control = (ours for ours, _ in pairs)
    return Guest(
        name=name, spec=spec, process=process, channel=channel, monitor=monitor, control=control, helpers=helpers
    )


def check_image(kernel: Path) -> None:
    """Raises UserError unless the file looks like a kernel: an ELF file, or a bzImage ("HdrS" at 0x202)."""
    try:
        with open(kernel, "rb") as file:
            head = file.read(0x206)
    except OSError as error:
        raise UserError(f"the kernel image {kernel} cannot be read: {error.strerror}") from None
    if not head.startswith(b"\x7fELF") and head[0x202:] != b"HdrS":
        raise UserError(f"{kernel} is not a kernel image: neither an ELF vmlinux nor a bzImage")


def own_machine(spec: GuestSpec) -> list[Device]:
    """What all guests of the launcher *image* have in common that are of this specification."""
    return [
        machine.machine(spec.accel, spec.memory_mb, spec.cpus),
        machine.grace_periods(),
        machine.direct_boot(spec.kernel, spec.initramfs),
        machine.serial_console(str(Path(spec.folder, "console.log"))),
        machine.entropy(),
        machine.root_disk(spec.root, INIT),
        *([machine.disk(spec.modules, MODULES)] if spec.modules else []),
    ]


def _image_command(spec: GuestSpec, extra: list[Device]) -> list[str]:
    if spec.shares == "9p":
        project = machine.shared_folder(PROJECT_TAG, spec.project)
    else:
        project = machine.disk(str(project_disk(Path(spec.project))), PROJECT_TAG)
    return machine.command_line([*own_machine(spec), project, *extra])


def _virtme_command(spec: GuestSpec, extra: list[Device]) -> list[str]:
    agent = ["env", *(f"{key}={value}" for key, value in ENVIRONMENT.items()), f"PYTHONPATH={project_root()}"]
    agent += [f"{KEEP}={project_root()}:{spec.project}:{spec.env.get('PATH', '')}"]
    agent += [sys.executable, "-m", "harness.guest.agent"]
    disks = [machine.disk(spec.modules, MODULES)] if spec.modules else []
    devices = [word for device in [*extra, machine.entropy(), *disks] for word in device.qemu]
    devices += ["-initrd", spec.initramfs] if spec.initramfs else []
    if spec.accel == "tcg":  # virtme-run leaves it to QEMU's defaults
        devices += ["-accel", machine.accelerator(spec.accel, spec.cpus)]
    command = virtme_command(
        spec.kernel,
        memory_mb=spec.memory_mb,
        cpus=spec.cpus,
        accel=spec.accel,
        more=[
            *(word for option in machine.grace_periods().kernel for word in ("--kopt", option)),
            "--show-boot-console",
            "--script-sh",
            shlex.join(agent),
            "--qemu-opts",
            *devices,
            "-sandbox",
            "on",
        ],
    )
    # It would write the script's status into a file in /tmp that nobody removes.
    status = f"file,id=ret,path={Path(spec.folder, 'virtme.ret')}"
    return [status if word.startswith("file,id=ret,path=") else word for word in command]


def virtme_command(
    kernel: str, *, memory_mb: int, cpus: int, accel: Accelerator, more: Sequence[str] = ()
) -> list[str]:
    """QEMU's command line as virtme-run (of virtme-ng) has it. virtme-run itself would put a process between us and
    QEMU, which then outlives us. Raises InfraError when virtme-run cannot make one.
    """
    program = Path(sys.executable).with_name("virtme-run")
    if not program.exists():
        raise InfraError("virtme-run is missing; run: make setup")
    require_qemu()
    done = subprocess.run(
        [
            *(str(program), "--kimg", kernel, "--mods", "none", "--force-9p"),
            *("--memory", f"{memory_mb}M", "--cpus", str(cpus)),
            *(["--disable-kvm"] if accel == "tcg" else []),
            *("--dry-run", "--show-command", *more),
        ],
        stdin=None if sys.stdin and sys.stdin.isatty() else subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise InfraError(f"virtme-run: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
    return shlex.split(done.stdout)


def virtme_init() -> str:
    """The init that virtme-ng boots."""
    from virtme import resources  # type: ignore[import-untyped]

    return f"{resources.find_guest_tools()}/bin/virtme-ng-init"


def require_qemu() -> None:
    """Raises InfraError that names the package when QEMU is missing."""
    if not shutil.which(machine.qemu_program()):
        raise InfraError(f"{machine.qemu_program()} is missing; run: apt install qemu-system-x86")


def die_with(parent: int) -> Callable[[], None]:
    """For the child between fork and exec: get SIGKILL when the parent is gone, however it went (prctl(2))."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def set_death_signal() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it went before we asked
            os._exit(1)

    return set_death_signal
