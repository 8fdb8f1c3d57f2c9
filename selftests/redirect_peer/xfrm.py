"""ESP without secrets: an incoming security association with the null cipher (RFC 2410), and packets for it.

Layouts: include/uapi/linux/xfrm.h of NETLINK_XFRM.
"""

from __future__ import annotations

import ipaddress
import socket
import struct

from selftests.lib import packet, rtnetlink
from selftests.lib.netns import Namespace

ESP = 50
_IP_IN_IP = 4
_NETLINK_XFRM = 6
_XFRM_MSG_NEWSA = 0x10
_XFRMA_ALG_CRYPT = 2
_MODE_TUNNEL = 1
_FOREVER = 0xFFFFFFFFFFFFFFFF


def add_tunnel(namespace: Namespace, *, src: str, dst: str, spi: int) -> None:
    """What comes from ``src`` to ``dst`` with this SPI is decrypted and comes in again as the packet in it."""
    source, target = (ipaddress.IPv4Address(address).packed.ljust(16, b"\0") for address in (src, dst))
    selector = bytes(56)
    identity = target + struct.pack("!IB3x", spi, ESP)
    lifetimes = struct.pack("<8Q", *[_FOREVER] * 4, *[0] * 4) + bytes(32)
    rest = bytes(12) + struct.pack("<IIHBBB7x", 0, 0, socket.AF_INET, _MODE_TUNNEL, 0, 0)
    algorithm = struct.pack("<64sI", b"ecb(cipher_null)", 0)
    body = selector + identity + source + lifetimes + rest + rtnetlink.attribute(_XFRMA_ALG_CRYPT, algorithm)
    with namespace.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_XFRM) as sock:
        flags = rtnetlink.NLM_F_ACK | rtnetlink.NLM_F_CREATE | rtnetlink.NLM_F_EXCL
        rtnetlink.request(sock, _XFRM_MSG_NEWSA, body, flags)


def in_tunnel(inner: bytes, *, src: str, dst: str, spi: int, sequence: int = 1) -> bytes:
    """An IPv4 packet in ESP (RFC 4303) in an IPv4 packet."""
    padding = bytes(range(1, 1 + -(len(inner) + 2) % 4))
    trailer = padding + bytes([len(padding), _IP_IN_IP])
    return packet.ipv4(struct.pack("!II", spi, sequence) + inner + trailer, src=src, dst=dst, protocol=ESP)
