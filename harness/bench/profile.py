"""Which functions of the kernel the instructions of a packet are in, exactly: ``kproof bench … --profile``.

A TCG plugin counts in windows that the guest marks, each around one run of the workload. The difference of two runs of
one row, of N and of more packets, has nothing of what starts and ends a run: divided by the packets that the longer one
sent more, it is what one packet costs, and where. What came by an interrupt stands apart as ``INTERRUPTS``.

A function is a name of System.map without what a compiler appends (``.cold``, ``.isra.0``), so that two kernels can be
compared. What is inlined belongs to the function that it is inlined in, as on the processor.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from harness.bench.windows import USER, Window

Stack = tuple[str, ...]
"""Names of functions, the outermost first."""

IN_USER_SPACE = "[user space]"
OUTSIDE = "[BPF or a module]"
"""Code that is not in the kernel's image. What a kernel of ours has there is what its BPF compiler made."""
INTERRUPTS = "[interrupts]"

_SYMBOL = re.compile(r"^([0-9a-f]+) (\w) (\S+)$", re.M)
_CODE = frozenset("TtWw")
_INTERRUPT = re.compile(r"asm_(sysvec_\w+|common_interrupt|spurious_interrupt|exc_nmi)$")
"""Where the processor comes to by itself (arch/x86/include/asm/idtentry.h); a fault is part of what makes it."""


class Symbols:
    """The functions of a kernel that runs where it was linked to (``nokaslr``)."""

    def __init__(self, system_map: str) -> None:
        named: dict[int, str] = {}
        bounds: dict[str, int] = {}
        for address, kind, name in _SYMBOL.findall(system_map):
            at = int(address, 16)
            if name in ("_stext", "_end"):
                bounds[name] = at
            if kind in _CODE and (at not in named or _rank(name) < _rank(named[at])):
                named[at] = name
        self._starts = sorted(named)
        self._names = [named[start] for start in self._starts]
        self._first, self._end = bounds.get("_stext", 0), bounds.get("_end", 1 << 64)

    def at(self, address: int) -> str:
        """The symbol that an address is behind, or one of the names in brackets above."""
        if address == USER:
            return IN_USER_SPACE
        if not self._first <= address < self._end:
            return OUTSIDE
        found = bisect_right(self._starts, address) - 1
        return self._names[found] if found >= 0 else OUTSIDE


def _rank(name: str) -> tuple[bool, int, str]:
    """Of several names of one address: a plain one before one with underscores, the shorter one before the longer."""
    return name.startswith("_"), len(name), name


@dataclass(frozen=True)
class Profile:
    """What some packets cost, and where."""

    stacks: Mapping[Stack, int]
    """Instructions in the last function of a stack, called from those before it, in all packets; none is 0."""
    units: int
    """How many packets (transactions, calls)."""

    @property
    def total(self) -> float:
        """Instructions for one packet, interrupts and all."""
        return sum(self.stacks.values()) / self.units

    @property
    def interrupts(self) -> float:
        """What of it is in interrupts that came meanwhile: the timer's."""
        return sum(count for stack, count in self.stacks.items() if stack[0] == INTERRUPTS) / self.units

    @property
    def functions(self) -> dict[str, float]:
        """Instructions for one packet in each function itself; interrupts are one function."""
        found: Counter[str] = Counter()
        for stack, count in self.stacks.items():
            found[INTERRUPTS if stack[0] == INTERRUPTS else stack[-1]] += count
        return {name: count / self.units for name, count in found.items()}

    def per_unit(self) -> dict[Stack, float]:
        """``stacks`` for one packet."""
        return {stack: count / self.units for stack, count in self.stacks.items()}


@dataclass(frozen=True)
class Difference:
    """A function in two profiles: instructions for one packet."""

    function: str
    base: float
    here: float

    @property
    def more(self) -> float:
        """What it has more in the second one."""
        return self.here - self.base


def profile(runs: Iterable[tuple[int, Window]], symbols: Symbols) -> Profile:
    """What the packets cost that the longest run of a row had more than the shortest.

    ``runs`` are pairs of the packets sent and the window around it. Those that no interrupt came into are taken, if
    that leaves two of different length. Raises ValueError where all have sent the same.
    """
    named = [(packets, stacks(window, symbols)) for packets, window in runs]
    quiet = [run for run in named if not any(count and stack[0] == INTERRUPTS for stack, count in run[1].items())]
    (few, less), (many, more) = _ends(quiet) if len({packets for packets, _ in quiet}) > 1 else _ends(named)
    if few == many:
        raise ValueError(f"a profile takes two runs that differ, and each was of {few}")
    counts = Counter(more)
    counts.subtract(less)
    return Profile({stack: count for stack, count in counts.items() if count}, many - few)


def _ends(runs: list[tuple[int, Counter[Stack]]]) -> tuple[tuple[int, Counter[Stack]], tuple[int, Counter[Stack]]]:
    """The shortest and the longest."""
    return min(runs, key=lambda run: run[0]), max(runs, key=lambda run: run[0])


def stacks(window: Window, symbols: Symbols) -> Counter[Stack]:
    """The tree of a window by names: blocks of one function are one, and what came by an interrupt begins there."""
    found: list[tuple[Stack, str]] = []
    counts: Counter[Stack] = Counter()
    for caller, address, instructions in window.nodes:
        callers, last = found[caller] if caller >= 0 else ((), "")
        symbol = symbols.at(address)
        stack = _below(callers, last, symbol)
        found.append((stack, symbol))
        counts[stack] += instructions
    return counts


def _below(callers: Stack, last: str, symbol: str) -> Stack:
    """``callers``, which end in the symbol ``last``, and ``symbol``, which they called."""
    if _INTERRUPT.match(symbol):
        return INTERRUPTS, symbol
    name = symbol.partition(".")[0]
    if callers and callers[-1] == name and last != symbol:  # the compiler's part of the very same function
        return callers
    return *callers, name


def differences(base: Profile, here: Profile) -> list[Difference]:
    """All functions that differ, the greatest difference first. They sum up to the difference of both totals."""
    before, after = base.functions, here.functions
    found = [Difference(name, before.get(name, 0.0), after.get(name, 0.0)) for name in before.keys() | after.keys()]
    return sorted((one for one in found if one.more), key=lambda one: (-abs(one.more), one.function))


def folded(profile: Profile) -> str:
    """The stacks as tools for flame graphs read them: ``outermost;…;innermost INSTRUCTIONS``, of all packets."""
    return "".join(f"{';'.join(stack)} {count}\n" for stack, count in sorted(profile.stacks.items()))
