"""netkit's netlink attributes: IFLA_NETKIT_… of include/uapi/linux/if_link.h, also for pyroute2, which lacks them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Any, ClassVar

from pyroute2.netlink import nla
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg, ifinfveth

from selftests.lib import rtnetlink


class Mode(IntEnum):
    """enum netkit_mode: with Ethernet addresses and ARP, or without."""

    L2 = 0
    L3 = 1


class Policy(IntEnum):
    """enum netkit_action, as a default policy: what becomes of packets while no program is attached."""

    PASS = 0
    DROP = 2


class Scrub(IntEnum):
    """enum netkit_scrub (6.13, 6.12.4): whether mark and priority survive the way into another namespace."""

    NONE = 0
    DEFAULT = 1


class NetkitData(nla):  # type: ignore[misc]
    """The nest IFLA_INFO_DATA of a link of kind ``netkit``."""

    prefix = "IFLA_"
    nla_map: ClassVar[tuple[tuple[str, str], ...]] = (
        ("IFLA_NETKIT_UNSPEC", "none"),
        ("IFLA_NETKIT_PEER_INFO", "peer_info"),
        ("IFLA_NETKIT_PRIMARY", "uint8"),
        ("IFLA_NETKIT_POLICY", "uint32"),
        ("IFLA_NETKIT_PEER_POLICY", "uint32"),
        ("IFLA_NETKIT_MODE", "uint32"),
        ("IFLA_NETKIT_SCRUB", "uint32"),
        ("IFLA_NETKIT_PEER_SCRUB", "uint32"),
        ("IFLA_NETKIT_HEADROOM", "uint16"),
        ("IFLA_NETKIT_TAILROOM", "uint16"),
    )

    @staticmethod
    def peer_info(self: Any, *arguments: Any, **named: Any) -> Any:
        """A struct ifinfomsg and attributes, as in veth's VETH_INFO_PEER."""
        return ifinfveth


NUMBERS = {name: number for number, (name, _) in enumerate(NetkitData.nla_map)}
_BYTES = {name: int(kind.removeprefix("uint")) // 8 for name, kind in NetkitData.nla_map if kind.startswith("uint")}


def encoded(values: Mapping[str, int]) -> bytes:
    """The attributes by their names (``{"IFLA_NETKIT_MODE": 1}``), as they stand in IFLA_INFO_DATA."""
    return b"".join(
        rtnetlink.attribute(NUMBERS[name], value.to_bytes(_BYTES[name], "little")) for name, value in values.items()
    )


def decoded(data: bytes) -> dict[str, int]:
    """What stands in IFLA_INFO_DATA, by names without prefix: ``{"netkit_mode": 1}``."""
    told = rtnetlink.parse(data)
    return {
        name.removeprefix("IFLA_").lower(): int.from_bytes(told[NUMBERS[name]], "little")
        for name in _BYTES
        if NUMBERS[name] in told
    }


def register() -> None:
    """Teach pyroute2 the kind ``netkit``; doing it again changes nothing."""
    ifinfmsg.ifinfo.register_link_kind(module={"netkit": NetkitData})
