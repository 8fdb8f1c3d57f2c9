"""Links, addresses, neighbours, routes and tc of one namespace, over rtnetlink (pyroute2) and in this process.

A refusal by the kernel is a ``NetlinkRefused`` (an OSError) with its errno and, where it sent one, its message.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from selftests.lib import netkit_nla, wait
from selftests.lib.netkit_nla import Mode, Policy

if TYPE_CHECKING:
    from selftests.lib.bpf import Program
    from selftests.lib.netns import Namespace

netkit_nla.register()

# include/uapi/linux/if.h, linux/if_addr.h, linux/pkt_sched.h
IFF_NOARP = 0x80
_IFA_F_NODAD = 0x02
TC_H_MIN_INGRESS = 0xFFFFFFF2
TC_H_MIN_EGRESS = 0xFFFFFFF3


class NetlinkRefused(OSError):
    """The kernel refused an rtnetlink request."""


@dataclass(frozen=True)
class LinkStats:
    """Of struct rtnl_link_stats64."""

    rx_packets: int
    tx_packets: int
    rx_bytes: int
    tx_bytes: int
    rx_dropped: int
    tx_dropped: int
    tx_errors: int

    def __sub__(self, before: LinkStats) -> LinkStats:
        return LinkStats(**{name: value - getattr(before, name) for name, value in vars(self).items()})


@dataclass(frozen=True)
class Link:
    """A device: where it is, and what does not change in a test."""

    namespace: Namespace
    name: str
    index: int
    mac: bytes

    @property
    def state(self) -> LinkState:
        return self.namespace.rtnl.link(self.name)

    @property
    def stats(self) -> LinkStats:
        return self.state.stats

    def up(self) -> None:
        self.namespace.rtnl.set_up(self.index)

    def down(self) -> None:
        self.namespace.rtnl.set_down(self.index)

    def delete(self) -> None:
        self.namespace.rtnl.delete(self.index)

    def add_address(self, address: str) -> None:
        """``10.0.0.1/24`` or ``fd00::1/64``."""
        self.namespace.rtnl.add_address(self.index, address)

    def add_neighbour(self, address: str, mac: bytes) -> None:
        """A permanent entry."""
        self.namespace.rtnl.add_neighbour(self.index, address, mac)


@dataclass(frozen=True)
class LinkState:
    """A device as the kernel tells of it now."""

    name: str
    index: int
    mac: bytes
    flags: int
    carrier: bool
    operstate: str
    mtu: int
    peer_index: int
    """IFLA_LINK: the other end's index, in the other end's namespace; 0 for none."""
    kind: str
    data: Mapping[str, Any]
    """IFLA_INFO_DATA by attribute name without its prefix: ``{"netkit_mode": 1, …}``."""
    stats: LinkStats


class Rtnl:
    """One rtnetlink socket in one namespace."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        with namespace.entered():
            self._ip: Any = IPRoute(ext_ack=True)

    def close(self) -> None:
        self._ip.close()

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except NetlinkError as error:
            raise NetlinkRefused(error.code, f"{os.strerror(error.code)}: {error}") from None

    # --- links -------------------------------------------------------------------------------------------------

    def add_dummy(self, name: str, **attributes: Any) -> Link:
        """A dummy device, up."""
        return self._add(name, "dummy", **attributes)

    def add_team(self, name: str) -> Link:
        """A team without ports, which has 16 transmit queues and a driver that chooses among them."""
        return self._add(name, "team")

    def add_ifb(self, name: str) -> Link:
        """An ifb device, up."""
        return self._add(name, "ifb")

    def add_vxlan(self, name: str, *, vni: int, local: str, remote: str, port: int = 4789) -> Link:
        """A point-to-point VXLAN device over IPv4 without learning, up."""
        return self._add(
            name,
            "vxlan",
            vxlan_id=vni,
            vxlan_local=local,
            vxlan_group=remote,
            vxlan_port=port,
            vxlan_learning=0,
        )

    def add_vlan(self, name: str, *, on: Link, number: int) -> Link:
        """A device whose packets leave through ``on`` with a VLAN tag, up."""
        return self._add(name, "vlan", vlan_id=number, link=on.index)

    def add_collecting_vxlan(self, name: str, *, port: int = 4789) -> Link:
        """A VXLAN device for all VNIs, which hands them on as metadata of the packets (``external``), up."""
        return self._add(name, "vxlan", vxlan_collect_metadata=1, vxlan_port=port, vxlan_learning=0)

    def add_veth(self, name: str, peer: str, peer_namespace: Namespace | None = None, **attributes: Any) -> list[Link]:
        """A veth pair, both ends up, the second one in ``peer_namespace``; returns both."""
        other = peer_namespace or self._namespace
        first = self._add(name, "veth", peer={"ifname": peer, "net_ns_fd": other.fd}, **attributes)
        second = other.rtnl._find_up(peer)
        self._await_operational(name)
        return [first, second]

    def add_netkit(
        self,
        name: str,
        peer: str,
        peer_namespace: Namespace | None = None,
        *,
        mode: int | None = Mode.L2,
        policy: int | None = Policy.PASS,
        peer_policy: int | None = Policy.PASS,
        data: Mapping[str, Any] | None = None,
        up: bool = True,
        mac: str | None = None,
        peer_mac: str | None = None,
    ) -> list[Link]:
        """A netkit pair: the primary here, its peer in ``peer_namespace``. What is None is left out of the request.

        ``data`` holds further attributes of IFLA_INFO_DATA: ``{"IFLA_NETKIT_SCRUB": 0}``.
        """
        other = peer_namespace or self._namespace
        wanted = {"IFLA_NETKIT_MODE": mode, "IFLA_NETKIT_POLICY": policy, "IFLA_NETKIT_PEER_POLICY": peer_policy}
        attributes: dict[str, Any] = {key: value for key, value in wanted.items() if value is not None}
        attributes |= dict(data or {})
        if mac:
            attributes["address"] = mac
        peer_info = self._peer(peer, other, peer_mac)
        first = self._add(name, "netkit", up=up, IFLA_NETKIT_PEER_INFO=peer_info, **attributes)
        if not up:
            return [first, other.rtnl.find(peer)]
        second = other.rtnl._find_up(peer)
        self._await_operational(name)
        return [first, second]

    def change_netkit(self, index: int, data: Mapping[str, Any]) -> None:
        """RTM_NEWLINK on an existing netkit device with these attributes of IFLA_INFO_DATA."""
        with self._refusals():
            self._ip.link("set", index=index, kind="netkit", **data)

    def delete(self, index: int) -> None:
        with self._refusals():
            self._ip.link("del", index=index)

    def set_up(self, index: int) -> None:
        with self._refusals():
            self._ip.link("set", index=index, state="up")

    def set_down(self, index: int) -> None:
        with self._refusals():
            self._ip.link("set", index=index, state="down")

    def set_mac(self, index: int, mac: str) -> None:
        with self._refusals():
            self._ip.link("set", index=index, address=mac)

    def set_mtu(self, index: int, mtu: int) -> None:
        with self._refusals():
            self._ip.link("set", index=index, mtu=mtu)

    def move(self, link: Link, target: Namespace) -> Link:
        """Move a device into another namespace, where it is set up again."""
        with self._refusals():
            self._ip.link("set", index=link.index, net_ns_fd=target.fd)
        return target.rtnl._find_up(link.name)

    def names(self) -> set[str]:
        """All devices of the namespace."""
        with self._refusals():
            return {message.get_attr("IFLA_IFNAME") for message in self._ip.get_links()}

    def link(self, name: str) -> LinkState:
        """One device by name; NetlinkRefused ENODEV when there is none."""
        with self._refusals():
            (message,) = self._ip.link("get", ifname=name)
        info = message.get_attr("IFLA_LINKINFO")
        kind = info.get_attr("IFLA_INFO_KIND") if info else ""
        data = info.get_attr("IFLA_INFO_DATA") if info else None
        counters = message.get_attr("IFLA_STATS64") or {}
        pairs = data["attrs"] if data and isinstance(data, dict) else []
        return LinkState(
            name=name,
            index=message["index"],
            mac=bytes.fromhex((message.get_attr("IFLA_ADDRESS") or "").replace(":", "")),
            flags=message["flags"],
            carrier=bool(message.get_attr("IFLA_CARRIER")),
            operstate=message.get_attr("IFLA_OPERSTATE") or "",
            mtu=message.get_attr("IFLA_MTU") or 0,
            peer_index=message.get_attr("IFLA_LINK") or 0,
            kind=kind or "",
            data={key.removeprefix("IFLA_").lower(): value for key, value in pairs},
            stats=LinkStats(**{field: counters.get(field, 0) for field in LinkStats.__dataclass_fields__}),
        )

    def find(self, name: str) -> Link:
        state = self.link(name)
        return Link(self._namespace, name, state.index, state.mac)

    def _find_up(self, name: str) -> Link:
        found = self.find(name)
        self.set_up(found.index)
        return found

    def _await_operational(self, name: str) -> None:
        """Wait for a pair's first end, which was up before it had a carrier.

        Its queue is activated in the background (linkwatch_do_dev() of net/core/link_watch.c); a packet that is sent
        before that lands in noop_qdisc and is lost without an error.
        """
        wait.until(lambda: self.link(name).operstate == "UP", f"{name} to be operational")

    def _peer(self, name: str, namespace: Namespace, mac: str | None = None) -> dict[str, Any]:
        attributes: list[list[Any]] = [["IFLA_IFNAME", name], ["IFLA_NET_NS_FD", namespace.fd]]
        if mac:
            attributes.append(["IFLA_ADDRESS", mac])
        return {"attrs": attributes}

    def _add(self, name: str, kind: str, *, up: bool = True, **attributes: Any) -> Link:
        with self._refusals():
            self._ip.link("add", ifname=name, kind=kind, **attributes)
        return self._find_up(name) if up else self.find(name)

    # --- addresses, neighbours, routes -----------------------------------------------------------------------------

    def add_address(self, index: int, address: str) -> None:
        """An IPv6 address is usable at once: it is not asked for whether another has it."""
        host, _, length = address.partition("/")
        options = {"flags": _IFA_F_NODAD} if ":" in host else {}
        with self._refusals():
            self._ip.addr("add", index=index, address=host, prefixlen=int(length), **options)

    def add_neighbour(self, index: int, address: str, mac: bytes) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with self._refusals():
            self._ip.neigh("replace", dst=address, lladdr=mac.hex(":"), ifindex=index, state="permanent", family=family)

    def add_route(self, target: str, *, via: str | None = None, device: int | None = None) -> None:
        """``target`` is a prefix or ``default``."""
        wanted: dict[str, Any] = {"dst": target}
        if via:
            wanted["gateway"] = via
        if device:
            wanted["oif"] = device
        with self._refusals():
            self._ip.route("add", **wanted)

    # --- tc --------------------------------------------------------------------------------------------------------

    def add_clsact(self, link: Link) -> None:
        """The qdisc that ``add_filter`` and ``add_matchall`` hang their filters on."""
        with self._refusals():
            self._ip.tc("add", "clsact", index=link.index)

    def add_filter(
        self, link: Link, program: Program, *, ingress: bool = False, parent: int = 0, priority: int = 1
    ) -> None:
        """A classic BPF classifier in direct-action mode; under clsact, or under the qdisc ``parent``."""
        with self._refusals():
            self._ip.tc(
                "add-filter",
                "bpf",
                index=link.index,
                parent=parent or (TC_H_MIN_INGRESS if ingress else TC_H_MIN_EGRESS),
                prio=priority,
                fd=program.fd,
                name="kproof",
                flags=1,  # TCA_BPF_FLAG_ACT_DIRECT
            )

    def add_matchall(self, link: Link, action: Mapping[str, Any], *, ingress: bool, priority: int = 1) -> None:
        """A filter that applies ``action`` to every packet (see ``redirect_to``, ``edit_mark``)."""
        with self._refusals():
            self._ip.tc(
                "add-filter",
                "matchall",
                index=link.index,
                parent=TC_H_MIN_INGRESS if ingress else TC_H_MIN_EGRESS,
                prio=priority,
                action=dict(action),
            )


def redirect_to(link: Link) -> dict[str, Any]:
    """tc action mirred: steal the packet and transmit it through ``link``."""
    return {"kind": "mirred", "direction": "egress", "action": "redirect", "ifindex": link.index}


def edit_mark(mark: int) -> dict[str, Any]:
    """tc action skbedit: set the packet's mark."""
    return {"kind": "skbedit", "mark": mark, "mask": 0xFFFFFFFF}
