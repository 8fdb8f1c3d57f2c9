"""The first words between a host and a guest's agent (agent.py), each with a limit and a reason when they fail."""

from __future__ import annotations

import contextlib
import json
import time
from typing import Any

from harness.errors import BootError, InfraError
from harness.guest.console import death_title, read_tail
from harness.guest.launch import Guest

# Seconds, times the host's speed factor.
BOOT_LIMIT = 60.0
RESTORE_LIMIT = 20.0
END_LIMIT = 5.0
"""For a QEMU whose channel closed."""


def wait_waiting(guest: Guest) -> None:
    """Wait until a guest that boots has imported what it needs. Raises as ``wait_ready``."""
    receive(guest, guest.started + BOOT_LIMIT * guest.spec.speed)


def wait_ready(guest: Guest) -> str:
    """Send the orders and wait for the agent's answer; returns the kernel's release.

    Raises BootError, with the console's last lines, when the guest ends or does not answer in time; InfraError when
    it is not the kernel's fault.
    """
    limit = RESTORE_LIMIT if guest.spec.snapshot else BOOT_LIMIT
    if not guest.spec.snapshot:
        wait_waiting(guest)
    with contextlib.suppress(OSError):  # it is gone: the answer will not come, and that is explained
        guest.channel.sendall(json.dumps(guest.orders()).encode() + b"\n")
    answer = receive(guest, guest.started + limit * guest.spec.speed)
    if "error" in answer:
        guest.kill()
        raise InfraError(f"guest {guest.name} cannot be used: {answer['error']}; console: {guest.console}")
    return str(answer["kernel"])


def receive(guest: Guest, until: float) -> dict[str, Any]:
    """One line from a guest's agent, by a moment of the monotonic clock. Raises as ``wait_ready``."""
    line = bytearray()
    try:
        while not line.endswith(b"\n"):
            guest.channel.settimeout(max(0.001, until - time.monotonic()))
            byte = guest.channel.recv(1)
            if not byte:
                raise ConnectionResetError
            line += byte
    except TimeoutError:
        guest.kill()
        raise _no_boot(guest, f"did not come up within {until - guest.started:.0f} s") from None
    except OSError:
        how = guest.end(END_LIMIT)
        if guest.process.returncode and not read_tail(guest.console):
            raise InfraError(f"{how}; its command line: {guest.folder / 'qemu.sh'}") from None
        raise _no_boot(guest, death_title(read_tail(guest.console)) or how) from None
    guest.channel.settimeout(None)
    answer: dict[str, Any] = json.loads(line)
    return answer


def _no_boot(guest: Guest, reason: str) -> BootError:
    tail = read_tail(guest.console, 20)
    shown = "\n".join("    " + line for line in tail.splitlines()) or "    (the console is empty)"
    return BootError(f"the kernel does not boot: {reason}\n{shown}\n  whole console: {guest.console}")
