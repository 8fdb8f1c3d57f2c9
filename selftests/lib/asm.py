"""A small assembler for eBPF: enough for programs of a dozen instructions, without a compiler in the guest.

Encoding: RFC 9669, section 3 (64 bits: opcode, registers, offset, immediate). A *fragment* is a list of instructions
that expects the context in r6 and leaves it there; ``program`` puts the context into r6 and joins fragments.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10 = range(11)

PSEUDO_MAP_FD = 1
PSEUDO_MAP_VALUE = 2

SKF_NET_OFF = -0x100000
"""include/uapi/linux/filter.h"""

_WIDTHS = {1: 0x10, 2: 0x08, 4: 0x00, 8: 0x18}
"""Size field of load and store opcodes by width in bytes (RFC 9669, section 5)."""


@dataclass(frozen=True)
class Insn:
    """One instruction slot of 8 bytes."""

    opcode: int
    dst: int = 0
    src: int = 0
    offset: int = 0
    imm: int = 0

    def pack(self) -> bytes:
        """Little-endian encoding; ``imm`` may be given signed or unsigned, it is cut to 32 bits."""
        imm = self.imm & 0xFFFFFFFF
        return struct.pack("<BBhI", self.opcode, self.src << 4 | self.dst, self.offset, imm)


Fragment = list[Insn]


def assemble(instructions: Iterable[Insn]) -> bytes:
    """The bytes that BPF_PROG_LOAD takes."""
    return b"".join(instruction.pack() for instruction in instructions)


def mov_imm(dst: int, imm: int) -> Insn:
    """``dst = imm``, sign-extended to 64 bits."""
    return Insn(0xB7, dst, imm=imm)


def mov_reg(dst: int, src: int) -> Insn:
    """``dst = src``, all 64 bits."""
    return Insn(0xBF, dst, src)


def add_imm(dst: int, imm: int) -> Insn:
    """``dst += imm``."""
    return Insn(0x07, dst, imm=imm)


def load(width: int, dst: int, src: int, offset: int) -> Insn:
    """``dst = *(uint<width * 8> *)(src + offset)``."""
    return Insn(0x61 | _WIDTHS[width], dst, src, offset)


def store(width: int, dst: int, src: int, offset: int) -> Insn:
    """``*(uint<width * 8> *)(dst + offset) = src``."""
    return Insn(0x63 | _WIDTHS[width], dst, src, offset)


def store_imm(dst: int, offset: int, imm: int) -> Insn:
    """``*(u32 *)(dst + offset) = imm``."""
    return Insn(0x62, dst, offset=offset, imm=imm)


def load_packet(width: int, offset: int) -> Insn:
    """``r0`` = the packet's ``width`` bytes at ``offset``, in host order; r1 to r5 are lost.

    The legacy form (RFC 9669, section 5.6), which only socket filters and classifiers have. A packet that is too short
    ends the program with 0. Offsets from SKF_NET_OFF on count from the network header.
    """
    return Insn(0x20 | _WIDTHS[width], imm=offset)


def atomic_add(dst: int, src: int, offset: int) -> Insn:
    """``*(u64 *)(dst + offset) += src``, atomically."""
    return Insn(0xDB, dst, src, offset, imm=0x00)


def atomic_fetch_add(dst: int, src: int, offset: int) -> Insn:
    """``src = *(u64 *)(dst + offset)``, which grows by the old ``src``, atomically."""
    return Insn(0xDB, dst, src, offset, imm=0x01)


def jump(skip: int) -> Insn:
    """Skip the next ``skip`` instructions."""
    return Insn(0x05, offset=skip)


def jump_if_not_imm(dst: int, imm: int, skip: int) -> Insn:
    """Skip the next ``skip`` instructions where ``dst`` is not ``imm``."""
    return Insn(0x55, dst, offset=skip, imm=imm)


def jump_unless_greater(dst: int, src: int, skip: int) -> Insn:
    """Skip the next ``skip`` instructions unless ``dst`` is greater than ``src``, both unsigned."""
    return Insn(0xBD, dst, src, offset=skip)


def jump_if_above_imm(dst: int, imm: int, skip: int) -> Insn:
    """Skip the next ``skip`` instructions where ``dst`` is above ``imm``, both unsigned."""
    return Insn(0x25, dst, offset=skip, imm=imm)


def call(helper: int) -> Insn:
    """Call helper number ``helper``: arguments in r1 to r5, result in r0."""
    return Insn(0x85, imm=helper)


def exit_() -> Insn:
    """Return r0."""
    return Insn(0x95)


def map_value(dst: int, map_fd: int, offset: int) -> Fragment:
    """``dst`` = address of byte ``offset`` in the only value of an array map (BPF_PSEUDO_MAP_VALUE, Linux 5.2)."""
    return [Insn(0x18, dst, PSEUDO_MAP_VALUE, imm=map_fd), Insn(0, imm=offset)]


def program(*fragments: Fragment) -> Fragment:
    """A whole program: keeps the context in r6, then runs the fragments one after another."""
    return [mov_reg(R6, R1), *(instruction for fragment in fragments for instruction in fragment)]
