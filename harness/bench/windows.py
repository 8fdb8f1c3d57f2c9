"""What QEMU's plugin counted: how it is asked for, and its file read back (plugin/insns.c has the format)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.bench.native import shared_object
from harness.errors import InfraError
from harness.guest.machine import Device, escape

PLUGIN = Path(__file__).with_name("plugin") / "insns.c"
HEADER = PLUGIN.with_name("qemu_plugin.h")
USER = 0
"""The address that stands for all of user space."""


@dataclass(frozen=True)
class Window:
    """What was executed between two marks: a tree of calls, each node a block of instructions."""

    instructions: int
    """All of them: the sum over the nodes."""
    nodes: tuple[tuple[int, int, int], ...]
    """(index of the node that called it, or -1; address; instructions), callers before what they call."""


def plugin(out: Path) -> Device:
    """QEMU's arguments for a guest whose windows go to the file ``out``. Compiles the plugin, once.

    Raises InfraError when the compiler is missing.
    """
    return Device(qemu=("-plugin", f"file={escape(str(shared_object(PLUGIN, [HEADER])))},out={escape(str(out))}"))


def read(path: Path) -> tuple[Window, ...]:
    """The windows of a guest that has ended, in their order. Raises InfraError for a file that breaks off."""
    try:
        with path.open(encoding="ascii") as lines:
            return tuple(_windows(lines))
    except (OSError, ValueError) as error:
        raise InfraError(f"{path}: not what the plugin writes: {error}") from None


def _windows(lines: Iterable[str]) -> Iterator[Window]:
    """Raises ValueError."""
    rest = iter(lines)
    for number, line in enumerate(rest, 1):
        word, told, instructions = line.split()
        if (word, told) != ("window", str(number)):
            raise ValueError(f"{line.strip()!r} in place of window {number}")
        window = Window(int(instructions), tuple(_nodes(rest, number)))
        if window.instructions != sum(count for _, _, count in window.nodes):
            raise ValueError(f"the blocks of window {number} do not sum up to {window.instructions} instructions")
        yield window


def _nodes(lines: Iterator[str], number: int) -> Iterator[tuple[int, int, int]]:
    for place, line in enumerate(lines):
        words = line.split()
        if words == ["end", str(number)]:
            return
        node, caller, address, instructions = words
        if int(node) != place + 1 or int(caller) > place:
            raise ValueError(f"node {node} of window {number} is out of order")
        yield int(caller) - 1, int(address, 16), int(instructions)
    raise ValueError(f"window {number} has no end")
