"""Programs on netkit devices: whose packets they run for, through which end they are attached, how they end with it.

Source of the promises: 35dfaad7188c (drivers/net/netkit.c): programs are attached through the primary for both ends'
transmit paths. What netkit shares with tcx is in the files test_mprog_*.py.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from selftests.lib import bpf, expect, hooks, wait
from selftests.lib.bpf import AttachType, Verdict
from selftests.lib.netkit_nla import Mode
from selftests.lib.netns import Namespace
from selftests.netkit.conftest import HOOKS, MODES, Load, MakePair

pytestmark = pytest.mark.feature("netkit")

PRIMARY = AttachType.NETKIT_PRIMARY
ENDS = pytest.mark.parametrize("end", ["primary", "peer"])


@pytest.mark.promise("one-end")
@MODES
@ENDS
def test_linked_program_sees_what_its_end_sends(
    make_pair: MakePair, load: Load, counters: bpf.Counters, end: str, mode: Mode
) -> None:
    """A link on PRIMARY runs for what the primary sends, one on PEER for what the peer sends; neither for both."""
    pair = make_pair(mode)
    other = "peer" if end == "primary" else "primary"
    with hooks.link(load(Verdict.PASS, counters), pair.primary, HOOKS[end]):
        pair.send(b"mine", sender=end)
        assert counters[0] == 1, f"runs for a packet sent by the {end}"
        pair.send(b"other", sender=other)
        assert counters[0] == 1, f"the program on the {end} ran for a packet of the {other}"
    pair.send(b"after", sender=end)
    assert counters[0] == 1, "the program ran after its link was closed"


@pytest.mark.promise("primary-is-the-handle")
@ENDS
@pytest.mark.parametrize("operation", ["link", "attach", "detach", "query"])
def test_peers_ifindex_is_refused(make_pair: MakePair, load: Load, end: str, operation: str) -> None:
    """netkit_dev_fetch(): only the primary is a handle; the peer's own ifindex is EACCES for both hooks."""
    pair = make_pair(same_namespace=True)
    program = load()
    with expect.refusal(errno.EACCES, f"{operation} through the peer"):
        if operation == "link":
            hooks.link(program, pair.peer, HOOKS[end]).close()
        elif operation == "attach":
            hooks.attach(program, pair.peer, HOOKS[end])
        elif operation == "detach":
            hooks.detach(program, pair.peer, HOOKS[end])
        else:
            hooks.query(pair.peer, HOOKS[end])
    assert hooks.query(pair.primary, HOOKS[end]).count == 0


@pytest.mark.promise("netkit-only")
def test_other_devices_are_refused(namespace: Namespace, load: Load) -> None:
    """netkit_dev_fetch(): ENXIO for a device that is no netkit, ENODEV for none at all."""
    dummy = namespace.rtnl.add_dummy("d0")
    with expect.refusal(errno.ENXIO, "a link on a dummy"):
        hooks.link(load(), dummy, PRIMARY).close()
    with namespace.entered(), expect.refusal(errno.ENODEV, "a link on ifindex 4242"):
        bpf.link_create(load().fd, 4242, PRIMARY).close()


@pytest.mark.promise("links-outlive-device")
@ENDS
@pytest.mark.parametrize("death", ["primary", "peer", "peer-namespace"])
def test_links_outlive_their_device(
    new_namespace: Callable[..., Namespace], load: Load, cleanup: ExitStack, end: str, death: str
) -> None:
    """netkit_release_all(): when the pair goes, however it goes, its links stay with ifindex 0 and can be closed."""
    host, pod = new_namespace("host"), Namespace.create("pod")
    cleanup.callback(pod.close)
    primary, peer = host.rtnl.add_netkit("nk0", "nk1", pod)
    link = cleanup.enter_context(hooks.link(load(), primary, HOOKS[end]))
    assert link.info.ifindex != 0
    if death == "primary":
        primary.delete()
    elif death == "peer":
        peer.delete()
    else:
        pod.close()
        wait.until(lambda: host.rtnl.names() == {"lo"}, "the primary to go with its peer's namespace")
    assert link.info.ifindex == 0, "ifindex of a link whose device is gone"
    with expect.refusal(errno.ENOLINK, "an update of a link whose device is gone"):
        link.update(load())
    link.detach()


@pytest.mark.promise("programs-go-with-device")
def test_attached_programs_go_with_the_device(make_pair: MakePair) -> None:
    """netkit_release_all(): a program that only the hook holds is freed with the device."""
    pair = make_pair()
    with bpf.classifier_returning(Verdict.NEXT) as program:
        hooks.attach(program, pair.primary, PRIMARY)
        number = program.id
    assert number in bpf.ids(bpf.Cmd.PROG_GET_NEXT_ID), "the hook does not hold its program"
    pair.primary.delete()
    wait.until(lambda: number not in bpf.ids(bpf.Cmd.PROG_GET_NEXT_ID), f"program {number} to go with its device")


@pytest.mark.promise("netkit-only")
@pytest.mark.parametrize("other", ["dummy", "veth", "lo"])
def test_query_of_other_devices_is_refused(namespace: Namespace, other: str) -> None:
    """netkit_dev_fetch(): ENXIO for every device that is no netkit, a veth as well."""
    if other == "lo":
        device = namespace.rtnl.find("lo")
    else:
        device = namespace.rtnl.add_dummy("d0") if other == "dummy" else namespace.rtnl.add_veth("v0", "v1")[0]
    for hook in HOOKS.values():
        with expect.refusal(errno.ENXIO, f"a query of {other}"):
            hooks.query(device, hook)
