"""Static keys of the running kernel: how often one is enabled, and what stands at the jump sites that it patches.

Read from /proc/kcore with the addresses of /proc/kallsyms (include/linux/jump_label.h): needs CONFIG_PROC_KCORE and
CONFIG_KALLSYMS_ALL. x86-64 and arm64 lay an entry out alike: s32 code, s32 target, s64 key, each relative to itself.
"""

from __future__ import annotations

import os
import platform
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_ENTRY = 16
_SITE = 5
"""The longest patched instruction, of x86: a near jump."""

_PT_LOAD = 1

Reader = Callable[[int, int], bytes]
"""``read(address, size)`` of kernel memory."""


@cache
def _kallsyms() -> str:
    return Path("/proc/kallsyms").read_text()


@cache
def symbol(name: str) -> int:
    """The address of a symbol. Raises LookupError where the kernel has none of that name."""
    found = re.search(rf"^([0-9a-f]+) \w {re.escape(name)}$", _kallsyms(), re.MULTILINE)
    if not found:
        raise LookupError(f"the kernel has no symbol {name}")
    return int(found[1], 16)


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
    for at in range(0, len(table) - _ENTRY + 1, _ENTRY):
        code, _, relative = struct.unpack_from("<iiq", table, at)
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
class State:
    """A key as it is now."""

    enabled: int
    nops: int
    """Jump sites that fall through."""
    jumps: int

    @property
    def is_off(self) -> bool:
        return self.enabled == 0 and self.jumps == 0 and self.nops > 0

    @property
    def is_on(self) -> bool:
        return self.enabled > 0 and self.nops == 0 and self.jumps > 0


def state(name: str) -> State:
    """The key ``name``, which is off by default. Raises LookupError where the kernel has none of that name."""
    key, start, end = (symbol(one) for one in (name, "__start___jump_table", "__stop___jump_table"))
    (enabled,) = struct.unpack("<i", read_memory(key, 4))
    nops = [
        is_nop(read_memory(address, _SITE), platform.machine())
        for address in sites(read_memory(start, end - start), start, key)
    ]
    return State(enabled, nops.count(True), nops.count(False))
