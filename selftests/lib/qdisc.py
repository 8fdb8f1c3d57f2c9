"""The qdiscs ingress and clsact, with filter blocks that they share by number, and filters in such a block.

Layouts: include/uapi/linux/rtnetlink.h (struct tcmsg), linux/pkt_sched.h, linux/pkt_cls.h.
"""

from __future__ import annotations

import socket

from selftests.lib import rtnetlink
from selftests.lib.bpf import Program
from selftests.lib.netns import Namespace
from selftests.lib.rtnetlink import nest, s32, text, u32
from selftests.lib.rtnl import Link

_PARENT, _HANDLE = 0xFFFFFFF1, 0xFFFF0000
"""TC_H_INGRESS, TC_H_CLSACT."""
_ANY_DEVICE_OF_BLOCK = -1
"""TCM_IFINDEX_MAGIC_BLOCK: the parent is a block's number."""
_TCA_KIND, _TCA_OPTIONS, _TCA_INGRESS_BLOCK = 1, 2, 13
_TCA_BPF_FD, _TCA_BPF_NAME, _TCA_BPF_FLAGS = 6, 7, 8
_TCA_BPF_FLAG_ACT_DIRECT = 1
_ETH_P_ALL = 3


def add(link: Link, kind: str, *, ingress_block: int = 0, replace: bool = False) -> None:
    """``tc qdisc add``, or ``replace``, of clsact or ingress; a block's number makes its ingress filters shared."""
    _change(
        link,
        rtnetlink.RTM_NEWQDISC,
        text(_TCA_KIND, kind),
        *([u32(_TCA_INGRESS_BLOCK, ingress_block)] if ingress_block else []),
        handle=0 if replace else _HANDLE,  # one that is there already would be changed, not replaced
        flags=rtnetlink.NLM_F_CREATE | (rtnetlink.NLM_F_REPLACE if replace else rtnetlink.NLM_F_EXCL),
    )


def delete(link: Link, kind: str) -> None:
    """``tc qdisc del``."""
    _change(link, rtnetlink.RTM_DELQDISC, text(_TCA_KIND, kind), handle=_HANDLE, flags=0)


def add_block_filter(namespace: Namespace, block: int, program: Program) -> None:
    """A classic BPF classifier in direct-action mode, for every device that has the block."""
    options = nest(
        _TCA_OPTIONS,
        s32(_TCA_BPF_FD, program.fd),
        text(_TCA_BPF_NAME, "kproof"),
        u32(_TCA_BPF_FLAGS, _TCA_BPF_FLAG_ACT_DIRECT),
    )
    rtnetlink.change_tc(
        namespace,
        rtnetlink.RTM_NEWTFILTER,
        _ANY_DEVICE_OF_BLOCK,
        text(_TCA_KIND, "bpf"),
        options,
        parent=block,
        info=1 << 16 | socket.htons(_ETH_P_ALL),
    )


def _change(link: Link, message: int, *attributes: bytes, handle: int, flags: int) -> None:
    rtnetlink.change_tc(link.namespace, message, link.index, *attributes, parent=_PARENT, handle=handle, flags=flags)
