"""netkit's netlink attributes for pyroute2, which does not know them: IFLA_NETKIT_… of include/uapi/linux/if_link.h."""

from __future__ import annotations

from enum import IntEnum
from typing import Any, ClassVar

from pyroute2.netlink import nla
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg, ifinfveth


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


def register() -> None:
    """Teach pyroute2 the kind ``netkit``; doing it again changes nothing."""
    ifinfmsg.ifinfo.register_link_kind(module={"netkit": NetkitData})
