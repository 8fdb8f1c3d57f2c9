"""What of a vmlinux runs: its code and data, without what only says when, from what, and of which lines it was built.

Kernels of equal code behave the same, also where their sources differ: in a comment, in another architecture's file.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import InfraError

if TYPE_CHECKING:
    from elftools.elf.elffile import ELFFile
    from elftools.elf.sections import Section

FORMAT = 1
ALLOC, EXECUTE = 2, 4
"""Flags of sections (elf(5)): SHF_ALLOC, SHF_EXECINSTR."""
NOTES = "SHT_NOTE"
"""Hold the build id, a hash over all there is, debug information with its line numbers too."""
TOLD = ("linux_banner", "linux_proc_banner", "init_uts_ns", "vermagic")
"""Symbols whose bytes name release, compiler and time of the build (init/version-timestamp.c, init/version.c)."""
BUGS = "__bug_table"
LINE_AT = -4
"""Where an entry of the bug table has its line, 16 bits, counted from its end: before its flags, 16 bits too (struct
bug_entry, include/asm-generic/bug.h). A comment that is a line longer moves all lines below it."""
STRIDES = (12, 16)
"""Bytes of an entry, with relative pointers: address, file; since 6.19 the format's as well."""


def code_identity(vmlinux: Path) -> str:
    """16 hex digits over names, addresses and contents of what is loaded. Raises InfraError for what is no ELF file."""
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    found = hashlib.sha256(f"{FORMAT}\n".encode())
    try:
        with vmlinux.open("rb") as file:
            elf = ELFFile(file)
            told = list(_told(elf))
            for section in _loaded(elf):
                found.update(f"{section.name} {section['sh_addr']:x} {section['sh_size']}\n".encode())
                if section["sh_type"] != "SHT_NOBITS":
                    found.update(_content(elf, section, told))
    except (ELFError, OSError) as error:
        raise InfraError(f"{vmlinux} cannot be read as an ELF file: {error}") from None
    return found.hexdigest()[:16]


def _loaded(elf: ELFFile) -> Iterator[Section]:
    """The sections that are in memory and no notes."""
    for section in elf.iter_sections():
        if section["sh_flags"] & ALLOC and section["sh_type"] != NOTES and not section.name.startswith(".note"):
            yield section


def _told(elf: ELFFile) -> Iterator[tuple[int, int]]:
    """Address and size of what names the build."""
    from elftools.elf.sections import SymbolTableSection

    symbols = elf.get_section_by_name(".symtab")
    if isinstance(symbols, SymbolTableSection):
        for name in TOLD:
            for symbol in symbols.get_symbol_by_name(name) or ():
                yield symbol["st_value"], symbol["st_size"]


def _content(elf: ELFFile, section: Section, told: Iterable[tuple[int, int]]) -> bytes:
    data = bytearray(section.data())
    start = section["sh_addr"]
    for address, size in told:
        if start <= address < start + len(data):
            data[address - start : address - start + size] = bytes(size)
    if section.name == BUGS:
        _without_lines(data, start, _executable(elf))
    return bytes(data)


def _executable(elf: ELFFile) -> list[range]:
    return [range(one["sh_addr"], one["sh_addr"] + one["sh_size"]) for one in _loaded(elf) if one["sh_flags"] & EXECUTE]


def _without_lines(table: bytearray, address: int, executable: list[range]) -> None:
    """Blank the line of each entry of the bug table; nothing where its entries are of a shape that is not known.

    The stride is that by which every entry's address, relative to itself, lies in code.
    """
    for stride in STRIDES:
        if len(table) % stride:
            continue
        places = range(0, len(table), stride)
        targets = (address + at + struct.unpack_from("<i", table, at)[0] for at in places)
        if all(any(target in part for part in executable) for target in targets):
            for at in places:
                struct.pack_into("<H", table, at + stride + LINE_AT, 0)
            return
