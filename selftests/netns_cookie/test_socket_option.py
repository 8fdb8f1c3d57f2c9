"""SO_NETNS_COOKIE: what a namespace's cookie is, before any program asks for it.

Source of the promises: e8b9eab99232 "net: retrieve netns cookie via getsocketopt" (5.14), 3d368ab87cf6 "net: initialize
net->net_cookie at netns setup" (5.12).
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable

import pytest

from selftests.lib import expect
from selftests.lib.netns import SO_NETNS_COOKIE, Namespace, netns_cookie

pytestmark = pytest.mark.feature("netns_cookie")


def test_differs_between_namespaces(new_namespace: Callable[..., Namespace]) -> None:
    """The initial namespace and two new ones have three cookies, none of them zero."""
    with Namespace.current() as initial:
        cookies = [initial.cookie, new_namespace("one").cookie, new_namespace("two").cookie]
    assert 0 not in cookies
    assert len(set(cookies)) == 3, f"expected three cookies, got {cookies}"


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        pytest.param(socket.AF_INET, socket.SOCK_STREAM, id="IPv4-TCP"),
        pytest.param(socket.AF_INET6, socket.SOCK_DGRAM, id="IPv6-UDP"),
        pytest.param(socket.AF_UNIX, socket.SOCK_STREAM, id="unix"),
        pytest.param(socket.AF_PACKET, socket.SOCK_RAW, id="packet"),
        pytest.param(socket.AF_NETLINK, socket.SOCK_RAW, id="netlink"),
    ],
)
def test_is_the_same_for_every_family(namespace: Namespace, family: int, kind: int) -> None:
    """The cookie is the namespace's, not the socket's: sockets of all families tell the same."""
    expected = namespace.cookie
    with namespace.socket(family, kind) as sock:
        assert netns_cookie(sock) == expected


def test_is_stable_while_the_namespace_lives(new_namespace: Callable[..., Namespace]) -> None:
    """Other namespaces coming and going do not change it."""
    one = new_namespace("one")
    first = one.cookie
    for _ in range(3):
        Namespace.create("passer-by").close()
    assert one.cookie == first


def test_is_not_used_again(new_namespace: Callable[..., Namespace]) -> None:
    """3d368ab87cf6: cookies come from a counter, so that a namespace that is gone does not pass its own on."""
    seen = set()
    for number in range(10):
        with Namespace.create(f"number {number}") as namespace:
            seen.add(namespace.cookie)
    assert len(seen) == 10, f"ten namespaces one after another had {len(seen)} cookies"


def test_socket_keeps_the_namespace_it_was_made_in(new_namespace: Callable[..., Namespace]) -> None:
    """A socket asked from within another namespace tells its own one's cookie."""
    one, two = new_namespace("one"), new_namespace("two")
    expected = one.cookie
    with one.socket() as sock, two.entered():
        assert netns_cookie(sock) == expected


@pytest.mark.parametrize("length", [4, 7, 16])
def test_buffer_of_another_size_is_refused(namespace: Namespace, length: int) -> None:
    """sk_getsockopt(), SO_NETNS_COOKIE: a buffer that is not 8 bytes long is EINVAL."""
    with namespace.socket() as sock, expect.refusal(errno.EINVAL, f"a buffer of {length} bytes"):
        sock.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, length)


def test_cannot_be_set(namespace: Namespace) -> None:
    """sk_setsockopt() does not know it: ENOPROTOOPT."""
    with namespace.socket() as sock, expect.refusal(errno.ENOPROTOOPT, "setting the cookie"):
        sock.setsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, bytes(8))
