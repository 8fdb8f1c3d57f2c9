"""From a kernel and a few wishes to the specification of a guest that this host can run."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from harness.errors import UserError
from harness.events import Sink, ignore
from harness.guest.accel import Host, choose
from harness.guest.agent import ENVIRONMENT
from harness.guest.image import INIT, frozen_root
from harness.guest.initramfs import initramfs
from harness.guest.launch import check_image, require_qemu, virtme_init
from harness.guest.tools import programs_for
from harness.guest.virtiofs import TAG
from harness.model import GuestSpec, Kernel

LEAST_MEMORY_MB = 128
ROOT = ("erofs", "/dev/vda")
"""Type and source of the frozen root."""
HOST_ROOT = {
    "9p": ("9p", "/dev/root", "version=9p2000.L,trans=virtio,access=any,msize=524288"),
    "disk": ("virtiofs", TAG),
}
"""Those of the host's root, as virtme-ng mounts it; by how a kernel can share files."""
NEEDS_9P = {"9P_FS", "NET_9P_VIRTIO"}


def make_spec(
    kernel: Kernel,
    *,
    launcher: Literal["image", "virtme"],
    memory_mb: int,
    cpus: int,
    accel: str | None,
    project: Path,
    folder: Path,
    events: Sink = ignore,
    extra: Mapping[str, Path] | None = None,
) -> tuple[GuestSpec, Host]:
    """The guest's specification, and what is known of the host that runs it. ``folder`` will hold the guests' logs.

    ``extra``: further programs of the host that this guest's root shall have, by name.

    Raises UserError for a size that no guest, or not this host, can have, for an accelerator that does not work and
    for a kernel image that is none; InfraError when the root, or a program that belongs to a series, cannot be made.
    """
    check_size(memory_mb, cpus)
    require_qemu()
    check_image(kernel.boot_image)
    host = choose(accel, kernel.boot_image)
    programs = programs_for(kernel, events=events) | dict(extra or {})
    shares: Literal["9p", "disk"] = "9p" if NEEDS_9P.isdisjoint(_absent(kernel)) else "disk"
    spec = GuestSpec(
        launcher=launcher,
        kernel=str(kernel.boot_image),
        root=str(frozen_root(programs).path) if launcher == "image" else "",
        project=str(project),
        accel=host.accel,
        folder=str(folder),
        speed=host.speed,
        memory_mb=memory_mb,
        cpus=cpus,
        # the host's root is what it is: there, they are found first
        env={"PATH": _path(programs.values())} if launcher == "virtme" and programs else {},
        kernel_identity=kernel.identity,
        initramfs=str(_initramfs(kernel, launcher, shares)) if kernel.ready_made else "",
        modules=str(kernel.modules) if kernel.ready_made else "",
        shares=shares,
    )
    return spec, host


def _initramfs(kernel: Kernel, launcher: Literal["image", "virtme"], shares: Literal["9p", "disk"]) -> Path:
    if launcher == "image":
        return initramfs(kernel, mount=ROOT, init=INIT)
    if shares == "disk" and ("VIRTIO_FS", "n") in kernel.config_proof:
        raise UserError(f"{kernel.release} has neither 9p nor virtio-fs to share this host's root; use --root image")
    return initramfs(kernel, mount=HOST_ROOT[shares], init=virtme_init())


def _absent(kernel: Kernel) -> set[str]:
    """The symbols that a kernel was asked for, and has not."""
    return {symbol for symbol, value in kernel.config_proof if value == "n"}


def _path(programs: Iterable[Path]) -> str:
    return ":".join([*dict.fromkeys(str(program.parent) for program in programs), ENVIRONMENT["PATH"]])


def check_size(memory_mb: int, cpus: int) -> None:
    """Raises UserError for a guest that is too small to boot or too large for this host."""
    if memory_mb < LEAST_MEMORY_MB:
        raise UserError(f"{memory_mb} MB is less than a guest needs; give it {LEAST_MEMORY_MB} MB or more")
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
    if memory_mb > total:
        raise UserError(f"{memory_mb} MB is more than this host has ({total} MB)")
    if not 1 <= cpus <= 64:
        raise UserError(f"{cpus} processors: a guest has between 1 and 64")
