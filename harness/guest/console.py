"""The console log of a guest: its tail as evidence, and the title of what ended it."""

from __future__ import annotations

import re
from pathlib import Path

from harness.guest.agent import WORKER_ENDED

# What a kernel prints before it dies, most telling first: the panic's reason follows the report that caused it.
_PANIC = re.compile(r"Kernel panic - not syncing: (?P<title>[^\r\n]*)")
_REPORT = re.compile(
    r"(?P<title>(?:BUG|Oops|Oops: [\w ]+|general protection fault|Unable to handle kernel)[^\r\n]*|"
    r"(?:WARNING): CPU: \d+ PID: \d+ at [^\r\n]*)"
)
_OTHER = re.compile(
    rf"(?P<worker>{WORKER_ENDED} [^\r\n]*)|reboot: (?P<reboot>Power down|Restarting system|System halted)"
)
_STAMP = re.compile(r"^(?:<\d+>)?\[\s*\d+\.\d+\](?:\[[TC ]*\d+\])? ", re.M)
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")

TAIL_LINES = 200
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

    >>> death_title("[ 1.0] BUG: kernel NULL pointer dereference\\n[ 1.1] Kernel panic - not syncing: Fatal exception")
    'Kernel panic - not syncing: Fatal exception (BUG: kernel NULL pointer dereference)'
    """
    plain = _STAMP.sub("", _ANSI.sub("", text))
    panic = _PANIC.search(plain)
    if panic is None:
        other = _OTHER.search(plain)
        return (other["worker"] or f"the guest ended itself: {other['reboot']}") if other else ""
    title = f"Kernel panic - not syncing: {panic['title'].strip()}"
    cause = _REPORT.search(plain, 0, panic.start())
    return f"{title} ({cause['title'].strip()})" if cause else title
