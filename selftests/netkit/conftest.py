"""netkit pairs: the primary in one namespace, its peer in another one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import pytest

from selftests.lib import capture
from selftests.lib.bpf import AttachType
from selftests.lib.netkit_nla import Mode
from selftests.lib.netns import Namespace
from selftests.lib.rtnl import Link


@dataclass(frozen=True)
class Pair:
    """Both ends of a netkit device."""

    primary: Link
    peer: Link

    def ends(self, sender: str) -> tuple[Link, Link]:
        """(sender, receiver); ``sender`` is "primary" or "peer"."""
        return (self.primary, self.peer) if sender == "primary" else (self.peer, self.primary)

    def send(self, payload: bytes, *, sender: str = "primary", **options: Any) -> None:
        """One frame from one end to the other; OSError ENOBUFS when the device drops it."""
        source, target = self.ends(sender)
        capture.send(source, capture.frame_to(target, source, payload), **options)


class MakePair(Protocol):
    def __call__(self, mode: Mode = Mode.L2, *, same_namespace: bool = False, **options: Any) -> Pair: ...


@pytest.fixture
def make_pair(new_namespace: Callable[..., Namespace]) -> MakePair:
    """``make_pair(Mode.L3, policy=Policy.DROP)``: a pair, both ends up; options are those of Rtnl.add_netkit."""

    def make(mode: Mode = Mode.L2, *, same_namespace: bool = False, **options: Any) -> Pair:
        host = new_namespace("host")
        other = host if same_namespace else new_namespace("pod")
        primary, peer = host.rtnl.add_netkit("nk0", "nk1", other, mode=mode, **options)
        return Pair(primary, peer)

    return make


HOOKS = {"primary": AttachType.NETKIT_PRIMARY, "peer": AttachType.NETKIT_PEER}
"""Attach types by the end whose transmit path they are in."""
