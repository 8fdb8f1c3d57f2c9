"""netkit devices: creation, what the kernel tells of them, what it refuses, and how they end.

Source of the promises: 35dfaad7188c "netkit, bpf: Add bpf programmable net device", drivers/net/netkit.c (6.12).
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import pytest

from selftests.lib import expect, wait
from selftests.lib.netkit_nla import Mode, Policy, Scrub
from selftests.lib.netns import Namespace
from selftests.lib.packet import NO_MAC
from selftests.lib.rtnl import IFF_NOARP, NetlinkRefused
from selftests.netkit.conftest import MODES, MakePair

pytestmark = pytest.mark.feature("netkit")


@pytest.mark.promise("dump")
@MODES
def test_dump_tells_mode_policies_and_which_end_is_primary(make_pair: MakePair, mode: Mode) -> None:
    """netkit_fill_info(): each end tells its own policy as `policy` and the other one's as `peer_policy`."""
    pair = make_pair(mode, policy=Policy.DROP, peer_policy=Policy.PASS)
    primary, peer = pair.primary.state, pair.peer.state
    wanted = {"netkit_mode": mode, "netkit_policy": Policy.DROP, "netkit_peer_policy": Policy.PASS}
    for key, value in wanted.items():
        assert primary.data[key] == value, f"{key} of the primary: expected {value}, got {primary.data[key]}"
    assert primary.data["netkit_primary"] == 1
    assert (peer.data["netkit_policy"], peer.data["netkit_peer_policy"]) == (Policy.PASS, Policy.DROP)
    assert peer.data["netkit_primary"] == 0


@pytest.mark.promise("layer-2")
def test_layer_2_pair_has_addresses_and_resolves_neighbours(make_pair: MakePair) -> None:
    """netkit_new_link(): in L2 mode both ends get a random Ethernet address and ARP."""
    pair = make_pair(Mode.L2)
    for end in (pair.primary.state, pair.peer.state):
        assert end.mac != NO_MAC, f"{end.name} has no Ethernet address"
        assert not end.flags & IFF_NOARP, f"{end.name} is NOARP"
    assert pair.primary.mac != pair.peer.mac


@pytest.mark.promise("layer-3")
def test_layer_3_pair_has_no_addresses_and_no_arp(make_pair: MakePair) -> None:
    """netkit_setup(), netkit_new_link(): in L3 mode addresses stay zero and the device is NOARP."""
    pair = make_pair(Mode.L3)
    for end in (pair.primary.state, pair.peer.state):
        assert end.mac == NO_MAC, f"{end.name} has address {end.mac.hex(':')}"
        assert end.flags & IFF_NOARP, f"{end.name} is not NOARP"


@pytest.mark.promise("defaults")
def test_defaults_are_layer_3_and_policy_pass(make_pair: MakePair) -> None:
    """netkit_new_link(): without attributes the mode is L3, and both policies are pass."""
    data = make_pair(None, policy=None, peer_policy=None).primary.state.data  # type: ignore[arg-type]
    assert data["netkit_mode"] == Mode.L3
    assert (data["netkit_policy"], data["netkit_peer_policy"]) == (Policy.PASS, Policy.PASS)


@pytest.mark.promise("iflink")
def test_each_end_names_the_other_across_namespaces(make_pair: MakePair) -> None:
    """netkit_get_iflink(): IFLA_LINK of each end is the other end's ifindex."""
    pair = make_pair()
    assert pair.primary.state.peer_index == pair.peer.index
    assert pair.peer.state.peer_index == pair.primary.index


@pytest.mark.promise("creation-refusals")
@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        pytest.param(
            {"mode": 2},
            errno.EINVAL,
            "device mode can only be L2 or L3",
            id="mode-2-by-netkit",
            marks=pytest.mark.until("6.14"),
        ),
        # "netkit: Simplify netkit mode over to use NLA_POLICY_MAX()"; ERANGE seen on 6.16.12, EINVAL on 6.12.118
        pytest.param({"mode": 2}, errno.ERANGE, "", id="mode-2-by-the-policy", marks=pytest.mark.since("6.14")),
        pytest.param({"policy": 1}, errno.EINVAL, "default xmit policy not supported", id="policy-1"),
        pytest.param({"policy": 7}, errno.EINVAL, "default xmit policy not supported", id="policy-redirect"),
        pytest.param({"peer_policy": 1}, errno.EINVAL, "default xmit policy not supported", id="peer-policy-1"),
        pytest.param({"data": {"IFLA_NETKIT_SCRUB": 2}}, errno.ERANGE, "", id="scrub-2"),
        pytest.param({"data": {"IFLA_NETKIT_PEER_SCRUB": 2}}, errno.ERANGE, "", id="peer-scrub-2"),
        pytest.param({"mac": "01:00:5e:00:00:01"}, errno.EADDRNOTAVAIL, "", id="multicast-address"),
        pytest.param({"peer_mac": "01:00:5e:00:00:01"}, errno.EADDRNOTAVAIL, "", id="multicast-peer-address"),
        pytest.param({"data": {"IFLA_NETKIT_PRIMARY": 1}}, errno.EINVAL, "read-only", id="primary-is-read-only"),
        pytest.param({"mode": Mode.L3, "mac": "02:00:00:00:00:01"}, errno.EOPNOTSUPP, "", id="L3-with-address"),
        pytest.param({"mode": Mode.L3, "peer_mac": "02:00:00:00:00:01"}, errno.EOPNOTSUPP, "", id="L3-peer-address"),
    ],
)
def test_creation_refuses(namespace: Namespace, options: dict[str, Any], code: int, text: str) -> None:
    """netkit_check_mode(), netkit_check_policy(), netkit_policy[], netkit_new_link(): what no pair can be made with."""
    with expect.refusal(code, f"netkit with {options}", text=text):
        namespace.rtnl.add_netkit("nk0", "nk1", **options)
    assert namespace.rtnl.names() == {"lo"}, "a refused pair left a device behind"


@pytest.mark.promise("change-refusals")
@pytest.mark.parametrize(
    ("data", "code", "text"),
    [
        pytest.param({"IFLA_NETKIT_MODE": Mode.L2}, errno.EACCES, "operating mode cannot be changed", id="mode"),
        pytest.param({"IFLA_NETKIT_SCRUB": Scrub.NONE}, errno.EACCES, "scrubbing cannot be changed", id="scrub"),
        pytest.param({"IFLA_NETKIT_PEER_SCRUB": Scrub.NONE}, errno.EACCES, "scrubbing cannot be", id="peer-scrub"),
        pytest.param({"IFLA_NETKIT_PRIMARY": 0}, errno.EINVAL, "read-only", id="primary-is-read-only"),
        pytest.param({"IFLA_NETKIT_POLICY": 1}, errno.EINVAL, "policy not supported", id="to-an-invalid-policy"),
        pytest.param({"IFLA_NETKIT_PEER_POLICY": 7}, errno.EINVAL, "policy not", id="to-an-invalid-peer-policy"),
    ],
)
def test_change_refuses(make_pair: MakePair, data: dict[str, int], code: int, text: str) -> None:
    """netkit_change_link(): mode and scrubbing are for life, and a policy is pass or drop."""
    primary = make_pair().primary
    with expect.refusal(code, f"change to {data}", text=text):
        primary.namespace.rtnl.change_netkit(primary.index, data)


@pytest.mark.promise("change-through-primary")
def test_settings_are_changed_through_the_primary_only(make_pair: MakePair) -> None:
    """netkit_change_link(): EACCES on the peer, whatever it is asked."""
    peer = make_pair().peer
    with expect.refusal(errno.EACCES, "policy change on the peer", text="only through the primary device"):
        peer.namespace.rtnl.change_netkit(peer.index, {"IFLA_NETKIT_POLICY": Policy.DROP})


@pytest.mark.promise("layer-2-address")
def test_layer_2_address_can_be_set(make_pair: MakePair) -> None:
    """d6fe532b7499 "netkit: Fix setting mac address in l2 mode": it is eth_mac_addr() there."""
    primary = make_pair(Mode.L2).primary
    primary.namespace.rtnl.set_mac(primary.index, "02:00:00:00:00:07")
    assert primary.state.mac.hex(":") == "02:00:00:00:00:07"


@pytest.mark.promise("layer-3-address")
def test_layer_3_address_cannot_be_set(make_pair: MakePair) -> None:
    """netkit_set_macaddr(): EOPNOTSUPP in L3 mode."""
    primary = make_pair(Mode.L3).primary
    with expect.refusal(errno.EOPNOTSUPP, "an address in L3 mode"):
        primary.namespace.rtnl.set_mac(primary.index, "02:00:00:00:00:07")


@pytest.mark.promise("carrier")
def test_carrier_needs_both_ends_up(make_pair: MakePair) -> None:
    """netkit_open(), netkit_close(): carrier comes when both ends are up, and goes from both when one goes down."""
    pair = make_pair(up=False)
    pair.primary.up()
    assert not pair.primary.state.carrier, "carrier with the peer down"
    pair.peer.up()
    assert (pair.primary.state.carrier, pair.peer.state.carrier) == (True, True)
    pair.primary.down()
    assert not pair.peer.state.carrier, "carrier though the primary went down"
    pair.primary.up()
    assert (pair.primary.state.carrier, pair.peer.state.carrier) == (True, True)
    pair.peer.down()
    assert not pair.primary.state.carrier, "carrier though the peer went down"


@pytest.mark.promise("delete")
@pytest.mark.parametrize("end", ["primary", "peer"])
def test_deleting_one_end_deletes_both(make_pair: MakePair, end: str) -> None:
    """netkit_del_link(): the pair goes as one, whichever end is deleted."""
    pair = make_pair()
    pair.ends(end)[0].delete()
    for link in (pair.primary, pair.peer):
        assert link.namespace.rtnl.names() == {"lo"}, f"{link.name} outlived its pair"


@pytest.mark.promise("delete-namespace")
def test_deleting_the_peers_namespace_deletes_the_primary(new_namespace: Callable[..., Namespace]) -> None:
    """default_device_exit_batch() calls netkit_del_link() for the peer: the primary does not outlive it."""
    host, pod = new_namespace("host"), Namespace.create("pod")
    host.rtnl.add_netkit("nk0", "nk1", pod)
    pod.close()
    wait.until(lambda: host.rtnl.names() == {"lo"}, "the primary to go with its peer's namespace")
    with pytest.raises(NetlinkRefused):
        host.rtnl.link("nk0")


@pytest.mark.promise("scrub-dump")
@pytest.mark.fixed_in("83134ef46093", mainline="6.13", stable={"6.12": "6.12.4"}, match="netkit_scrub")
def test_dump_tells_how_each_end_scrubs(make_pair: MakePair) -> None:
    """83134ef46093 "netkit: Add option for scrubbing skb meta data": as with policies, own and the other one's."""
    pair = make_pair(up=False, data={"IFLA_NETKIT_SCRUB": Scrub.NONE})
    primary, peer = pair.primary.state.data, pair.peer.state.data
    assert (primary["netkit_scrub"], primary["netkit_peer_scrub"]) == (Scrub.NONE, Scrub.DEFAULT)
    assert (peer["netkit_scrub"], peer["netkit_peer_scrub"]) == (Scrub.DEFAULT, Scrub.NONE)


@pytest.mark.promise("given-addresses")
def test_layer_2_addresses_that_are_given_are_kept(make_pair: MakePair) -> None:
    """netkit_new_link(): a random address only where the request has none, on each end."""
    pair = make_pair(up=False, mac="02:00:00:00:00:0a", peer_mac="02:00:00:00:00:0b")
    assert (pair.primary.mac.hex(":"), pair.peer.mac.hex(":")) == ("02:00:00:00:00:0a", "02:00:00:00:00:0b")


@pytest.mark.promise("names")
def test_names_that_are_taken_are_refused(namespace: Namespace) -> None:
    """register_netdevice(): EEXIST for either end's name, and nothing of the pair is left."""
    namespace.rtnl.add_dummy("taken")
    for names in (("nk0", "taken"), ("taken", "nk1")):
        with expect.refusal(errno.EEXIST, f"a pair {names}"):
            namespace.rtnl.add_netkit(*names)
        assert namespace.rtnl.names() == {"lo", "taken"}


@pytest.mark.promise("change-is-whole")
@pytest.mark.known_bug(
    "a change that is refused for the peer's policy has changed the primary's already",
    evidence="netkit_change_link() writes IFLA_NETKIT_POLICY before it checks IFLA_NETKIT_PEER_POLICY",
    match="policy of the primary after a refused change",
)
def test_refused_change_changes_nothing(make_pair: MakePair) -> None:
    """rtnetlink(7): a request is carried out or refused."""
    primary = make_pair(up=False).primary
    data = {"IFLA_NETKIT_POLICY": Policy.DROP, "IFLA_NETKIT_PEER_POLICY": 1}
    with expect.refusal(errno.EINVAL, "an invalid peer policy"):
        primary.namespace.rtnl.change_netkit(primary.index, data)
    assert primary.state.data["netkit_policy"] == Policy.PASS, "policy of the primary after a refused change"
