"""The host's root for guests whose kernel has no 9p: virtio-fs, served by a daemon beside QEMU.

Neither daemon need be trusted to keep the host's files as they are: it runs where all that is mounted is read-only
(mount_setattr(2), Linux 5.12). That is root's to do. It ends with its QEMU, or with us.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import socket
import struct
import subprocess
from collections.abc import Callable
from typing import IO

from harness.errors import InfraError, UserError

TAG = "ROOTFS"
DAEMONS = {
    # of Rust, with newer QEMUs; and the one that came with QEMU until 8.0
    "/usr/libexec/virtiofsd": ("--shared-dir=/", "--sandbox=chroot", "--cache=auto"),
    "/usr/lib/qemu/virtiofsd": ("-f", "-o", "source=/", "-o", "sandbox=chroot", "-o", "cache=auto"),
}
"""Where one may be, and what it is told besides the socket."""

CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x20000, 0x4000, 1 << 18
SYS_MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE, MOUNT_ATTR_RDONLY = 442, -100, 0x8000, 1


def serve_root(log: IO[bytes], before_exec: Callable[[], None]) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start a daemon; returns it, and a socket for QEMU that is connected to it.

    ``before_exec`` runs in the child. Raises InfraError when none is installed, UserError for who is not root.
    """
    program = next((name for name in DAEMONS if os.access(name, os.X_OK)), None)
    if program is None:
        raise InfraError(
            "this kernel has no 9p, and virtiofsd is missing; run: apt install virtiofsd, or qemu-system-x86"
        )
    if os.geteuid():
        raise UserError("this kernel has no 9p: only root can share a root without it; leave --root virtme out")
    address = f"\0kproof-root-{secrets.token_hex(8)}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(1)
        ours = socket.socket(socket.AF_UNIX)
        try:
            ours.connect(address)
            process = subprocess.Popen(
                [program, f"--fd={listener.fileno()}", *DAEMONS[program]],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[listener.fileno()],
                start_new_session=True,
                preexec_fn=_in_order(before_exec, _read_only()),
            )
        except BaseException:
            ours.close()
            raise
    return process, ours


def over_virtiofs(command: list[str], *, fd: int, memory_mb: int) -> list[str]:
    """A command line of QEMU with virtio-fs in place of the root that it has over 9p."""
    words: list[str] = []
    for option, value in zip(command, [*command[1:], ""], strict=True):
        if (option, value[:6]) == ("-fsdev", "local,") or (option == "-device" and value.startswith("virtio-9p-pci,")):
            words.append("")
        elif words and words[-1] == "":
            words.pop()
        else:
            words.append(option)
    return [
        *words,
        # both sides look into the guest's memory
        *("-object", f"memory-backend-memfd,id=memory,size={memory_mb}M,share=on", "-machine", "memory-backend=memory"),
        *("-chardev", f"socket,id=rootfs,fd={fd}", "-device", f"vhost-user-fs-pci,chardev=rootfs,tag={TAG}"),
    ]


def _in_order(*steps: Callable[[], None]) -> Callable[[], None]:
    def run() -> None:
        for step in steps:
            step()

    return run


def _read_only() -> Callable[[], None]:
    """For the child between fork and exec: mounts of its own, none of which can be written."""
    libc = ctypes.CDLL(None, use_errno=True)
    attributes = struct.pack("=4Q", MOUNT_ATTR_RDONLY, 0, MS_PRIVATE, 0)

    def set_mounts() -> None:
        done = libc.unshare(CLONE_NEWNS) or libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None)
        if done or libc.syscall(SYS_MOUNT_SETATTR, AT_FDCWD, b"/", AT_RECURSIVE, attributes, len(attributes)):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    return set_mounts
