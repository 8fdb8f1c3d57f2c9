"""Where bpf_get_netns_cookie() can be asked on a cgroup: each hook, and what makes the kernel run its program once.

An *act* gets a namespace whose sockets it makes and uses, wherever the calling thread is. The helper came to hooks of
sockets and addresses with f318903c0bf4 (5.7), to those of socket options with f1248dee954c (5.12).
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from selftests.lib import asm, bpf, programs
from selftests.lib.bpf import AttachType, Counters, ProgType
from selftests.lib.netns import Namespace

Act = Callable[[Namespace], None]

LOOPBACK: dict[int, str] = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
UNIX_NAME = b"\0kproof"
"""Abstract names belong to a network namespace (unix(7))."""

AF_INET, AF_INET6, AF_UNIX = socket.AF_INET, socket.AF_INET6, socket.AF_UNIX


@dataclass(frozen=True)
class Hook:
    """An attach type of programs on a cgroup."""

    kind: ProgType
    attach: AttachType
    act: Act
    since: str = "5.7"

    @property
    def title(self) -> str:
        return self.attach.name.removeprefix("CGROUP_").lower().replace("_", "-")


@dataclass(frozen=True)
class Noted:
    """What the program noted: the helper's answers in its last run, and how often it ran."""

    of_context: int
    of_null: int
    runs: int


def noting(counters: Counters) -> asm.Fragment:
    """A fragment that keeps ``bpf_get_netns_cookie()`` of the context and of NULL, for ``noted``."""
    return [
        *programs.netns_cookie(counters.fd, 0, of_context=True),
        *programs.netns_cookie(counters.fd, 1, of_context=False),
        *programs.count(counters.fd, 2),
    ]


def noted(counters: Counters) -> Noted:
    return Noted(*counters.read()[:3])


def load(hook: Hook, *fragments: asm.Fragment) -> bpf.Program:
    """A program for the hook that runs the fragments and allows what the hook is about."""
    return bpf.load(hook.kind, asm.program(*fragments, programs.ret(1)), expected_attach=hook.attach)


# --- acts ------------------------------------------------------------------------------------------------------------


def _pair(namespace: Namespace, family: int, holder: ExitStack) -> tuple[socket.socket, socket.socket, Any]:
    """Two datagram sockets, both with an address of their own, and that of the second."""
    first, second = (holder.enter_context(namespace.socket(family, socket.SOCK_DGRAM)) for _ in range(2))
    if family == AF_UNIX:
        first.bind(UNIX_NAME + b"-first")
        second.bind(UNIX_NAME)
        return first, second, UNIX_NAME
    first.bind((LOOPBACK[family], 0))
    second.bind((LOOPBACK[family], 0))
    return first, second, second.getsockname()


def create(namespace: Namespace) -> None:
    """One socket is made, and released."""
    namespace.socket(AF_INET, socket.SOCK_DGRAM).close()


def bind(family: int) -> Act:
    def act(namespace: Namespace) -> None:
        with namespace.socket(family, socket.SOCK_DGRAM) as sock:
            sock.bind((LOOPBACK[family], 0))

    return act


def connect(family: int) -> Act:
    def act(namespace: Namespace) -> None:
        with ExitStack() as holder:
            first, _, address = _pair(namespace, family, holder)
            first.connect(address)

    return act


def send(family: int) -> Act:
    def act(namespace: Namespace) -> None:
        with ExitStack() as holder:
            first, _, address = _pair(namespace, family, holder)
            first.sendto(b"cookie", address)

    return act


def receive(family: int) -> Act:
    def act(namespace: Namespace) -> None:
        with ExitStack() as holder:
            first, second, address = _pair(namespace, family, holder)
            first.sendto(b"cookie", address)
            second.recvfrom(100)

    return act


def ask_peer(family: int) -> Act:
    def act(namespace: Namespace) -> None:
        with ExitStack() as holder:
            first, _, address = _pair(namespace, family, holder)
            first.connect(address)
            first.getpeername()

    return act


def ask_own(family: int) -> Act:
    def act(namespace: Namespace) -> None:
        with namespace.socket(family, socket.SOCK_DGRAM) as sock:
            sock.bind(UNIX_NAME if family == AF_UNIX else (LOOPBACK[family], 0))
            sock.getsockname()

    return act


def get_option(namespace: Namespace) -> None:
    with namespace.socket() as sock:
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)


def set_option(namespace: Namespace) -> None:
    with namespace.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


HOOKS = (
    Hook(ProgType.CGROUP_SOCK, AttachType.CGROUP_INET_SOCK_CREATE, create),
    Hook(ProgType.CGROUP_SOCK, AttachType.CGROUP_INET_SOCK_RELEASE, create, since="5.9"),
    Hook(ProgType.CGROUP_SOCK, AttachType.CGROUP_INET4_POST_BIND, bind(AF_INET)),
    Hook(ProgType.CGROUP_SOCK, AttachType.CGROUP_INET6_POST_BIND, bind(AF_INET6)),
    Hook(ProgType.CGROUP_SOCK_ADDR, AttachType.CGROUP_INET4_BIND, bind(AF_INET)),
    Hook(ProgType.CGROUP_SOCK_ADDR, AttachType.CGROUP_INET6_BIND, bind(AF_INET6)),
    Hook(ProgType.CGROUP_SOCK_ADDR, AttachType.CGROUP_INET4_CONNECT, connect(AF_INET)),
    Hook(ProgType.CGROUP_SOCK_ADDR, AttachType.CGROUP_INET6_CONNECT, connect(AF_INET6)),
    Hook(ProgType.CGROUP_SOCK_ADDR, AttachType.CGROUP_UNIX_CONNECT, connect(AF_UNIX), since="6.7"),
    Hook(ProgType.CGROUP_SOCK_ADDR, AttachType.CGROUP_UDP4_SENDMSG, send(AF_INET)),
    Hook(ProgType.CGROUP_SOCK_ADDR, AttachType.CGROUP_UDP6_SENDMSG, send(AF_INET6)),
    Hook(ProgType.CGROUP_SOCK_ADDR, AttachType.CGROUP_UNIX_SENDMSG, send(AF_UNIX), since="6.7"),
    Hook(ProgType.CGROUP_SOCK_ADDR, AttachType.CGROUP_UDP4_RECVMSG, receive(AF_INET)),
    Hook(ProgType.CGROUP_SOCK_ADDR, AttachType.CGROUP_UDP6_RECVMSG, receive(AF_INET6)),
    Hook(ProgType.CGROUP_SOCK_ADDR, AttachType.CGROUP_UNIX_RECVMSG, receive(AF_UNIX), since="6.7"),
    Hook(ProgType.CGROUP_SOCK_ADDR, AttachType.CGROUP_INET4_GETPEERNAME, ask_peer(AF_INET), since="5.8"),
    Hook(ProgType.CGROUP_SOCK_ADDR, AttachType.CGROUP_INET6_GETPEERNAME, ask_peer(AF_INET6), since="5.8"),
    Hook(ProgType.CGROUP_SOCK_ADDR, AttachType.CGROUP_UNIX_GETPEERNAME, ask_peer(AF_UNIX), since="6.7"),
    Hook(ProgType.CGROUP_SOCK_ADDR, AttachType.CGROUP_INET4_GETSOCKNAME, ask_own(AF_INET), since="5.8"),
    Hook(ProgType.CGROUP_SOCK_ADDR, AttachType.CGROUP_INET6_GETSOCKNAME, ask_own(AF_INET6), since="5.8"),
    Hook(ProgType.CGROUP_SOCK_ADDR, AttachType.CGROUP_UNIX_GETSOCKNAME, ask_own(AF_UNIX), since="6.7"),
    Hook(ProgType.CGROUP_SOCKOPT, AttachType.CGROUP_GETSOCKOPT, get_option, since="5.12"),
    Hook(ProgType.CGROUP_SOCKOPT, AttachType.CGROUP_SETSOCKOPT, set_option, since="5.12"),
)
"""All hooks with sockets: kernel/bpf/cgroup.c, net/core/filter.c."""
