"""The load generator of the egress hook's published figures, as a smoke test: everything that is sent is counted.

Source: 42df6e1d221d "netfilter: Introduce egress hook", whose figures come from pktgen in mode queue_xmit on a dummy
device. No speed is asserted here: a guest's clock says little about it.
"""

from __future__ import annotations

import pytest

from selftests.lib import pktgen
from selftests.lib.netns import Namespace
from selftests.lib.nft import COUNTER
from selftests.lib.rtnl import Link

pytestmark = [pytest.mark.feature("pktgen"), pytest.mark.feature("nf_egress")]

PACKETS = 500


@pytest.fixture
def device(namespace: Namespace) -> Link:
    return namespace.rtnl.add_dummy("d0")


@pytest.mark.promise("nf_egress/pktgen-loses-nothing")
def test_without_a_chain(device: Link) -> None:
    """With no hook anywhere, all packets reach the driver."""
    report = pktgen.run(device, PACKETS)
    assert (report.sent, report.errors) == (PACKETS, 0)
    assert device.stats.tx_packets == PACKETS


@pytest.mark.promise("nf_egress/pktgen-loses-nothing")
@pytest.mark.parametrize("rules", [0, 1, 5], ids=["no-rules", "one-rule", "five-rules"])
def test_with_an_egress_chain(device: Link, rules: int) -> None:
    """With a chain of 0, 1 or 5 rules, all packets pass it, each rule counts all of them, and they reach the driver."""
    chain = device.namespace.nft.add_chain(device)
    for _ in range(rules):
        chain.add_rule(COUNTER)
    report = pktgen.run(device, PACKETS)
    assert (report.sent, report.errors) == (PACKETS, 0)
    assert [packets for packets, _ in chain.counters()] == [PACKETS] * rules
    assert device.stats.tx_packets == PACKETS


@pytest.mark.promise("nf_egress/per-device")
def test_chain_of_another_device(device: Link) -> None:
    """With the hook in use elsewhere (its static key is on), this device's packets are neither seen nor lost."""
    other = device.namespace.rtnl.add_dummy("d1")
    chain = device.namespace.nft.add_chain(other)
    chain.add_rule(COUNTER)
    assert pktgen.run(device, PACKETS).sent == PACKETS
    assert (chain.packets, device.stats.tx_packets) == (0, PACKETS)


@pytest.mark.promise("nf_egress/pktgen-start-xmit")
def test_start_xmit_passes_the_hook_by(device: Link) -> None:
    """Mode start_xmit hands packets to the driver: not a way that the hook is on."""
    chain = device.namespace.nft.add_chain(device)
    chain.add_rule(COUNTER)
    assert pktgen.run(device, PACKETS, mode="start_xmit").sent == PACKETS
    assert (chain.packets, device.stats.tx_packets) == (0, PACKETS)
