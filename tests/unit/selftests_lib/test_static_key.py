"""selftests.lib.static_key, on the host: jump tables, instructions, what the parts of a key say together."""

from __future__ import annotations

import struct

import pytest

from selftests.lib import static_key
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


NOP, JUMP = bytes.fromhex("0f1f440000"), bytes.fromhex("e900010000")


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """An x86-64 with two functions."""
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    text = "ffffffff81000100 T first\nffffffff81000200 t second\nffffffff82000000 D keys\n"
    monkeypatch.setattr(static_key, "_kallsyms", lambda: text)
    for cached in (static_key.symbol, static_key._functions):
        cached.cache_clear()
        monkeypatch.setattr(static_key, cached.__name__, cached.__wrapped__)


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize(
    ("enabled", "instructions", "off", "on"),
    [
        pytest.param(0, [NOP, NOP], True, False, id="off"),
        pytest.param(1, [JUMP, JUMP], False, True, id="on"),
        pytest.param(0, [NOP, JUMP], False, False, id="off-patched-in-part"),
        pytest.param(1, [NOP, JUMP], False, False, id="on-patched-in-part"),
        pytest.param(0, [], False, False, id="no-sites"),
    ],
)
def test_key_is_off_or_on_with_all_its_sites(enabled: int, instructions: list[bytes], off: bool, on: bool) -> None:
    """A key without a site says nothing, and one that is patched in part is neither."""
    state = static_key.State(enabled, tuple(static_key.Site(0, each) for each in instructions))
    assert (state.is_off, state.is_on) == (off, on)


@pytest.mark.usefixtures("kernel")
def test_state_says_what_stands_where() -> None:
    sites = (static_key.Site(0xFFFFFFFF81000142, NOP), static_key.Site(0xFFFFFFFF81000200, JUMP))
    assert str(static_key.State(2, sites)) == ("enabled 2 times; NOP 0f1f440000 in first, JMP e900010000 in second")


@pytest.mark.usefixtures("kernel")
def test_key_in_an_array() -> None:
    """struct static_key has 16 bytes."""
    assert static_key.Key.element("keys", 3) == static_key.Key("keys[3]", 0xFFFFFFFF82000030)
    with pytest.raises(LookupError, match="no symbol missing"):
        static_key.Key.named("missing")
