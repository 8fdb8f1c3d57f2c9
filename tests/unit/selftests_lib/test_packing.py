"""selftests.lib: bytes that go to the kernel, checked on the host without asking a kernel for anything."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from selftests.lib import asm, bpf, netkit_nla, programs, rtnetlink


@pytest.mark.parametrize(
    ("instruction", "encoded"),
    [
        pytest.param(asm.mov_imm(asm.R0, -1), "b7000000ffffffff", id="r0 = -1"),
        pytest.param(asm.mov_reg(asm.R6, asm.R1), "bf16000000000000", id="r6 = r1"),
        pytest.param(asm.load(4, asm.R2, asm.R6, 8), "6162080000000000", id="r2 = *(u32 *)(r6 + 8)"),
        pytest.param(asm.store(8, asm.R1, asm.R2, 0), "7b21000000000000", id="*(u64 *)(r1 + 0) = r2"),
        pytest.param(asm.atomic_add(asm.R1, asm.R2, 0), "db21000000000000", id="lock *(u64 *)(r1 + 0) += r2"),
        pytest.param(asm.atomic_fetch_add(asm.R1, asm.R2, 0), "db21000001000000", id="r2 = atomic_fetch_add"),
        pytest.param(asm.call(155), "850000009b000000", id="call 155"),
        pytest.param(asm.exit_(), "9500000000000000", id="exit"),
    ],
)
def test_instructions(instruction: asm.Insn, encoded: str) -> None:
    """As RFC 9669 lays them out."""
    assert instruction.pack().hex() == encoded


def test_map_value_takes_two_slots() -> None:
    """The descriptor is in the first slot's immediate, the offset in the second one's (BPF_PSEUDO_MAP_VALUE)."""
    assert asm.assemble(asm.map_value(asm.R1, 5, 16)).hex() == "1821000005000000" + "0000000010000000"


def test_program_keeps_the_context_in_r6() -> None:
    code = asm.program(programs.ret(2))
    assert code == [asm.mov_reg(asm.R6, asm.R1), asm.mov_imm(asm.R0, 2), asm.exit_()]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bytes]]:
    """Every bpf(2) call that the code under test makes; each succeeds with 7."""
    made: list[tuple[int, bytes]] = []

    def fake(command: int, attributes: bytes | bytearray) -> int:
        made.append((command, bytes(attributes)))
        return 7

    monkeypatch.setattr(bpf, "bpf", fake)
    return made


def test_attach_attributes(calls: list[tuple[int, bytes]]) -> None:
    """union bpf_attr, BPF_PROG_ATTACH: target, program, type, flags, replace, relative, revision; 32 bytes."""
    bpf.attach(1, 2, bpf.AttachType.NETKIT_PEER, flags=8, replace=3, relative=4, revision=5)
    assert calls == [(8, struct.pack("<6IQ", 1, 2, 55, 8, 3, 4, 5))]
    assert len(calls[0][1]) == 32


def test_link_attributes(calls: list[tuple[int, bytes]]) -> None:
    """union bpf_attr, BPF_LINK_CREATE: the revision is at offset 24."""
    link = bpf.link_create(2, 1, bpf.AttachType.TCX_INGRESS, relative=4, revision=5)
    assert calls == [(28, struct.pack("<6IQ", 2, 1, 46, 0, 4, 0, 5))]
    link.fd = -1  # not a real descriptor


def test_query_attributes(calls: list[tuple[int, bytes]]) -> None:
    """union bpf_attr, BPF_PROG_QUERY: 64 bytes, the room at offset 24, NULL pointers when no arrays are wanted."""
    bpf.query(3, bpf.AttachType.TCX_EGRESS, room=9, arrays=False, query_flags=1, attach_flags=2)
    ((command, attributes),) = calls
    assert (command, len(attributes)) == (16, 64)
    assert struct.unpack_from("<4IQI", attributes) == (3, 47, 1, 2, 0, 9)
    assert attributes[28:] == bytes(36)


def encoded_link(attributes: list[Any]) -> bytes:
    netkit_nla.register()
    message = ifinfmsg()
    info = {"attrs": [["IFLA_INFO_KIND", "netkit"], ["IFLA_INFO_DATA", {"attrs": attributes}]]}
    message["attrs"] = [["IFLA_LINKINFO", info]]
    message.encode()
    return bytes(message.data)


@pytest.mark.parametrize(
    ("name", "number", "value"),
    [
        ("IFLA_NETKIT_POLICY", 3, 2),
        ("IFLA_NETKIT_PEER_POLICY", 4, 2),
        ("IFLA_NETKIT_MODE", 5, 1),
        ("IFLA_NETKIT_SCRUB", 6, 0),
        ("IFLA_NETKIT_PEER_SCRUB", 7, 1),
    ],
)
def test_netkit_attributes(name: str, number: int, value: int) -> None:
    """Numbers and widths of include/uapi/linux/if_link.h: struct nlattr, then a u32."""
    assert struct.pack("<HHI", 8, number, value) in encoded_link([[name, value]])


def test_netkit_peer_is_an_ifinfomsg_with_attributes() -> None:
    """IFLA_NETKIT_PEER_INFO (1): 16 bytes of struct ifinfomsg, then IFLA_IFNAME (3)."""
    encoded = encoded_link([["IFLA_NETKIT_PEER_INFO", {"attrs": [["IFLA_IFNAME", "nk1"]]}]])
    name = struct.pack("<HH", 8, 3) + b"nk1\0"
    assert struct.pack("<HH", 4 + 16 + len(name), 1) + bytes(16) + name in encoded


def test_netkit_attributes_are_read_back() -> None:
    message = ifinfmsg(encoded_link([["IFLA_NETKIT_MODE", 1], ["IFLA_NETKIT_POLICY", 2]]))
    message.decode()
    data = message.get_attr("IFLA_LINKINFO").get_attr("IFLA_INFO_DATA")
    assert (data.get_attr("IFLA_NETKIT_MODE"), data.get_attr("IFLA_NETKIT_POLICY")) == (1, 2)


def test_netkit_attributes_by_name_are_those_of_the_library() -> None:
    """The same bytes as pyroute2's, and back."""
    wanted = {"IFLA_NETKIT_MODE": 1, "IFLA_NETKIT_POLICY": 2, "IFLA_NETKIT_HEADROOM": 32, "IFLA_NETKIT_PRIMARY": 1}
    encoded = netkit_nla.encoded(wanted)
    assert encoded in encoded_link([[name, value] for name, value in wanted.items()])
    told = {"netkit_mode": 1, "netkit_policy": 2, "netkit_headroom": 32, "netkit_primary": 1}
    assert netkit_nla.decoded(encoded) == told


def test_ifinfomsg_changes_no_flag_but_up() -> None:
    """struct ifinfomsg: family, type, index, flags, and a mask of those that change (rtnetlink(7))."""
    assert [struct.unpack("<BxHiII", rtnetlink.ifinfomsg(7, up)) for up in (None, True, False)] == [
        (0, 0, 7, 0, 0),
        (0, 0, 7, 1, 1),
        (0, 0, 7, 0, 1),
    ]
