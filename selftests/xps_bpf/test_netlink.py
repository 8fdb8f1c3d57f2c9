"""Programs on a device's queue selection by rtnetlink: the nest IFLA_XPS in requests and in what the kernel tells.

Source: patches/xps_bpf. The RFC's nest could neither detach (fd -1 was EBADF) nor tell an id above 255.
"""

from __future__ import annotations

import errno
from contextlib import ExitStack

import pytest

from selftests.lib import bpf, expect, rtnetlink, xps
from selftests.lib.netns import Namespace
from selftests.lib.xps import Attached, Attr, State, XpsFlags
from selftests.xps_bpf.conftest import Device, Load, MakeDevice, await_release

pytestmark = pytest.mark.feature("xps_bpf")

MESSAGES = pytest.mark.parametrize(
    "message",
    [pytest.param(rtnetlink.RTM_SETLINK, id="setlink"), pytest.param(rtnetlink.RTM_NEWLINK, id="newlink")],
)


@MESSAGES
def test_attach_and_detach(device: Device, load: Load, message: int) -> None:
    """A descriptor attaches, -1 detaches; in between the nest tells by whom, which program, and how many."""
    program = load(1)
    assert (device.queue(), xps.state(device.link)) == (3, None), "before"
    xps.set_program(device.link, program.fd, message=message)
    assert device.queue() == 1
    assert xps.state(device.link) == State(Attached.NETLINK, program.id, 1)
    assert xps.query(device.link).programs == (program.id,), "what BPF_PROG_QUERY tells"
    assert xps.query(device.link).links == (0,)
    xps.set_program(device.link, -1, message=message)
    assert (device.queue(), xps.state(device.link)) == (3, None), "after"
    assert xps.query(device.link).count == 0


def test_the_hook_holds_its_program(device: Device) -> None:
    """The program lives on without its descriptor, and is gone when it is detached."""
    with bpf.filter_returning(1) as program:
        xps.set_program(device.link, program.fd)
        number = program.id
    assert number in bpf.ids(bpf.Cmd.PROG_GET_NEXT_ID), "the device does not hold its program"
    assert device.queue() == 1
    xps.set_program(device.link, -1)
    await_release(number)


@pytest.mark.parametrize("low_byte", [0, 1])
def test_ids_above_255_are_told_whole(device: Device, cleanup: ExitStack, low_byte: int) -> None:
    """The id has 32 bits; the RFC told its lowest eight, so that program 256 was none."""
    while True:
        program = bpf.filter_returning(1)
        if program.id > 255 and program.id % 256 == low_byte:
            break
        program.close()
    cleanup.enter_context(program)
    xps.set_program(device.link, program.fd)
    assert xps.state(device.link) == State(Attached.NETLINK, program.id, 1)
    xps.set_program(device.link, -1)
    with xps.link(program, device.link):
        assert xps.state(device.link) == State(Attached.LINK, program.id, 1)


def test_dump_tells_of_each_device(device: Device, load: Load) -> None:
    """A dump has the nest where a program is attached, whichever way, and nowhere else."""
    linked, plain = (device.namespace.rtnl.add_dummy(name, num_tx_queues=2) for name in ("l0", "p0"))
    program, other = load(1), load(2)
    xps.set_program(device.link, program.fd)
    with xps.link(other, linked):
        assert xps.states(device.link) == {
            device.link.index: State(Attached.NETLINK, program.id, 1),
            linked.index: State(Attached.LINK, other.id, 1),
        }, f"{plain.name} and lo have no program"
    xps.set_program(device.link, -1)
    assert xps.states(device.link) == {}


def test_monitors_are_told(device: Device, load: Load) -> None:
    """RTNLGRP_LINK: a message with the new state after each change, as for other settings of a device."""
    program = load(1)
    with rtnetlink.open_socket(device.namespace) as monitor:
        rtnetlink.join_links(monitor)
        xps.set_program(device.link, program.fd)
        attached = rtnetlink.notification(monitor)
        xps.set_program(device.link, -1)
        detached = rtnetlink.notification(monitor)
    assert xps.told(attached) == State(Attached.NETLINK, program.id, 1)
    assert xps.told(detached) is None


def test_detach_of_nothing_is_fine(device: Device) -> None:
    """fd -1 where nothing is attached, as for XDP; the hook is as it was."""
    xps.set_program(device.link, -1)
    xps.set_program(device.link, -1)
    assert device.queue() == 3


def test_second_program_replaces_the_first(device: Device, load: Load, counters: bpf.Counters) -> None:
    """Without flags, a program takes the place of the one that is attached, which is released."""
    old, new = load(1, counters, 0), load(2, counters, 1)
    xps.set_program(device.link, old.fd)
    xps.set_program(device.link, new.fd)
    assert xps.state(device.link) == State(Attached.NETLINK, new.id, 1)
    assert device.queue() == 2
    assert counters.read()[:2] == (0, 1), "runs of the old and of the new program"
    gone = old.id
    old.close()
    await_release(gone)
    xps.set_program(device.link, -1)


def test_same_program_again_is_fine(device: Device, load: Load) -> None:
    """Attaching what is attached changes nothing, and one detachment takes it off."""
    program = load(1)
    xps.set_program(device.link, program.fd)
    xps.set_program(device.link, program.fd)
    assert xps.state(device.link) == State(Attached.NETLINK, program.id, 1)
    xps.set_program(device.link, -1)
    assert (device.queue(), xps.state(device.link)) == (3, None)


@pytest.mark.parametrize("way", ["netlink", "link"])
def test_update_if_noexist(device: Device, load: Load, cleanup: ExitStack, way: str) -> None:
    """XPS_FLAGS_UPDATE_IF_NOEXIST: EBUSY if something is attached, whichever way; else it attaches."""
    first = load(1)
    if way == "link":
        cleanup.enter_context(xps.link(first, device.link))
    else:
        xps.set_program(device.link, first.fd, flags=XpsFlags.UPDATE_IF_NOEXIST)
    with expect.refusal(errno.EBUSY, "a second program with UPDATE_IF_NOEXIST"):
        xps.set_program(device.link, load(2).fd, flags=XpsFlags.UPDATE_IF_NOEXIST)
    assert device.queue() == 1


@pytest.mark.parametrize("new", ["program", "nothing"])
def test_replace_what_is_expected(device: Device, load: Load, new: str) -> None:
    """XPS_FLAGS_REPLACE: only the program that is expected is replaced, or detached; else EEXIST."""
    attached, other, third = load(1), load(2), load(0)
    fd = third.fd if new == "program" else -1
    with expect.refusal(errno.EEXIST, "replacement where nothing is attached"):
        xps.set_program(device.link, fd, flags=XpsFlags.REPLACE, expected=attached.fd)
    xps.set_program(device.link, attached.fd)
    with expect.refusal(errno.EEXIST, "replacement of another program"):
        xps.set_program(device.link, fd, flags=XpsFlags.REPLACE, expected=other.fd)
    assert (device.queue(), xps.state(device.link)) == (1, State(Attached.NETLINK, attached.id, 1))
    xps.set_program(device.link, fd, flags=XpsFlags.REPLACE, expected=attached.fd)
    assert device.queue() == (0 if new == "program" else 3)


def test_replace_where_nothing_is_expected(device: Device, load: Load) -> None:
    """Expected fd -1: only where nothing is attached, as for XDP."""
    first = load(1)
    xps.set_program(device.link, first.fd, flags=XpsFlags.REPLACE, expected=-1)
    with expect.refusal(errno.EEXIST, "a program where one is attached and none expected"):
        xps.set_program(device.link, load(2).fd, flags=XpsFlags.REPLACE, expected=-1)
    assert xps.state(device.link) == State(Attached.NETLINK, first.id, 1)


def test_detachment_with_update_if_noexist(device: Device, load: Load) -> None:
    """EBUSY while something is attached, also for fd -1; fine while nothing is."""
    xps.set_program(device.link, -1, flags=XpsFlags.UPDATE_IF_NOEXIST)
    xps.set_program(device.link, load(1).fd)
    with expect.refusal(errno.EBUSY, "detachment with UPDATE_IF_NOEXIST"):
        xps.set_program(device.link, -1, flags=XpsFlags.UPDATE_IF_NOEXIST)
    assert device.queue() == 1


def test_nest_without_descriptor_is_refused(device: Device, load: Load) -> None:
    """EINVAL for an empty nest and for one with flags only; rtnetlink says what is missing."""
    xps.set_program(device.link, load(1).fd)
    for flags in (None, 0):
        with expect.refusal(errno.EINVAL, f"a nest with flags {flags} and no fd", text="IFLA_XPS_FD"):
            xps.set_program(device.link, None, flags=flags)
    assert device.queue() == 1


@pytest.mark.parametrize(
    ("flags", "expected", "code"),
    [
        pytest.param(XpsFlags.UPDATE_IF_NOEXIST | XpsFlags.REPLACE, True, errno.EINVAL, id="both-flags"),
        pytest.param(XpsFlags.REPLACE, False, errno.EINVAL, id="REPLACE-without-expected-fd"),
        pytest.param(0, True, errno.EINVAL, id="expected-fd-without-REPLACE"),
        pytest.param(1 << 2, False, errno.EINVAL, id="unknown-flag"),
        pytest.param(1 << 31, False, errno.EINVAL, id="unknown-high-flag"),
    ],
)
def test_flags_that_make_no_sense_are_refused(
    device: Device, load: Load, flags: int, expected: bool, code: int
) -> None:
    """Each is refused, and nothing changes."""
    attached, new = load(1), load(2)
    xps.set_program(device.link, attached.fd)
    with expect.refusal(code, f"flags {flags:#x}"):
        xps.set_program(device.link, new.fd, flags=flags, expected=attached.fd if expected else None)
    assert (device.queue(), xps.state(device.link)) == (1, State(Attached.NETLINK, attached.id, 1))


@pytest.mark.parametrize("expected", ["bad", "classifier"])
def test_bad_expected_fd_is_refused(device: Device, load: Load, cleanup: ExitStack, expected: str) -> None:
    """IFLA_XPS_EXPECTED_FD: EBADF for no descriptor, EINVAL for another type of program."""
    xps.set_program(device.link, load(1).fd)
    fd = 4242 if expected == "bad" else cleanup.enter_context(bpf.classifier_returning(0)).fd
    with expect.refusal(errno.EBADF if expected == "bad" else errno.EINVAL, f"expected fd: {expected}"):
        xps.set_program(device.link, load(2).fd, flags=XpsFlags.REPLACE, expected=fd)
    assert device.queue() == 1


@pytest.mark.parametrize("kind", [Attr.ATTACHED, Attr.PROG_ID, Attr.COUNT, 7, 100])
@pytest.mark.parametrize("with_fd", [True, False])
def test_attributes_that_are_not_for_requests_are_refused(device: Device, load: Load, kind: int, with_fd: bool) -> None:
    """What the kernel tells, and what it does not know, is EINVAL in a request."""
    payload = b"\1" if kind == Attr.ATTACHED else (1).to_bytes(4, "little")
    with expect.refusal(errno.EINVAL, f"attribute {kind}"):
        xps.set_program(device.link, load(1).fd if with_fd else None, more={kind: payload})
    assert (device.queue(), xps.state(device.link)) == (3, None)


@pytest.mark.parametrize(
    ("kind", "payload"),
    [(Attr.FD, b"\0\0"), (Attr.FLAGS, b"\0"), (Attr.EXPECTED_FD, b"")],
    ids=["fd", "flags", "expected"],
)
def test_attributes_that_are_too_short_are_refused(device: Device, kind: int, payload: bytes) -> None:
    """A policy stands before each attribute: ERANGE or EINVAL, never what stands behind it in the message."""
    with pytest.raises(OSError) as refused:
        xps.set_program(device.link, -1 if kind != Attr.FD else None, more={kind: payload})
    assert refused.value.errno in (errno.ERANGE, errno.EINVAL), str(refused.value)


@pytest.mark.parametrize("first", ["netlink", "link"])
def test_netlink_and_links_exclude_each_other(device: Device, load: Load, cleanup: ExitStack, first: str) -> None:
    """EBUSY either way round, and for a detachment by netlink of what a link holds; all says which way it is taken."""
    program, other = load(1), load(2)
    if first == "netlink":
        xps.set_program(device.link, program.fd)
        with expect.refusal(errno.EBUSY, "a link where netlink has a program"):
            xps.link(other, device.link).close()
        assert xps.state(device.link) == State(Attached.NETLINK, program.id, 1)
    else:
        cleanup.enter_context(xps.link(program, device.link))
        with expect.refusal(errno.EBUSY, "netlink where a link is", text="BPF links hold"):
            xps.set_program(device.link, other.fd)
        with expect.refusal(errno.EBUSY, "replacement by netlink of a link's program"):
            xps.set_program(device.link, other.fd, flags=XpsFlags.REPLACE, expected=program.fd)
        with expect.refusal(errno.EBUSY, "detachment by netlink of a link's program"):
            xps.set_program(device.link, -1)
        assert xps.state(device.link) == State(Attached.LINK, program.id, 1)
    assert device.queue() == 1


def test_ways_take_turns(device: Device, load: Load) -> None:
    """What one way has left, the other may have."""
    for queue in (1, 2):
        with xps.link(load(queue), device.link):
            assert device.queue() == queue
        xps.set_program(device.link, load(queue).fd)
        assert device.queue() == queue
        xps.set_program(device.link, -1)


def create(namespace: Namespace, *more: bytes, queues: int = 4) -> None:
    """RTM_NEWLINK of a dummy ``new0``."""
    rtnetlink.change(
        namespace,
        rtnetlink.RTM_NEWLINK,
        rtnetlink.text(rtnetlink.IFLA_IFNAME, "new0"),
        rtnetlink.u32(rtnetlink.IFLA_NUM_TX_QUEUES, queues),
        rtnetlink.nest(rtnetlink.IFLA_LINKINFO, rtnetlink.text(rtnetlink.IFLA_INFO_KIND, "dummy")),
        *more,
        flags=rtnetlink.NLM_F_CREATE | rtnetlink.NLM_F_EXCL,
    )


def test_device_is_created_with_its_program(namespace: Namespace, load: Load) -> None:
    """RTM_NEWLINK that makes a device: its program is there from the beginning."""
    program = load(1)
    create(namespace, xps.nest(program.fd))
    made = namespace.rtnl.find("new0")
    assert xps.state(made) == State(Attached.NETLINK, program.id, 1)
    assert xps.query(made).programs == (program.id,)
    made.delete()
    number = program.id
    program.close()
    await_release(number)


@pytest.mark.parametrize(
    ("what", "code"),
    [("bad-fd", errno.EBADF), ("classifier", errno.EINVAL), ("one-queue", errno.EOPNOTSUPP), ("flags", errno.EINVAL)],
)
def test_device_whose_program_is_refused_is_not_created(
    namespace: Namespace, load: Load, cleanup: ExitStack, what: str, code: int
) -> None:
    """RTM_NEWLINK fails as a whole: no device is left."""
    fd = load(1).fd
    if what == "bad-fd":
        fd = 4242
    elif what == "classifier":
        fd = cleanup.enter_context(bpf.classifier_returning(0)).fd
    request = xps.nest(fd, flags=1 << 7 if what == "flags" else None)
    with expect.refusal(code, f"a device with {what}"):
        create(namespace, request, queues=1 if what == "one-queue" else 4)
    assert namespace.rtnl.names() == {"lo"}


def test_devices_of_another_namespace_are_told_apart(make_device: MakeDevice, load: Load) -> None:
    """An ifindex means the requester's namespace: the same number elsewhere is another device."""
    one, other = make_device(), make_device()
    assert one.link.index == other.link.index, "the namespaces number their devices alike"
    xps.set_program(one.link, load(1).fd)
    other.maps_to(3)
    assert (one.queue(), other.queue()) == (1, 3)
    assert xps.state(other.link) is None
