"""The guest's end of ``kproof exec``: an SSH server on standard input and output. Standard library only.

dropbear takes keys from the home folder that /etc/passwd names, which may be read-only, and serves nothing but internet
sockets. So it gets a passwd of its own, in a mount namespace, and a loopback socket that is copied to and from stdio.
"""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

HOME = Path("/run/kproof-ssh")
READY = b"\n"
CHUNK = 1 << 16
CLONE_NEWNS = 0x20000
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18


def serve(authorized_key: str) -> None:
    """Serve one connection on descriptors 0 and 1, and return at its end."""
    (HOME / ".ssh").mkdir(parents=True, mode=0o700)
    (HOME / ".ssh" / "authorized_keys").write_text(authorized_key + "\n")
    others = [line for line in Path("/etc/passwd").read_text().splitlines() if not line.startswith("root:")]
    passwd = HOME / "passwd"
    passwd.write_text("\n".join([f"root:x:0:0:root:{HOME}:/bin/sh", *others]) + "\n")
    key = HOME / "host_key"
    subprocess.run(["dropbearkey", "-t", "ed25519", "-f", str(key)], check=True, capture_output=True)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        inside = socket.create_connection(listener.getsockname())
        served, _ = listener.accept()
    subprocess.Popen(
        ["dropbear", "-i", "-e", "-m", "-s", "-j", "-k", "-r", str(key)],
        stdin=served.fileno(),
        stdout=served.fileno(),
        preexec_fn=_own_passwd(passwd),
    )
    served.close()
    # What follows the line that started us may have been read with it; so the client waits for this before it speaks.
    _write_stdout(READY)
    threading.Thread(target=_copy, args=(_read_stdin, inside.sendall), daemon=True).start()
    _copy(inside.recv, _write_stdout)


def _own_passwd(passwd: Path) -> Callable[[], object]:
    """For the child between fork and exec: /etc/passwd is another file for it and its children."""
    libc = ctypes.CDLL(None, use_errno=True)

    def mount() -> None:
        if (
            libc.unshare(CLONE_NEWNS)
            or libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None)
            or libc.mount(bytes(passwd), b"/etc/passwd", None, MS_BIND, None)
        ):
            os._exit(1)

    return mount


def _copy(read: Callable[[int], bytes], write: Callable[[bytes], object]) -> None:
    while data := read(CHUNK):
        write(data)


def _read_stdin(size: int) -> bytes:
    return os.read(0, size)


def _write_stdout(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]
