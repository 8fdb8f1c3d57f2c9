"""What runs in the pod: sockets that get what was redirected to it."""

from __future__ import annotations

import socket

from selftests.lib import wait
from selftests.redirect_peer.conftest import IPV4, Addresses, Way, assign


def pod_socket(way: Way, addresses: Addresses = IPV4) -> socket.socket:
    """A UDP socket in the pod, bound to its address, port 5000."""
    assign(way.pod, addresses)
    family = socket.AF_INET6 if ":" in addresses.pod else socket.AF_INET
    sock = way.cleanup.enter_context(way.pod.namespace.socket(family, socket.SOCK_DGRAM))
    sock.bind((addresses.pod, 5000))
    return sock


def received(sock: socket.socket, what: str = "no datagram came to the pod's socket") -> tuple[bytes, str, int]:
    """(payload, sender's address, sender's port) of the next datagram."""
    assert wait.readable(sock.fileno()), what
    payload, address = sock.recvfrom(1 << 16)
    return payload, address[0], address[1]
