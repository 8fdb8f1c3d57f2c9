"""QMP: what is asked of a running QEMU, through the ``qemu.qmp`` package. One short conversation per call."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from harness.errors import InfraError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from qemu.qmp import QMPClient

    from harness.guest.launch import Guest


def save(guest: Guest, fd: int, limit: float) -> None:
    """Write the guest's state (a migration stream) to an open file; raises InfraError when QEMU does not, in time."""

    async def talk(qmp: QMPClient) -> str:
        qmp.send_fd_scm(fd)
        await qmp.execute("getfd", {"fdname": "snapshot"})
        await qmp.execute("migrate-set-parameters", {"max-bandwidth": 1 << 40})
        events_on: Any = {"capabilities": [{"capability": "events", "state": True}]}
        await qmp.execute("migrate-set-capabilities", events_on)
        with qmp.listener("MIGRATION") as listener:
            await qmp.execute("migrate", {"uri": "fd:snapshot"})
            async for event in listener:
                data: Any = event["data"]
                if data["status"] in ("completed", "failed", "cancelled"):
                    return str(data["status"])
        return "failed"

    status = _converse(guest, talk, limit)
    if status != "completed":
        raise InfraError(f"QEMU did not save the guest: {guest.complaint() or status}")


def registers_and_nmi(guest: Guest, limit: float) -> str:
    """The processors' registers, as QEMU sees them; then an NMI, at which the kernel panics with a backtrace."""

    async def talk(qmp: QMPClient) -> str:
        registers = await qmp.execute("human-monitor-command", {"command-line": "info registers -a"})
        await qmp.execute("inject-nmi")
        return str(registers)

    return _converse(guest, talk, limit)


def _converse(guest: Guest, talk: Callable[[QMPClient], Awaitable[str]], limit: float) -> str:
    """Connect, talk, disconnect, all within ``limit`` seconds; raises InfraError."""
    import asyncio

    from qemu.qmp import QMPClient
    from qemu.qmp.error import QMPError

    async def whole() -> str:
        qmp = QMPClient("kproof")
        await qmp.connect(guest.monitor)
        try:
            return await talk(qmp)
        finally:
            with suppress(QMPError, OSError, EOFError):
                await qmp.disconnect()

    try:
        return asyncio.run(asyncio.wait_for(whole(), limit))
    except (QMPError, OSError, EOFError, TimeoutError) as error:
        raise InfraError(f"QEMU's monitor does not answer: {error or type(error).__name__}") from None
