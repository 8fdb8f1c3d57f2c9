"""Probes for what tests need of a kernel: each returns None where it is there, else a reason that names what lacks.

A probe tries the real thing, in a namespace of its own; the configuration (/proc/config.gz, or that of a ready-made
kernel among its modules) only helps to say why.
"""

from __future__ import annotations

import gzip
import os
import re
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from selftests.lib import asm, bpf, programs
from selftests.lib.bpf import AttachType, ProgType
from selftests.lib.netns import Namespace
from selftests.lib.rtnl import NetlinkRefused
from selftests.lib.txqueues import RESELECTION

Test = TypeVar("Test", bound=Callable[..., Any])


@cache
def kernel_config() -> dict[str, str]:
    """The running kernel's configuration without ``CONFIG_``; empty when it does not tell."""
    told, kept = Path("/proc/config.gz"), Path("/lib/modules", os.uname().release, "config")
    if told.exists():
        text = gzip.decompress(told.read_bytes()).decode()
    elif kept.exists():
        text = kept.read_text()
    else:
        return {}
    pairs = (
        line.removeprefix("CONFIG_").partition("=")[::2] for line in text.splitlines() if line.startswith("CONFIG_")
    )
    return dict(pairs)


def _lacks(feature: str, symbol: str, error: Exception | None = None) -> str:
    """``kernel lacks netkit: CONFIG_NETKIT is n``, or the kernel's own words where the configuration says y."""
    config = kernel_config()
    if config and config.get(symbol, "n") == "n":
        return f"kernel lacks {feature}: CONFIG_{symbol} is n"
    return f"kernel {os.uname().release} lacks {feature}: {error or f'CONFIG_{symbol} is not known'}"


def _configured(feature: str, symbol: str) -> str | None:
    config = kernel_config()
    if not config:
        return f"kernel {os.uname().release} does not tell its configuration, so {feature} is not known to be there"
    return None if config.get(symbol, "n") != "n" else _lacks(feature, symbol)


def fresh_where_built(symbol: str) -> Callable[[Test], Test]:
    """``@pytest.mark.fresh``, but for a kernel that is known to lack ``symbol``: a skip needs no guest of its own.

    By the configuration only: whoever tries the real thing at collection, and meets a panic, has no test to blame.
    """
    import pytest

    config = kernel_config()
    return pytest.mark.fresh if not config or symbol in config else lambda test: test


def netkit() -> str | None:
    """The device itself (35dfaad7188c, Linux 6.7)."""
    with Namespace.create("probe") as namespace:
        try:
            namespace.rtnl.add_netkit("nk0", "nk1", up=False)[0].delete()
        except NetlinkRefused as error:
            return _lacks("netkit", "NETKIT", error)
    return None


def netkit_queues() -> str | None:
    """netkit with several transmit queues; since queues can be leased there is one (NETKIT_NUM_TX_QUEUES_MAX)."""
    if lacking := netkit():
        return lacking
    with Namespace.create("probe") as namespace:
        try:
            namespace.rtnl.add_netkit("nk0", "nk1", up=False, data={"num_tx_queues": 2})[0].delete()
        except NetlinkRefused:
            return f"netkit of kernel {os.uname().release} has one transmit queue"
    return None


def tcx() -> str | None:
    """Links and multi-programs at tc hooks (e420bed02507, Linux 6.6): loopback's empty ingress can be queried."""
    try:
        bpf.query(1, AttachType.TCX_INGRESS)
    except OSError as error:
        return _lacks("tcx", "NET_XGRESS", error)
    return None


def redirect_peer() -> str | None:
    """The helper (9aa1206e8f48, Linux 5.10), attached here through tcx."""
    try:
        bpf.load_classifier(programs.redirect_peer(1)).close()
    except OSError as error:
        return _lacks("bpf_redirect_peer", "NET_CLS_ACT", error)
    return tcx()


def netns_cookie() -> str | None:
    """The helper in cgroup programs (f318903c0bf4, Linux 5.7)."""
    code = asm.program([asm.mov_imm(asm.R1, 0), asm.call(programs.HELPER_GET_NETNS_COOKIE)], programs.ret(1))
    try:
        bpf.load(ProgType.CGROUP_SOCK_ADDR, code, expected_attach=AttachType.CGROUP_INET4_CONNECT).close()
    except OSError as error:
        return _lacks("bpf_get_netns_cookie", "CGROUP_BPF", error)
    return None


def nf_egress() -> str | None:
    """The hook, through nf_tables (42df6e1d221d, Linux 5.16)."""
    from selftests.lib.nft import NftError

    with Namespace.create("probe") as namespace:
        device = namespace.rtnl.add_dummy("d0")
        try:
            namespace.nft.add_chain(device)
        except NftError as error:
            return _lacks("the netfilter egress hook", "NETFILTER_EGRESS", error)
        namespace.nft.delete_table()
    return None


def xps_bpf() -> str | None:
    """The hook in transmit queue selection (patches/xps_bpf): a link goes onto a device, and says that it is one."""
    with Namespace.create("probe") as namespace, namespace.entered(), bpf.filter_returning(-1) as program:
        device = namespace.rtnl.add_dummy("d0", num_tx_queues=2)
        try:
            with bpf.link_create(program.fd, device.index, AttachType.XPS) as link:
                if link.info.type != bpf.LINK_TYPE_XPS:
                    return _lacks("xps_bpf", "NET_XPS_BPF", OSError(f"attach type {AttachType.XPS} is another's"))
        except OSError as error:
            return _lacks("xps_bpf", "NET_XPS_BPF", error)
    return None


def xps_bpf_mprog() -> str | None:
    """Several programs in order, with a revision; before bpf_mprog (053c8e1f235d, Linux 6.6) a device takes one."""
    if reason := xps_bpf():
        return reason
    with Namespace.create("probe") as namespace, namespace.entered():
        if bpf.query(namespace.rtnl.add_dummy("d0", num_tx_queues=2).index, AttachType.XPS).revision:
            return None
    return f"kernel {os.uname().release} lacks bpf_mprog: one program for each device"


def ip_xps() -> str | None:
    """iproute2 with patches/iproute2 (``ip link set dev D xps …``), which says so in its own usage."""
    usage = subprocess.run(["ip", "link", "help"], capture_output=True, text=True, check=False)
    if re.search(r"\bxps\b", usage.stdout + usage.stderr):
        return None
    version = subprocess.run(["ip", "-V"], capture_output=True, text=True, check=False).stdout.strip()
    return f"the guest's ip lacks xps: {version}"


def idle_datagrams_move() -> str | None:
    """A connected datagram socket chooses its queue anew when nothing of it is in flight, as TCP always did."""
    return None if RESELECTION.exists() else f"datagram sockets of kernel {os.uname().release} keep their queue"


def idle_datagrams_stay() -> str | None:
    """A connected datagram socket keeps its queue as long as its route."""
    return f"idle datagram sockets of kernel {os.uname().release} choose anew" if RESELECTION.exists() else None


def two_processors() -> str | None:
    """Two processors to send from (``kproof run --cpus 2``)."""
    count = len(os.sched_getaffinity(0))
    return None if count >= 2 else f"the guest has {count} processor: kproof run --cpus 2"


def pktgen() -> str | None:
    """The packet generator. Where it is a module, nothing but modprobe(8) makes the kernel load it."""
    files = Path("/proc/net/pktgen")
    if not files.exists() and kernel_config().get("NET_PKTGEN") == "m":
        subprocess.run(["modprobe", "--quiet", "pktgen"], check=False)
    return None if files.exists() else _lacks("pktgen", "NET_PKTGEN")


PROBES: dict[str, Callable[[], str | None]] = {
    "netkit": netkit,
    "netkit_queues": netkit_queues,
    "tcx": tcx,
    "redirect_peer": redirect_peer,
    "netns_cookie": netns_cookie,
    "nf_egress": nf_egress,
    "xps_bpf": xps_bpf,
    "xps_bpf_mprog": xps_bpf_mprog,
    "ip_xps": ip_xps,
    "two_processors": two_processors,
    "idle_datagrams_move": idle_datagrams_move,
    "idle_datagrams_stay": idle_datagrams_stay,
    "pktgen": pktgen,
    "sk_msg": lambda: _configured("sk_msg programs", "BPF_STREAM_PARSER"),
    "clsact": lambda: _configured("clsact with BPF classifiers", "NET_CLS_BPF"),
    "mirred": lambda: _configured("the tc action mirred", "NET_ACT_MIRRED"),
    "skbedit": lambda: _configured("the tc action skbedit", "NET_ACT_SKBEDIT"),
    "matchall": lambda: _configured("the tc classifier matchall", "NET_CLS_MATCHALL"),
    "bpf_events": lambda: _configured("bpf_trace_printk() and tracepoints", "BPF_EVENTS"),
    "team": lambda: _configured("the team device", "NET_TEAM"),
    "ifb": lambda: _configured("ifb", "IFB"),
    "vlan": lambda: _configured("VLAN devices", "VLAN_8021Q"),
    "vxlan": lambda: _configured("vxlan", "VXLAN"),
    "act_ct": lambda: _configured("the tc action ct", "NET_ACT_CT"),
    "esp": lambda: _configured("ESP", "INET_ESP"),
    "sch_prio": lambda: _configured("the qdisc prio", "NET_SCH_PRIO"),
    "nft_fwd": lambda: _configured("nft fwd", "NFT_FWD_NETDEV"),
    "nft_dup": lambda: _configured("nft dup", "NFT_DUP_NETDEV"),
    "vmap_stack": lambda: _configured("stacks with guard pages", "VMAP_STACK"),
    "nft_log": lambda: _configured("nft log to netlink", "NETFILTER_NETLINK_LOG"),
    "nft_limit": lambda: _configured("nft limit", "NFT_LIMIT"),
    "nft_fib": lambda: _configured("nft fib in family netdev", "NFT_FIB_NETDEV"),
    "nft_reject": lambda: _configured("nft reject in family netdev", "NFT_REJECT_NETDEV"),
    "nfnetlink_hook": lambda: _configured("the list of netfilter hooks", "NETFILTER_NETLINK_HOOK"),
}
"""By the name that ``@pytest.mark.feature`` takes."""
