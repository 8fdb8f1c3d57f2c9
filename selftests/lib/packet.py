"""Packets as bytes: built, taken apart, and shown in messages. All of Ethernet; what is inside is IPv4, UDP or ICMP."""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass

ETH_P_IP = 0x0800
ETH_P_ARP = 0x0806
ETH_P_IPV6 = 0x86DD
ETH_P_EXPERIMENT = 0x88B5
"""IEEE Std 802, local experimental ethertype 1: no protocol handler of the kernel takes it."""

BROADCAST = b"\xff" * 6
NO_MAC = bytes(6)

_ETHERTYPES = {ETH_P_IP: "IPv4", ETH_P_ARP: "ARP", ETH_P_IPV6: "IPv6", ETH_P_EXPERIMENT: "test"}
_PROTOCOLS = {1: "ICMP", 6: "TCP", 17: "UDP"}


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


def udp(payload: bytes, *, src: str, dst: str, sport: int, dport: int) -> bytes:
    """An IPv4 packet with a UDP datagram in it (RFC 768)."""
    length = 8 + len(payload)
    pseudo = ipaddress.IPv4Address(src).packed + ipaddress.IPv4Address(dst).packed + struct.pack("!BBH", 0, 17, length)
    header = struct.pack("!HHH", sport, dport, length)
    value = checksum(pseudo + header + b"\0\0" + payload) or 0xFFFF
    return ipv4(header + struct.pack("!H", value) + payload, src=src, dst=dst, protocol=17)


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
    words.append(_ETHERTYPES.get(frame.ethertype, f"ethertype {frame.ethertype:#06x}"))
    rest = frame.payload
    if frame.ethertype == ETH_P_IP and len(rest) >= 20 and rest[0] >> 4 == 4:
        source, target = ipaddress.IPv4Address(rest[12:16]), ipaddress.IPv4Address(rest[16:20])
        words[-1] = f"IPv4 {source} > {target}"
        protocol, rest = rest[9], rest[(rest[0] & 15) * 4 :]
        if protocol == 17 and len(rest) >= 8:
            sport, dport = struct.unpack_from("!HH", rest)
            words.append(f"UDP {sport} > {dport}")
            rest = rest[8:]
        elif protocol == 1 and len(rest) >= 8:
            words.append(f"ICMP type {rest[0]} code {rest[1]}")
            rest = rest[8:]
        else:
            words.append(_PROTOCOLS.get(protocol, f"protocol {protocol}"))
    words.append(repr(rest[:32])[1:])
    return ", ".join(words)


def hexdump(raw: bytes, *, limit: int = 256) -> str:
    """16 bytes a line with their offset; at most ``limit`` bytes."""
    lines = [f"  {at:04x}  {raw[at : at + 16].hex(' ')}" for at in range(0, min(len(raw), limit), 16)]
    if len(raw) > limit:
        lines.append(f"  … {len(raw) - limit} bytes more")
    return "\n".join(lines)
