"""Which packets the hook sees, what programs can go by, and who else has a say: sockets, XPS maps, the tap's steering.

Source: patches/xps_bpf (netdev_pick_tx(), tun_select_queue()).
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from selftests.lib import asm, bpf, capture, hooks, packet, pktgen, programs, txqueues
from selftests.lib.bpf import AttachType
from selftests.lib.netns import Namespace
from selftests.lib.tap import Tap
from selftests.lib.txqueues import TxQueues, XpsMaps, processors
from selftests.lib.xps import Attachment
from selftests.xps_bpf.conftest import KINDS, NEIGHBOUR_MAC, NETKIT, Device, Load, MakeDevice

pytestmark = pytest.mark.feature("xps_bpf")

SOL_UDP, UDP_SEGMENT = 17, 103
"""include/uapi/linux/udp.h"""


@pytest.fixture
def steer(cleanup: ExitStack) -> Callable[..., None]:
    """``steer(device, fragment, …)``: a program for the rest of the test; it says -1 where the fragments do not end."""

    def attach(device: Device, *fragments: asm.Fragment) -> None:
        program = cleanup.enter_context(bpf.load_filter(*fragments, programs.ret(-1)))
        cleanup.enter_context(Attachment("link", program, device.link))

    return attach


Steer = Callable[..., None]


@pytest.fixture
def host(device: Device) -> Device:
    """The dummy with four queues (3 by XPS), with addresses and a neighbour."""
    device.link.add_address("10.8.0.1/24")
    device.link.add_neighbour("10.8.0.2", NEIGHBOUR_MAC)
    return device


def datagram(device: Device, payload: bytes, port: int = 9, mark: int = 0) -> int:
    """One UDP datagram to the neighbour through a socket of its own: the queue that it took."""
    with device.namespace.socket() as sock:
        if mark:
            sock.setsockopt(capture.SOL_SOCKET, capture.SO_MARK, mark)
        sock.sendto(payload, ("10.8.0.2", port))
    return device.seen.of(payload)[0]


def test_by_udp_port(host: Device, steer: Steer) -> None:
    """By the packet's content: the program reads the destination port where the network header is."""
    steer(host, *(programs.if_udp_port(4000 + queue, programs.ret(queue)) for queue in (0, 1, 2)))
    found = {port: datagram(host, f"to {port};".encode(), port) for port in (4000, 4001, 4002, 4003)}
    assert found == {4000: 0, 4001: 1, 4002: 2, 4003: 3}, "queue by port; 3 by XPS"


@KINDS
def test_by_mark(make_device: MakeDevice, steer: Steer, kind: str) -> None:
    """By the packet's mark, which nft or a socket sets."""
    device = make_device(kind, 4)
    device.maps_to(3)
    steer(device, *(programs.if_mark(0x100 + queue, programs.ret(queue)) for queue in (0, 1, 2)))
    found = {mark: device.queue("marked", mark=mark) for mark in (0x100, 0x101, 0x102, 0x103)}
    assert found == {0x100: 0, 0x101: 1, 0x102: 2, 0x103: 3}, "queue by mark; 3 by XPS"


def test_by_protocol(host: Device, steer: Steer) -> None:
    """IPv4 from a socket, and what a packet socket sends: each is asked about, and the program can tell them apart."""
    answers = {packet.ETH_P_IP: 0, packet.ETH_P_EXPERIMENT: 2}
    steer(host, *(programs.if_protocol(ethertype, programs.ret(queue)) for ethertype, queue in answers.items()))
    assert datagram(host, b"a datagram;") == 0, "IPv4"
    assert host.queue("a frame") == 2, "a frame of a packet socket"


def test_packet_begins_at_the_link_layer(host: Device, steer: Steer) -> None:
    """Offset 0 of a program's packet is the Ethernet header; one that reads past the packet's end says queue 0."""
    by_type = [asm.load_packet(2, 12), asm.jump_if_not_imm(asm.R0, packet.ETH_P_IP, 2), *programs.ret(1)]
    steer(host, [*by_type, asm.load_packet(4, 1400)])
    assert datagram(host, b"a datagram;") == 1, "IPv4, by the bytes 12 and 13"
    assert host.queue("a short frame") == 0, "a program that reads past the end"


def test_ipv6(new_namespace: Callable[..., Namespace], cleanup: ExitStack, steer: Steer) -> None:
    """IPv6 from a socket."""
    link = new_namespace("host", quiet=False).rtnl.add_dummy("x0", num_tx_queues=4)
    device = Device(link, cleanup.enter_context(TxQueues(link, 4)), cleanup.enter_context(XpsMaps(link.namespace)))
    device.maps_to(3)
    link.add_address("fd00:8::1/64")
    steer(device, programs.if_protocol(packet.ETH_P_IPV6, programs.ret(1)))
    with link.namespace.socket(socket.AF_INET6) as sock:
        sock.sendto(b"over six;", ("fd00:8::2", 9))
    assert device.seen.of(b"over six;")[0] == 1


@pytest.mark.parametrize("kind", ["veth", NETKIT])
def test_arp(make_device: MakeDevice, steer: Steer, kind: str) -> None:
    """What no socket sends: the request for an address that is not known yet."""
    device = make_device(kind, 4)
    device.maps_to(3)
    device.link.add_address("10.8.0.1/24")
    steer(device, programs.if_protocol(packet.ETH_P_ARP, programs.ret(2)))
    with device.namespace.socket() as sock:
        sock.sendto(b"who are you", ("10.8.0.77", 9))
    queue, frame = device.seen.of(socket.inet_aton("10.8.0.77"))
    assert packet.Frame(frame).ethertype == packet.ETH_P_ARP
    assert queue == 2


def test_forwarded(host: Device, new_namespace: Callable[..., Namespace], steer: Steer) -> None:
    """A packet that comes in at one device and is routed to another: no socket, and a queue it came in at."""
    client = new_namespace("client")
    outer, inner = client.rtnl.add_veth("c0", "r0", host.namespace)
    outer.add_address("10.7.0.2/24")
    inner.add_address("10.7.0.1/24")
    outer.add_neighbour("10.7.0.1", inner.mac)
    client.rtnl.add_route("default", via="10.7.0.1")
    host.namespace.sysctl("net/ipv4/ip_forward", 1)
    steer(host, programs.if_udp_port(4001, programs.ret(1)))
    for port, queue in ((4001, 1), (4002, 3)):
        payload = f"routed to {port};".encode()
        with client.socket() as sock:
            sock.sendto(payload, ("10.8.0.2", port))
        assert host.seen.of(payload)[0] == queue, f"queue of the packet to port {port}; 3 by XPS"


def test_gso(host: Device, load: Load, counters: bpf.Counters) -> None:
    """A packet of many segments is asked about once, and goes to one queue whole."""
    payload = b"a large one;".ljust(5000, b".")
    with Attachment("link", load(2, counters), host.link), host.namespace.socket() as sock:
        sock.setsockopt(SOL_UDP, UDP_SEGMENT, 1000)
        sock.sendto(payload, ("10.8.0.2", 9))
        queue, frame = host.seen.of(b"a large one;")
    assert len(frame) > 5000, f"segmented before it was sent: {len(frame)} bytes"
    assert (queue, counters[0]) == (2, 1), "(queue, runs of the program)"


@pytest.mark.feature("tcx")
def test_context_is_the_packets(host: Device, counters: bpf.Counters, cleanup: ExitStack) -> None:
    """The program sees the whole frame, and a control block that is clear, whatever tcx left in there."""
    words = (programs.SKB_CB, programs.SKB_CB + 16)
    before = bpf.load_classifier(
        [asm.mov_imm(asm.R2, 0x55), *(asm.store(4, asm.R6, asm.R2, word) for word in words)], programs.ret(-1)
    )
    fields = enumerate((programs.SKB_LEN, *words), start=1)
    code = [programs.save_field(counters.fd, slot, offset) for slot, offset in fields]
    program = cleanup.enter_context(bpf.load_filter(*code, programs.ret(1)))
    cleanup.enter_context(before)
    cleanup.enter_context(hooks.link(before, host.link, AttachType.TCX_EGRESS))
    with Attachment("link", program, host.link):
        datagram(host, b"twenty bytes of data")
    assert counters.read()[1:4] == (14 + 20 + 8 + 20, 0, 0), "(length, first and last word of the control block)"


def test_xps_maps_come_after(device: Device, load: Load) -> None:
    """A device whose map says 3 for every processor: the program decides, and the map where it says -1."""
    assert device.queue() == 3, "by the map"
    with Attachment("link", load(1), device.link):
        assert device.queue() == 1, "by the program"
    with Attachment("link", load(-1), device.link):
        assert device.queue() == 3, "by the map, the program says -1"
    assert device.queue() == 3, "by the map again"


def test_map_that_is_set_later_comes_after_as_well(make_device: MakeDevice, load: Load) -> None:
    """A map that is set and cleared while a program is attached does not change who is asked first."""
    device = make_device()
    with Attachment("link", load(1), device.link):
        device.maps_to(3)
        assert device.queue() == 1, "by the program, with a map"
        device.maps.set_cpus(device.link, [0] * 4)
        assert device.queue() == 1, "by the program, the map is gone"


@pytest.mark.feature("idle_datagrams_stay")
def test_connected_socket_keeps_its_queue(host: Device, load: Load) -> None:
    """sk_tx_queue: a connected UDP socket's flow stays where it is when the program changes; a new socket's moves."""
    with host.namespace.socket() as flow:
        flow.connect(("10.8.0.2", 9))

        def send(payload: bytes) -> int:
            flow.send(payload)
            return host.seen.of(payload)[0]

        with Attachment("link", load(1), host.link) as attachment:
            assert send(b"first;") == 1
            attachment.replace(load(2))
            assert send(b"second;") == 1, "the flow's queue after the program changed"
            assert datagram(host, b"of another;") == 2, "another socket's queue"
        assert send(b"third;") == 1, "the flow's queue after the program went"
        flow.connect(("10.8.0.2", 10))
        assert send(b"fourth;") == 3, "the queue after the socket chose its route anew, by XPS"


@pytest.mark.feature("idle_datagrams_move")
def test_idle_connected_socket_moves(host: Device, load: Load) -> None:
    """skb->ooo_okay of skb_set_owner_w(): a UDP socket with no packet in a queue asks again; none can be overtaken."""
    txqueues.never_reselect(host.namespace)
    with host.namespace.socket() as flow, Attachment("link", load(1), host.link) as attachment:
        flow.connect(("10.8.0.2", 9))
        flow.send(b"first;")
        assert host.seen.of(b"first;")[0] == 1
        attachment.replace(load(2))
        flow.send(b"second;")
        assert host.seen.of(b"second;")[0] == 2, "the flow's queue after the program changed"


def test_idle_tcp_connection_moves(new_namespace: Callable[..., Namespace], cleanup: ExitStack, load: Load) -> None:
    """skb->ooo_okay: a TCP connection that waits for no acknowledgement asks again, since nothing can be overtaken."""
    here, there = new_namespace("here"), new_namespace("there")
    link, other = here.rtnl.add_veth("x0", "x1", there, num_tx_queues=4)
    link.add_address("10.8.0.1/24")
    other.add_address("10.8.0.2/24")
    seen = cleanup.enter_context(TxQueues(link, 4))
    listener = cleanup.enter_context(there.socket(socket.AF_INET, socket.SOCK_STREAM))
    listener.bind(("10.8.0.2", 80))
    listener.listen()
    client = cleanup.enter_context(here.socket(socket.AF_INET, socket.SOCK_STREAM))

    def talk(server: socket.socket, text: bytes) -> int:
        client.sendall(text)
        assert server.recv(100) == text
        queue = seen.of(text)[0]
        server.sendall(b"ok")  # with the acknowledgement in it
        assert client.recv(2) == b"ok"
        return queue

    with Attachment("link", load(1), link) as attachment:
        client.connect(("10.8.0.2", 80))
        server = cleanup.enter_context(listener.accept()[0])
        assert talk(server, b"one;") == 1
        attachment.replace(load(2))
        assert talk(server, b"two;") == 2, "queue of an idle connection after the program changed"


def test_packet_socket_that_bypasses_qdiscs(namespace: Namespace, cleanup: ExitStack, load: Load) -> None:
    """PACKET_QDISC_BYPASS, which no packet socket sees: packet_pick_tx_queue() asks as well."""
    tap = cleanup.enter_context(Tap(namespace, "x0", 4))
    found = {}
    for value in (0, 1, 2, 3, 4):
        payload = f"result {value};".encode().ljust(46)
        frame = packet.ethernet(payload, dst=NEIGHBOUR_MAC, src=tap.link.mac)
        with Attachment("link", load(value), tap.link):
            capture.send(tap.link, frame, bypass_qdisc=True)
            found[value] = tap.queue_of(payload)
    assert found == {0: 0, 1: 1, 2: 2, 3: 3, 4: 0}, "queue by result"


@pytest.mark.parametrize("kind", ["dummy", "veth"])
def test_packet_socket_that_bypasses_qdiscs_is_asked_about(
    make_device: MakeDevice, load: Load, counters: bpf.Counters, kind: str
) -> None:
    """The same where netdev_pick_tx() is called by the packet socket itself: one run a packet."""
    device = make_device(kind, 4)
    with Attachment("link", load(2, counters), device.link):
        frame = packet.ethernet(b"past the qdisc".ljust(46), dst=NEIGHBOUR_MAC, src=device.link.mac)
        capture.send(device.link, frame, bypass_qdisc=True)
    assert counters[0] == 1


@pytest.mark.feature("pktgen")
def test_pktgen_chooses_itself(device: Device, load: Load, counters: bpf.Counters) -> None:
    """start_xmit hands packets to the driver with the queue that pktgen set: the hook is not on that way."""
    with Attachment("link", load(2, counters), device.link):
        pktgen.run(device.link, 3, mode="start_xmit")
    assert counters[0] == 0, "runs of the program"


@pytest.mark.parametrize(
    ("ours", "steering", "expected"),
    [
        pytest.param(None, 2, 2, id="only-the-taps"),
        pytest.param(1, 2, 1, id="ours-says-1"),
        pytest.param(4, 2, 0, id="ours-says-too-much"),
        pytest.param(-1, 2, 2, id="ours-says-minus-1"),
        pytest.param(1, None, 1, id="only-ours"),
    ],
)
def test_before_the_taps_own_steering(
    namespace: Namespace, cleanup: ExitStack, load: Load, ours: int | None, steering: int | None, expected: int
) -> None:
    """tun_select_queue(): a program of ours is asked before TUNSETSTEERINGEBPF's, which decides where it says -1."""
    tap = cleanup.enter_context(Tap(namespace, "x0", 4))
    if steering is not None:
        tap.set_steering(load(steering))
    if ours is not None:
        cleanup.enter_context(Attachment("link", load(ours), tap.link))
    for number in range(4):
        payload = struct.pack("!I", number).ljust(46, b"t")
        capture.send(tap.link, packet.ethernet(payload, dst=NEIGHBOUR_MAC, src=tap.link.mac))
        assert tap.queue_of(payload) == expected


def test_before_the_taps_memory_of_flows(namespace: Namespace, cleanup: ExitStack, load: Load) -> None:
    """tun_automq_select_queue(): a flow goes out where its answers come in, unless a program of ours decides."""
    tap = cleanup.enter_context(Tap(namespace, "x0", 4))

    def send(payload: bytes) -> int:
        out = packet.udp(payload, src="10.8.0.1", dst="10.8.0.2", sport=4000, dport=9)
        frame = packet.ethernet(out, dst=NEIGHBOUR_MAC, src=tap.link.mac, ethertype=packet.ETH_P_IP)
        capture.send(tap.link, frame)
        return tap.queue_of(payload)

    back = packet.udp(b"answer", src="10.8.0.2", dst="10.8.0.1", sport=9, dport=4000)
    remembered = (send(b"first;") + 1) % 4
    tap.write(remembered, packet.ethernet(back, dst=tap.link.mac, src=b"\x02" + bytes(5), ethertype=packet.ETH_P_IP))
    assert send(b"after the answer;") == remembered
    ours = (remembered + 1) % 4
    with Attachment("link", load(ours), tap.link):
        assert send(b"steered;") == ours
    with Attachment("link", load(-1), tap.link):
        assert send(b"left to the tap;") == remembered


def test_order_on_a_tap(namespace: Namespace, cleanup: ExitStack, load: Load) -> None:
    """A program of ours, TUNSETSTEERINGEBPF's, xps_cpus, the flow table: each where those before it do not decide."""
    tap = cleanup.enter_context(Tap(namespace, "x0", 4))
    everyone = (1 << processors()) - 1
    cleanup.enter_context(XpsMaps(namespace)).set_cpus(tap.link, [0, 0, 0, everyone])

    def send(payload: bytes) -> int:
        capture.send(tap.link, packet.ethernet(payload.ljust(46), dst=NEIGHBOUR_MAC, src=tap.link.mac))
        return tap.queue_of(payload)

    assert send(b"map;") == 3
    tap.set_steering(load(2))
    assert send(b"steering before map;") == 2
    with Attachment("link", load(1), tap.link) as attachment:
        assert send(b"ours before steering;") == 1
        attachment.replace(load(-1))
        assert send(b"ours says -1;") == 2
        tap.set_steering(None)
        assert send(b"ours says -1, no steering;") == 3
    assert send(b"map again;") == 3


def test_tap_with_one_descriptor_asks_nobody(
    namespace: Namespace, cleanup: ExitStack, load: Load, counters: bpf.Counters
) -> None:
    """A tap may have 256 queues; with one in use there is nothing to choose, and there is when a second comes."""
    tap = cleanup.enter_context(Tap(namespace, "x0", 1))
    cleanup.enter_context(Attachment("netlink", load(1, counters), tap.link))

    def send(payload: bytes) -> int:
        capture.send(tap.link, packet.ethernet(payload.ljust(46), dst=NEIGHBOUR_MAC, src=tap.link.mac))
        return tap.queue_of(payload)

    assert (send(b"one;"), counters[0]) == (0, 0)
    tap.add_queue()
    assert (send(b"two;"), counters[0]) == (1, 1)
