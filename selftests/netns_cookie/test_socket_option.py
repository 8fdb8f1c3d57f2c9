"""SO_NETNS_COOKIE: what a namespace's cookie is, before any program asks for it.

Source of the promises: e8b9eab99232 "net: retrieve netns cookie via getsocketopt" (5.14), sk_getsockopt() and
sk_setsockopt() of net/core/sock.c.
"""

from __future__ import annotations

import array
import ctypes
import errno
import os
import socket
from collections.abc import Callable, Iterator

import pytest

from selftests.lib import expect, privileges
from selftests.lib.netns import SO_NETNS_COOKIE, Namespace, netns_cookie

pytestmark = [pytest.mark.feature("netns_cookie"), pytest.mark.since("5.14")]  # SO_NETNS_COOKIE, e8b9eab99232

_libc = ctypes.CDLL(None, use_errno=True)

FAMILIES = [
    pytest.param(socket.AF_INET, socket.SOCK_STREAM, 0, id="IPv4-TCP"),
    pytest.param(socket.AF_INET, socket.SOCK_DGRAM, 0, id="IPv4-UDP"),
    pytest.param(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP, id="IPv4-raw"),
    pytest.param(socket.AF_INET6, socket.SOCK_STREAM, 0, id="IPv6-TCP"),
    pytest.param(socket.AF_INET6, socket.SOCK_DGRAM, 0, id="IPv6-UDP"),
    pytest.param(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6, id="IPv6-raw"),
    pytest.param(socket.AF_UNIX, socket.SOCK_STREAM, 0, id="unix-stream"),
    pytest.param(socket.AF_UNIX, socket.SOCK_DGRAM, 0, id="unix-datagram"),
    pytest.param(socket.AF_PACKET, socket.SOCK_RAW, 0, id="packet"),
    pytest.param(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE, id="netlink"),
]


def socket_option(sock: socket.socket, room: int, length: int | None = None) -> tuple[int, int, bytes]:
    """getsockopt(2) as it is: (errno, length told, buffer); ``room`` bytes of 0xaa, of which ``length`` are offered."""
    buffer = ctypes.create_string_buffer(b"\xaa" * room, room)
    told = ctypes.c_int(room if length is None else length)
    status = _libc.getsockopt(sock.fileno(), socket.SOL_SOCKET, SO_NETNS_COOKIE, buffer, ctypes.byref(told))
    return ctypes.get_errno() if status else 0, told.value, buffer.raw


@pytest.mark.promise("unique")
def test_differs_between_namespaces(new_namespace: Callable[..., Namespace]) -> None:
    """The initial namespace and two new ones have three cookies, none of them zero."""
    with Namespace.current() as initial:
        cookies = [initial.cookie, new_namespace("one").cookie, new_namespace("two").cookie]
    assert 0 not in cookies
    assert len(set(cookies)) == 3, f"expected three cookies, got {cookies}"


@pytest.mark.promise("same-for-all-sockets")
@pytest.mark.parametrize(("family", "kind", "protocol"), FAMILIES)
def test_is_the_same_for_every_family(
    namespace: Namespace, elsewhere: int, family: int, kind: int, protocol: int
) -> None:
    """The cookie is the namespace's, not the socket's, nor that of the task that asks: all families tell the same."""
    expected = namespace.cookie
    with namespace.socket(family, kind, protocol) as sock:
        assert netns_cookie(sock) == expected, f"the task's namespace has {elsewhere}"


def _one_of_each(namespace: Namespace) -> Iterator[socket.socket]:
    """A socket of each address family that the kernel has, whatever it is."""
    for family in range(1, 64):
        for kind in (socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
            try:
                yield namespace.socket(family, kind)
                break
            except OSError as error:
                if error.errno == errno.EAFNOSUPPORT:  # whatever the kind: each try may look for a module
                    break


@pytest.mark.promise("same-for-all-sockets")
def test_is_the_same_for_what_else_the_kernel_has(namespace: Namespace) -> None:
    """sk_getsockopt() is the same for all families: one socket of each that can be made tells the same cookie."""
    expected = namespace.cookie
    told = {}
    for sock in _one_of_each(namespace):
        with sock:
            told[sock.family] = netns_cookie(sock)
    assert len(told) >= 5, f"families that can be made: {sorted(told)}"
    wrong = {family: cookie for family, cookie in told.items() if cookie != expected}
    assert not wrong, f"expected {expected} for all of {sorted(told)}; by family, these differ: {wrong}"


@pytest.mark.promise("same-for-all-sockets")
def test_accepted_socket_has_the_listeners(new_namespace: Callable[..., Namespace]) -> None:
    """What accept(2) returns belongs to the listener's namespace, wherever the thread is that accepts."""
    one, two = new_namespace("one"), new_namespace("two")
    expected = one.cookie
    with (
        one.socket(socket.AF_INET, socket.SOCK_STREAM) as listener,
        one.socket(socket.AF_INET, socket.SOCK_STREAM) as client,
    ):
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        client.connect(listener.getsockname())
        with two.entered(), listener.accept()[0] as accepted:
            assert netns_cookie(accepted) == expected


@pytest.mark.promise("stable")
def test_is_stable_while_the_namespace_lives(new_namespace: Callable[..., Namespace]) -> None:
    """Other namespaces coming and going do not change it; nor does asking."""
    one = new_namespace("one")
    first = one.cookie
    for _ in range(3):
        Namespace.create("passer-by").close()
        assert one.cookie == first


@pytest.mark.promise("socket-not-task")
def test_socket_keeps_the_namespace_it_was_made_in(new_namespace: Callable[..., Namespace]) -> None:
    """A socket asked from within another namespace tells its own one's cookie."""
    one, two = new_namespace("one"), new_namespace("two")
    expected = one.cookie
    with one.socket() as sock, two.entered():
        assert netns_cookie(sock) == expected


@pytest.mark.promise("socket-not-task")
def test_socket_passed_to_a_process_in_another_namespace(new_namespace: Callable[..., Namespace]) -> None:
    """A process in another namespace that gets the socket by SCM_RIGHTS (unix(7)) is told the cookie of the first."""
    one, two = new_namespace("one"), new_namespace("two")
    ours, theirs = socket.socketpair()

    def receive_and_ask() -> tuple[int, int]:
        with two.entered():
            _, descriptors, _, _ = socket.recv_fds(theirs, 1, 1)
            with socket.socket(fileno=descriptors[0]) as passed, socket.socket() as own:
                return netns_cookie(passed), netns_cookie(own)

    with ours, theirs:
        with one.socket() as sock:
            socket.send_fds(ours, [b"!"], [sock.fileno()])
        assert privileges.in_child(receive_and_ask) == (one.cookie, two.cookie), "(cookie of the passed, of its own)"


@pytest.mark.promise("socket-not-task")
def test_socket_outlives_other_holders(new_namespace: Callable[..., Namespace]) -> None:
    """Once a socket is all that holds the namespace, and other namespaces came, it tells the same cookie."""
    one = new_namespace("one")
    expected = one.cookie
    with one.socket() as sock:
        one.close()
        new_namespace("another")
        assert netns_cookie(sock) == expected


@pytest.mark.promise("no-privilege")
def test_needs_no_privilege(namespace: Namespace) -> None:
    """sk_getsockopt() asks for no capability: a thread without CAP_NET_ADMIN and CAP_SYS_ADMIN is told."""
    expected = namespace.cookie
    lacking = (privileges.Capability.NET_ADMIN, privileges.Capability.SYS_ADMIN, privileges.Capability.BPF)
    with namespace.socket() as sock, privileges.without(*lacking):
        assert netns_cookie(sock) == expected


@pytest.mark.promise("option-length")
@pytest.mark.parametrize("length", [0, 1, 4, 7, 9, 12, 16])
def test_buffer_of_another_size_is_refused(namespace: Namespace, length: int) -> None:
    """sk_getsockopt(), SO_NETNS_COOKIE: a buffer that is not 8 bytes long is EINVAL, and stays as it was."""
    with namespace.socket() as sock:
        code, told, buffer = socket_option(sock, 16, length)
    assert code == errno.EINVAL, f"a buffer of {length} bytes: expected EINVAL, got {expect.name(code)}"
    assert (told, buffer) == (length, b"\xaa" * 16), "(length told, buffer) after the refusal"


@pytest.mark.promise("option-length")
def test_negative_size_is_refused(namespace: Namespace) -> None:
    """sk_getsockopt(): a negative length is EINVAL for every option."""
    with namespace.socket() as sock:
        code, _, buffer = socket_option(sock, 16, -8)
    assert code == errno.EINVAL, f"a length of -8: expected EINVAL, got {expect.name(code)}"
    assert buffer == b"\xaa" * 16, "the buffer after the refusal"


@pytest.mark.promise("option-length")
def test_eight_bytes_are_written(namespace: Namespace) -> None:
    """The option is a u64: 8 bytes are written, 8 are told, and the ninth byte of a longer buffer is left alone."""
    with namespace.socket() as sock:
        code, told, buffer = socket_option(sock, 16, 8)
    assert (code, told) == (0, 8), "(errno, length told)"
    assert buffer[8:] == b"\xaa" * 8, "bytes behind the option"
    assert int.from_bytes(buffer[:8], "little") == namespace.cookie


@pytest.mark.promise("option-length")
@pytest.mark.parametrize("which", ["the-buffer", "the-length"])
def test_bad_address_is_refused(namespace: Namespace, which: str) -> None:
    """getsockopt(2): an address that is not the caller's memory is EFAULT."""
    length = array.array("i", [8])
    buffer, told = ctypes.create_string_buffer(8), ctypes.c_void_p(length.buffer_info()[0])
    pair = (ctypes.c_void_p(1), told) if which == "the-buffer" else (buffer, ctypes.c_void_p(1))
    with namespace.socket() as sock:
        status = _libc.getsockopt(sock.fileno(), socket.SOL_SOCKET, SO_NETNS_COOKIE, *pair)
        code = ctypes.get_errno()
    assert (status, code) == (-1, errno.EFAULT), f"expected EFAULT, got {status}, {os.strerror(code)}"


@pytest.mark.promise("cannot-be-set")
@pytest.mark.parametrize(("family", "kind", "protocol"), FAMILIES)
def test_cannot_be_set(namespace: Namespace, family: int, kind: int, protocol: int) -> None:
    """sk_setsockopt() does not know it: ENOPROTOOPT for every family, and the cookie is what it was."""
    expected = namespace.cookie
    with namespace.socket(family, kind, protocol) as sock:
        with expect.refusal(errno.ENOPROTOOPT, "setting the cookie"):
            sock.setsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, (expected + 1).to_bytes(8, "little"))
        assert netns_cookie(sock) == expected, "the cookie after the attempt"
