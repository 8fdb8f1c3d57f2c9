"""selftests.lib.nfnetlink, on the host: what is sent, and how answers are read."""

from __future__ import annotations

import struct

from selftests.lib import nfnetlink
from selftests.lib.nfnetlink import NF_NETDEV_EGRESS, ChainRequest, Hook
from selftests.lib.rtnetlink import attribute, nest, parse, text


def test_request_for_a_chain_has_its_devices() -> None:
    """struct nlmsghdr, nfgenmsg of family netdev, then table, chain, hook {number, priority, devices} and type."""
    raw = ChainRequest(["d0", "d1"]).encode()
    length, kind, flags = struct.unpack_from("<IHH", raw)
    assert (length, kind, flags) == (len(raw), 10 << 8 | 3, 0x405), "length, NFT_MSG_NEWCHAIN, create and acknowledge"
    assert raw[16] == 5
    told = parse(raw[20:])
    assert (told[1], told[3], told[7]) == (b"kproof\0", b"rules\0", b"filter\0")
    hook = parse(told[4])
    assert (hook[1], hook[2]) == (struct.pack("!I", NF_NETDEV_EGRESS), bytes(4))
    assert hook[4] == text(1, "d0") + text(1, "d1")


def test_request_to_take_devices_off_a_chain() -> None:
    raw = ChainRequest(["d1"], delete=True).encode()
    assert struct.unpack_from("<H", raw, 4) == (10 << 8 | 5,), "NFT_MSG_DELCHAIN"
    assert 7 not in parse(raw[20:]), "a type"


def test_hook_of_a_chain_is_read() -> None:
    """NFNLA_HOOK_CHAIN_INFO holds NFNLA_HOOK_INFO_DESC, which holds table and chain; a priority may be negative."""
    described = nest(6, nest(1, text(1, "kproof"), text(3, "rules")))
    raw = attribute(1, struct.pack("!I", 1)) + attribute(2, struct.pack("!i", -5)) + text(4, "function") + described
    assert nfnetlink._hook(parse(raw)) == Hook(1, -5, "function", "kproof", "rules")


def test_hook_of_something_else_is_read() -> None:
    """What nf_tables has not registered has no description."""
    raw = attribute(1, struct.pack("!I", 1)) + attribute(2, bytes(4)) + text(4, "function")
    assert nfnetlink._hook(parse(raw)) == Hook(1, 0, "function", "", "")
