"""Which line of the kernel's source a frame of a stack trace is in, from the debug information of the stored kernel.

A frame says ``FUNCTION+OFFSET/SIZE``, all hexadecimal (lib/vsprintf.c, ``%pS`` and ``%pB``), which holds wherever KASLR
has put the kernel. System.map has the function's address; of several of one name, the size tells which it is: up to the
next symbol, as kernel/kallsyms.c counts. What a trace prints is where a call returns to, one instruction behind the
call; what the registers, and the heading of a WARN, print is the very instruction.

``addr2line`` (binutils) is started once for all frames of a run, and only if there are any.
"""

from __future__ import annotations

import posixpath
import re
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from harness import command
from harness.errors import InfraError
from harness.guest.splats import splats
from harness.kernel.build import OBJECTS
from harness.model import Frame, Kernel, Outcome, Splat

LIMIT = 120.0
"""Seconds for addr2line, which reads the debug information of a whole kernel."""

# A function in the kernel's image; one of a module has the module's name in brackets behind it.
_ADDRESS = re.compile(
    r"(?<![\w.$])(?P<name>[A-Za-z_][\w.$]*+)\+0x(?P<offset>[0-9a-f]{1,16})/0x(?P<size>[0-9a-f]{1,16}+)(?! \[\w)"
)
# Lines whose address is that of the instruction itself.
_EXACT = re.compile(
    r"(?:[RE]IP: (?:[0-9a-f]{4}:)?|\bpc : |WARNING: .{1,300} )(?P<address>[A-Za-z_][\w.$]*+\+0x[0-9a-f]+/0x[0-9a-f]+)"
)
_HAS_A_LINE = re.compile(r"\w\.[chS]:\d")
_WIDEST = 1024  # characters: printk has no longer lines (include/linux/printk.h)
_CODE = frozenset("TtWw")  # types of symbols, as nm(1) has them


@dataclass(frozen=True)
class Place:
    """A line of the kernel's source, and the function that has it there."""

    function: str
    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True)
class Lines:
    """The source lines of addresses in stack traces."""

    places: Mapping[str, tuple[Place, ...]] = field(default_factory=dict)
    """By address as printed, with ``=`` before it for the very instruction: its place, behind what is inlined there."""
    why_not: str = ""
    """Why there is none of them, in one line."""

    def text(self, text: str) -> str:
        """The text with ``FILE:LINE`` behind each address; what is inlined there stands on lines of its own before.

        A line that names a source file already stays as it is.
        """
        if not self.places:
            return text
        exact = _exact(text)
        return "\n".join(found for line in text.split("\n") for found in self._line(line, exact))

    def outcome(self, outcome: Outcome) -> Outcome:
        """The outcome with the lines in its texts, and with its splats."""
        found = tuple(self.splat(splat) for splat in splats(outcome.kernel_log))
        detail, kernel_log = self.text(outcome.detail), self.text(outcome.kernel_log)
        return replace(outcome, detail=detail, kernel_log=kernel_log, splats=found)

    def splat(self, splat: Splat) -> Splat:
        """The splat with the lines of its frames; a function that is inlined in another becomes a frame."""
        exact = _exact(splat.text)
        at = [frame for each in [splat.at] if each for frame in self._frames(each, exact)]
        frames = [frame for each in splat.frames for frame in self._frames(each, exact)]
        return replace(splat, at=at[0] if at else None, frames=tuple(frames))

    def _frames(self, frame: Frame, exact: frozenset[str]) -> list[Frame]:
        places = self.places.get(_key(frame.address, exact), ())
        if not places:
            return [frame]
        *inlined, place = places
        frames = [Frame(one.function, "", one.file, one.line, inlined=True) for one in inlined]
        return [*frames, replace(frame, file=place.file, line=place.line)]

    def _line(self, line: str, exact: frozenset[str]) -> list[str]:
        if "+0x" not in line or len(line) > _WIDEST or _HAS_A_LINE.search(line):
            return [line]
        lines: list[str] = []
        shift = 0
        for match in list(_ADDRESS.finditer(line)):
            if places := self.places.get(_key(match[0], exact)):
                *inlined, place = places
                before = line[: match.start() + shift]
                lines += [f"{before}{one.function} {one} [inline]" for one in inlined]
                end = match.end() + shift
                line = f"{line[:end]} {place}{line[end:]}"
                shift += len(f" {place}")
        return [*lines, line]


def source_lines(kernel: Kernel, texts: Iterable[str]) -> Lines:
    """The lines of all addresses in these texts. Never raises: what went wrong is its ``why_not``."""
    keys = {key for text in texts for key in _keys(text)}
    if not keys:
        return Lines()
    try:
        addresses = _addresses(kernel, keys)
        if not addresses:
            return Lines(why_not=f"none of the traces' functions is in the System.map of kernel {kernel.identity}")
        done = command.run(
            ["addr2line", "-a", "-f", "-i", "-e", kernel.vmlinux],
            limit=LIMIT,
            stdin="".join(f"{address:#x}\n" for address in addresses.values()).encode(),
        )
        places = _answers(done.text)
    except (InfraError, OSError, ValueError) as error:
        return Lines(why_not=str(error))
    if not any(places.values()):
        return Lines(why_not=f"kernel {kernel.identity} has no debug information (CONFIG_DEBUG_INFO)")
    return Lines({key: found for key, address in addresses.items() if (found := places.get(address))})


def _keys(text: str) -> set[str]:
    if "+0x" not in text:
        return set()
    exact = _exact(text)
    return {_key(match[0], exact) for match in _ADDRESS.finditer(text)}


def _exact(text: str) -> frozenset[str]:
    """Addresses that mean the very instruction. A trace repeats that of the registers, with or without ``?``."""
    return frozenset(match["address"] for match in _EXACT.finditer(text))


def _key(address: str, exact: frozenset[str]) -> str:
    return f"={address}" if address in exact else address


def _addresses(kernel: Kernel, keys: Iterable[str]) -> dict[str, int]:
    """The addresses in the image; of functions only that System.map has once, or once with this size."""
    parsed = {key: match for key in sorted(keys) if (match := _ADDRESS.search(key))}
    names = {match["name"] for match in parsed.values()}
    starts: list[int] = []
    named: dict[str, set[int]] = {}
    with open(kernel.system_map, encoding="ascii") as lines:
        for line in lines:
            address, kind, name = line.split()
            starts.append(int(address, 16))
            if name in names and kind in _CODE:
                named.setdefault(name, set()).add(starts[-1])
    starts.sort()
    found = {}
    for key, match in parsed.items():
        offset, size = int(match["offset"], 16), int(match["size"], 16)
        fitting = [start for start in named.get(match["name"], ()) if _size(starts, start) == size]
        if len(fitting) == 1 and offset <= size:
            found[key] = fitting[0] + offset - (0 if key.startswith("=") or not offset else 1)
    return found


def _size(starts: list[int], start: int) -> int:
    """From a symbol to the next one behind it."""
    after = bisect_right(starts, start)
    return starts[after] - start if after < len(starts) else 0


def _answers(output: str) -> dict[int, tuple[Place, ...]]:
    """What addr2line says: a line with the address, then for each place, innermost first, function and file:line."""
    places: dict[int, tuple[Place, ...]] = {}
    address = 0
    function = ""
    for line in output.splitlines():
        if line.startswith("0x"):
            address, function = int(line, 16), ""
            places[address] = ()
        elif not function:
            function = line
        else:
            # "FILE:LINE (discriminator N)"; "?" for what it does not know
            path, _, number = line.partition(" (")[0].rpartition(":")
            if number.isdecimal() and int(number):
                places[address] += (Place(function, from_root(path), int(number)),)
            function = ""
    return places


def from_root(path: str) -> str:
    """A source file's path as from the root of the tree.

    >>> from_root("/cache/trees/debian/src/.kproof-41a8841eae8bf1b4/../net/core/dev.c")
    'net/core/dev.c'
    """
    _, folder, below = path.rpartition(f"/{OBJECTS}")
    if folder:
        path = below.partition("/")[2]
    path = posixpath.normpath(path)
    while path.startswith("../"):
        path = path.removeprefix("../")
    return path
