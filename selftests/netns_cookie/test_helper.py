"""bpf_get_netns_cookie() in every kind of program that has it on Linux 6.12, and in other than the initial namespace.

Source of the promises: f318903c0bf4 "bpf: Add netns cookie and enable it for bpf cgroup hooks" (5.7), 6cf1770d63dc
(sockops), fab60e29fcc6 (sk_msg); net/core/filter.c. Of the context it is the cookie of the socket's namespace, of NULL
that of the initial namespace, wherever the program runs. A helper that always told the initial namespace's cookie fails
here, and so does one that takes the task's namespace for the socket's.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from enum import IntEnum

import pytest

from selftests.lib import asm, bpf, expect, programs
from selftests.lib.bpf import AttachType, ProgType, kernel_version
from selftests.lib.libbpf import Object
from selftests.lib.netns import Namespace
from selftests.netns_cookie.conftest import Cgroup

pytestmark = pytest.mark.feature("netns_cookie")


class Hook(IntEnum):
    """enum hook of bpf/netns_cookie.bpf.c."""

    CONNECT4 = 0
    CONNECT6 = 1
    POST_BIND4 = 2
    POST_BIND6 = 3
    SOCK_CREATE = 4
    SENDMSG4 = 5
    SOCKOPS = 6
    SK_MSG = 7


@dataclass(frozen=True)
class Record:
    """struct record of bpf/netns_cookie.bpf.c."""

    of_context: int
    of_null: int
    runs: int


class Noter:
    """The programs of bpf/netns_cookie.bpf.c and what they noted."""

    def __init__(self, loaded: Object) -> None:
        self.object = loaded

    def record(self, hook: Hook) -> Record:
        raw = bpf.lookup(self.object.map_fd("records"), struct.pack("<I", hook), 24)
        return Record(*struct.unpack("<QQQ", raw))

    def add_to_sockmap(self, sock: socket.socket) -> None:
        bpf.update(self.object.map_fd("sockets"), bytes(4), struct.pack("<I", sock.fileno()))


@pytest.fixture(scope="module")
def compiled() -> Iterator[Object]:
    """The object is loaded once: programs start to work for a test when they are linked to its cgroup."""
    with Object("netns_cookie") as loaded:
        yield loaded


@pytest.fixture
def noter(compiled: Object) -> Noter:
    for hook in Hook:
        bpf.update(compiled.map_fd("records"), struct.pack("<I", hook), bytes(24))
    return Noter(compiled)


@pytest.fixture
def initial_cookie() -> int:
    """SO_NETNS_COOKIE of the namespace that tests start in, which is the initial one."""
    with Namespace.current() as initial:
        return initial.cookie


def connect(namespace: Namespace, family: int = socket.AF_INET) -> None:
    """Connect a UDP socket to loopback; no packet is sent."""
    with namespace.socket(family, socket.SOCK_DGRAM) as sock:
        sock.connect(("::1" if family == socket.AF_INET6 else "127.0.0.1", 9))


def bind(namespace: Namespace, family: int = socket.AF_INET) -> None:
    with namespace.socket(family, socket.SOCK_DGRAM) as sock:
        sock.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))


def create(namespace: Namespace) -> None:
    namespace.socket(socket.AF_INET, socket.SOCK_DGRAM).close()


def send(namespace: Namespace) -> None:
    with namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"cookie", ("127.0.0.1", 9))


def tcp_pair(namespace: Namespace, cleanup: ExitStack) -> tuple[socket.socket, socket.socket]:
    """Two ends of a TCP connection over loopback: the connecting one first."""
    listener = cleanup.enter_context(namespace.socket(socket.AF_INET, socket.SOCK_STREAM))
    listener.bind(("127.0.0.1", 0))
    listener.listen(1)
    client = cleanup.enter_context(namespace.socket(socket.AF_INET, socket.SOCK_STREAM))
    client.connect(listener.getsockname())
    return client, cleanup.enter_context(listener.accept()[0])


CASES = [
    pytest.param("connect4", AttachType.CGROUP_INET4_CONNECT, Hook.CONNECT4, connect, id="connect4"),
    pytest.param(
        "connect6",
        AttachType.CGROUP_INET6_CONNECT,
        Hook.CONNECT6,
        lambda namespace: connect(namespace, socket.AF_INET6),
        id="connect6",
    ),
    pytest.param("post_bind4", AttachType.CGROUP_INET4_POST_BIND, Hook.POST_BIND4, bind, id="post_bind4"),
    pytest.param(
        "post_bind6",
        AttachType.CGROUP_INET6_POST_BIND,
        Hook.POST_BIND6,
        lambda namespace: bind(namespace, socket.AF_INET6),
        id="post_bind6",
    ),
    pytest.param("sock_create", AttachType.CGROUP_INET_SOCK_CREATE, Hook.SOCK_CREATE, create, id="sock_create"),
    pytest.param("sendmsg4", AttachType.CGROUP_UDP4_SENDMSG, Hook.SENDMSG4, send, id="sendmsg4"),
]


@pytest.mark.parametrize(("program", "attach_type", "hook", "act"), CASES)
def test_cgroup_programs(
    new_namespace: Callable[..., Namespace],
    cgroup: Cgroup,
    noter: Noter,
    initial_cookie: int,
    program: str,
    attach_type: AttachType,
    hook: Hook,
    act: Callable[[Namespace], None],
) -> None:
    """In two namespaces, one after another: the context's cookie is theirs, that of NULL the initial one's."""
    namespaces = [new_namespace(name, quiet=False) for name in ("one", "two")]
    cookies = [namespace.cookie for namespace in namespaces]
    with bpf.cgroup_link(noter.object.program(f"at_{program}"), cgroup.fd, attach_type), cgroup.entered():
        for runs, (namespace, cookie) in enumerate(zip(namespaces, cookies, strict=True), start=1):
            act(namespace)
            expected = Record(of_context=cookie, of_null=initial_cookie, runs=runs)
            assert noter.record(hook) == expected, f"noted in namespace {namespace.name}"


def test_sockops(namespace: Namespace, cgroup: Cgroup, noter: Noter, initial_cookie: int, cleanup: ExitStack) -> None:
    """6cf1770d63dc: at BPF_SOCK_OPS_TCP_CONNECT_CB, the cookie of the connecting socket's namespace."""
    expected = Record(namespace.cookie, initial_cookie, runs=1)
    with bpf.cgroup_link(noter.object.program("at_sockops"), cgroup.fd, AttachType.CGROUP_SOCK_OPS), cgroup.entered():
        tcp_pair(namespace, cleanup)
    assert noter.record(Hook.SOCKOPS) == expected, "noted at the connect callback"


@pytest.mark.feature("sk_msg")
def test_sk_msg(namespace: Namespace, noter: Noter, initial_cookie: int, cleanup: ExitStack) -> None:
    """fab60e29fcc6: for a message of a socket in a sockmap, the cookie of that socket's namespace."""
    expected = Record(namespace.cookie, initial_cookie, runs=1)
    client, server = tcp_pair(namespace, cleanup)
    sockets, program = noter.object.map_fd("sockets"), noter.object.program("at_sk_msg")
    bpf.attach(sockets, program.fd, AttachType.SK_MSG_VERDICT)
    cleanup.callback(bpf.detach, sockets, program.fd, AttachType.SK_MSG_VERDICT)
    noter.add_to_sockmap(client)
    client.sendall(b"message")
    assert server.recv(100) == b"message"
    assert noter.record(Hook.SK_MSG) == expected, "noted for the message"


def test_socket_is_asked_not_the_task(new_namespace: Callable[..., Namespace], cgroup: Cgroup, noter: Noter) -> None:
    """A socket made in one namespace and connected from within another one has the first one's cookie."""
    one, two = new_namespace("one"), new_namespace("two")
    expected = one.cookie
    program = noter.object.program("at_connect4")
    link = bpf.cgroup_link(program, cgroup.fd, AttachType.CGROUP_INET4_CONNECT)
    with link, cgroup.entered(), one.socket() as sock, two.entered():
        sock.connect(("127.0.0.1", 9))
    assert noter.record(Hook.CONNECT4).of_context == expected, "cookie of the socket's namespace"


def cookie_program(counters: bpf.Counters, argument: asm.Fragment) -> list[asm.Insn]:
    """Call the helper with what ``argument`` puts into r1 and allow what the hook is about."""
    store = [*asm.map_value(asm.R1, counters.fd, 0), asm.store(8, asm.R1, asm.R0, 0)]
    return asm.program(argument, [asm.call(programs.HELPER_GET_NETNS_COOKIE)], store, programs.ret(1))


def test_whole_64_bits_come_back(namespace: Namespace, cgroup: Cgroup, counters: bpf.Counters) -> None:
    """The helper returns a u64: stored whole by a program of this test, it equals the socket option's 8 bytes."""
    expected = namespace.cookie
    code = cookie_program(counters, [asm.mov_reg(asm.R1, asm.R6)])
    with (
        bpf.load(ProgType.CGROUP_SOCK_ADDR, code, expected_attach=AttachType.CGROUP_INET4_CONNECT) as program,
        bpf.cgroup_link(program, cgroup.fd, AttachType.CGROUP_INET4_CONNECT),
        cgroup.entered(),
    ):
        connect(namespace)
    assert counters[0] == expected, "cookie stored by the program"


@pytest.mark.parametrize(
    "argument",
    [
        pytest.param([asm.mov_imm(asm.R1, 1)], id="a-number"),
        pytest.param([asm.mov_reg(asm.R1, asm.R6), asm.add_imm(asm.R1, 8)], id="a-pointer-past-the-context"),
        pytest.param([asm.mov_reg(asm.R1, asm.R10)], id="the-frame-pointer"),
    ],
)
def test_verifier_wants_context_or_null(counters: bpf.Counters, argument: asm.Fragment) -> None:
    """ARG_PTR_TO_CTX_OR_NULL (f318903c0bf4): anything else is refused when the program is loaded."""
    code = cookie_program(counters, argument)
    with pytest.raises(OSError) as caught:
        bpf.load(ProgType.CGROUP_SOCK_ADDR, code, expected_attach=AttachType.CGROUP_INET4_CONNECT).close()
    assert caught.value.errno in (errno.EACCES, errno.EINVAL), expect.name(caught.value.errno or 0)
    assert "R1" in str(caught.value), f"the verifier does not speak of the argument: {caught.value}"


@pytest.mark.parametrize(
    ("kind", "since"),
    [
        pytest.param(ProgType.SCHED_CLS, (6, 13), id="tc-since-6.13"),
        pytest.param(ProgType.CGROUP_SKB, (6, 15), id="cgroup_skb-since-6.15"),
    ],
)
def test_program_types_that_have_it(counters: bpf.Counters, kind: ProgType, since: tuple[int, int]) -> None:
    """eb62f49de7ec (tc), c221d3744ad3 (cgroup_skb): older kernels refuse the helper to these types, with EINVAL."""
    code = cookie_program(counters, [asm.mov_reg(asm.R1, asm.R6)])
    if kernel_version() >= since:
        bpf.load(kind, code).close()
    else:
        with expect.refusal(errno.EINVAL, f"the helper in a program of type {kind.name}"):
            bpf.load(kind, code).close()
