"""What bpf_get_netns_cookie() tells, in every kind of program that has it: of a socket, of NULL, and of whom it is not.

Source of the promises: f318903c0bf4 "bpf: Add netns cookie and enable it for bpf cgroup hooks" (5.7), f1248dee954c
(sockopt), 6cf1770d63dc (sockops), fab60e29fcc6 (sk_msg), eb62f49de7ec (tc), c221d3744ad3 (cgroup_skb);
net/core/filter.c, kernel/bpf/cgroup.c. Of the context it is the cookie of the socket's namespace, of NULL that of the
initial namespace, wherever the program runs. Where it matters the test's thread is in a third namespace, ``elsewhere``,
so that neither can be taken for that of the task.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable
from contextlib import ExitStack
from enum import IntEnum

import pytest

from selftests.lib import asm, bpf, hooks, packet, programs, wait
from selftests.lib.bpf import AttachType, Counters, ProgType, Verdict
from selftests.lib.libbpf import Object
from selftests.lib.netns import Namespace
from selftests.lib.privileges import in_child
from selftests.netns_cookie.conftest import Cgroup
from selftests.netns_cookie.hooks import HOOKS, Hook, Noted, connect, load, noted, noting

# since 5.14, SO_NETNS_COOKIE (e8b9eab99232) tells what the helper should
pytestmark = [pytest.mark.feature("netns_cookie"), pytest.mark.since("5.14")]

CONNECT4 = next(hook for hook in HOOKS if hook.attach == AttachType.CGROUP_INET4_CONNECT)


@pytest.mark.promise("of-context", "of-null")
@pytest.mark.parametrize("hook", [pytest.param(one, id=one.title, marks=pytest.mark.since(one.since)) for one in HOOKS])
def test_cgroup_hook(
    new_namespace: Callable[..., Namespace],
    cgroup: Cgroup,
    counters: Counters,
    initial_cookie: int,
    elsewhere: int,
    hook: Hook,
) -> None:
    """In two namespaces, one after another: the context's cookie is theirs, that of NULL the initial one's."""
    namespaces = [new_namespace(name, quiet=False) for name in ("one", "two")]
    cookies = [namespace.cookie for namespace in namespaces]
    with load(hook, noting(counters)) as program, bpf.cgroup_link(program, cgroup.fd, hook.attach), cgroup.entered():
        for runs, (namespace, cookie) in enumerate(zip(namespaces, cookies, strict=True), start=1):
            hook.act(namespace)
            expected = Noted(of_context=cookie, of_null=initial_cookie, runs=runs)
            assert noted(counters) == expected, (
                f"noted in namespace {namespace.name}, called from one whose cookie is {elsewhere}"
            )


# --- programs on TCP connections -------------------------------------------------------------------------------------


class Op(IntEnum):
    """BPF_SOCK_OPS_…: enum of include/uapi/linux/bpf.h."""

    TIMEOUT_INIT = 1
    TCP_CONNECT_CB = 3
    ACTIVE_ESTABLISHED_CB = 4
    PASSIVE_ESTABLISHED_CB = 5


def tcp_pair(
    client_in: Namespace, server_in: Namespace, cleanup: ExitStack, address: str = "127.0.0.1"
) -> list[socket.socket]:
    """Two ends of a TCP connection: the connecting one first."""
    listener = cleanup.enter_context(server_in.socket(socket.AF_INET, socket.SOCK_STREAM))
    listener.bind((address, 0))
    listener.listen(1)
    client = cleanup.enter_context(client_in.socket(socket.AF_INET, socket.SOCK_STREAM))
    client.connect(listener.getsockname())
    return [client, cleanup.enter_context(listener.accept()[0])]


@pytest.mark.promise("of-context", "of-null", "sockops")
@pytest.mark.since("5.15")
@pytest.mark.parametrize(
    ("op", "of_server"),
    [
        pytest.param(Op.TCP_CONNECT_CB, False, id="connect-callback-of-the-client"),
        pytest.param(Op.ACTIVE_ESTABLISHED_CB, False, id="established-callback-of-the-client"),
        pytest.param(Op.PASSIVE_ESTABLISHED_CB, True, id="established-callback-of-the-server"),
    ],
)
def test_sockops(
    new_namespace: Callable[..., Namespace],
    cgroup: Cgroup,
    counters: Counters,
    initial_cookie: int,
    cleanup: ExitStack,
    elsewhere: int,
    op: Op,
    of_server: bool,
) -> None:
    """6cf1770d63dc: of a connection between two namespaces, each end's callbacks tell that end's cookie."""
    client, server = new_namespace("client"), new_namespace("server")
    near, far = client.rtnl.add_veth("near", "far", server)
    near.add_address("10.1.0.1/24")
    far.add_address("10.1.0.2/24")
    expected = Noted((server if of_server else client).cookie, initial_cookie, runs=1)
    code = asm.program(programs.if_field(programs.SOCK_OPS_OP, op, noting(counters)), programs.ret(1))
    with (
        bpf.load(ProgType.SOCK_OPS, code) as program,
        bpf.cgroup_link(program, cgroup.fd, AttachType.CGROUP_SOCK_OPS),
        cgroup.entered(),
    ):
        tcp_pair(client, server, cleanup, "10.1.0.2")
    assert noted(counters) == expected, f"noted at {op.name}, called from a namespace whose cookie is {elsewhere}"


@pytest.mark.promise("sockops")
@pytest.mark.since("5.15")
def test_sockops_of_a_connection_request(
    namespace: Namespace, cgroup: Cgroup, counters: Counters, cleanup: ExitStack
) -> None:
    """At BPF_SOCK_OPS_TIMEOUT_INIT of a SYN, the context's socket is no more than a request: it has its namespace."""
    cookie = namespace.cookie
    request_only = programs.if_field(programs.SOCK_OPS_IS_FULLSOCK, 0, noting(counters))
    code = asm.program(programs.if_field(programs.SOCK_OPS_OP, Op.TIMEOUT_INIT, request_only), programs.ret(1))
    with (
        bpf.load(ProgType.SOCK_OPS, code) as program,
        bpf.cgroup_link(program, cgroup.fd, AttachType.CGROUP_SOCK_OPS),
        cgroup.entered(),
    ):
        tcp_pair(namespace, namespace, cleanup)
    assert (counters[2], counters[0]) == (1, cookie), "(runs, cookie) for the request"


@pytest.mark.feature("sk_msg")
@pytest.mark.promise("of-context", "of-null", "sk-msg")
@pytest.mark.since("5.15")
def test_sk_msg(
    new_namespace: Callable[..., Namespace],
    counters: Counters,
    initial_cookie: int,
    cleanup: ExitStack,
    elsewhere: int,
) -> None:
    """fab60e29fcc6: for a message of a socket in a sockmap, the cookie of that socket's namespace; two of them."""
    sockets = bpf.create_map(bpf.MAP_TYPE_SOCKMAP, key_size=4, value_size=4, entries=1, name="sockets")
    cleanup.callback(os.close, sockets)
    code = asm.program(noting(counters), programs.ret(1))  # SK_PASS
    program = cleanup.enter_context(bpf.load(ProgType.SK_MSG, code, expected_attach=AttachType.SK_MSG_VERDICT))
    bpf.attach(sockets, program.fd, AttachType.SK_MSG_VERDICT)
    cleanup.callback(bpf.detach, sockets, program.fd, AttachType.SK_MSG_VERDICT)
    for runs, name in enumerate(("one", "two"), start=1):
        namespace = new_namespace(name)
        expected = Noted(namespace.cookie, initial_cookie, runs)
        client, server = tcp_pair(namespace, namespace, cleanup)
        bpf.update(sockets, bytes(4), client.fileno().to_bytes(4, "little"))
        client.sendall(b"message")
        assert server.recv(100) == b"message"
        assert noted(counters) == expected, f"noted in {name}, called from a namespace whose cookie is {elsewhere}"


# --- programs on packets, of newer kernels ---------------------------------------------------------------------------


@pytest.mark.promise("of-context", "of-null", "tc")
@pytest.mark.since("6.13")
def test_tc_where_the_packet_leaves(
    new_namespace: Callable[..., Namespace], counters: Counters, initial_cookie: int, cleanup: ExitStack
) -> None:
    """eb62f49de7ec: at tcx egress, the cookie of the namespace of the packet's socket; in two of them."""
    program = cleanup.enter_context(bpf.load_classifier(noting(counters), programs.ret(Verdict.NEXT)))
    for runs, name in enumerate(("one", "two"), start=1):
        namespace = new_namespace(name)
        device = namespace.rtnl.add_dummy("d0")
        expected = Noted(namespace.cookie, initial_cookie, runs)
        with hooks.link(program, device, AttachType.TCX_EGRESS), namespace.socket() as sock:
            device.add_address("10.1.0.1/24")
            device.add_neighbour("10.1.0.2", bytes.fromhex("020000000002"))
            sock.sendto(b"cookie", ("10.1.0.2", 9))
        assert noted(counters) == expected, f"noted in {name}"


@pytest.mark.promise("tc")
@pytest.mark.since("6.13")
def test_tc_tells_the_pod_at_the_hosts_end(
    new_namespace: Callable[..., Namespace], counters: Counters, cleanup: ExitStack
) -> None:
    """What eb62f49de7ec is for: at tcx ingress of the host's end of a veth, the cookie of the pod that sent."""
    host, pod = new_namespace("host"), new_namespace("pod")
    inside, outside = pod.rtnl.add_veth("inside", "outside", host)
    inside.add_address("10.1.0.2/24")
    inside.add_neighbour("10.1.0.1", outside.mac)
    note = programs.if_udp_port(9, [*noting(counters), *programs.ret(Verdict.DROP)])
    program = cleanup.enter_context(bpf.load_classifier(note, programs.ret(Verdict.NEXT)))
    cleanup.enter_context(hooks.link(program, outside, AttachType.TCX_INGRESS))
    with pod.socket() as sock:
        sock.sendto(b"cookie", ("10.1.0.1", 9))
    wait.until(lambda: counters[2], "the program at the host's end to run")
    assert counters[0] == pod.cookie, f"cookie told at the host's end; the host's own is {host.cookie}"


@pytest.mark.promise("tc")
@pytest.mark.since("6.13")
def test_tc_packet_without_a_socket(
    namespace: Namespace, counters: Counters, initial_cookie: int, cleanup: ExitStack
) -> None:
    """eb62f49de7ec: what no socket sent, such as the kernel's ARP request, has the initial namespace's cookie."""
    device, _ = namespace.rtnl.add_veth("near", "far")
    device.add_address("10.1.0.1/24")
    note = programs.if_protocol(packet.ETH_P_ARP, noting(counters))
    program = cleanup.enter_context(bpf.load_classifier(note, programs.ret(Verdict.NEXT)))
    with hooks.link(program, device, AttachType.TCX_EGRESS), namespace.socket() as sock:
        sock.sendto(b"who is it", ("10.1.0.2", 9))
        wait.until(lambda: counters[2], "an ARP request to leave")
    assert counters[0] == initial_cookie, f"cookie of the ARP request; the namespace's own is {namespace.cookie}"


@pytest.mark.promise("of-context", "of-null", "cgroup-skb")
@pytest.mark.since("6.15")
@pytest.mark.parametrize("attach", [AttachType.CGROUP_INET_INGRESS, AttachType.CGROUP_INET_EGRESS])
def test_cgroup_skb(
    new_namespace: Callable[..., Namespace],
    cgroup: Cgroup,
    counters: Counters,
    initial_cookie: int,
    attach: AttachType,
) -> None:
    """c221d3744ad3: for a packet in or out of a socket of the cgroup, the cookie of its namespace; in two of them."""
    namespaces = [new_namespace(name) for name in ("one", "two")]
    cookies = [namespace.cookie for namespace in namespaces]
    hook = Hook(ProgType.CGROUP_SKB, attach, connect(socket.AF_INET))
    with load(hook, noting(counters)) as program, bpf.cgroup_link(program, cgroup.fd, attach), cgroup.entered():
        for runs, (namespace, cookie) in enumerate(zip(namespaces, cookies, strict=True), start=1):
            with namespace.socket() as sender, namespace.socket() as receiver:
                receiver.bind(("127.0.0.1", 0))
                sender.sendto(b"cookie", receiver.getsockname())
                receiver.recv(100)
            assert noted(counters) == Noted(cookie, initial_cookie, runs), f"noted in {namespace.name}"


# --- whose cookie it is ----------------------------------------------------------------------------------------------


@pytest.mark.promise("socket-not-task")
def test_socket_is_asked_not_the_task(
    new_namespace: Callable[..., Namespace], cgroup: Cgroup, counters: Counters
) -> None:
    """A socket made in one namespace and connected from within another one has the first one's cookie."""
    one, two = new_namespace("one"), new_namespace("two")
    expected = one.cookie
    with (
        load(CONNECT4, noting(counters)) as program,
        bpf.cgroup_link(program, cgroup.fd, CONNECT4.attach),
        cgroup.entered(),
        one.socket() as sock,
        two.entered(),
    ):
        sock.connect(("127.0.0.1", 9))
    assert counters[0] == expected, f"cookie noted; {expected} is the socket's namespace's, {two.cookie} the task's"


@pytest.mark.promise("socket-not-task")
def test_socket_passed_to_a_process_in_another_namespace(
    new_namespace: Callable[..., Namespace], cgroup: Cgroup, counters: Counters
) -> None:
    """A process that got a socket by SCM_RIGHTS (unix(7)) connects it: the cookie is still the socket's namespace's."""
    one, two = new_namespace("one"), new_namespace("two")
    expected = one.cookie
    ours, theirs = socket.socketpair()

    def receive_and_connect() -> None:
        with two.entered():
            _, descriptors, _, _ = socket.recv_fds(theirs, 1, 1)
            with socket.socket(fileno=descriptors[0]) as passed:
                passed.connect(("127.0.0.1", 9))

    with (
        ours,
        theirs,
        load(CONNECT4, noting(counters)) as program,
        bpf.cgroup_link(program, cgroup.fd, CONNECT4.attach),
        cgroup.entered(),
    ):
        with one.socket() as sock:
            socket.send_fds(ours, [b"!"], [sock.fileno()])
        in_child(receive_and_connect)
    assert counters[0] == expected, f"cookie noted; {expected} is the socket's namespace's, {two.cookie} the task's"


@pytest.mark.promise("socket-not-task")
def test_socket_keeps_the_cookie_when_the_namespace_is_left(
    new_namespace: Callable[..., Namespace], cgroup: Cgroup, counters: Counters
) -> None:
    """A socket is all that holds its namespace: the helper tells the same cookie as while others held it."""
    one = new_namespace("one")
    expected = one.cookie
    with (
        load(CONNECT4, noting(counters)) as program,
        bpf.cgroup_link(program, cgroup.fd, CONNECT4.attach),
        cgroup.entered(),
        one.socket() as sock,
    ):
        one.close()
        sock.connect(("127.0.0.1", 9))
    assert counters[0] == expected, "cookie noted"


@pytest.mark.promise("map-key")
def test_counts_by_namespace(new_namespace: Callable[..., Namespace], cgroup: Cgroup) -> None:
    """bpf/netns_cookie.bpf.c, compiled by clang: with the cookie as a map's key, each namespace has its own count."""
    namespaces = [new_namespace(name) for name in ("one", "two", "three")]
    cookies = [namespace.cookie for namespace in namespaces]
    with (
        Object("netns_cookie") as compiled,
        bpf.cgroup_link(compiled.program("count_by_namespace"), cgroup.fd, CONNECT4.attach),
        cgroup.entered(),
    ):
        for connects, namespace in enumerate(namespaces, start=1):
            for _ in range(connects):
                CONNECT4.act(namespace)
        counts = [bpf.lookup(compiled.map_fd("connects"), struct.pack("<Q", cookie), 8) for cookie in cookies]
    assert [int.from_bytes(count, "little") for count in counts] == [1, 2, 3], "connects of each namespace"


@pytest.mark.promise("sixty-four-bits")
def test_whole_64_bits_come_back(namespace: Namespace, cgroup: Cgroup, counters: Counters) -> None:
    """The helper returns a u64 and leaves no other bit set: r0, stored whole, equals the socket option's 8 bytes."""
    expected = namespace.cookie
    store = [*asm.map_value(asm.R1, counters.fd, 0), asm.store(8, asm.R1, asm.R0, 0)]
    ask = [asm.mov_imm(asm.R0, -1), asm.mov_reg(asm.R1, asm.R6), asm.call(programs.HELPER_GET_NETNS_COOKIE), *store]
    with (
        load(CONNECT4, ask) as program,
        bpf.cgroup_link(program, cgroup.fd, CONNECT4.attach),
        cgroup.entered(),
    ):
        CONNECT4.act(namespace)
    assert counters[0] == expected, f"expected {expected:#018x}, r0 was {counters[0]:#018x}"
