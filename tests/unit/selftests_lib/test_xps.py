"""What the selftests of queue selection read and write, checked on the host: jump tables, netlink, programs."""

from __future__ import annotations

import struct

import pytest

from selftests.lib import asm, programs, rtnetlink, static_key, xps
from selftests.lib.static_key import Segment


def entry(address: int, site: int, key: int, flags: int) -> bytes:
    """struct jump_entry as it stands at ``address``."""
    return struct.pack("<iiq", site - address, 0, key - (address + 8) | flags)


def test_sites_of_a_key_are_found_in_the_jump_table() -> None:
    """Entries are relative to themselves; the lowest two bits of the key's part are flags."""
    start, key, other = 0x1000, 0x8000, 0x8010
    table = b"".join(
        [entry(start, 0x500, key, 0), entry(start + 16, 0x600, other, 0), entry(start + 32, 0x9000, key, 3)]
    )
    assert static_key.sites(table, start, key) == [0x500, 0x9000]
    assert static_key.sites(table, start, other) == [0x600]
    assert static_key.sites(table, start, 0x8020) == []


@pytest.mark.parametrize(
    ("instruction", "machine", "nop"),
    [
        ("0f1f440000", "x86_64", True),
        ("6690cccccc", "x86_64", True),
        ("e900010000", "x86_64", False),
        ("eb10909090", "x86_64", False),
        ("1f2003d500", "aarch64", True),
        ("0400001400", "aarch64", False),
    ],
)
def test_patched_site_is_a_nop_or_a_jump(instruction: str, machine: str, nop: bool) -> None:
    assert static_key.is_nop(bytes.fromhex(instruction), machine) is nop


def test_other_instruction_is_an_error() -> None:
    with pytest.raises(ValueError, match="4889e5"):
        static_key.is_nop(bytes.fromhex("4889e59090"), "x86_64")


def test_loadable_segments_of_an_elf_file() -> None:
    """Program headers of type PT_LOAD, others left out (/proc/kcore begins with a note)."""
    head = struct.pack("<16xHHIQQQIHHHHHH", 4, 62, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    note = struct.pack("<IIQQQQQQ", 4, 0, 0x100, 0, 0, 0x50, 0, 0)
    load = struct.pack("<IIQQQQQQ", 1, 7, 0x2000, 0xFFFFFFFF81000000, 0x1000000, 0x3000, 0x3000, 0x1000)
    assert static_key.segments(head + note + load) == [Segment(0x2000, 0xFFFFFFFF81000000, 0x3000)]


@pytest.mark.parametrize(
    ("state", "off", "on"),
    [
        (static_key.State(0, 2, 0), True, False),
        (static_key.State(1, 0, 2), False, True),
        (static_key.State(0, 1, 1), False, False),
        (static_key.State(1, 1, 1), False, False),
        (static_key.State(0, 0, 0), False, False),
    ],
)
def test_key_is_off_or_on_with_all_its_sites(state: static_key.State, off: bool, on: bool) -> None:
    """A key without a site says nothing, and one that is patched in part is neither."""
    assert (state.is_off, state.is_on) == (off, on)


def test_nest_of_a_request() -> None:
    """IFLA_XPS with NLA_F_NESTED; -1 is a signed number; what is not given is not sent."""
    assert xps.nest(-1).hex() == "0c004680" + "08000100ffffffff"
    assert (
        xps.nest(3, flags=2, expected=4).hex()
        == "1c004680" + "0800010003000000" + "0800020002000000" + "0800030004000000"
    )
    assert xps.nest(more={xps.Attr.ATTACHED: b"\1"}).hex() == "0c004680" + "0500040001000000"


def test_attributes_come_back() -> None:
    raw = rtnetlink.text(3, "x0") + rtnetlink.nest(70, rtnetlink.u32(5, 257), rtnetlink.attribute(4, b"\2"))
    outer = rtnetlink.parse(raw)
    assert outer[3] == b"x0\0"
    assert rtnetlink.parse(outer[70]) == {5: (257).to_bytes(4, "little"), 4: b"\2"}


def test_cut_attribute_is_an_error() -> None:
    with pytest.raises(ValueError, match="attribute 3"):
        rtnetlink.parse(rtnetlink.text(3, "a long name")[:8])


def test_packet_loads_count_from_the_network_header() -> None:
    """BPF_LD | BPF_ABS (RFC 9669, section 5.6), with SKF_NET_OFF as offset."""
    assert asm.load_packet(2, 12).pack().hex() == "280000000c000000"
    assert asm.load_packet(1, asm.SKF_NET_OFF + 9).pack().hex() == "300000000900f0ff"


@pytest.mark.parametrize("text", ["", "1234567", "12345678", "Hello, queue 1!"])
def test_trace_text_stands_on_the_stack(text: str) -> None:
    """Whole words below the frame pointer, with the terminating zero, and the length that the helper gets."""
    code = programs.trace_printk(text)
    stores = [one for one in code if one.opcode == 0x62]
    memory = {one.offset: struct.pack("<I", one.imm) for one in stores}
    raw = b"".join(memory[offset] for offset in sorted(memory))
    assert raw.rstrip(b"\0") == text.encode()
    assert min(memory) == -len(raw)
    assert asm.add_imm(asm.R1, -len(raw)) in code
    assert asm.mov_imm(asm.R2, len(text) + 1) in code
