"""What the hook costs where it is not used: static keys, and the instructions that they patch.

Source of the promises: the message of 42df6e1d221d "netfilter: Introduce egress hook" (5.16): no penalty without a hook
anywhere, as __dev_queue_xmit() jumps over all of it; nf_static_key_inc() of net/netfilter/core.c.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from selftests.lib import bpf, programs, static_key
from selftests.lib.bpf import AttachType, Verdict
from selftests.lib.netns import Namespace
from selftests.nf_egress.conftest import MakeSender, Sender, egress_key, tc_egress_key
from selftests.nf_egress.test_lifetime import set_dormant

pytestmark = pytest.mark.feature("nf_egress")


@pytest.fixture(autouse=True)
def _off() -> None:
    """No chain of an earlier test is left: namespaces end in the background."""
    for key in (egress_key(), tc_egress_key()):
        key.await_off()


def is_on() -> tuple[bool, bool]:
    """Of tc's key and of the hook's: whether it is on at all of its sites. AssertionError for one that is neither."""
    keys = [tc_egress_key().state(), egress_key().state()]
    for state in keys:
        assert state.is_on or state.is_off, f"a key that is patched in part: {state}"
    return keys[0].is_on, keys[1].is_on


@pytest.mark.promise("keys-off-when-unused")
def test_without_a_chain_both_keys_are_off(sender: Sender) -> None:
    """With devices and traffic, but no rule anywhere, each site is a NOP."""
    sender.udp()
    assert is_on() == (False, False), "tc's key and the hook's"


@pytest.mark.promise("keys-patch-the-transmit-path")
def test_sites_are_in_the_two_transmit_paths() -> None:
    """0d7308c0ff5f: the hook's key patches __dev_queue_xmit() and the direct way of AF_PACKET, and nothing else.

    That is packet_xmit(), or packet_direct_xmit() in 6.1.
    """
    functions = {site.function.partition(".")[0] for site in egress_key().state().sites}
    assert functions in ({"__dev_queue_xmit", direct} for direct in ("packet_xmit", "packet_direct_xmit"))


@pytest.mark.promise("keys-follow-the-chains")
def test_chain_turns_both_keys_on(sender: Sender) -> None:
    """nf_register_net_hook(): net_inc_egress_queue() and nf_static_key_inc(), for an empty chain as well."""
    sender.chain()
    assert is_on() == (True, True), "tc's key and the hook's"


@pytest.mark.promise("keys-follow-the-chains")
def test_last_chain_turns_both_keys_off(sender: Sender) -> None:
    """The keys count: of two chains the first that goes changes nothing, the second does."""
    first, second = (sender.chain(name=name) for name in ("first", "second"))
    seen = []
    for chain in (first, second):
        chain.delete()
        seen.append(is_on())
    assert seen == [(True, True), (False, False)], "tc's key and the hook's, after the first chain went and the second"


@pytest.mark.promise("keys-follow-the-chains")
def test_each_device_of_a_chain_counts(sender: Sender) -> None:
    """One chain at two devices is two users of the key."""
    sender.namespace.nft.add_chain([sender.device, sender.namespace.rtnl.add_dummy("d1")])
    assert (tc_egress_key().state().enabled, egress_key().state().enabled) == (2, 2)


@pytest.mark.promise("keys-follow-the-devices")
def test_device_that_goes_takes_its_count_along(sender: Sender) -> None:
    """nft_netdev_event() unregisters the hook, and with it the keys."""
    sender.chain()
    sender.device.delete()
    assert is_on() == (False, False), "tc's key and the hook's"


@pytest.mark.promise("keys-follow-the-devices")
def test_device_that_moves_takes_its_count_along(sender: Sender, new_namespace: Callable[..., Namespace]) -> None:
    """As above where the device leaves for another namespace."""
    sender.chain()
    sender.namespace.rtnl.move(sender.device, new_namespace("elsewhere"))
    assert is_on() == (False, False), "tc's key and the hook's"


@pytest.mark.promise("keys-follow-the-devices")
def test_namespace_that_ends_takes_its_counts_along(make_sender: MakeSender) -> None:
    """nf_tables_pre_exit_net() unregisters what is left in a namespace."""
    leaving = make_sender()
    leaving.chain()
    leaving.namespace.close()
    for key in (tc_egress_key(), egress_key()):
        key.await_off()


@pytest.mark.promise("keys-follow-the-chains")
def test_dormant_table_turns_both_keys_off(sender: Sender) -> None:
    """A dormant table costs nothing."""
    sender.chain()
    set_dormant(sender, dormant=True)
    assert is_on() == (False, False), "tc's key and the hook's"


@pytest.mark.promise("keys-are-of-one-hook")
def test_ingress_chain_leaves_the_egress_keys_off(sender: Sender) -> None:
    """nf_hooks_needed has a key for each family and hook."""
    sender.namespace.nft.add_chain(sender.device, hook="ingress")
    assert is_on() == (False, False), "tc's key and the hook's"


@pytest.mark.feature("tcx")
@pytest.mark.promise("keys-are-of-one-hook")
def test_tc_leaves_the_hooks_key_off(sender: Sender) -> None:
    """egress_needed_key is shared with tc; the hook behind it is jumped over while no chain is there."""
    sender.program(AttachType.TCX_EGRESS, programs.ret(Verdict.NEXT))
    assert is_on() == (True, False), "tc's key and the hook's"


@pytest.mark.feature("tcx")
@pytest.mark.promise("keys-are-of-one-hook")
def test_chain_and_tc_count_separately(sender: Sender, counters: bpf.Counters) -> None:
    """Tc's key stays on for tc when the chain goes: its program still runs."""
    sender.program(AttachType.TCX_EGRESS, programs.count(counters.fd), programs.ret(Verdict.NEXT))
    sender.chain().delete()
    sender.udp()
    assert (is_on(), counters[0]) == ((True, False), 1), "(tc's key and the hook's), packets that tc saw"


@pytest.mark.promise("keys-are-of-one-hook")
def test_other_families_leave_the_key_off(sender: Sender) -> None:
    """A chain of family ip at its output hook is no user of family netdev's."""
    sender.namespace.nft.run_text("add table ip t\nadd chain ip t c { type filter hook output priority 0; }")
    state = egress_key().state()
    assert state.is_off, f"the hook's key: {state}"
    assert isinstance(state, static_key.State)
