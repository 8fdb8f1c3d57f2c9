"""Links, addresses, neighbours, routes and tc of one namespace, over rtnetlink and in this process.

What nearly every test does is asked for by rtnetlink.py, in a tenth of the time that pyroute2, which runs an event loop
for each request, takes in an emulated guest; the rest, by pyroute2.

A refusal by the kernel is a ``NetlinkRefused`` (an OSError) with its errno and, where it sent one, its message.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from selftests.lib import netkit_nla, rtnetlink, wait
from selftests.lib.netkit_nla import Mode, Policy
from selftests.lib.rtnetlink import NetlinkRefused as NetlinkRefused
from selftests.lib.rtnetlink import attribute, nest, text, u32

if TYPE_CHECKING:
    from selftests.lib.bpf import Program
    from selftests.lib.netns import Namespace

netkit_nla.register()

# include/uapi/linux/if.h, linux/if_addr.h, linux/pkt_sched.h
IFF_NOARP = 0x80
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_IFA_F_NODAD = 0x02
# linux/veth.h, linux/neighbour.h, linux/rtnetlink.h
_VETH_INFO_PEER = 1
_NDA_DST, _NDA_LLADDR = 1, 2
_NUD_PERMANENT = 0x80
_RTM_NEWADDR, _RTM_NEWNEIGH = 20, 28
TC_H_MIN_INGRESS = 0xFFFFFFF2
TC_H_MIN_EGRESS = 0xFFFFFFF3

_NEW = rtnetlink.NLM_F_CREATE | rtnetlink.NLM_F_EXCL

_OPERSTATES = ("UNKNOWN", "NOTPRESENT", "DOWN", "LOWERLAYERDOWN", "TESTING", "DORMANT", "UP")
"""RFC 2863, by their numbers in linux/if.h."""


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

    @classmethod
    def unpacked(cls, raw: bytes) -> LinkStats:
        """From the structure, which begins with packets, bytes, errors and drops, each received and sent."""
        rx_packets, tx_packets, rx_bytes, tx_bytes, _, tx_errors, rx_dropped, tx_dropped = struct.unpack_from(
            "<8Q", raw
        )
        return cls(rx_packets, tx_packets, rx_bytes, tx_bytes, rx_dropped, tx_dropped, tx_errors)

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
    """IFLA_INFO_DATA of a netkit by attribute name without its prefix: ``{"netkit_mode": 1, …}``."""
    stats: LinkStats


class Rtnl:
    """rtnetlink of one namespace."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._socket = rtnetlink.open_socket(namespace)
        self._library: Any = None

    @property
    def _ip(self) -> Any:
        """pyroute2, which knows many kinds of devices, routes and tc; made when it is first used."""
        if self._library is None:
            with self._namespace.entered():
                self._library = IPRoute(ext_ack=True)
        return self._library

    def close(self) -> None:
        self._socket.close()
        if self._library:
            self._library.close()
            self._library = None

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except NetlinkError as error:
            raise NetlinkRefused(error.code, f"{os.strerror(error.code)}: {error}") from None

    # --- links -------------------------------------------------------------------------------------------------

    def add_dummy(self, name: str, *, num_tx_queues: int | None = None) -> Link:
        """A dummy device, up."""
        self._new(name, "dummy", num_tx_queues=num_tx_queues, up=True)
        return self.find(name)

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

    def add_veth(
        self,
        name: str,
        peer: str,
        peer_namespace: Namespace | None = None,
        *,
        num_tx_queues: int | None = None,
        index: int = 0,
    ) -> list[Link]:
        """A veth pair, both ends up, the second one in ``peer_namespace``; returns both."""
        other = peer_namespace or self._namespace
        data = attribute(_VETH_INFO_PEER, _peer(peer, other))
        self._new(name, "veth", data, num_tx_queues=num_tx_queues, index=index, up=True)
        return self._both_up(name, other.rtnl, peer)

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
        given = {key: value for key, value in wanted.items() if value is not None} | dict(data or {})
        num_tx_queues = given.pop("num_tx_queues", None)
        peer_info = attribute(netkit_nla.NUMBERS["IFLA_NETKIT_PEER_INFO"], _peer(peer, other, peer_mac))
        self._new(name, "netkit", peer_info + netkit_nla.encoded(given), num_tx_queues=num_tx_queues, mac=mac, up=up)
        if up:
            return self._both_up(name, other.rtnl, peer)
        return [self.find(name), other.rtnl.find(peer)]

    def change_netkit(self, index: int, data: Mapping[str, Any]) -> None:
        """RTM_NEWLINK on an existing netkit device with these attributes of IFLA_INFO_DATA."""
        self._set(index, _link_info("netkit", netkit_nla.encoded(data)))

    def delete(self, index: int) -> None:
        rtnetlink.change_through(self._socket, rtnetlink.RTM_DELLINK, index=index)

    def set_up(self, index: int) -> None:
        self._set(index, up=True)

    def set_down(self, index: int) -> None:
        self._set(index, up=False)

    def set_mac(self, index: int, mac: str) -> None:
        self._set(index, attribute(rtnetlink.IFLA_ADDRESS, _mac(mac)))

    def set_mtu(self, index: int, mtu: int) -> None:
        self._set(index, u32(rtnetlink.IFLA_MTU, mtu))

    def move(self, link: Link, target: Namespace) -> Link:
        """Move a device into another namespace, where it is set up again."""
        self._set(link.index, u32(rtnetlink.IFLA_NET_NS_FD, target.fd))
        return target.rtnl._find_up(link.name)

    def names(self) -> set[str]:
        """All devices of the namespace."""
        return {_name(attributes) for attributes in rtnetlink.links(self._namespace).values()}

    def link(self, name: str) -> LinkState:
        """One device by name; NetlinkRefused ENODEV when there is none."""
        device = rtnetlink.find(self._socket, text(rtnetlink.IFLA_IFNAME, name))
        told = device.attributes

        def number(kind: int) -> int:
            return int.from_bytes(told.get(kind, b""), "little")

        info = rtnetlink.parse(told.get(rtnetlink.IFLA_LINKINFO, b""))
        kind = info.get(rtnetlink.IFLA_INFO_KIND, b"").rstrip(b"\0").decode()
        data = info.get(rtnetlink.IFLA_INFO_DATA, b"") if kind == "netkit" else b""
        return LinkState(
            name=name,
            index=device.ifindex,
            mac=told.get(rtnetlink.IFLA_ADDRESS, b""),
            flags=device.flags,
            carrier=bool(number(rtnetlink.IFLA_CARRIER)),
            operstate=_OPERSTATES[number(rtnetlink.IFLA_OPERSTATE)],
            mtu=number(rtnetlink.IFLA_MTU),
            peer_index=number(rtnetlink.IFLA_LINK),
            kind=kind,
            data=netkit_nla.decoded(data),
            stats=LinkStats.unpacked(told[rtnetlink.IFLA_STATS64]),
        )

    def find(self, name: str) -> Link:
        device = rtnetlink.find(self._socket, text(rtnetlink.IFLA_IFNAME, name))
        return Link(self._namespace, name, device.ifindex, device.attributes.get(rtnetlink.IFLA_ADDRESS, b""))

    def _find_up(self, name: str) -> Link:
        found = self.find(name)
        self.set_up(found.index)
        return found

    def _both_up(self, name: str, others: Rtnl, peer: str) -> list[Link]:
        """Both ends of a pair, of which the first is up and the second is not, yet; the first is operational then.

        The first end was up before it had a carrier: its queue is activated in the background (linkwatch_do_dev() of
        net/core/link_watch.c); a packet that is sent before that lands in noop_qdisc and is lost without an error.
        """
        second = others._find_up(peer)
        wait.until(lambda: self.link(name).operstate == "UP", f"{name} to be operational")
        return [self.find(name), second]

    def _new(
        self,
        name: str,
        kind: str,
        data: bytes = b"",
        *,
        num_tx_queues: int | None = None,
        mac: str | None = None,
        index: int = 0,
        up: bool,
    ) -> None:
        """RTM_NEWLINK with IFLA_INFO_DATA, if there is any."""
        attributes = [text(rtnetlink.IFLA_IFNAME, name), _link_info(kind, data)]
        if num_tx_queues is not None:
            attributes.append(u32(rtnetlink.IFLA_NUM_TX_QUEUES, num_tx_queues))
        if mac:
            attributes.append(attribute(rtnetlink.IFLA_ADDRESS, _mac(mac)))
        rtnetlink.change_through(
            self._socket, rtnetlink.RTM_NEWLINK, *attributes, index=index, flags=_NEW, up=up or None
        )

    def _set(self, index: int, *attributes: bytes, up: bool | None = None) -> None:
        rtnetlink.change_through(self._socket, rtnetlink.RTM_NEWLINK, *attributes, index=index, up=up)

    def _add(self, name: str, kind: str, **attributes: Any) -> Link:
        with self._refusals():
            self._ip.link("add", ifname=name, kind=kind, **attributes)
        return self._find_up(name)

    # --- addresses, neighbours, routes -----------------------------------------------------------------------------

    def add_address(self, index: int, address: str) -> None:
        """An address is usable when this returns; the device must be up.

        Nobody is asked whether another has an IPv6 address, but what arrives for it is lost until there is a route to
        it, which is made in the background (addrconf_dad_work() of net/ipv6/addrconf.c).
        """
        interface = ipaddress.ip_interface(address)
        family, flags = (socket.AF_INET, 0) if interface.version == 4 else (socket.AF_INET6, _IFA_F_NODAD)
        body = struct.pack("<BBBBI", family, interface.network.prefixlen, flags, 0, index)
        both = [attribute(kind, interface.ip.packed) for kind in (_IFA_LOCAL, _IFA_ADDRESS)]
        self._request(_RTM_NEWADDR, body, *both, flags=_NEW)
        if interface.version == 6:
            route = f"{interface.ip.packed.hex()} 80 "
            wait.until(lambda: route in self._namespace.read("/proc/net/ipv6_route"), f"the route to {interface.ip}")

    def add_neighbour(self, index: int, address: str, mac: bytes) -> None:
        host = ipaddress.ip_address(address)
        family = socket.AF_INET if host.version == 4 else socket.AF_INET6
        body = struct.pack("<BxxxiHBB", family, index, _NUD_PERMANENT, 0, 0)
        flags = rtnetlink.NLM_F_CREATE | rtnetlink.NLM_F_REPLACE
        entry = (attribute(_NDA_DST, host.packed), attribute(_NDA_LLADDR, mac))
        self._request(_RTM_NEWNEIGH, body, *entry, flags=flags)

    def _request(self, message: int, body: bytes, *attributes: bytes, flags: int) -> None:
        rtnetlink.request(self._socket, message, b"".join((body, *attributes)), flags | rtnetlink.NLM_F_ACK)

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


def _link_info(kind: str, data: bytes = b"") -> bytes:
    """IFLA_LINKINFO; ``data`` are the attributes of IFLA_INFO_DATA."""
    parts = [text(rtnetlink.IFLA_INFO_KIND, kind)]
    if data:
        parts.append(nest(rtnetlink.IFLA_INFO_DATA, data))
    return nest(rtnetlink.IFLA_LINKINFO, *parts)


def _peer(name: str, namespace: Namespace, mac: str | None = None) -> bytes:
    """The other end of a pair that is to be made: struct ifinfomsg and attributes."""
    attributes = [text(rtnetlink.IFLA_IFNAME, name), u32(rtnetlink.IFLA_NET_NS_FD, namespace.fd)]
    if mac:
        attributes.append(attribute(rtnetlink.IFLA_ADDRESS, _mac(mac)))
    return rtnetlink.ifinfomsg() + b"".join(attributes)


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _name(attributes: rtnetlink.Attributes) -> str:
    return attributes[rtnetlink.IFLA_IFNAME].rstrip(b"\0").decode()


def redirect_to(link: Link) -> dict[str, Any]:
    """tc action mirred: steal the packet and transmit it through ``link``."""
    return {"kind": "mirred", "direction": "egress", "action": "redirect", "ifindex": link.index}


def edit_mark(mark: int) -> dict[str, Any]:
    """tc action skbedit: set the packet's mark."""
    return {"kind": "skbedit", "mark": mark, "mask": 0xFFFFFFFF}
