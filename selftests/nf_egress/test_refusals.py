"""What a chain at the egress hook must refuse, and with which errno.

Source of the promises: 42df6e1d221d "netfilter: Introduce egress hook" (5.16), d07955dd34ec (fib, 7.2), the hook masks
of net/netfilter/nft_chain_filter.c and the validate() functions of expressions.
"""

from __future__ import annotations

import errno

import pytest

from selftests.lib import expect, privileges
from selftests.lib.features import kernel_config
from selftests.lib.nfnetlink import ChainRequest, change_chains
from selftests.lib.nft import refusal
from selftests.lib.privileges import Capability
from selftests.nf_egress.conftest import BEFORE_NAMES, MakeSender, Sender

HERE = pytest.mark.feature("nf_egress")


@HERE
@pytest.mark.promise("hook-numbers")
def test_hook_after_egress_is_refused(sender: Sender) -> None:
    """Family netdev has two hooks: ingress and egress; a third number is EOPNOTSUPP."""
    with expect.refusal(errno.EOPNOTSUPP, "a chain at hook 2 of family netdev"):
        change_chains(sender.namespace, ChainRequest(["d0"], hook=2))


@HERE
@pytest.mark.promise("chain-types")
@pytest.mark.parametrize("kind", ["route", "nat"])
def test_chain_types_but_filter_are_refused(sender: Sender, kind: str) -> None:
    """nft_chain_filter_netdev is the only type of the family: ENOENT."""
    with expect.refusal(errno.ENOENT, f"a chain of type {kind} at the egress hook"):
        change_chains(sender.namespace, ChainRequest(["d0"], kind=kind))


@HERE
@BEFORE_NAMES
@pytest.mark.promise("device-by-name")
def test_absent_device_is_refused(sender: Sender) -> None:
    """nft_netdev_hook_alloc(): ENOENT."""
    with expect.refusal(errno.ENOENT, "a chain on a device that does not exist"):
        change_chains(sender.namespace, ChainRequest(["absent"]))


@HERE
@pytest.mark.promise("needs-net-admin")
def test_chain_without_the_capability_is_refused(sender: Sender) -> None:
    """nfnetlink_rcv(): CAP_NET_ADMIN in the namespace's user namespace, else EPERM."""
    with (
        privileges.without(Capability.NET_ADMIN),
        expect.refusal(errno.EPERM, "a chain without CAP_NET_ADMIN"),
    ):
        change_chains(sender.namespace, ChainRequest(["d0"]))


@HERE
@pytest.mark.feature("nft_fib")
@pytest.mark.promise("fib-is-refused")
@pytest.mark.fixed_in(
    "d07955dd34ec", mainline="7.2", stable={"6.12": "6.12.101", "6.1": "6.1.191"}, match="but it was allowed"
)
@pytest.mark.parametrize(
    "rule",
    [
        pytest.param("fib saddr oif 0 counter", id="output-device"),
        pytest.param('fib saddr oifname "d0" counter', id="name-of-the-output-device"),
        pytest.param("fib saddr . iif type local counter", id="type-at-the-input-device"),
    ],
)
def test_route_lookup_is_refused(sender: Sender, rule: str) -> None:
    """d07955dd34ec: what needs an input device, which is NULL at egress; before, the first packet was an oops."""
    chain = sender.chain()
    with refusal("Operation not supported", f"`{rule}` in an egress chain"):
        chain.rule(rule)


@HERE
@pytest.mark.feature("nft_fib")
@pytest.mark.promise("fib-type")
def test_type_of_an_address_can_be_asked_for(sender: Sender) -> None:
    """nft_fib_netdev_validate(): a lookup without an input device is allowed, and works."""
    chain = sender.chain("fib saddr type local counter", "fib daddr type local counter")
    sender.udp()
    counts = [packets for packets, _ in chain.counters()]
    assert counts == [1, 0], "packets from a local address, and to one"


@HERE
@pytest.mark.feature("nft_reject")
@pytest.mark.promise("reject-is-refused")
def test_reject_is_refused(sender: Sender) -> None:
    """nft_reject_netdev_validate(): an answer goes back where a packet came in; at egress it came from nowhere."""
    chain = sender.chain()
    with refusal("Operation not supported", "`reject` in an egress chain"):
        chain.rule("reject")


@pytest.mark.promise("absent-without-config")
def test_hook_is_refused_by_a_kernel_without_it(make_sender: MakeSender) -> None:
    """__nf_register_net_hook(): EOPNOTSUPP where CONFIG_NETFILTER_EGRESS is n."""
    if kernel_config().get("NETFILTER_EGRESS", "n") == "y":
        pytest.skip("the kernel has CONFIG_NETFILTER_EGRESS; kproof run --set NETFILTER_EGRESS=n")
    with refusal("Operation not supported", "a chain at the egress hook"):
        make_sender().chain()
