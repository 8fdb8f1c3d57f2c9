"""Two pods that talk through their host, redirected both ways: TCP, UDP and ping, between devices of each kind.

Source of the promises: 9aa1206e8f48 "bpf: Add redirect_peer helper" (5.10), whose example is pods behind one host;
84316ca4e100 (bpf_skb_change_head() for what comes from a device of layer 3).
"""

from __future__ import annotations

import hashlib
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from selftests.lib import bpf, hooks, packet, programs, wait
from selftests.lib.bpf import AttachType
from selftests.lib.capture import Capture
from selftests.lib.netns import Namespace
from selftests.lib.rtnl import Link
from selftests.lib.tun import Tun
from selftests.redirect_peer.conftest import FAMILIES, IPV4, IPV6, KINDS, Addresses, assign, make_pair, with_ipv6

pytestmark = pytest.mark.feature("redirect_peer")

BULK = bytes(range(256)) * 800
"""Some two hundred kilobytes: TCP sends them in segments of many packets each."""


@dataclass(frozen=True)
class Pod:
    """One of two pods: its own end, the host's end, and both its addresses in a network with the other."""

    link: Link
    door: Link
    number: int

    def address(self, family: Addresses) -> str:
        return f"10.3.0.{self.number}" if family is IPV4 else f"fd00:3::{self.number}"

    def socket(self, family: Addresses, kind: int, protocol: int = 0) -> socket.socket:
        """A socket of the pod with a limit on how long it waits."""
        sock = self.link.namespace.socket(socket.AF_INET if family is IPV4 else socket.AF_INET6, kind, protocol)
        sock.settimeout(wait.limit(5))
        return sock


@pytest.fixture
def make_pods(new_namespace: Callable[..., Namespace], cleanup: ExitStack) -> Callable[[str], tuple[Pod, Pod]]:
    """``make_pods("veth")``: what comes out of one pod, at the host's end of its pair, goes into the other."""

    def make(kind: str) -> tuple[Pod, Pod]:
        host = new_namespace("host")
        pods = []
        for number in (1, 2):
            namespace = with_ipv6(new_namespace(f"pod{number}", quiet=False))
            door, link = make_pair(kind, host, namespace, door=f"door{number}")
            pods.append(Pod(link, door, number))
        one, two = pods
        for pod, other in ((one, two), (two, one)):
            for family in (IPV4, IPV6):
                assign(pod.link, Addresses("", pod.address(family), family.length))
                # the host is the pod's next hop, as a gateway would be
                pod.link.add_neighbour(other.address(family), pod.door.mac or packet.NO_MAC)
            program = cleanup.enter_context(bpf.load_classifier(programs.redirect_peer(other.door.index)))
            cleanup.enter_context(hooks.link(program, pod.door, AttachType.TCX_INGRESS))
        return one, two

    return make


MakePods = Callable[[str], tuple[Pod, Pod]]


@pytest.mark.promise("both-directions")
@KINDS
@FAMILIES
def test_datagrams(make_pods: MakePods, kind: str, addresses: Addresses) -> None:
    """UDP there and back: the answer reaches the socket that asked."""
    one, two = make_pods(kind)
    with one.socket(addresses, socket.SOCK_DGRAM) as asking, two.socket(addresses, socket.SOCK_DGRAM) as answering:
        answering.bind((two.address(addresses), 5000))
        asking.sendto(b"there", (two.address(addresses), 5000))
        question, asker = answering.recvfrom(100)
        answering.sendto(question + b" and back", asker)
        assert asking.recv(100) == b"there and back"
        assert asker[0] == one.address(addresses)


def transfer(sender: socket.socket, receiver: socket.socket) -> None:
    """All of BULK, from one end of a connection to the other."""
    thread = threading.Thread(target=sender.sendall, args=(BULK,))
    thread.start()
    digest, left = hashlib.sha256(), len(BULK)
    while left and (part := receiver.recv(left)):
        digest.update(part)
        left -= len(part)
    thread.join()
    assert left == 0, f"the connection ended {left} bytes before the end"
    assert digest.digest() == hashlib.sha256(BULK).digest(), "what came is not what was sent"


@pytest.mark.promise("both-directions", "gso")
@KINDS
@FAMILIES
def test_connection(make_pods: MakePods, kind: str, addresses: Addresses) -> None:
    """TCP, two hundred kilobytes each way, in segments that are larger than the MTU until they are in the pod."""
    one, two = make_pods(kind)
    with one.socket(addresses, socket.SOCK_STREAM) as client, two.socket(addresses, socket.SOCK_STREAM) as listener:
        listener.bind((two.address(addresses), 5000))
        listener.listen(1)
        client.connect(listener.getsockname())
        with listener.accept()[0] as server, Capture(two.link) as captured:
            server.settimeout(wait.limit(5))
            transfer(client, server)
            transfer(server, client)
            longest = max(len(frame.raw) for frame in captured.pending())
    assert longest > 1514, f"the longest frame that came into the pod has {longest} bytes"


@pytest.mark.promise("both-directions")
@KINDS
@FAMILIES
def test_ping(make_pods: MakePods, kind: str, addresses: Addresses) -> None:
    """ICMP and ICMPv6: the other pod's kernel answers an echo request."""
    one, two = make_pods(kind)
    is_ipv4 = addresses is IPV4
    request, reply = (8, 0) if is_ipv4 else (128, 129)
    message = struct.pack("!BBHHH", request, 0, 0, 4711, 1) + b"ping"
    if is_ipv4:
        message = message[:2] + struct.pack("!H", packet.checksum(message)) + message[4:]
    protocol = socket.IPPROTO_ICMP if is_ipv4 else socket.IPPROTO_ICMPV6
    with one.socket(addresses, socket.SOCK_RAW, protocol) as sock:
        sock.sendto(message, (two.address(addresses), 0))
        answer, sender = sock.recvfrom(1000)
    answer = answer[20:] if is_ipv4 else answer
    assert (answer[0], answer[4:], sender[0]) == (reply, message[4:], two.address(addresses)), answer.hex(" ")


@pytest.mark.promise("from-layer-3")
@pytest.mark.fixed_in("84316ca4e100", mainline="5.15", match="no datagram came")
@KINDS
@FAMILIES
def test_out_of_a_tun_and_back(
    new_namespace: Callable[..., Namespace], cleanup: ExitStack, kind: str, addresses: Addresses
) -> None:
    """84316ca4e100: from a device of layer 3 with a MAC header before it (bpf_skb_change_head()) into the pod.

    The pod's answer goes back by bpf_redirect(), which takes the header off for the tun.
    """
    host, inside = new_namespace("host"), with_ipv6(new_namespace("pod", quiet=False))
    door, pod = make_pair(kind, host, inside)
    tun = cleanup.enter_context(Tun(host, "tun"))
    assign(pod, addresses)
    inside.rtnl.add_route(f"{addresses.outside}/{32 if addresses is IPV4 else 128}", device=pod.index)
    pod.add_neighbour(addresses.outside, door.mac or packet.NO_MAC)
    ethertype = packet.ETH_P_IP if addresses is IPV4 else packet.ETH_P_IPV6
    header = packet.ethernet(b"", dst=pod.mac or packet.NO_MAC, src=packet.NO_MAC, ethertype=ethertype)
    ways = (
        (tun.link, [*programs.push_ethernet(header), *programs.redirect_peer(door.index)]),
        (door, programs.redirect(tun.link.index)),
    )
    for device, steering in ways:
        program = cleanup.enter_context(bpf.load_classifier(steering))
        cleanup.enter_context(hooks.link(program, device, AttachType.TCX_INGRESS))
    with inside.socket(socket.AF_INET if addresses is IPV4 else socket.AF_INET6) as sock:
        sock.bind((addresses.pod, 5000))
        tun.write(packet.udp(b"there", src=addresses.outside, dst=addresses.pod, sport=4000, dport=5000))
        assert wait.readable(sock.fileno()), "no datagram came to the pod's socket"
        question, asker = sock.recvfrom(100)
        sock.sendto(question + b" and back", asker)
    answer = tun.packet_with(b"there and back")
    expected = packet.udp(b"there and back", src=addresses.pod, dst=addresses.outside, sport=5000, dport=4000)
    came = f"out of the tun came\n{packet.hexdump(answer)}"
    assert (len(answer), answer[0] >> 4) == (len(expected), expected[0] >> 4), f"(length, IP version): {came}"
