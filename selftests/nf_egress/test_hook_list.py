"""The egress hook in the kernel's own list of hooks: net/netfilter/nfnetlink_hook.c, which `nft list hooks` asks.

Source of the promises: 252956528caa "netfilter: add new hook nfnl subsystem" (5.14) and 42df6e1d221d (5.16), which adds
egress to it.
"""

from __future__ import annotations

import errno

import pytest

from selftests.lib import expect
from selftests.lib.nfnetlink import NF_NETDEV_EGRESS, NF_NETDEV_INGRESS, Hook, hooks
from selftests.nf_egress.conftest import Sender
from selftests.nf_egress.test_lifetime import set_dormant

pytestmark = [pytest.mark.feature("nf_egress"), pytest.mark.feature("nfnetlink_hook")]


@pytest.mark.promise("hook-list")
def test_chain_is_listed(sender: Sender) -> None:
    """nfnl_hook_dump_one(): hook, priority, function, and of nf_tables the table and the chain."""
    sender.namespace.nft.add_chain(sender.device, priority=-5)
    assert hooks(sender.namespace, "d0") == [Hook(NF_NETDEV_EGRESS, -5, "nft_do_chain_netdev", "kproof", "rules")]


@pytest.mark.promise("hook-list")
def test_chains_are_listed_in_the_order_in_which_they_run(sender: Sender) -> None:
    """By priority, not by when they came."""
    for name, priority in (("last", 10), ("first", -10), ("middle", 0)):
        sender.namespace.nft.add_chain(sender.device, chain=name, priority=priority)
    assert [hook.chain for hook in hooks(sender.namespace, "d0")] == ["first", "middle", "last"]


@pytest.mark.promise("hook-list")
def test_egress_and_ingress_are_listed_apart(sender: Sender) -> None:
    """nfnl_hook_entries_head(): dev->nf_hooks_egress and dev->nf_hooks_ingress."""
    sender.chain(name="out")
    sender.namespace.nft.add_chain(sender.device, hook="ingress", chain="in")
    listed = [
        [each.chain for each in hooks(sender.namespace, "d0", at)] for at in (NF_NETDEV_INGRESS, NF_NETDEV_EGRESS)
    ]
    assert listed == [["in"], ["out"]], "chains at ingress and at egress"


@pytest.mark.promise("hook-list")
def test_dormant_chain_is_not_listed(sender: Sender) -> None:
    """What is not registered is not there."""
    sender.chain()
    set_dormant(sender, dormant=True)
    assert hooks(sender.namespace, "d0") == []


@pytest.mark.promise("hook-list")
def test_device_without_a_chain_has_an_empty_list(sender: Sender) -> None:
    """Another device's chain is not listed here."""
    other = sender.namespace.rtnl.add_dummy("d1")
    sender.chain(device=other)
    assert hooks(sender.namespace, "d0") == []


@pytest.mark.promise("hook-list-refusals")
@pytest.mark.parametrize(
    ("device", "hook", "code"),
    [
        pytest.param("absent", NF_NETDEV_EGRESS, errno.ENODEV, id="absent-device"),
        pytest.param(None, NF_NETDEV_EGRESS, errno.EINVAL, id="no-device"),
        pytest.param("d0", 2, errno.EOPNOTSUPP, id="hook-after-egress"),
    ],
)
def test_list_is_refused_for(sender: Sender, device: str | None, hook: int, code: int) -> None:
    """nfnl_hook_dump_start() and nfnl_hook_entries_head()."""
    with expect.refusal(code, f"the list of hook {hook} of device {device}"):
        hooks(sender.namespace, device, hook)
