"""Which function of a kernel an address is in."""

from __future__ import annotations

import re
from bisect import bisect_right

from harness.bench.windows import USER

IN_USER_SPACE = "[user space]"
OUTSIDE = "[BPF or a module]"
"""Code that is not in the kernel's image. What a kernel of ours has there is what its BPF compiler made."""

_SYMBOL = re.compile(r"^([0-9a-f]+) (\w) (\S+)$", re.M)
_BOUND = re.compile(r"^_s?text$|_text_(start|end)$|_begin$")
"""Of the linker's script (include/asm-generic/vmlinux.lds.h)."""
_CODE = frozenset("TtWw")
"""Types of symbols, as nm(1) has them."""


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


def function(symbol: str) -> str:
    """A symbol without what a compiler appends: a part of a function is that function.

    >>> function("__netif_receive_skb_core.constprop.0")
    '__netif_receive_skb_core'
    """
    return symbol.partition(".")[0]


def _rank(name: str) -> tuple[bool, bool, int, str]:
    """Of several names of one address: no bound of a section, a plain one before one with underscores, a short one."""
    return _BOUND.search(name) is not None, name.startswith("_"), len(name), name
