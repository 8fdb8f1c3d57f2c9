"""Fragments that selftests put together into BPF programs (see selftests.lib.asm for what a fragment is).

Fragments that end a program return; ``counters`` is the file descriptor of an array map with one value, seen as slots
of 64 bits (selftests.lib.bpf.Counters).
"""

from __future__ import annotations

import socket

from selftests.lib import asm
from selftests.lib.asm import R0, R1, R2, R3, R4, R5, R6, R10, Fragment

# Helper numbers: include/uapi/linux/bpf.h, ___BPF_FUNC_MAPPER
HELPER_TRACE_PRINTK = 6
HELPER_SKB_STORE_BYTES = 9
HELPER_CLONE_REDIRECT = 13
HELPER_SKB_VLAN_PUSH = 18
HELPER_SKB_GET_TUNNEL_KEY = 20
HELPER_REDIRECT = 23
HELPER_SKB_CHANGE_TYPE = 32
HELPER_SKB_CHANGE_HEAD = 43
HELPER_GET_NETNS_COOKIE = 122
HELPER_REDIRECT_NEIGH = 152
HELPER_REDIRECT_PEER = 155
HELPER_SKB_SET_TSTAMP = 192

# Offsets in struct __sk_buff: include/uapi/linux/bpf.h
SKB_LEN = 0
SKB_PKT_TYPE = 4
SKB_MARK = 8
SKB_PROTOCOL = 16
SKB_VLAN_PRESENT = 20
SKB_VLAN_TCI = 24
SKB_PRIORITY = 32
SKB_INGRESS_IFINDEX = 36
SKB_IFINDEX = 40
SKB_CB = 48
SKB_TSTAMP = 152
SKB_GSO_SEGS = 164
SKB_GSO_SIZE = 176
SKB_TSTAMP_TYPE = 180

# Offsets in struct bpf_sock_ops
SOCK_OPS_OP = 0
SOCK_OPS_IS_FULLSOCK = 72

SLOT_BYTES = 8


def ret(verdict: int) -> Fragment:
    """End the program with ``verdict``."""
    return [asm.mov_imm(R0, verdict), asm.exit_()]


def count(counters: int, slot: int = 0) -> Fragment:
    """Add one to a slot."""
    return [*asm.map_value(R1, counters, slot * SLOT_BYTES), asm.mov_imm(R2, 1), asm.atomic_add(R1, R2, 0)]


def stamp(counters: int, slot: int, *, clock: int = 0) -> Fragment:
    """Store the next tick (1, 2, …) of the clock in slot ``clock`` into ``slot``: tells who ran before whom."""
    return [
        *asm.map_value(R1, counters, clock * SLOT_BYTES),
        asm.mov_imm(R2, 1),
        asm.atomic_fetch_add(R1, R2, 0),
        asm.add_imm(R2, 1),
        *asm.map_value(R1, counters, slot * SLOT_BYTES),
        asm.store(8, R1, R2, 0),
    ]


def save_field(counters: int, slot: int, offset: int) -> Fragment:
    """Store the 32-bit context field at ``offset`` (SKB_…) into a slot."""
    return [
        asm.load(4, R2, R6, offset),
        *asm.map_value(R1, counters, slot * SLOT_BYTES),
        asm.store(8, R1, R2, 0),
    ]


def save_result(counters: int, slot: int) -> Fragment:
    """Store r0, what a helper returned, into a slot."""
    return [*asm.map_value(R1, counters, slot * SLOT_BYTES), asm.store(8, R1, R0, 0)]


def save_tstamp(counters: int, slot: int) -> Fragment:
    """Store ``skb->tstamp`` into a slot and its type into the next.

    Reading the type, too, tells the verifier that the program knows delivery times from reception times.
    """
    return [
        asm.load(1, R2, R6, SKB_TSTAMP_TYPE),
        asm.load(8, R3, R6, SKB_TSTAMP),
        *asm.map_value(R1, counters, slot * SLOT_BYTES),
        asm.store(8, R1, R3, 0),
        asm.store(8, R1, R2, SLOT_BYTES),
    ]


def set_tstamp(tstamp: int, kind: int) -> Fragment:
    """``bpf_skb_set_tstamp(skb, tstamp, kind)``; kinds are BPF_SKB_CLOCK_… (0 real time, 1 monotonic)."""
    return [
        asm.mov_reg(R1, R6),
        asm.mov_imm(R2, tstamp),
        asm.mov_imm(R3, kind),
        asm.call(HELPER_SKB_SET_TSTAMP),
    ]


def push_ethernet(header: bytes) -> Fragment:
    """``bpf_skb_change_head()`` makes room before a packet of layer 3, and the 14 bytes of ``header`` go there."""
    words = [int.from_bytes(header.ljust(16, b"\0")[at : at + 4], "little") for at in range(0, 16, 4)]
    return [
        asm.mov_reg(R1, R6),
        asm.mov_imm(R2, len(header)),
        asm.mov_imm(R3, 0),
        asm.call(HELPER_SKB_CHANGE_HEAD),
        *(asm.store_imm(R10, 4 * index - 16, word) for index, word in enumerate(words)),
        asm.mov_reg(R1, R6),
        asm.mov_imm(R2, 0),
        asm.mov_reg(R3, R10),
        asm.add_imm(R3, -16),
        asm.mov_imm(R4, len(header)),
        asm.mov_imm(R5, 0),
        asm.call(HELPER_SKB_STORE_BYTES),
    ]


def push_vlan(number: int) -> Fragment:
    """``bpf_skb_vlan_push(skb, ETH_P_8021Q, number)``."""
    return [
        asm.mov_reg(R1, R6),
        asm.mov_imm(R2, socket.htons(0x8100)),
        asm.mov_imm(R3, number),
        asm.call(HELPER_SKB_VLAN_PUSH),
    ]


def save_tunnel_key(counters: int, slot: int) -> Fragment:
    """Store what ``bpf_skb_get_tunnel_key()`` returns into a slot: 0, or a negative errno where it has none."""
    return [
        asm.mov_reg(R1, R6),
        asm.mov_reg(R2, R10),
        asm.add_imm(R2, -24),
        asm.mov_imm(R3, 24),  # up to tunnel_label of struct bpf_tunnel_key
        asm.mov_imm(R4, 0),
        asm.call(HELPER_SKB_GET_TUNNEL_KEY),
        *save_result(counters, slot),
    ]


def save_largest(counters: int, slot: int, offset: int) -> Fragment:
    """Store the 32-bit context field at ``offset`` into a slot where it is larger than what is there."""
    return [
        asm.load(4, R2, R6, offset),
        *asm.map_value(R1, counters, slot * SLOT_BYTES),
        asm.load(8, R3, R1, 0),
        asm.jump_unless_greater(R2, R3, 1),
        asm.store(8, R1, R2, 0),
    ]


def save_timestamp(counters: int, slot: int) -> Fragment:
    """Store ``skb->tstamp`` into a slot."""
    return [
        asm.load(8, R2, R6, SKB_TSTAMP),
        *asm.map_value(R1, counters, slot * SLOT_BYTES),
        asm.store(8, R1, R2, 0),
    ]


def save_packet(counters: int, slot: int, offset: int, width: int = 2) -> Fragment:
    """Store ``width`` bytes of the packet into a slot, in host order; a shorter packet ends the program with 0."""
    return [
        asm.load_packet(width, offset),
        *asm.map_value(R1, counters, slot * SLOT_BYTES),
        asm.store(8, R1, R0, 0),
    ]


def set_timestamp(nanoseconds: int) -> Fragment:
    """``skb->tstamp = nanoseconds``, of 31 bits."""
    return [asm.mov_imm(R2, nanoseconds), asm.store(8, R6, R2, SKB_TSTAMP)]


def set_mark(mark: int) -> Fragment:
    """``skb->mark = mark``."""
    return [asm.mov_imm(R2, mark), asm.store(4, R6, R2, SKB_MARK)]


def set_priority(priority: int) -> Fragment:
    """``skb->priority = priority``."""
    return [asm.mov_imm(R2, priority), asm.store(4, R6, R2, SKB_PRIORITY)]


def redirect(ifindex: int, flags: int = 0) -> Fragment:
    """End with ``bpf_redirect(ifindex, flags)``."""
    return [asm.mov_imm(R1, ifindex), asm.mov_imm(R2, flags), asm.call(HELPER_REDIRECT), asm.exit_()]


def redirect_neigh(ifindex: int, flags: int = 0) -> Fragment:
    """End with ``bpf_redirect_neigh(ifindex, NULL, 0, flags)``: the next hop is looked up."""
    arguments = [asm.mov_imm(R1, ifindex), asm.mov_imm(R2, 0), asm.mov_imm(R3, 0), asm.mov_imm(R4, flags)]
    return [*arguments, asm.call(HELPER_REDIRECT_NEIGH), asm.exit_()]


def redirect_peer(ifindex: int, flags: int = 0) -> Fragment:
    """End with ``bpf_redirect_peer(ifindex, flags)``."""
    return [asm.mov_imm(R1, ifindex), asm.mov_imm(R2, flags), asm.call(HELPER_REDIRECT_PEER), asm.exit_()]


def redirect_peer_saving_verdict(ifindex: int, flags: int, counters: int, slot: int) -> Fragment:
    """As ``redirect_peer``, and the helper's return value (as 64 bits) goes to a slot."""
    return [
        asm.mov_imm(R1, ifindex),
        asm.mov_imm(R2, flags),
        asm.call(HELPER_REDIRECT_PEER),
        *save_result(counters, slot),
        asm.exit_(),
    ]


def redirect_saving_verdict(ifindex: int, flags: int, counters: int, slot: int) -> Fragment:
    """As ``redirect``, and the helper's return value (as 64 bits) goes to a slot."""
    return [
        asm.mov_imm(R1, ifindex),
        asm.mov_imm(R2, flags),
        asm.call(HELPER_REDIRECT),
        *save_result(counters, slot),
        asm.exit_(),
    ]


def change_type(packet_type: int) -> Fragment:
    """``bpf_skb_change_type(skb, packet_type)``; packet types are PACKET_… of linux/if_packet.h."""
    return [asm.mov_reg(R1, R6), asm.mov_imm(R2, packet_type), asm.call(HELPER_SKB_CHANGE_TYPE)]


def netns_cookie(counters: int, slot: int, *, of_context: bool) -> Fragment:
    """Store ``bpf_get_netns_cookie(ctx)``, or of NULL, into a slot."""
    argument = asm.mov_reg(R1, R6) if of_context else asm.mov_imm(R1, 0)
    return [
        argument,
        asm.call(HELPER_GET_NETNS_COOKIE),
        *save_result(counters, slot),
    ]


def clone_redirect(ifindex: int) -> Fragment:
    """``bpf_clone_redirect(skb, ifindex, 0)``: a copy goes out through a device, the program goes on."""
    return [asm.mov_reg(R1, R6), asm.mov_imm(R2, ifindex), asm.mov_imm(R3, 0), asm.call(HELPER_CLONE_REDIRECT)]


def if_field(offset: int, value: int, then: Fragment) -> Fragment:
    """Run ``then`` for packets whose 32-bit context field at ``offset`` (SKB_…) is ``value`` only."""
    return [asm.load(4, R2, R6, offset), asm.jump_if_not_imm(R2, value, len(then)), *then]


def if_at_most(counters: int, slot: int, limit: int, then: Fragment) -> Fragment:
    """Run ``then`` as long as a slot is at most ``limit``."""
    return [
        *asm.map_value(R1, counters, slot * SLOT_BYTES),
        asm.load(8, R2, R1, 0),
        asm.jump_if_above_imm(R2, limit, len(then)),
        *then,
    ]


def if_mark(mark: int, then: Fragment) -> Fragment:
    """Run ``then`` for packets with this mark only."""
    return if_field(SKB_MARK, mark, then)


def if_protocol(ethertype: int, then: Fragment) -> Fragment:
    """Run ``then`` for packets of this ethertype only; ``skb->protocol`` is in network order."""
    return if_field(SKB_PROTOCOL, socket.htons(ethertype), then)


def if_udp_port(port: int, then: Fragment) -> Fragment:
    """Run ``then`` for IPv4 packets (without options) to this UDP port only."""
    port_of = [
        asm.load_packet(1, asm.SKF_NET_OFF + 9),
        asm.jump_if_not_imm(R0, socket.IPPROTO_UDP, len(then) + 2),
        asm.load_packet(2, asm.SKF_NET_OFF + 22),
        asm.jump_if_not_imm(R0, port, len(then)),
    ]
    return if_protocol(0x0800, [*port_of, *then])


def trace_printk(text: str) -> Fragment:
    """``bpf_trace_printk(text)``: a line of /sys/kernel/tracing/trace_pipe."""
    raw = text.encode() + b"\0"
    padded = raw.ljust(-(-len(raw) // 8) * 8, b"\0")
    words = [int.from_bytes(padded[at : at + 4], "little") for at in range(0, len(padded), 4)]
    return [
        *(asm.store_imm(R10, 4 * index - len(padded), word) for index, word in enumerate(words)),
        asm.mov_reg(R1, R10),
        asm.add_imm(R1, -len(padded)),
        asm.mov_imm(R2, len(raw)),
        asm.call(HELPER_TRACE_PRINTK),
    ]
