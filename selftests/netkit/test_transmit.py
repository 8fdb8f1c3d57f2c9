"""What goes through netkit unchanged: packets of every size, both families, tags, segments of up to 64 KiB and more.

Source of the promises: netkit_xmit() and the features in netkit_setup() of drivers/net/netkit.c (35dfaad7188c).
"""

from __future__ import annotations

import errno
import os
import socket
import threading
from contextlib import ExitStack

import pytest

from selftests.lib import asm, bpf, capture, expect, hooks, packet, programs, rtnetlink, wait
from selftests.lib.bpf import AttachType, ProgType, Verdict
from selftests.lib.capture import Capture
from selftests.lib.netkit_nla import Mode
from selftests.lib.rtnl import Link, NetlinkRefused
from selftests.netkit.conftest import FAMILIES, MODES, SENDERS, MakePair, Pair, give_addresses

pytestmark = pytest.mark.feature("netkit")

ETHERNET = 14
PORT = 7000


def family_of(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def receiver_on(pair: Pair, address: str) -> socket.socket:
    """A UDP socket of the peer's."""
    sock = pair.peer.namespace.socket(family_of(address))
    sock.bind((address, PORT))
    sock.settimeout(wait.limit(5))
    return sock


def send_datagram(pair: Pair, address: str, payload: bytes) -> None:
    with pair.primary.namespace.socket(family_of(address)) as sock:
        sock.sendto(payload, (address, PORT))


def largest_received(pair: Pair, counters: bpf.Counters, cleanup: ExitStack) -> None:
    """From now on slot 0 has the length of the largest packet at the peer's tcx ingress, as the stack gets it."""
    program = bpf.load_classifier(
        programs.save_largest(counters.fd, 0, programs.SKB_LEN), programs.ret(Verdict.NEXT), name="largest"
    )
    cleanup.enter_context(hooks.link(cleanup.enter_context(program), pair.peer, AttachType.TCX_INGRESS))


@pytest.mark.promise("sizes")
@MODES
@SENDERS
@pytest.mark.parametrize("size", [14, 15, 60, 64, 65, 1024, 1513, 1514])
def test_frame_arrives_whole(make_pair: MakePair, mode: Mode, sender: str, size: int) -> None:
    """netkit_xmit(): a frame of any length, from a bare Ethernet header on, arrives whole and is counted whole."""
    pair = make_pair(mode)
    source, target = pair.ends(sender)
    frame = packet.ethernet(os.urandom(size - ETHERNET), dst=target.mac or bytes(6), src=source.mac or bytes(6))
    with Capture(target) as received:
        capture.send(source, frame)
        got = received.next()
    assert got.raw == frame, f"sent {packet.describe(frame)}\nreceived {got}"
    assert (source.stats.tx_bytes, target.stats.rx_bytes) == (size, size), "(tx_bytes, rx_bytes)"


@pytest.mark.promise("datagrams")
@MODES
@FAMILIES
def test_datagrams_reach_a_socket(make_pair: MakePair, mode: Mode, family: str) -> None:
    """The IP stack on both sides: with neighbours that are resolved in L2, without any in L3."""
    pair = make_pair(mode)
    _, address = give_addresses(pair, family)
    with receiver_on(pair, address) as receiver:
        send_datagram(pair, address, b"over netkit")
        assert receiver.recv(100) == b"over netkit"


@pytest.mark.promise("fragments")
@FAMILIES
def test_a_datagram_beyond_the_mtu_comes_in_fragments(make_pair: MakePair, family: str) -> None:
    """65,000 bytes over MTU 1500: all fragments arrive, so that the datagram does."""
    pair = make_pair(Mode.L3)
    _, address = give_addresses(pair, family)
    payload = os.urandom(65_000)
    with receiver_on(pair, address) as receiver:
        send_datagram(pair, address, payload)
        assert receiver.recv(1 << 17) == payload
    assert pair.primary.stats.tx_packets >= 65_000 // 1500


@pytest.mark.promise("mtu")
@pytest.mark.parametrize(
    ("mtu", "code"),
    [
        pytest.param(68, 0, id="the-smallest"),
        pytest.param(65535, 0, id="the-largest"),
        pytest.param(67, errno.EINVAL, id="too-small"),
        pytest.param(65536, errno.EINVAL, id="too-large"),
    ],
)
def test_mtu_range(make_pair: MakePair, mtu: int, code: int) -> None:
    """netkit_setup(): ether_setup()'s smallest, `max_mtu = ETH_MAX_MTU`."""
    primary = make_pair(up=False).primary
    if code:
        with expect.refusal(code, f"MTU {mtu}"):
            primary.namespace.rtnl.set_mtu(primary.index, mtu)
        assert primary.state.mtu == 1500
    else:
        primary.namespace.rtnl.set_mtu(primary.index, mtu)
        assert primary.state.mtu == mtu


@pytest.mark.promise("mtu-of-the-receiver")
@pytest.mark.feature("tcx")
@FAMILIES
def test_what_exceeds_the_receivers_mtu_still_arrives(
    make_pair: MakePair, counters: bpf.Counters, cleanup: ExitStack, family: str
) -> None:
    """netkit_xmit() hands over with __netif_rx(), which looks at no MTU: the sender's is what counts."""
    pair = make_pair(Mode.L3)
    _, address = give_addresses(pair, family)
    pair.primary.namespace.rtnl.set_mtu(pair.primary.index, 9000)
    largest_received(pair, counters, cleanup)
    payload = os.urandom(8000)
    with receiver_on(pair, address) as receiver:
        send_datagram(pair, address, payload)
        assert receiver.recv(1 << 14) == payload
    largest = counters[0]
    assert largest > 8000, f"length of the largest packet: the datagram came in pieces of at most {largest}"


def transfer(pair: Pair, address: str, payload: bytes) -> bytes:
    """Send ``payload`` from primary to peer in one TCP connection: what arrived."""
    arrived = bytearray()
    with (
        pair.peer.namespace.socket(family_of(address), socket.SOCK_STREAM) as listener,
        pair.primary.namespace.socket(family_of(address), socket.SOCK_STREAM) as client,
    ):
        listener.bind((address, PORT))
        listener.listen()
        client.settimeout(wait.limit(10))
        client.connect((address, PORT))
        server, _ = listener.accept()
        with server:
            server.settimeout(wait.limit(10))

            def read() -> None:
                while part := server.recv(1 << 18):
                    arrived.extend(part)

            reader = threading.Thread(target=read)
            reader.start()
            client.sendall(payload)
            client.shutdown(socket.SHUT_WR)
            reader.join()
    return bytes(arrived)


@pytest.mark.promise("gso")
@pytest.mark.feature("tcx")
@MODES
@FAMILIES
def test_tcp_segments_pass_in_one_piece(
    make_pair: MakePair, counters: bpf.Counters, cleanup: ExitStack, mode: Mode, family: str
) -> None:
    """NETIF_F_GSO_SOFTWARE: what TCP made of many segments stays one packet, of at most 64 KiB; bytes are counted."""
    pair = make_pair(mode)
    _, address = give_addresses(pair, family)
    pair.primary.namespace.sysctl("net/ipv4/tcp_tso_rtt_log", 31)
    largest_received(pair, counters, cleanup)
    payload = os.urandom(1 << 20)
    assert transfer(pair, address, payload) == payload, "what arrived is not what was sent"
    assert 32_768 < counters[0] <= 65_536 + ETHERNET, "length of the largest packet"
    assert pair.primary.stats.tx_packets < len(payload) / 10_000, "packets for 1 MiB: they were cut"
    assert pair.primary.stats.tx_bytes > len(payload)


@pytest.mark.promise("big-tcp")
@pytest.mark.feature("tcx")
@MODES
@FAMILIES
def test_big_tcp_passes_in_one_piece(
    make_pair: MakePair, counters: bpf.Counters, cleanup: ExitStack, mode: Mode, family: str
) -> None:
    """netif_set_tso_max_size(GSO_MAX_SIZE): where the device is told so, packets are larger than 64 KiB."""
    pair = make_pair(mode)
    _, address = give_addresses(pair, family)
    pair.primary.namespace.sysctl("net/ipv4/tcp_tso_rtt_log", 31)
    kind = rtnetlink.IFLA_GSO_IPV4_MAX_SIZE if family == "IPv4" else rtnetlink.IFLA_GSO_MAX_SIZE
    request = rtnetlink.u32(kind, 196_608)
    rtnetlink.change(pair.primary.namespace, rtnetlink.RTM_SETLINK, request, index=pair.primary.index)
    largest_received(pair, counters, cleanup)
    payload = os.urandom(3 << 20)
    assert transfer(pair, address, payload) == payload, "what arrived is not what was sent"
    assert 65_536 + ETHERNET < counters[0] <= 196_608 + ETHERNET, "length of the largest packet"


@pytest.mark.promise("big-tcp-limit")
@pytest.mark.parametrize("end", ["primary", "peer"])
def test_both_ends_take_the_largest_segments(make_pair: MakePair, end: str) -> None:
    """netkit_setup(), netif_inherit_tso_max(): IFLA_TSO_MAX_SIZE is GSO_MAX_SIZE, 8 * 65535, of both ends."""
    link = make_pair(up=False).ends(end)[0]
    told = rtnetlink.link(link.namespace, link.index)[rtnetlink.IFLA_TSO_MAX_SIZE]
    assert int.from_bytes(told, "little") == 8 * 65_535


@pytest.mark.promise("vlan")
@pytest.mark.feature("vlan")
@SENDERS
def test_vlans_are_apart(make_pair: MakePair, counters: bpf.Counters, cleanup: ExitStack, sender: str) -> None:
    """NETIF_F_HW_VLAN_CTAG_TX: the tag travels beside the packet; only the VLAN's device gets it, untagged."""
    pair = make_pair()
    source, target = pair.ends(sender)
    inner = source.namespace.rtnl.add_vlan("v7", on=source, number=7)
    outer = target.namespace.rtnl.add_vlan("v7", on=target, number=7)
    other = target.namespace.rtnl.add_vlan("v8", on=target, number=8)
    program = bpf.load_classifier(
        programs.save_field(counters.fd, 0, programs.SKB_VLAN_PRESENT),
        programs.save_field(counters.fd, 1, programs.SKB_VLAN_TCI),
        programs.ret(Verdict.PASS),
    )
    hook = AttachType.NETKIT_PRIMARY if sender == "primary" else AttachType.NETKIT_PEER
    cleanup.enter_context(hooks.link(cleanup.enter_context(program), pair.primary, hook))
    with Capture(outer) as wanted, Capture(other) as unwanted:
        frame = capture.frame_to(outer, inner, b"tagged")
        capture.send(inner, frame)
        got = wanted.next()
        assert not unwanted.pending(), "the packet of VLAN 7 came to VLAN 8"
    assert got.raw == frame, f"expected {packet.describe(frame)}\ngot {got}"
    assert counters.read()[:2] == (1, 7), "(vlan_present, vlan_tci) that the program saw"


@pytest.mark.promise("neighbours")
@FAMILIES
@pytest.mark.parametrize(
    ("mode", "first"),
    [
        pytest.param(Mode.L2, {"IPv4": packet.ETH_P_ARP, "IPv6": packet.ETH_P_IPV6}, id="L2"),
        pytest.param(Mode.L3, {"IPv4": packet.ETH_P_IP, "IPv6": packet.ETH_P_IPV6}, id="L3"),
    ],
)
def test_who_looks_for_neighbours(make_pair: MakePair, mode: Mode, first: dict[str, int], family: str) -> None:
    """For an address that nobody has, L2 asks (ARP, neighbour solicitation) and L3 sends the packet at once."""
    pair = make_pair(mode)
    _, address = give_addresses(pair, family)
    nobody = f"{address[:-1]}9"
    with Capture(pair.peer) as received:
        send_datagram(pair, nobody, b"to nobody")
        frame = received.next()
    assert frame.ethertype == first[family], str(frame)
    assert (b"to nobody" in frame.raw) == (mode == Mode.L3), str(frame)


@pytest.mark.promise("ethernet-header")
@MODES
@FAMILIES
def test_program_sees_an_ethernet_header(
    make_pair: MakePair, counters: bpf.Counters, cleanup: ExitStack, mode: Mode, family: str
) -> None:
    """netkit_xmit(): the program's packet begins with the Ethernet header, in L3 mode as well."""
    pair = make_pair(mode)
    _, address = give_addresses(pair, family)
    kind = packet.ETH_P_IPV6 if family == "IPv6" else packet.ETH_P_IP
    seen = programs.if_protocol(kind, [*programs.save_packet(counters.fd, 0, 12), *programs.count(counters.fd, 1)])
    program = cleanup.enter_context(bpf.load_classifier(seen, programs.ret(Verdict.PASS)))
    cleanup.enter_context(hooks.link(program, pair.primary, AttachType.NETKIT_PRIMARY))
    with receiver_on(pair, address) as receiver:
        send_datagram(pair, address, b"header")
        assert receiver.recv(100) == b"header"
    assert counters[1] > 0, "the program saw no packet of this family"
    assert counters[0] == kind, f"ethertype at byte 12 of the packet: {counters[0]:#06x}"


@pytest.fixture
def xdp(cleanup: ExitStack, counters: bpf.Counters) -> bpf.Program:
    """A program that counts into slot 0 and says XDP_PASS."""
    code = asm.program(programs.count(counters.fd, 0), programs.ret(2))
    return cleanup.enter_context(bpf.load(ProgType.XDP, code))


XDP_GENERIC, XDP_NATIVE = 1 << 1, 1 << 2
"""XDP_FLAGS_SKB_MODE, XDP_FLAGS_DRV_MODE: include/uapi/linux/if_link.h."""


@pytest.mark.promise("no-native-xdp")
@pytest.mark.parametrize("way", ["netlink", "link"])
@pytest.mark.parametrize("end", ["primary", "peer"])
def test_native_xdp_is_refused(make_pair: MakePair, xdp: bpf.Program, end: str, way: str) -> None:
    """netkit_netdev_ops has no ndo_bpf: EOPNOTSUPP for XDP in the driver."""
    device = make_pair().ends(end)[0]
    with expect.refusal(errno.EOPNOTSUPP, "native XDP"):
        if way == "link":
            with device.namespace.entered():
                bpf.link_create(xdp.fd, device.index, AttachType.XDP, flags=XDP_NATIVE).close()
        else:
            attach_xdp(device, xdp, XDP_NATIVE)


def attach_xdp(device: Link, program: bpf.Program, flags: int) -> None:
    request = rtnetlink.nest(
        rtnetlink.IFLA_XDP,
        rtnetlink.s32(rtnetlink.IFLA_XDP_FD, program.fd),
        rtnetlink.u32(rtnetlink.IFLA_XDP_FLAGS, flags),
    )
    rtnetlink.change(device.namespace, rtnetlink.RTM_SETLINK, request, index=device.index)


@pytest.mark.promise("generic-xdp")
@SENDERS
def test_generic_xdp_runs_on_the_receiver(
    make_pair: MakePair, xdp: bpf.Program, counters: bpf.Counters, sender: str
) -> None:
    """do_xdp_generic(): needs nothing of the driver; it runs once for what the other end sent."""
    pair = make_pair()
    target = pair.ends(sender)[1]
    attach_xdp(target, xdp, XDP_GENERIC)
    with Capture(target) as received:
        pair.send(b"through XDP", sender=sender)
        assert b"through XDP" in received.next().raw
    assert counters[0] == 1, "runs of the XDP program"


@pytest.mark.promise("scatter-gather")
@pytest.mark.parametrize("mtu", [1500, 65535])
def test_loss_of_no_byte_under_both_mtus(make_pair: MakePair, mtu: int) -> None:
    """netkit_setup(), NETIF_F_SG and checksums in software: a stream arrives as it was sent, whatever the MTU."""
    pair = make_pair(Mode.L3)
    _, address = give_addresses(pair, "IPv4")
    for link in (pair.primary, pair.peer):
        link.namespace.rtnl.set_mtu(link.index, mtu)
    payload = os.urandom(300_001)
    assert transfer(pair, address, payload) == payload


@pytest.mark.promise("headroom")
@pytest.mark.since("6.14")
def test_headroom_and_tailroom_are_told(make_pair: MakePair) -> None:
    """b9ed315d3c4c "netkit: Allow for configuring needed_{head,tail}room"."""
    wanted = {"IFLA_NETKIT_HEADROOM": 32, "IFLA_NETKIT_TAILROOM": 8}
    try:
        data = make_pair(data=wanted).primary.state.data
    except NetlinkRefused as error:
        pytest.fail(f"refused: {error}")
    assert (data["netkit_headroom"], data["netkit_tailroom"]) == (32, 8)
