"""The console log of a guest: its tail as evidence, and the title of what ended it."""

from __future__ import annotations

import re
from pathlib import Path

from harness.guest.agent import WORKER_ENDED
from harness.guest.splats import splats
from harness.model import Splat, SplatKind

# Panics that only say that an earlier report was the end; all others name their own reason.
_CONSEQUENCE = re.compile(
    r"Fatal exception|panic_on_warn|warned too often|hung tasks|blocked tasks|RCU Stall|Hard LOCKUP|Oopsed too often|"
    r"Attempted to kill (?:init! exitcode=0x0000000[1-9a-f]|the idle)|killing interrupt handler|Out of memory|"
    r"deadlocked on memory|stack guard hit|stack overflow|Asynchronous SError"
)
# What the tests' process may be killed for.
_DEADLY = {SplatKind.OOPS, SplatKind.BUG, SplatKind.LIST, SplatKind.OOM}
# What no panic follows from.
_HARMLESS = {SplatKind.NETDEV_REFERENCE, SplatKind.NETDEV_WATCHDOG, SplatKind.KMEMLEAK, SplatKind.PAGE_ALLOCATION}
# Ends that are not the kernel's fault.
_OTHER = re.compile(
    rf"(?P<worker>{WORKER_ENDED} [^\r\n]*)|reboot: (?P<reboot>Power down|Restarting system|System halted)"
)

TAIL_LINES = 600
"""A panic, the report before it, and what all processors were at: after a stack that overran, 250 lines."""
_TAIL_BYTES = 256 * 1024


def read_tail(path: Path, lines: int = TAIL_LINES) -> str:
    """The last lines of a log as text; bytes that are no UTF-8 come out as ``\\xNN``. Empty if there is no log yet."""
    try:
        with open(path, "rb") as file:
            file.seek(0, 2)
            size = file.tell()
            file.seek(max(0, size - _TAIL_BYTES))
            data = file.read()
    except FileNotFoundError:
        return ""
    return "\n".join(data.decode(errors="backslashreplace").replace("\r", "").splitlines()[-lines:])


def death_title(text: str) -> str:
    """The one line that names why a kernel died, or its Python ended; an empty text if neither did.

    A panic that follows from an earlier report names that one, and where it happened, in brackets; so does the end of
    a Python that the kernel killed.

    >>> death_title("BUG: kernel NULL pointer dereference\\nKernel panic - not syncing: Fatal exception")
    'Kernel panic - not syncing: Fatal exception (BUG: kernel NULL pointer dereference)'
    """
    found = [splat for splat in splats(text) if splat.kind not in _HARMLESS]
    end = next((index for index, splat in enumerate(found) if splat.kind is SplatKind.PANIC), None)
    if end is None:
        other = _OTHER.search(text)
        if not other:
            return ""
        if not other["worker"]:
            return f"the guest ended itself: {other['reboot']}"
        deadly = [splat for splat in found if splat.kind in _DEADLY]
        return other["worker"] + (f" ({_cause(deadly[-1])})" if deadly and " by signal " in other["worker"] else "")
    panic = found[end]
    if not end or not _CONSEQUENCE.search(panic.title):
        return panic.title
    return f"{panic.title} ({_cause(found[end - 1])})"


def _cause(splat: Splat) -> str:
    place = f" in {splat.function}" if splat.function and splat.function not in splat.heading else ""
    # who asked for memory in vain says little
    return splat.title if splat.kind is SplatKind.OOM else splat.heading + place
