"""Static keys of the running kernel: how often one is enabled, and what stands at the jump sites that it patches.

Read from /proc/kcore with the addresses of /proc/kallsyms (include/linux/jump_label.h): needs CONFIG_PROC_KCORE and
CONFIG_KALLSYMS_ALL. x86-64 and arm64 lay an entry out alike: s32 code, s32 target, s64 key, each relative to itself.

    key = static_key.Key.named("ingress_needed_key")
    assert key.state().is_off, f"nothing uses it, yet: {key.state()}"
"""

from __future__ import annotations

import os
import platform
import re
import struct
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Self

from selftests.lib import wait

SYMBOLS = "KPROOF_SYMBOLS"
"""Environment variable: a file of the same format that has what is wanted of /proc/kallsyms, which takes a second."""

_ENTRY = 16
_INT3 = b"\xcc"
_SITE = 5
"""The longest patched instruction, of x86: a near jump."""

_PT_LOAD = 1

_NF_MAX_HOOKS = 5
"""include/linux/netfilter_defs.h"""
NFPROTO_NETDEV, NF_NETDEV_INGRESS, NF_NETDEV_EGRESS = 5, 0, 1
"""include/uapi/linux/netfilter.h"""

Reader = Callable[[int, int], bytes]
"""``read(address, size)`` of kernel memory."""


@cache
def _kallsyms() -> str:
    return Path(os.environ.get(SYMBOLS, "/proc/kallsyms")).read_text()


@cache
def symbol(name: str) -> int:
    """The address of a symbol. Raises LookupError where the kernel has none of that name."""
    table = _kallsyms()
    end = table.find(f" {name}\n")
    if end < 0:
        raise LookupError(f"the kernel has no symbol {name}")
    address, _ = table[table.rfind("\n", 0, end) + 1 : end].split()
    return int(address, 16)


@cache
def _functions() -> tuple[list[int], list[str]]:
    """Addresses of all functions, ascending, and their names."""
    found = sorted(
        (int(at, 16), name) for at, name in re.findall(r"^([0-9a-f]+) [tT] (\S+)$", _kallsyms(), re.MULTILINE)
    )
    return [at for at, _ in found], [name for _, name in found]


def function_at(address: int) -> str:
    """The function that an instruction is in."""
    addresses, names = _functions()
    index = bisect_right(addresses, address) - 1
    return names[index] if index >= 0 else "?"


@dataclass(frozen=True)
class Segment:
    """A piece of kernel memory in /proc/kcore."""

    offset: int
    address: int
    size: int


def segments(head: bytes) -> list[Segment]:
    """The loadable segments that an ELF file's beginning tells of (64 bits, little-endian)."""
    (table,) = struct.unpack_from("<Q", head, 32)
    size, count = struct.unpack_from("<HH", head, 54)
    found = []
    for at in range(table, table + size * count, size):
        kind, _, offset, address, _, length = struct.unpack_from("<IIQQQQ", head, at)
        if kind == _PT_LOAD:
            found.append(Segment(offset, address, length))
    return found


def read_memory(address: int, size: int) -> bytes:
    """Kernel memory. Raises LookupError for an address that is in no segment."""
    fd = os.open("/proc/kcore", os.O_RDONLY)
    try:
        for segment in segments(os.pread(fd, 1 << 14, 0)):
            if segment.address <= address < segment.address + segment.size:
                return os.pread(fd, size, segment.offset + address - segment.address)
    finally:
        os.close(fd)
    raise LookupError(f"{address:#x} is not in /proc/kcore")


def sites(table: bytes, start: int, key: int) -> list[int]:
    """Addresses of the instructions that ``key`` patches, by the jump table that stands at ``start``."""
    found = []
    whole = len(table) - len(table) % _ENTRY
    for at, (code, _, relative) in zip(range(0, whole, _ENTRY), struct.iter_unpack("<iiq", table[:whole]), strict=True):
        # the lowest two bits tell how the branch is likely to go and whether it is in init code
        if start + at + 8 + (relative & ~3) == key:
            found.append(start + at + code)
    return found


def is_nop(instruction: bytes, machine: str) -> bool:
    """Whether a patched site falls through. Raises ValueError for what is neither a NOP nor a jump."""
    nops, jumps = {
        "x86_64": ((bytes.fromhex("0f1f440000"), bytes.fromhex("6690")), (b"\xe9", b"\xeb")),
        "aarch64": ((bytes.fromhex("1f2003d5"),), ()),
    }[machine]
    if instruction.startswith(nops):
        return True
    if instruction.startswith(jumps) or (machine == "aarch64" and instruction[3] >> 2 == 0b000101):
        return False
    raise ValueError(f"{instruction.hex()} is neither a NOP nor a jump")


@dataclass(frozen=True)
class Site:
    """An instruction that a key patches, as it is now."""

    address: int
    instruction: bytes

    @property
    def falls_through(self) -> bool:
        return is_nop(self.instruction, platform.machine())

    @property
    def function(self) -> str:
        """Where it is; the function that it was inlined into."""
        return function_at(self.address)

    def __str__(self) -> str:
        return f"{'NOP' if self.falls_through else 'JMP'} {self.instruction.hex()} in {self.function}"


@dataclass(frozen=True)
class State:
    """A key as it is now."""

    enabled: int
    sites: tuple[Site, ...]

    @property
    def nops(self) -> int:
        """Jump sites that fall through."""
        return sum(site.falls_through for site in self.sites)

    @property
    def jumps(self) -> int:
        return len(self.sites) - self.nops

    @property
    def is_off(self) -> bool:
        return self.enabled == 0 and self.jumps == 0 and self.nops > 0

    @property
    def is_on(self) -> bool:
        return self.enabled > 0 and self.nops == 0 and self.jumps > 0

    def __str__(self) -> str:
        return f"enabled {self.enabled} times; {', '.join(map(str, self.sites)) or 'no jump sites'}"


@dataclass(frozen=True)
class Key:
    """A static key that is off by default."""

    name: str
    address: int

    @classmethod
    def named(cls, name: str) -> Self:
        """A key that is a variable. Raises LookupError where the kernel has none of that name."""
        return cls(name, symbol(name))

    @classmethod
    def element(cls, array: str, index: int) -> Self:
        """A key in an array of ``struct static_key`` (16 bytes where CONFIG_JUMP_LABEL is set)."""
        return cls(f"{array}[{index}]", symbol(array) + 16 * index)

    def state(self) -> State:
        """The key now; while its sites are being patched, a moment later. Raises TimeoutError where that never ends."""
        (enabled,) = struct.unpack("<i", read_memory(self.address, 4))
        return State(enabled, tuple(Site(at, _patched(at)) for at in _sites_of(self.address)))

    def await_off(self) -> None:
        """Wait for what uses the key to be gone: a namespace's end frees its users in the background."""
        try:
            wait.until(lambda: self.state().is_off, f"{self.name} to be off")
        except TimeoutError as error:
            raise TimeoutError(f"{error}: {self.state()}") from None


def _patched(address: int) -> bytes:
    """The instruction at a jump site. x86 writes a breakpoint over its first byte for as long as it writes the rest
    (text_poke_bp_batch() in arch/x86/kernel/alternative.c), on another processor, for instance.
    """

    def whole() -> bytes | None:
        instruction = read_memory(address, _SITE)
        return None if platform.machine() == "x86_64" and instruction.startswith(_INT3) else instruction

    return wait.until(whole, f"the patching of {address:#x} to end")


@cache
def _sites_of(key: int) -> tuple[int, ...]:
    """By the kernel's own jump table, which does not change: it is not a module's."""
    start, end = symbol("__start___jump_table"), symbol("__stop___jump_table")
    return tuple(sites(read_memory(start, end - start), start, key))


def state(name: str) -> State:
    """The key ``name`` now. Raises LookupError where the kernel has none of that name."""
    return Key.named(name).state()


def netfilter_hook(family: int, hook: int) -> Key:
    """What is on while any chain is at this hook of any device or namespace: nf_hooks_needed[family][hook]."""
    return Key.element("nf_hooks_needed", family * _NF_MAX_HOOKS + hook)
