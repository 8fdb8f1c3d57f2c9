"""What a kernel must have for guests to run on it, as symbols, and as the modules that these may be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from harness.errors import UserError


@dataclass(frozen=True)
class Need:
    symbol: str
    module: str = ""
    """Its name where it can be one; empty: it must be built in."""
    purpose: str = ""
    """What guests need it for; empty: they can do without."""


FLOOR = (
    Need("VIRTIO_PCI", "virtio_pci", "virtio devices"),
    Need("VIRTIO_BLK", "virtio_blk", "the disk with the root"),
    Need("VIRTIO_CONSOLE", "virtio_console", "the channel to the host"),
    Need("EROFS_FS", "erofs", "the root"),
    Need("EROFS_FS_ZIP", "", "the root"),
    Need("OVERLAY_FS", "overlay", "a root that can be written"),
    Need("DEVTMPFS", "", "device nodes"),
    Need("TMPFS", "", "a root that can be written"),
    Need("BLK_DEV_INITRD", "", "the initramfs that loads its modules"),
    Need("SERIAL_8250_CONSOLE", "", "the console"),
    Need("BPF_SYSCALL", "", "BPF"),
    Need("HW_RANDOM_VIRTIO", "virtio_rng"),
    Need("NET_9P_VIRTIO", "9pnet_virtio"),
    Need("9P_FS", "9p"),
    Need("VIRTIO_FS", "virtiofs"),
    Need("PVH"),
)
"""In the order of loading. EROFS_FS_ZIP since 5.4; a bzImage boots without PVH, a second later."""


def check(config: Mapping[str, str], label: str) -> tuple[tuple[tuple[str, str], ...], list[str]]:
    """The symbols of ``FLOOR`` with their values in ``config``, and the names of the modules to be loaded.

    Raises UserError, in one line, for a kernel without something that guests need.
    """
    values = {need.symbol: config.get(need.symbol, "n") for need in FLOOR}
    lacking = [
        f"{need.symbol} ({need.purpose})"
        for need in FLOOR
        if need.purpose and values[need.symbol] not in (("y", "m") if need.module else ("y",))
    ]
    if lacking:
        raise UserError(f"{label} cannot be a guest's kernel: it lacks {', '.join(lacking)}")
    return tuple(values.items()), [need.module for need in FLOOR if values[need.symbol] == "m"]
