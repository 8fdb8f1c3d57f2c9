"""The file that a boot loader loads: which kernel it says it is, and the vmlinux inside.

Offsets are those of Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header". The compressed kernel is an ELF
file with its relocations behind it (arch/x86/boot/compressed/Makefile); its compressor is told by the first bytes, as
lib/decompress.c does.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import struct

from harness import command
from harness.errors import InfraError, UserError

LIMIT = 120.0
SETUP_SECTS, MAGIC, KERNEL_VERSION, PAYLOAD = 0x1F1, 0x202, 0x20E, 0x248
SIZE = 4
"""Every compressor but gzip is followed by the length of the kernel (scripts/Makefile.lib, size_append)."""

PROGRAMS = {b"\x28\xb5\x2f\xfd": "zstd", b"\x02\x21\x4c\x18": "lz4"}
"""Compressors that Python's library has not."""


def is_bzimage(data: bytes) -> bool:
    return data[MAGIC : MAGIC + 4] == b"HdrS"


def release(data: bytes, path: str) -> str:
    """What ``uname -r`` will print. UserError when the image does not tell."""
    return banner(data, path).split()[0]


def banner(data: bytes, path: str) -> str:
    """``RELEASE (BUILDER) BUILD``, by a bzImage's header or an ELF file's banner. UserError when it has neither."""
    if is_bzimage(data):
        (offset,) = struct.unpack_from("<H", data, KERNEL_VERSION)
        text = data[offset + 0x200 : offset + 0x400].partition(b"\0")[0].decode(errors="replace")
        if offset and text.strip():
            return text
    elif data.startswith(b"\x7fELF") and (found := re.search(rb"Linux version (\d\S+ [^\0\n]*)", data)):
        return found[1].decode(errors="replace")
    raise UserError(f"{path} is not a kernel image: neither a bzImage nor an ELF vmlinux that tells its version")


def vmlinux(data: bytes) -> bytes | None:
    """The ELF file in a bzImage; None when it is compressed in a way that is not known here.

    Raises InfraError when the program that unpacks it is missing or fails.
    """
    setup = data[SETUP_SECTS] or 4
    offset, length = struct.unpack_from("<II", data, PAYLOAD)
    start = (setup + 1) * 512 + offset
    payload = data[start : start + length]
    plain = _plain(payload)
    if plain is None or not plain.startswith(b"\x7fELF"):
        return None
    return plain


def _plain(payload: bytes) -> bytes | None:
    if payload.startswith(b"\x1f\x8b"):
        return gzip.decompress(payload)
    data = payload[:-SIZE]
    if payload.startswith(b"\xfd7zXZ"):
        return lzma.decompress(data)
    if payload.startswith(b"BZh"):
        return bz2.decompress(data)
    if payload.startswith(b"\x5d\0\0"):
        return lzma.decompress(data, lzma.FORMAT_ALONE)
    if not (program := PROGRAMS.get(payload[:4])):
        return None
    command.require(program)
    out = command.run([program, "-dcq"], stdin=data, limit=LIMIT).out
    (size,) = struct.unpack("<I", payload[-SIZE:])
    if len(out) != size:
        raise InfraError(f"{program} made {len(out)} bytes of a kernel of {size}")
    return out
