"""Which functions of the kernel the instructions of a packet are in, exactly: ``kproof bench … --profile``.

A TCG plugin counts in windows that the guest marks, each around one run of the workload. Runs differ in length, and
what a function has more in a longer one, for each packet more, is what a packet costs there: the slope, by the very
estimate that the row's number comes from (harness/bench/estimate.py). What starts and ends a run is in no slope, nor is
what was done in one run of many. So the sum over all functions is what the clock says of the row, and who shows a
profile shows both.

A function is a name of System.map without what a compiler appends (``.cold``, ``.isra.0``), so that two kernels can be
compared. What is inlined belongs to the function that it is inlined in, as on the processor.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from harness.bench.estimate import Point, slope
from harness.bench.symbols import Symbols, function
from harness.bench.windows import Window

Stack = tuple[str, ...]
"""Names of functions, the outermost first."""

INTERRUPTS = "[interrupts]"

_EXACT = 0.0
"""The step that the plugin counts in leaves nothing open."""

_INTERRUPT = re.compile(r"asm_(sysvec_\w+|common_interrupt|spurious_interrupt|exc_nmi)$")
"""Where the processor comes to by itself (arch/x86/include/asm/idtentry.h); a fault is part of what makes it."""


@dataclass(frozen=True)
class Profile:
    """Where the instructions of one packet (transaction, call) are."""

    functions: Mapping[str, float]
    """In each function itself; what came by an interrupt is one function. None is 0."""
    stacks: Mapping[Stack, float]
    """In the last function of a stack, called from those before it. None is 0."""

    @property
    def total(self) -> float:
        """The sum over all functions."""
        return sum(self.functions.values())


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


def profile(runs: Iterable[tuple[int, Window]], symbols: Symbols, thread: str = "") -> Profile:
    """From the runs of a row, pairs of the packets sent and the window.

    Of all threads, or of the one whose function this is. Raises ValueError where all runs have sent the same.
    """
    named = [(packets, _of_thread(stacks(window, symbols), thread)) for packets, window in runs]
    return Profile(
        functions=_slopes([(packets, _functions(counts)) for packets, counts in named]),
        stacks=_slopes(named),
    )


def _of_thread(counts: Counter[Stack], thread: str) -> Counter[Stack]:
    return Counter({stack: count for stack, count in counts.items() if stack[0] == thread}) if thread else counts


def _functions(counts: Counter[Stack]) -> Counter[str]:
    found: Counter[str] = Counter()
    for stack, count in counts.items():
        found[INTERRUPTS if stack[0] == INTERRUPTS else stack[-1]] += count
    return found


K = TypeVar("K")


def _slopes(runs: Sequence[tuple[int, Counter[K]]]) -> dict[K, float]:
    """For each key, what it has more for each packet more."""
    keys = dict.fromkeys(key for _, counts in runs for key in counts)
    found = {key: slope([Point(packets, counts[key], _EXACT) for packets, counts in runs]).value for key in keys}
    return {key: value for key, value in found.items() if value}


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
    name = function(symbol)
    if callers and callers[-1] == name and last != symbol:  # the compiler's part of the very same function
        return callers
    return *callers, name


def differences(base: Profile, here: Profile) -> list[Difference]:
    """All functions that differ, the greatest difference first. They sum up to the difference of both totals."""
    before, after = base.functions, here.functions
    found = [Difference(name, before.get(name, 0.0), after.get(name, 0.0)) for name in before.keys() | after.keys()]
    return sorted((one for one in found if one.more), key=lambda one: (-abs(one.more), one.function))


def folded(profile: Profile) -> str:
    """The stacks as tools for flame graphs read them: ``outermost;…;innermost INSTRUCTIONS``, of a thousand packets."""
    counts = {stack: round(1000 * count) for stack, count in profile.stacks.items()}
    return "".join(f"{';'.join(stack)} {count}\n" for stack, count in sorted(counts.items()) if count > 0)
