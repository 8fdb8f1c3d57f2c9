"""The initramfs of a ready-made kernel: the modules of its floor, and a program of 10 KB that loads them (init.c).

It ends where a kernel that has them built in begins: with the root mounted and process 1 running its init.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

from virtme.cpiowriter import CpioWriter  # type: ignore[import-untyped]

from harness import command
from harness.kernel.files import scratch, write
from harness.model import Kernel

SOURCE = Path(__file__).with_name("init.c")
COMPILER = ("gcc", "-Os", "-Wall", "-Werror", "-static", "-nostdlib", "-ffreestanding", "-fno-stack-protector", "-s")
LIMIT = 60.0


def initramfs(kernel: Kernel, *, mount: Sequence[str], init: str) -> Path:
    """The initramfs (cpio, not compressed) that mounts a root and goes on with ``init`` in it.

    ``mount`` is the root's type and source, and options if it has any: ``("erofs", "/dev/vda")``. It is kept with the
    kernel. Raises InfraError when the compiler is missing or fails.
    """
    modules = sorted(kernel.floor.iterdir())
    plan = [f"load /{path.name}" for path in modules] + [f"mount {' '.join(mount)}", f"exec {init}"]
    text = "".join(f"{line}\n" for line in plan)
    key = hashlib.sha256(b"\0".join([" ".join(COMPILER).encode(), SOURCE.read_bytes(), text.encode()])).hexdigest()[:16]
    path = kernel.folder / f"initramfs-{key}"
    if not path.exists():
        write(
            path,
            _archive({"init": _compiled(), "plan": text.encode()} | {one.name: one.read_bytes() for one in modules}),
        )
    return path


def _compiled() -> bytes:
    command.require(COMPILER[0], "ld")
    with scratch(Path("/tmp"), "kproof-init") as folder:
        program = folder / "init"
        command.run([*COMPILER, "-o", program, SOURCE], limit=LIMIT)
        return program.read_bytes()


def _archive(files: dict[str, bytes]) -> bytes:
    """A cpio archive in the format that the kernel unpacks (Documentation/driver-api/early-userspace)."""
    buffer = io.BytesIO()
    writer = CpioWriter(buffer)
    # the kernel opens it for process 1 before anything of ours runs
    writer.mkdir(b"dev", 0o755)
    writer.mkchardev(b"dev/console", (5, 1), 0o600)
    for name, data in files.items():
        writer.write_file(name.encode(), data, 0o755)
    writer.write_trailer()
    return buffer.getvalue()
