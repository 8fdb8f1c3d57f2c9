"""How long an attachment lasts: device, namespace, process, descriptor, pin; and what is left when it ends: nothing.

Source: patches/xps_bpf. In the RFC a device that went away kept its program for good.
"""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from selftests.lib import bpf, capture, expect, packet, privileges, static_key, wait, xps
from selftests.lib.bpf import Flags
from selftests.lib.netns import Namespace
from selftests.lib.rtnl import Link
from selftests.lib.txqueues import TxQueues, pinned, processors
from selftests.lib.xps import Attached, Attachment, State, Way
from selftests.xps_bpf.conftest import KINDS, NEIGHBOUR_MAC, WAYS, Device, Load, MakeDevice, add_link, await_release

pytestmark = pytest.mark.feature("xps_bpf")

KEY = "netdev_xps_bpf_key"


def key() -> static_key.State:
    return static_key.state(KEY)


def await_key_off() -> None:
    """Wait until nobody uses the hook: no reference to its key, and a NOP at each site."""
    wait.until(lambda: key().is_off, f"{KEY} to be off and its sites NOPs")


@KINDS
@pytest.mark.parametrize("death", ["device", "namespace"])
@pytest.mark.parametrize("count", [1, pytest.param(3, marks=pytest.mark.feature("xps_bpf_mprog"))])
def test_links_outlive_their_device(load: Load, cleanup: ExitStack, kind: str, death: str, count: int) -> None:
    """When the device goes, or its namespace, links stay without it: ifindex 0, ENOLINK on update; the key is off."""
    namespace = Namespace.create("doomed")
    cleanup.callback(namespace.close)
    tap = cleanup.enter_context(ExitStack())
    link = add_link(namespace, kind, 2, tap)
    links = [cleanup.enter_context(xps.link(load(-1), link)) for _ in range(count)]
    assert {one.info.ifindex for one in links} == {link.index}
    if death == "namespace" and kind != "tap":
        namespace.close()
    elif kind == "tap":
        tap.close()
    else:
        link.delete()
    wait.until(lambda: {one.info.ifindex for one in links} == {0}, "the links to be without device")
    with expect.refusal(errno.ENOLINK, "an update of a link whose device is gone"):
        links[0].update(load(1))
    await_key_off()
    links[0].detach()


@KINDS
@pytest.mark.parametrize("death", ["device", "namespace"])
def test_netlinks_program_goes_with_the_device(cleanup: ExitStack, kind: str, death: str) -> None:
    """A program that only the device holds is released when that goes, or its namespace."""
    namespace = Namespace.create("doomed")
    cleanup.callback(namespace.close)
    tap = cleanup.enter_context(ExitStack())
    link = add_link(namespace, kind, 2, tap)
    with bpf.filter_returning(1) as program:
        number = program.id
        xps.set_program(link, program.fd)
    assert number in bpf.ids(bpf.Cmd.PROG_GET_NEXT_ID), "the device does not hold its program"
    if death == "namespace" and kind != "tap":
        namespace.close()
    elif kind == "tap":
        tap.close()
    else:
        link.delete()
    await_release(number)
    await_key_off()


@WAYS
def test_device_that_moves_keeps_its_program(
    device: Device, new_namespace: Callable[..., Namespace], load: Load, way: Way
) -> None:
    """Another namespace, the same device: the program goes along, as with XDP and tcx, and is told of there."""
    program, target = load(1), new_namespace("target")
    attachment = Attachment(way, program, device.link)
    moved = device.namespace.rtnl.move(device.link, target)
    with TxQueues(moved, 4) as seen:
        frame = packet.ethernet(b"after the move".ljust(46), dst=NEIGHBOUR_MAC, src=moved.mac)
        capture.send(moved, frame)
        assert seen.of(b"after the move")[0] == 1
    expected = Attached.LINK if way == "link" else Attached.NETLINK
    assert xps.state(moved) == State(expected, program.id, 1)
    assert xps.query(moved).programs == (program.id,)
    if attachment.link:
        assert attachment.link.info.ifindex == moved.index
        attachment.close()
    else:
        xps.set_program(moved, -1)
    assert xps.state(moved) is None


def test_device_that_goes_down_keeps_its_program(device: Device, load: Load) -> None:
    """Down and up again changes nothing."""
    with Attachment("netlink", load(1), device.link):
        device.link.down()
        assert xps.query(device.link).count == 1
        device.link.up()
        assert xps.state(device.link) is not None


def test_link_ends_with_its_process(device: Device) -> None:
    """A process that ends without a word takes its links along."""

    def attach() -> int:
        program = bpf.filter_returning(1)
        link = xps.link(program, device.link)
        number = program.id
        link.fd = program.fd = -1  # nobody closes them but the kernel
        return number

    number = privileges.in_child(attach)
    await_release(number)
    assert xps.query(device.link).count == 0
    assert device.queue() == 3


def test_pinned_link_outlives_its_process(device: Device) -> None:
    """A name in bpffs holds the link when nobody else does; without the name it ends."""
    path = Path("/sys/fs/bpf/xps-link")

    def attach() -> int:
        with bpf.filter_returning(1) as program, xps.link(program, device.link) as link:
            bpf.pin(link.fd, str(path))
            return program.id

    number = privileges.in_child(attach)
    try:
        assert xps.query(device.link).programs == (number,)
        assert device.queue() == 1
    finally:
        path.unlink()
    await_release(number)
    assert device.queue() == 3


def test_netlinks_program_outlives_its_process(device: Device) -> None:
    """What rtnetlink attached is the device's: it stays until somebody detaches it."""

    def attach() -> int:
        with bpf.filter_returning(1) as program:
            xps.set_program(device.link, program.fd)
            return program.id

    number = privileges.in_child(attach)
    assert xps.state(device.link) == State(Attached.NETLINK, number, 1)
    assert device.queue() == 1
    xps.set_program(device.link, -1)
    await_release(number)


@WAYS
def test_static_key_follows_the_programs(make_device: MakeDevice, load: Load, way: Way) -> None:
    """Off, all its sites NOPs, until the first program; on, all of them jumps, until the last of any device goes."""
    one, other = make_device(), make_device("tap", 2)
    await_key_off()
    sites = key().nops
    with Attachment(way, load(1), one.link) as attachment:
        on = key()
        assert on.is_on, f"with a program: {on}"
        assert on.jumps == sites
        attachment.replace(load(2))
        assert key() == on, "a replacement is no second program"
        with Attachment(way, load(1), other.link):
            assert key().is_on
        assert key().is_on, "off while a device still has a program"
    await_key_off()


@pytest.mark.feature("xps_bpf_mprog")
def test_static_key_counts_links(device: Device, load: Load, cleanup: ExitStack) -> None:
    """Links come first and last, are updated and detached, in any order: the key goes off with the last one."""
    links = [cleanup.enter_context(xps.link(load(-1), device.link, flags=Flags.BEFORE)) for _ in range(4)]
    links[2].update(load(-1))
    for link in (links[3], links[0], links[2]):
        link.close()
        assert key().is_on
    links[1].detach()
    await_key_off()


@WAYS
def test_refusals_leave_the_static_key_alone(device: Device, load: Load, way: Way) -> None:
    """An attachment that is refused counts for nothing, whether something is attached or not."""
    single = device.namespace.rtnl.add_dummy("s0")
    for refused in (single, device.link):
        with Attachment("netlink", load(1), device.link) if refused is device.link else ExitStack():
            before = key()
            with suppress(OSError):
                if way == "link":
                    xps.link(load(2), refused).close()
                else:
                    xps.set_program(refused, load(2).fd, flags=xps.XpsFlags.UPDATE_IF_NOEXIST)
            assert key() == before
    await_key_off()


BURST = 20
"""Packets."""


@dataclass
class Traffic:
    """What the senders have done."""

    sent: int = 0
    error: OSError | None = None
    stop: threading.Event = field(default_factory=threading.Event)


@contextmanager
def traffic(link: Link, *, ends_with: tuple[int, ...] = ()) -> Iterator[Callable[[], int]]:
    """One sender on each processor. Gives the number of packets sent; complete after the block.

    A sender rests for a millisecond after each burst: an emulated machine serves its processors in turn, and one that
    never rests holds up the other for a tenth of a second each time that the kernel wants a word from both.

    An error that is not among ``ends_with`` (errnos that end a sender) fails the block.
    """
    frame = packet.ethernet(b"traffic".ljust(46, b"."), dst=NEIGHBOUR_MAC, src=link.mac)
    senders = [Traffic() for _ in range(processors())]
    sockets = [link.namespace.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) for _ in senders]

    def work(cpu: int, sender: Traffic) -> None:
        try:
            with pinned(cpu):
                while not sender.stop.wait(0.001):
                    for _ in range(BURST):
                        sockets[cpu].sendto(frame, (link.name, packet.ETH_P_EXPERIMENT))
                        sender.sent += 1
        except OSError as error:
            if error.errno not in ends_with:
                sender.error = error

    threads = [threading.Thread(target=work, args=pair) for pair in enumerate(senders)]
    for thread in threads:
        thread.start()
    try:
        wait.until(lambda: all(sender.sent or sender.error for sender in senders), "all senders to send")
        yield lambda: sum(sender.sent for sender in senders)
    finally:
        for sender in senders:
            sender.stop.set()
        for thread in threads:
            thread.join()
        for sock in sockets:
            sock.close()
    errors = [sender.error for sender in senders if sender.error]
    assert not errors, f"senders failed: {errors}"


@WAYS
def test_replacement_is_at_once(device: Device, load: Load, counters: bpf.Counters, way: Way) -> None:
    """200 replacements under traffic from all processors: every packet met the old program or the new one."""
    old, new = load(1, counters, 0), load(2, counters, 1)
    with Attachment(way, old, device.link) as attachment:
        with traffic(device.link) as sent:
            for _ in range(100):
                attachment.replace(new)
                attachment.replace(old)
        assert sum(counters.read()[:2]) == sent(), "packets that met a program"
    assert device.link.stats.tx_packets == sent(), "packets that reached the driver"


ROUNDS = 1000


@pytest.mark.slow
@pytest.mark.timeout_s(240)
def test_rounds_under_traffic(device: Device, cleanup: ExitStack, counters: bpf.Counters) -> None:
    """1,000 rounds of attaching and detaching, either way, under traffic from all processors: nothing is left.

    No splat (the harness looks), no program or link, the static key is off, its sites are NOPs, and no packet is lost.
    """
    programs_before = bpf.ids(bpf.Cmd.PROG_GET_NEXT_ID)
    links_before = bpf.ids(bpf.Cmd.LINK_GET_NEXT_ID)
    with traffic(device.link) as sent:
        for number in range(ROUNDS):
            with (
                bpf.filter_returning(number % 6 - 1, counters) as program,
                Attachment("link" if number % 2 else "netlink", program, device.link),
            ):
                pass
    assert device.link.stats.tx_packets == sent(), "packets that reached the driver"
    assert xps.query(device.link).count == 0
    wait.until(lambda: bpf.ids(bpf.Cmd.PROG_GET_NEXT_ID) <= programs_before, "all programs to be released")
    wait.until(lambda: bpf.ids(bpf.Cmd.LINK_GET_NEXT_ID) <= links_before, "all links to be released")
    await_key_off()
    assert device.queue() == 3


@KINDS
def test_devices_that_go_under_traffic(namespace: Namespace, kind: str) -> None:
    """Devices go, with a program either way, while packets leave through them: no splat, and nothing is left."""
    # of a tap's 256 queues each qdisc has a lock of its own kind, which lockdep forgets after a grace period each
    for number in range(8 if kind == "tap" else 30):
        with ExitStack() as stack:
            link = add_link(namespace, kind, 2, stack)
            with bpf.filter_returning(1) as program:
                if number % 2:
                    stack.enter_context(xps.link(program, link))
                else:
                    xps.set_program(link, program.fd)
            with traffic(link, ends_with=(errno.ENXIO, errno.ENODEV, errno.ENETDOWN, errno.ENOBUFS)):
                if kind != "tap":
                    link.delete()
                else:
                    stack.close()
    await_key_off()
