"""How long a chain is at the hook of a device: devices, chains, tables and namespaces that come and go.

Source of the promises: 42df6e1d221d "netfilter: Introduce egress hook" (5.16), nf_tables_netdev_event() of
net/netfilter/nft_chain_filter.c, net/netfilter/nf_tables_api.c.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from contextlib import suppress

import pytest

from selftests.lib import expect
from selftests.lib.netns import Namespace
from selftests.lib.nfnetlink import ChainRequest, change_chains, hooks
from selftests.lib.nft import COUNTER, Chain, NftError, refusal
from selftests.nf_egress.conftest import BEFORE_NAMES, NAMES, Sender, egress_key

pytestmark = pytest.mark.feature("nf_egress")


def chain_of_two(sender: Sender) -> Chain:
    """A chain that counts and drops at the sender's device, and at one more: in 6.12.8 it ends with its last device."""
    return sender.namespace.nft.add_chain(
        [sender.namespace.rtnl.add_dummy("d1"), sender.device], rules=["counter drop"]
    )


@BEFORE_NAMES
@pytest.mark.promise("device-removal")
def test_device_removal_removes_the_hook(sender: Sender) -> None:
    """nf_tables_netdev_event(), NETDEV_UNREGISTER: the device goes at once, a new one of its name is not hooked."""
    chain = chain_of_two(sender)
    sender.device.delete()
    again = Sender(sender.namespace.rtnl.add_dummy("d0"), sender.cleanup)
    again.raw()
    assert (chain.packets, again.transmitted) == (0, 1), "(packets counted, packets transmitted by the new device)"


@NAMES
@pytest.mark.promise("device-by-name")
def test_new_device_of_the_name_is_hooked(sender: Sender) -> None:
    """nft_netdev_event(), NETDEV_REGISTER: the chain waits for another device of the name."""
    chain = chain_of_two(sender)
    sender.device.delete()
    again = Sender(sender.namespace.rtnl.add_dummy("d0"), sender.cleanup)
    with expect.refusal(errno.ENOBUFS, "a frame through the new device"):
        again.raw()
    assert (chain.packets, again.transmitted) == (1, 0), "(packets counted, packets transmitted by the new device)"


@NAMES
@pytest.mark.promise("device-by-name")
def test_device_that_comes_later_is_hooked(sender: Sender) -> None:
    """nft_netdev_hook_alloc() takes any name; the device is hooked as soon as it is there."""
    chain = sender.chain("counter")
    change_chains(sender.namespace, ChainRequest(["later"]))
    later = Sender(sender.namespace.rtnl.add_dummy("later"), sender.cleanup)
    later.raw()
    assert chain.packets == 1


@pytest.mark.promise("device-removal")
def test_other_devices_of_a_chain_stay_hooked(sender: Sender) -> None:
    """One device of two goes: the chain is still at the other one."""
    other = sender.namespace.rtnl.add_dummy("d1")
    chain = sender.namespace.nft.add_chain([other, sender.device])
    chain.add_rule(COUNTER)
    other.delete()
    sender.raw()
    assert chain.packets == 1


@pytest.mark.promise("namespace-move")
def test_device_that_moves_away_is_not_hooked_any_more(sender: Sender, new_namespace: Callable[..., Namespace]) -> None:
    """A device leaves its namespace as if it were unregistered there: the chain stays behind."""
    chain = chain_of_two(sender)
    moved = Sender(sender.namespace.rtnl.move(sender.device, new_namespace("elsewhere")), sender.cleanup)
    moved.raw()
    assert (chain.packets, moved.transmitted) == (0, 1), "(packets counted, packets transmitted in the new namespace)"


@pytest.mark.promise("namespace-move")
def test_device_that_moved_is_hooked_by_its_new_namespace(
    sender: Sender, new_namespace: Callable[..., Namespace]
) -> None:
    """nf_hook_entry_head(): dev_net(dev) must be the chain's namespace, which it is after the move."""
    moved = Sender(sender.namespace.rtnl.move(sender.device, new_namespace("elsewhere")), sender.cleanup)
    chain = moved.chain("counter")
    moved.raw()
    assert chain.packets == 1


@pytest.mark.promise("chain-removal")
def test_chain_removal_removes_the_hook(sender: Sender) -> None:
    """nf_tables_unregister_hook(): after `delete chain` packets pass unseen."""
    chain = sender.chain("drop")
    chain.delete()
    assert sender.udp(errors=True) > 0
    assert sender.transmitted == 1


@pytest.mark.promise("chain-removal")
def test_removal_of_one_chain_leaves_the_other(sender: Sender) -> None:
    """__nf_hook_entries_try_shrink() copies what remains."""
    first, second = (sender.chain("counter", name=name) for name in ("first", "second"))
    first.delete()
    sender.raw()
    assert second.packets == 1


@pytest.mark.promise("chain-removal")
def test_table_removal_removes_the_hook(sender: Sender) -> None:
    """`delete table` takes its chains off their devices."""
    sender.chain("drop")
    sender.namespace.nft.delete_table()
    sender.raw()
    assert sender.transmitted == 1


@pytest.mark.promise("dormant-table")
def test_dormant_table_lets_everything_pass(sender: Sender) -> None:
    """NFT_TABLE_F_DORMANT unregisters the hook."""
    sender.chain("drop")
    set_dormant(sender, dormant=True)
    sender.udp(errors=True)
    assert sender.transmitted == 1


@pytest.mark.promise("dormant-table")
def test_table_that_wakes_filters_again(sender: Sender) -> None:
    """Without the flag the hook is registered again, rules untouched."""
    sender.chain("drop")
    set_dormant(sender, dormant=True)
    set_dormant(sender, dormant=False)
    with expect.refusal(errno.ENOBUFS, "a datagram after the table woke"):
        sender.udp(errors=True)


def set_dormant(sender: Sender, *, dormant: bool) -> None:
    flags = "flags dormant;" if dormant else ""
    sender.namespace.nft.run_text(f"table netdev kproof {{ {flags} }}")


@pytest.mark.promise("dormant-table")
def test_device_of_a_dormant_table_can_go(sender: Sender) -> None:
    """nft_netdev_event() must not unregister what is not registered; it would warn."""
    sender.chain("drop")
    set_dormant(sender, dormant=True)
    sender.device.delete()
    set_dormant(sender, dormant=False)
    assert sender.namespace.nft.tables() == {"kproof"}


@BEFORE_NAMES
@pytest.mark.promise("device-by-name")
def test_device_of_another_namespace_is_not_found(sender: Sender, new_namespace: Callable[..., Namespace]) -> None:
    """nft_netdev_hook_alloc() looks the device up in the table's own namespace."""
    elsewhere = new_namespace("elsewhere")
    with refusal("No such file or directory", "a chain on a device of another namespace"):
        elsewhere.nft.add_chain(sender.device)


@NAMES
@pytest.mark.promise("device-by-name")
def test_device_of_another_namespace_is_not_hooked(sender: Sender, new_namespace: Callable[..., Namespace]) -> None:
    """A chain that waits for the name in its own namespace does not get the device that has it in another one."""
    chain = new_namespace("elsewhere").nft.add_chain(sender.device, rules=["counter drop"])
    sender.raw()
    assert (chain.packets, sender.transmitted) == (0, 1), "(packets counted, packets transmitted)"


@pytest.mark.promise("refused-transaction")
def test_refused_chain_leaves_nothing(sender: Sender) -> None:
    """A transaction is all or nothing: the table that was made for the chain goes, and no hook is left."""
    egress_key().await_off()
    with suppress(OSError):
        change_chains(sender.namespace, ChainRequest(["d0"]), ChainRequest(["d0"], hook=2))
    assert sender.namespace.nft.tables() == set(), "tables"
    assert egress_key().state().is_off, f"the static key: {egress_key().state()}"


@pytest.mark.since("6.4")  # b9703ed44ffb
@pytest.mark.promise("chain-updates")
def test_device_can_be_added_to_a_chain(sender: Sender) -> None:
    """b9703ed44ffb: a chain that is there takes another device, and keeps its own and its rules."""
    other = Sender(sender.namespace.rtnl.add_dummy("d1"), sender.cleanup)
    chain = sender.chain("counter")
    change_chains(sender.namespace, ChainRequest(["d1"]))
    other.raw()
    sender.raw()
    assert chain.packets == 2, "packets of the first device and of the one that was added"


@pytest.mark.since("6.4")  # 7d937b107108
@pytest.mark.promise("chain-updates")
def test_device_can_be_taken_off_a_chain(sender: Sender) -> None:
    """7d937b107108: NFT_MSG_DELCHAIN with devices takes these off, and the chain stays at the others."""
    other = Sender(sender.namespace.rtnl.add_dummy("d1"), sender.cleanup)
    chain = sender.namespace.nft.add_chain([sender.device, other.device])
    chain.add_rule(COUNTER)
    change_chains(sender.namespace, ChainRequest(["d1"], delete=True))
    other.raw()
    sender.raw()
    assert chain.packets == 1, "packets of a device that stays and of one that was taken off"


@pytest.mark.since("6.4")
@pytest.mark.promise("device-once")
@pytest.mark.feature("nfnetlink_hook")
def test_device_is_hooked_once_however_often_it_is_added(sender: Sender) -> None:
    """nf_tables_updchain() leaves out what the chain has already."""
    sender.chain()
    change_chains(sender.namespace, ChainRequest(["d0"]))
    assert len(hooks(sender.namespace, "d0")) == 1, "functions at the hook"


@pytest.mark.since("6.4")
@pytest.mark.promise("device-once")
@pytest.mark.fixed_in(  # of 6.16 only 6.16.12 was seen
    "cf5fb87fcdaa", mainline="6.17", stable={"6.12": "6.12.59", "6.16": "6.16.12"}, match="but it was allowed"
)
def test_device_is_refused_twice_in_one_transaction(sender: Sender) -> None:
    """cf5fb87fcdaa (CVE-2025-38678): two updates that are not committed yet name the same new device: EEXIST."""
    sender.namespace.rtnl.add_dummy("d1")
    sender.chain()
    with expect.refusal(errno.EEXIST, "two updates of a chain with the same device in one transaction"):
        change_chains(sender.namespace, ChainRequest(["d1"]), ChainRequest(["d1"]))


@pytest.mark.promise("device-once")
def test_device_is_refused_twice_in_one_request(sender: Sender) -> None:
    """nf_tables_parse_netdev_hooks(): the same name twice in a list: EEXIST."""
    with expect.refusal(errno.EEXIST, "a chain with the same device twice"):
        change_chains(sender.namespace, ChainRequest(["d0", "d0"]))


@pytest.mark.promise("under-traffic")
@pytest.mark.feature("two_processors")
def test_chains_come_and_go_under_traffic(sender: Sender) -> None:
    """Hooks are replaced under RCU: none of what is sent meanwhile is lost where the chain accepts."""
    sent, over = 0, threading.Event()

    def traffic() -> None:
        nonlocal sent
        while not over.is_set():
            sender.raw(bypass_qdisc=bool(sent % 2))
            sent += 1

    thread = threading.Thread(target=traffic)
    thread.start()
    try:
        for _ in range(10):
            sender.chain("counter", name="one").delete()
    finally:
        over.set()
        thread.join()
    assert sender.transmitted == sent, "packets transmitted, of those sent"


@pytest.mark.promise("under-traffic")
@pytest.mark.feature("two_processors")
def test_device_goes_under_traffic(sender: Sender) -> None:
    """A device that is sent through is deleted with its chain: the sender is told that it is gone, and that is all."""
    gone: list[int | None] = []

    def traffic() -> None:
        try:
            while True:
                sender.raw()
        except OSError as error:
            gone.append(error.errno)

    sender.chain("counter")
    thread = threading.Thread(target=traffic)
    thread.start()
    sender.device.delete()
    thread.join()
    assert gone[0] in (errno.ENODEV, errno.ENXIO, errno.ENETDOWN), f"the sender ended with {expect.name(gone[0] or 0)}"


@pytest.mark.promise("rules-are-listed")
def test_listing_tells_hook_priority_and_policy(sender: Sender) -> None:
    """nf_tables_fill_chain_info(): what was asked for is told."""
    chain = sender.namespace.nft.add_chain(sender.device, priority=-7)
    told = next(item["chain"] for item in chain.listing() if "chain" in item)
    assert (told["hook"], told["prio"], told["policy"]) == ("egress", -7, "accept")


@pytest.mark.promise("chain-removal")
def test_chain_in_use_stays(sender: Sender) -> None:
    """A chain that a rule leads to cannot go: EBUSY."""
    chain = sender.chain()
    sender.namespace.nft.run_text("add chain netdev kproof other")
    chain.rule("jump other")
    with pytest.raises(NftError, match="busy"):
        sender.namespace.nft.run_text("delete chain netdev kproof other")
