"""Packets as bytes: built, taken apart, and shown in messages: Ethernet with VLAN tags, IPv4, IPv6, UDP, TCP, ICMP."""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass

ETH_P_IP = 0x0800
ETH_P_ARP = 0x0806
ETH_P_8021Q = 0x8100
ETH_P_IPV6 = 0x86DD
ETH_P_EXPERIMENT = 0x88B5
"""IEEE Std 802, local experimental ethertype 1: no protocol handler of the kernel takes it."""

BROADCAST = b"\xff" * 6
NO_MAC = bytes(6)

_ETHERTYPES = {ETH_P_IP: "IPv4", ETH_P_ARP: "ARP", ETH_P_IPV6: "IPv6", ETH_P_EXPERIMENT: "test"}
TCP, UDP = 6, 17
"""Protocol numbers; include/uapi/linux/in.h"""

_PROTOCOLS = {1: "ICMP", TCP: "TCP", UDP: "UDP", 58: "ICMPv6"}


def ethernet(payload: bytes, *, dst: bytes, src: bytes, ethertype: int = ETH_P_EXPERIMENT) -> bytes:
    """An Ethernet frame without its check sequence."""
    return dst + src + struct.pack("!H", ethertype) + payload


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ipv4(payload: bytes, *, src: str, dst: str, protocol: int, ttl: int = 64, tos: int = 0) -> bytes:
    """An IPv4 packet without options (RFC 791)."""
    header = struct.pack(
        "!BBHHHBBH4s4s",
        0x45,
        tos,
        20 + len(payload),
        0,
        0,
        ttl,
        protocol,
        0,
        ipaddress.IPv4Address(src).packed,
        ipaddress.IPv4Address(dst).packed,
    )
    return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + payload


def ipv6(payload: bytes, *, src: str, dst: str, protocol: int, hop_limit: int = 64, traffic_class: int = 0) -> bytes:
    """An IPv6 packet without extension headers (RFC 8200)."""
    head = struct.pack("!IHBB", 6 << 28 | traffic_class << 20, len(payload), protocol, hop_limit)
    return head + ipaddress.IPv6Address(src).packed + ipaddress.IPv6Address(dst).packed + payload


def ip(payload: bytes, *, src: str, dst: str, protocol: int, ttl: int = 64) -> bytes:
    """An IPv4 or, by the addresses, an IPv6 packet; ``ttl`` is IPv6's hop limit as well."""
    if ":" in src:
        return ipv6(payload, src=src, dst=dst, protocol=protocol, hop_limit=ttl)
    return ipv4(payload, src=src, dst=dst, protocol=protocol, ttl=ttl)


def transport_checksum(segment: bytes, *, src: str, dst: str, protocol: int) -> int:
    """The checksum of UDP and TCP, with the pseudo header of IPv4 (RFC 768) or IPv6 (RFC 8200).

    Of a whole segment it is 0 where the checksum in it is right.
    """
    addresses = ipaddress.ip_address(src).packed + ipaddress.ip_address(dst).packed
    return checksum(addresses + struct.pack("!II", len(segment), protocol) + segment)


def udp(payload: bytes, *, src: str, dst: str, sport: int, dport: int, ttl: int = 64) -> bytes:
    """An IPv4 or IPv6 packet with a UDP datagram in it (RFC 768)."""
    head = struct.pack("!HHH", sport, dport, 8 + len(payload))
    value = transport_checksum(head + b"\0\0" + payload, src=src, dst=dst, protocol=UDP) or 0xFFFF
    return ip(head + struct.pack("!H", value) + payload, src=src, dst=dst, protocol=UDP, ttl=ttl)


def tcp(payload: bytes, *, src: str, dst: str, sport: int, dport: int, flags: int = 0x10, ttl: int = 64) -> bytes:
    """An IPv4 or IPv6 packet with a TCP segment without options in it (RFC 9293); 0x10 is ACK."""
    head = struct.pack("!HHIIBBH", sport, dport, 1, 1, 5 << 4, flags, 0xFFFF)
    value = transport_checksum(head + bytes(4) + payload, src=src, dst=dst, protocol=TCP)
    return ip(head + struct.pack("!HH", value, 0) + payload, src=src, dst=dst, protocol=TCP, ttl=ttl)


def in_ethernet(packet: bytes, *, dst: bytes, src: bytes) -> bytes:
    """An IPv4 or IPv6 packet in an Ethernet frame."""
    return ethernet(packet, dst=dst, src=src, ethertype=ETH_P_IPV6 if packet[0] >> 4 == 6 else ETH_P_IP)


def echo_request(*, src: str, dst: str, identifier: int = 1, sequence: int = 1, payload: bytes = b"kproof") -> bytes:
    """An IPv4 packet with an ICMP echo request in it (RFC 792)."""
    head = struct.pack("!BBHHH", 8, 0, 0, identifier, sequence)
    value = checksum(head + payload)
    return ipv4(head[:2] + struct.pack("!H", value) + head[4:] + payload, src=src, dst=dst, protocol=1)


@dataclass(frozen=True)
class Frame:
    """An Ethernet frame taken apart."""

    raw: bytes

    @property
    def dst(self) -> bytes:
        return self.raw[0:6]

    @property
    def src(self) -> bytes:
        return self.raw[6:12]

    @property
    def ethertype(self) -> int:
        return int.from_bytes(self.raw[12:14], "big")

    @property
    def payload(self) -> bytes:
        return self.raw[14:]

    def __str__(self) -> str:
        return describe(self.raw)


def describe(raw: bytes) -> str:
    """One line that says what a frame is, then its bytes in hexadecimal."""
    return f"{summary(raw)}\n{hexdump(raw)}"


def summary(raw: bytes) -> str:
    """``64 bytes, 02:… > 02:…, IPv4 10.0.0.1 > 10.0.0.2, UDP 4000 > 4001, 'payload'``."""
    if len(raw) < 14:
        return f"{len(raw)} bytes, too short for an Ethernet header"
    frame = Frame(raw)
    words = [f"{len(raw)} bytes", f"{frame.src.hex(':')} > {frame.dst.hex(':')}"]
    ethertype, rest = frame.ethertype, frame.payload
    if ethertype == ETH_P_8021Q and len(rest) >= 4:
        tag, ethertype = struct.unpack_from("!HH", rest)
        words.append(f"VLAN {tag & 0xFFF}")
        rest = rest[4:]
    version = rest[0] >> 4 if rest else 0
    if ethertype == ETH_P_IP and len(rest) >= 20 and version == 4:
        words.append(f"IPv4 {ipaddress.IPv4Address(rest[12:16])} > {ipaddress.IPv4Address(rest[16:20])}")
        rest = _summarize_transport(rest[9], rest[(rest[0] & 15) * 4 :], words)
    elif ethertype == ETH_P_IPV6 and len(rest) >= 40 and version == 6:
        words.append(f"IPv6 {ipaddress.IPv6Address(rest[8:24])} > {ipaddress.IPv6Address(rest[24:40])}")
        rest = _summarize_transport(rest[6], rest[40:], words)
    else:
        words.append(_ETHERTYPES.get(ethertype, f"ethertype {ethertype:#06x}"))
    words.append(repr(rest[:32])[1:])
    return ", ".join(words)


def _summarize_transport(protocol: int, rest: bytes, words: list[str]) -> bytes:
    """Add a word on what is in an IP packet; returns the payload of that."""
    name = _PROTOCOLS.get(protocol, f"protocol {protocol}")
    if len(rest) < 8:
        words.append(name)
        return rest
    sport, dport = struct.unpack_from("!HH", rest)
    if protocol == UDP:
        words.append(f"UDP {sport} > {dport}")
    elif protocol == TCP and len(rest) >= 20:
        words.append(f"TCP {sport} > {dport} flags {rest[13]:#04x}")
        return rest[(rest[12] >> 4) * 4 :]
    elif name.startswith("ICMP"):
        words.append(f"{name} type {rest[0]} code {rest[1]}")
    else:
        words.append(name)
        return rest
    return rest[8:]


def hexdump(raw: bytes, *, limit: int = 256) -> str:
    """16 bytes a line with their offset; at most ``limit`` bytes."""
    lines = [f"  {at:04x}  {raw[at : at + 16].hex(' ')}" for at in range(0, min(len(raw), limit), 16)]
    if len(raw) > limit:
        lines.append(f"  … {len(raw) - limit} bytes more")
    return "\n".join(lines)
