"""What the selftests of queue selection read and write, checked on the host: netlink, programs."""

from __future__ import annotations

import struct

import pytest

from selftests.lib import asm, programs, rtnetlink, xps


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
