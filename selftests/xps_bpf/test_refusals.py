"""What may not be attached, where, and by whom: the same answer to a link and to rtnetlink.

Source: patches/xps_bpf. Socket filters can be loaded without privilege, so attaching one is what is guarded.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

import pytest

from selftests.lib import asm, bpf, expect, privileges, programs, rtnetlink, xps
from selftests.lib.bpf import AttachType, ProgType
from selftests.lib.netns import Namespace
from selftests.lib.privileges import CLONE_NEWNET, CLONE_NEWUSER, Capability
from selftests.lib.rtnl import Link
from selftests.lib.tap import Tap
from selftests.lib.xps import Attachment, Way
from selftests.xps_bpf.conftest import KINDS, WAYS, Device, Load, MakeDevice, await_release

pytestmark = pytest.mark.feature("xps_bpf")


def attach_fd(way: Way, fd: int, device: Link) -> None:
    """Try to attach whatever ``fd`` is. Raises OSError as the kernel says."""
    if way == "netlink":
        xps.set_program(device, fd)
    else:
        with device.namespace.entered():
            bpf.link_create(fd, device.index, AttachType.XPS).close()


@WAYS
@pytest.mark.parametrize("kind", [ProgType.SCHED_CLS, ProgType.CGROUP_SKB])
def test_program_of_another_type(device: Device, cleanup: ExitStack, way: Way, kind: ProgType) -> None:
    """EINVAL: only BPF_PROG_TYPE_SOCKET_FILTER chooses queues."""
    program = cleanup.enter_context(bpf.load(kind, asm.program(programs.ret(1))))
    with expect.refusal(errno.EINVAL, f"a program of type {kind.name}"):
        attach_fd(way, program.fd, device.link)
    assert (device.queue(), xps.query(device.link).count) == (3, 0)


@WAYS
@pytest.mark.parametrize("what", ["none", "socket", "map", "link"])
def test_descriptor_that_is_no_program(device: Device, load: Load, cleanup: ExitStack, way: Way, what: str) -> None:
    """EBADF for a number that is no descriptor, EINVAL for a descriptor of something else."""
    fd = 4242
    if what == "socket":
        fd = cleanup.enter_context(device.namespace.socket()).fileno()
    elif what == "map":
        fd = cleanup.enter_context(bpf.Counters()).fd
    elif what == "link":
        other = device.namespace.rtnl.add_dummy("o0", num_tx_queues=2)
        fd = cleanup.enter_context(xps.link(load(1), other)).fd
    with expect.refusal(errno.EBADF if what == "none" else errno.EINVAL, f"fd of: {what}"):
        attach_fd(way, fd, device.link)
    assert (device.queue(), xps.query(device.link).count) == (3, 0)


@pytest.mark.parametrize("fd", [-2, -0x80000000])
def test_negative_descriptor_is_not_a_detachment(device: Device, load: Load, fd: int) -> None:
    """rtnetlink: only -1 detaches."""
    xps.set_program(device.link, load(1).fd)
    with expect.refusal(errno.EBADF, f"fd {fd}"):
        xps.set_program(device.link, fd)
    assert device.queue() == 1


@WAYS
def test_no_such_device(namespace: Namespace, load: Load, way: Way) -> None:
    """ENODEV."""
    ghost = Link(namespace, "ghost", 4242, bytes(6))
    with expect.refusal(errno.ENODEV, "ifindex 4242"):
        attach_fd(way, load(1).fd, ghost)


@WAYS
def test_device_of_another_namespace(
    device: Device, new_namespace: Callable[..., Namespace], load: Load, way: Way
) -> None:
    """An ifindex means the caller's namespace: from another one the device is not there."""
    elsewhere = Link(new_namespace("elsewhere"), "x0", device.link.index + 100, bytes(6))
    with expect.refusal(errno.ENODEV, "a device of another namespace"):
        attach_fd(way, load(1).fd, elsewhere)


@WAYS
@pytest.mark.parametrize("what", ["dummy", "loopback", "single-queue-tap"])
def test_device_with_one_queue(namespace: Namespace, cleanup: ExitStack, load: Load, way: Way, what: str) -> None:
    """EOPNOTSUPP: there is nothing to choose; rtnetlink says why. A tap made for one queue has one, too."""
    if what == "dummy":
        link = namespace.rtnl.add_dummy("x0")
    elif what == "loopback":
        link = namespace.rtnl.find("lo")
    else:
        link = cleanup.enter_context(Tap(namespace, "x0", 1, multi_queue=False)).link
    with expect.refusal(errno.EOPNOTSUPP, what, text="one transmit queue only" if way == "netlink" else ""):
        attach_fd(way, load(1).fd, link)
    assert xps.state(link) is None


@WAYS
@pytest.mark.feature("team")
def test_device_that_chooses_itself(namespace: Namespace, load: Load, way: Way) -> None:
    """EOPNOTSUPP: a driver's own ndo_select_queue() would never ask; rtnetlink says why."""
    link = namespace.rtnl.add_team("x0")
    queues = rtnetlink.link(namespace, link.index)[rtnetlink.IFLA_NUM_TX_QUEUES]
    assert int.from_bytes(queues, "little") > 1, "a team with one queue shows nothing"
    with expect.refusal(errno.EOPNOTSUPP, "a team", text="without asking" if way == "netlink" else ""):
        attach_fd(way, load(1).fd, link)


@KINDS
@WAYS
def test_detachment_is_never_refused_for_the_kind_of_device(
    make_device: MakeDevice, load: Load, way: Way, kind: str
) -> None:
    """What takes a program gives it back: attached, asked for and detached on each kind of device."""
    device = make_device(kind, 2)
    with Attachment(way, load(1), device.link):
        assert xps.query(device.link).count == 1
        assert device.queue() == 1
    assert xps.query(device.link).count == 0


def test_attachment_without_link_is_refused(device: Device, load: Load) -> None:
    """BPF_PROG_ATTACH and BPF_PROG_DETACH know no BPF_XPS: EINVAL."""
    program = load(1)
    with device.namespace.entered():
        with expect.refusal(errno.EINVAL, "BPF_PROG_ATTACH"):
            bpf.attach(device.link.index, program.fd, AttachType.XPS)
        with expect.refusal(errno.EINVAL, "BPF_PROG_DETACH"):
            bpf.detach(device.link.index, program.fd, AttachType.XPS)
    assert xps.query(device.link).count == 0


@pytest.mark.parametrize("attach_type", [AttachType.TCX_INGRESS, AttachType.CGROUP_INET_INGRESS])
def test_filter_at_another_hook_is_refused(device: Device, load: Load, attach_type: AttachType) -> None:
    """A socket filter's link is BPF_XPS or nothing: EINVAL."""
    with device.namespace.entered(), expect.refusal(errno.EINVAL, f"a socket filter at {attach_type.name}"):
        bpf.link_create(load(1).fd, device.link.index, attach_type).close()


LACKING = pytest.mark.parametrize(
    "lacking",
    [
        pytest.param((Capability.NET_ADMIN, Capability.SYS_ADMIN), id="CAP_NET_ADMIN"),
        pytest.param((Capability.BPF, Capability.SYS_ADMIN), id="CAP_BPF"),
        pytest.param((Capability.NET_ADMIN, Capability.BPF, Capability.SYS_ADMIN), id="both"),
    ],
)


@WAYS
@LACKING
def test_without_a_capability(device: Device, load: Load, way: Way, lacking: tuple[Capability, ...]) -> None:
    """EPERM without CAP_NET_ADMIN or without CAP_BPF (which CAP_SYS_ADMIN would stand in for)."""
    program = load(1)
    with (
        device.namespace.entered(),
        rtnetlink.open_socket(device.namespace) as sock,
        privileges.without(*lacking),
        expect.refusal(errno.EPERM, "attachment"),
    ):
        if way == "link":
            bpf.link_create(program.fd, device.link.index, AttachType.XPS).close()
        else:
            request = xps.nest(program.fd)
            rtnetlink.change_through(sock, rtnetlink.RTM_SETLINK, request, index=device.link.index)
    assert (device.queue(), xps.query(device.link).count) == (3, 0)


@LACKING
def test_detachment_without_a_capability(device: Device, load: Load, lacking: tuple[Capability, ...]) -> None:
    """EPERM, and the program stays: what took both capabilities to attach takes both to detach by netlink."""
    xps.set_program(device.link, load(1).fd)
    with (
        rtnetlink.open_socket(device.namespace) as sock,
        privileges.without(*lacking),
        expect.refusal(errno.EPERM, "detachment"),
    ):
        rtnetlink.change_through(sock, rtnetlink.RTM_SETLINK, xps.nest(-1), index=device.link.index)
    assert device.queue() == 1


def test_with_the_least_capabilities(device: Device, load: Load) -> None:
    """CAP_NET_ADMIN and CAP_BPF are enough: CAP_SYS_ADMIN is not asked for."""
    program = load(1)
    with (
        device.namespace.entered(),
        rtnetlink.open_socket(device.namespace) as sock,
        privileges.without(Capability.SYS_ADMIN),
    ):
        bpf.link_create(program.fd, device.link.index, AttachType.XPS).close()
        rtnetlink.change_through(sock, rtnetlink.RTM_SETLINK, xps.nest(program.fd), index=device.link.index)
    assert device.queue() == 1


@WAYS
def test_root_of_a_user_namespace_in_its_own_network(load: Load, way: Way) -> None:
    """EPERM: CAP_NET_ADMIN over the device is there, CAP_BPF of the initial user namespace is not."""
    program = load(1)

    def attempt() -> tuple[int, int]:
        privileges.unshare(CLONE_NEWUSER | CLONE_NEWNET)
        with Namespace.current() as namespace:
            link = namespace.rtnl.add_dummy("x0", num_tx_queues=2)
            # the loaded program's descriptor was inherited: it takes no privilege to have one
            return privileges.errno_of(lambda: attach_fd(way, program.fd, link)), len(xps.states(link))

    assert privileges.in_child(attempt) == (errno.EPERM, 0), "(errno, devices with a program)"


@WAYS
def test_root_of_a_user_namespace_in_our_network(device: Device, load: Load, way: Way) -> None:
    """EPERM: no capability over this network namespace."""
    program = load(1)

    index, request = device.link.index, xps.nest(program.fd)

    def attempt() -> int:
        privileges.unshare(CLONE_NEWUSER)
        if way == "link":
            return privileges.errno_of(lambda: bpf.link_create(program.fd, index, AttachType.XPS))
        with rtnetlink.open_socket() as sock:
            change = partial(rtnetlink.change_through, sock, rtnetlink.RTM_SETLINK, request, index=index)
            return privileges.errno_of(change)

    with device.namespace.entered():
        assert privileges.in_child(attempt) == errno.EPERM
    assert (device.queue(), xps.query(device.link).count) == (3, 0)


@WAYS
def test_refusals_leave_no_program_behind(namespace: Namespace, way: Way) -> None:
    """A refused program is not held: its id is gone with its descriptor."""
    link = namespace.rtnl.add_dummy("x0")
    with bpf.filter_returning(1) as program:
        number = program.id
        with expect.refusal(errno.EOPNOTSUPP, "a device with one queue"):
            attach_fd(way, program.fd, link)
    await_release(number)
