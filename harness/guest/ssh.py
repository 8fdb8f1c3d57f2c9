"""SSH into a guest without a network: the guest's channel carries the connection, paramiko speaks it.

The guest's Python becomes an SSH server (ssh_server.py) where execnet would make it a worker. What a user gets is a
real session: standard input, separate output and error, a terminal, an exit status.
"""

from __future__ import annotations

import os
import shlex
import sys
import termios
import threading
import tty
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

from harness.errors import InfraError
from harness.guest.ssh_server import READY

if TYPE_CHECKING:
    import paramiko

    from harness.guest.launch import Guest

CHUNK = 1 << 16


@contextmanager
def session(guest: Guest) -> Iterator[paramiko.Transport]:
    """An authenticated SSH connection to a guest that is ready. Raises InfraError when it cannot be had."""
    import logging

    import paramiko

    logging.getLogger("paramiko").addHandler(logging.NullHandler())  # what goes wrong is raised, too
    # The server's key needs no check: nobody else is on this channel.
    key = paramiko.ECDSAKey.generate()
    public = f"{key.get_name()} {key.get_base64()}"
    program = f"from harness.guest.ssh_server import serve; serve({public!r})"
    limit = 30 * guest.spec.speed
    with ExitStack() as stack:
        try:
            guest.channel.settimeout(limit)
            guest.channel.sendall(repr(program).encode() + b"\n")
            if guest.channel.recv(len(READY)) != READY:
                raise EOFError
            transport = paramiko.Transport(guest.channel)
            stack.callback(transport.close)
            transport.banner_timeout = transport.auth_timeout = limit
            transport.start_client(timeout=limit)
            transport.auth_publickey("root", key)
        except (paramiko.SSHException, EOFError, OSError) as error:
            why = str(error) or "it closed the connection"
            raise InfraError(f"no SSH session with guest {guest.name}: {why}") from error
        yield transport


def run_command(
    transport: paramiko.Transport, command: Sequence[str], folder: str, env: Mapping[str, str] | None = None
) -> int:
    """Run a command with this process's standard input and outputs; returns its exit status as a shell would.

    On a terminal the command gets a terminal. Raises EOFError when the connection ends before the command does,
    BrokenPipeError when nobody reads our output any more.
    """
    channel = transport.open_session()
    with ExitStack() as stack:
        stack.callback(channel.close)
        if sys.stdin and sys.stdin.isatty() and sys.stdout.isatty():
            size = os.get_terminal_size()
            channel.get_pty(os.environ.get("TERM", "dumb"), size.columns, size.lines)
            stack.enter_context(_raw_terminal())
        # The server has its own idea of HOME and PATH.
        exports = shlex.join(f"{key}={value}" for key, value in {"HOME": "/root", **(env or {})}.items())
        # The shell stays, to tell of a command that a signal ended: SSH's own way to tell it, paramiko does not read.
        channel.exec_command(f"cd {shlex.quote(folder)} && export {exports}; {shlex.join(command)}; exit $?")
        # Threads, because either direction may block while the other has to go on.
        threading.Thread(target=_send_input, args=(channel,), daemon=True).start()
        errors = threading.Thread(target=_copy, args=(channel.recv_stderr, 2), daemon=True)
        errors.start()
        _copy(channel.recv, 1)
        errors.join()
        status = int(channel.recv_exit_status())
    if status < 0:  # the server had no chance to tell it
        raise EOFError("the connection ended before the command did")
    return status


@contextmanager
def _raw_terminal() -> Iterator[None]:
    """Keys go to the guest as they are, Ctrl-C too."""
    before = termios.tcgetattr(0)
    try:
        tty.setraw(0)
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


def _send_input(channel: paramiko.Channel) -> None:
    """Our standard input to the command, as long as both are there."""
    with suppress(OSError):  # the command has ended, or there is no standard input
        while data := os.read(0, CHUNK):
            channel.sendall(data)
    with suppress(OSError):
        channel.shutdown_write()


def _copy(receive: Callable[[int], bytes], descriptor: int) -> None:
    while data := receive(CHUNK):
        while data:
            data = data[os.write(descriptor, data) :]
