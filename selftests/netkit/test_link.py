"""Programs on netkit devices: links and multi-programs, their order, revision, refusals and end.

Source of the promises: 053c8e1f235d "bpf: Add generic attach/detach/query API for multi-progs" (kernel/bpf/mprog.c) and
35dfaad7188c (drivers/net/netkit.c): programs are attached through the primary for both ends' transmit paths.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from selftests.lib import bpf, expect, hooks, programs, wait
from selftests.lib.bpf import AttachType, Flags, Verdict
from selftests.lib.capture import Capture
from selftests.lib.netkit_nla import Mode, Policy
from selftests.lib.netns import Namespace
from selftests.netkit.conftest import HOOKS, MakePair

pytestmark = pytest.mark.feature("netkit")

PRIMARY = AttachType.NETKIT_PRIMARY
ENDS = pytest.mark.parametrize("end", ["primary", "peer"])


@pytest.fixture
def load(cleanup: ExitStack) -> Callable[..., bpf.Program]:
    """``load()``: a program of its own that says NEXT, or what it is told to, and counts where it is told to."""

    def load(verdict: int = Verdict.NEXT, counters: bpf.Counters | None = None, slot: int = 0) -> bpf.Program:
        return cleanup.enter_context(bpf.classifier_returning(verdict, counters, slot))

    return load


Load = Callable[..., bpf.Program]


@pytest.mark.parametrize("mode", [pytest.param(Mode.L2, id="L2"), pytest.param(Mode.L3, id="L3")])
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


@ENDS
def test_query_tells_program_link_and_revision(make_pair: MakePair, load: Load, end: str) -> None:
    """bpf_mprog_query(): an empty hook has revision 1, a link makes it 2, its end takes it away."""
    pair, program = make_pair(), load()
    empty = hooks.query(pair.primary, HOOKS[end])
    assert (empty.count, empty.revision) == (0, 1), "(count, revision) of an empty hook"
    with hooks.link(program, pair.primary, HOOKS[end]) as link:
        found = hooks.query(pair.primary, HOOKS[end])
        assert (found.count, found.revision, found.attach_flags) == (1, 2, 0)
        assert (found.programs, found.links) == ((program.id,), (link.id,))
        assert set(found.prog_ids[1:]) == {0}, "entries past the count were written"
        other = "peer" if end == "primary" else "primary"
        assert hooks.query(pair.primary, HOOKS[other]).count == 0, f"the program is on the {other}'s hook as well"
    assert hooks.query(pair.primary, HOOKS[end]).count == 0


@ENDS
def test_link_info_tells_device_and_location(make_pair: MakePair, load: Load, end: str) -> None:
    """netkit_link_fill_info(): the ifindex is that of the device in whose transmit path the program is."""
    pair, program = make_pair(), load()
    with hooks.link(program, pair.primary, HOOKS[end]) as link:
        info = link.info
    device = pair.ends(end)[0]
    assert info.type == bpf.LINK_TYPE_NETKIT
    assert (info.prog_id, info.ifindex, info.attach_type) == (program.id, device.index, HOOKS[end])


def test_link_fdinfo_says_primary_in_words(make_pair: MakePair, load: Load) -> None:
    """netkit_link_show_fdinfo(), and 117211aa739a "bpf: Add missing BPF_LINK_TYPE invocations"."""
    pair = make_pair()
    with hooks.link(load(), pair.primary, PRIMARY) as link:
        text = Path(f"/proc/thread-self/fdinfo/{link.fd}").read_text()
    assert "link_type:\tnetkit" in text, text
    assert f"ifindex:\t{pair.primary.index}" in text, text
    assert "attach_type:\t54 (primary)" in text, text


@pytest.mark.parametrize(
    ("flags", "relative", "order"),
    [
        pytest.param(0, None, "ABN", id="no-flag-goes-last"),
        pytest.param(Flags.BEFORE, None, "NAB", id="BEFORE-nothing-goes-first"),
        pytest.param(Flags.AFTER, None, "ABN", id="AFTER-nothing-goes-last"),
        pytest.param(Flags.BEFORE, "A program", "NAB", id="BEFORE-the-first-program"),
        pytest.param(Flags.BEFORE, "B program", "ANB", id="BEFORE-the-second-program"),
        pytest.param(Flags.AFTER, "A program", "ANB", id="AFTER-the-first-program"),
        pytest.param(Flags.BEFORE | Flags.ID, "B program id", "ANB", id="BEFORE-a-program-id"),
        pytest.param(Flags.BEFORE | Flags.LINK, "B link", "ANB", id="BEFORE-a-link"),
        pytest.param(Flags.AFTER | Flags.LINK | Flags.ID, "A link id", "ANB", id="AFTER-a-link-id"),
    ],
)
def test_order_of_links(
    make_pair: MakePair,
    cleanup: ExitStack,
    counters: bpf.Counters,
    flags: int,
    relative: str | None,
    order: str,
) -> None:
    """bpf_mprog_attach(): where a third link (N) goes among two (A, B), by query and by the packet that runs them."""
    pair = make_pair()
    loaded = {
        name: cleanup.enter_context(
            bpf.load_classifier(programs.stamp(counters.fd, slot), programs.ret(Verdict.NEXT), name=name)
        )
        for slot, name in enumerate("ABN", start=1)
    }
    links = {name: cleanup.enter_context(hooks.link(loaded[name], pair.primary, PRIMARY)) for name in "AB"}
    target = 0
    if relative:
        name, what = relative[0], relative[2:]
        thing = links[name] if what.startswith("link") else loaded[name]
        target = thing.id if what.endswith("id") else thing.fd
    links["N"] = cleanup.enter_context(hooks.link(loaded["N"], pair.primary, PRIMARY, flags=flags, relative=target))
    by_id = {program.id: name for name, program in loaded.items()}
    found = hooks.query(pair.primary, PRIMARY)
    assert "".join(by_id[number] for number in found.programs) == order, "order by query"
    assert found.revision == 4, "revision after three links"
    pair.send(b"run them")
    ticks = dict(zip("ABN", counters.read()[1:4], strict=True))
    assert "".join(sorted(ticks, key=lambda name: ticks[name])) == order, f"order by execution: {ticks}"


def test_link_with_stale_revision_is_refused(make_pair: MakePair, load: Load, cleanup: ExitStack) -> None:
    """bpf_mprog_attach(): an expected revision that is not the hook's is ESTALE, the right one is taken."""
    pair = make_pair()
    cleanup.enter_context(hooks.link(load(), pair.primary, PRIMARY, revision=1))
    with expect.refusal(errno.ESTALE, "a link expecting revision 1 where it is 2"):
        hooks.link(load(), pair.primary, PRIMARY, revision=1).close()
    cleanup.enter_context(hooks.link(load(), pair.primary, PRIMARY, revision=2))
    assert hooks.query(pair.primary, PRIMARY).revision == 3


def test_program_with_stale_revision_is_refused(make_pair: MakePair, load: Load) -> None:
    """bpf_mprog_attach(), bpf_mprog_detach(): ESTALE on PROG_ATTACH and on PROG_DETACH, and nothing changed."""
    pair, program = make_pair(), load()
    hooks.attach(program, pair.primary, PRIMARY, revision=1)
    with expect.refusal(errno.ESTALE, "attach expecting revision 1 where it is 2"):
        hooks.attach(load(), pair.primary, PRIMARY, revision=1)
    with expect.refusal(errno.ESTALE, "detach expecting revision 1 where it is 2"):
        hooks.detach(program, pair.primary, PRIMARY, revision=1)
    assert hooks.query(pair.primary, PRIMARY).programs == (program.id,)
    hooks.detach(program, pair.primary, PRIMARY, revision=2)
    assert hooks.query(pair.primary, PRIMARY).count == 0


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


def test_other_devices_are_refused(namespace: Namespace, load: Load) -> None:
    """netkit_dev_fetch(): ENXIO for a device that is no netkit, ENODEV for none at all."""
    dummy = namespace.rtnl.add_dummy("d0")
    with expect.refusal(errno.ENXIO, "a link on a dummy"):
        hooks.link(load(), dummy, PRIMARY).close()
    with namespace.entered(), expect.refusal(errno.ENODEV, "a link on ifindex 4242"):
        bpf.link_create(load().fd, 4242, PRIMARY).close()


def test_the_same_program_twice_is_refused(make_pair: MakePair, load: Load, cleanup: ExitStack) -> None:
    """bpf_mprog_exists(): EEXIST, whether the second time is a link or a plain attachment."""
    pair, program = make_pair(), load()
    cleanup.enter_context(hooks.link(program, pair.primary, PRIMARY))
    with expect.refusal(errno.EEXIST, "a second link of a program"):
        hooks.link(program, pair.primary, PRIMARY).close()
    with expect.refusal(errno.EEXIST, "attachment of a program that a link holds"):
        hooks.attach(program, pair.primary, PRIMARY)


def test_attachment_cannot_take_a_links_program_away(make_pair: MakePair, load: Load, cleanup: ExitStack) -> None:
    """bpf_mprog_pos_exact(), bpf_mprog_fetch(): EBUSY for PROG_DETACH of what a link holds, named or by position."""
    pair, program = make_pair(), load()
    cleanup.enter_context(hooks.link(program, pair.primary, PRIMARY))
    with expect.refusal(errno.EBUSY, "detach of a link's program"):
        hooks.detach(program, pair.primary, PRIMARY)
    with expect.refusal(errno.EBUSY, "detach of the first entry, a link"):
        hooks.detach(None, pair.primary, PRIMARY, flags=Flags.BEFORE)


def test_replace_swaps_in_place(make_pair: MakePair, load: Load) -> None:
    """bpf_mprog_replace(): BPF_F_REPLACE puts the new program where the old one was."""
    pair = make_pair()
    first, second, new = load(), load(), load()
    hooks.attach(first, pair.primary, PRIMARY)
    hooks.attach(second, pair.primary, PRIMARY)
    hooks.attach(new, pair.primary, PRIMARY, flags=Flags.REPLACE, replace=first.fd)
    found = hooks.query(pair.primary, PRIMARY)
    assert (found.programs, found.revision) == ((new.id, second.id), 4)


def test_link_update_swaps_the_program(make_pair: MakePair, load: Load, counters: bpf.Counters) -> None:
    """netkit_link_update(): same link, new program, next packet runs it; the revision grows by one."""
    pair = make_pair()
    old, new = load(Verdict.PASS, counters, 0), load(Verdict.PASS, counters, 1)
    with hooks.link(old, pair.primary, PRIMARY) as link:
        before = link.id
        link.update(new)
        pair.send(b"to the new one")
        assert counters.read()[:2] == (0, 1), "runs of the old and of the new program"
        found = hooks.query(pair.primary, PRIMARY)
        assert (found.programs, found.links, found.revision) == ((new.id,), (before,), 3)
        link.update(new)
        assert hooks.query(pair.primary, PRIMARY).revision == 3, "an update to the same program is none"


def test_detached_link_lives_on_without_device(make_pair: MakePair, load: Load, counters: bpf.Counters) -> None:
    """netkit_link_detach(): LINK_DETACH takes the program off; the link stays, its ifindex is 0, ENOLINK on update."""
    pair = make_pair()
    with hooks.link(load(Verdict.PASS, counters), pair.primary, PRIMARY) as link:
        link.detach()
        pair.send(b"past it")
        assert counters[0] == 0, "runs after LINK_DETACH"
        assert link.info.ifindex == 0
        with expect.refusal(errno.ENOLINK, "an update of a detached link"):
            link.update(load())


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


def test_attached_programs_go_with_the_device(make_pair: MakePair) -> None:
    """netkit_release_all(): a program that only the hook holds is freed with the device."""
    pair = make_pair()
    with bpf.classifier_returning(Verdict.NEXT) as program:
        hooks.attach(program, pair.primary, PRIMARY)
        number = program.id
    assert number in bpf.ids(bpf.Cmd.PROG_GET_NEXT_ID), "the hook does not hold its program"
    pair.primary.delete()
    wait.until(lambda: number not in bpf.ids(bpf.Cmd.PROG_GET_NEXT_ID), f"program {number} to go with its device")


def test_63_programs_fit_and_the_64th_is_refused(make_pair: MakePair, load: Load) -> None:
    """bpf_mprog_max() and f9b0e1088bbf "bpf, mprog: Fix maximum program check": ERANGE, wherever it should go."""
    pair = make_pair()
    for _ in range(63):
        hooks.attach(load(), pair.primary, PRIMARY)
    first = hooks.query(pair.primary, PRIMARY)
    assert first.count == 63
    for flags in (0, Flags.BEFORE, Flags.AFTER):
        with expect.refusal(errno.ERANGE, f"a 64th program with flags {flags}"):
            hooks.attach(load(), pair.primary, PRIMARY, flags=flags)
    assert hooks.query(pair.primary, PRIMARY) == first, "refused programs changed the hook"


def test_query_into_a_short_array_tells_the_full_count(make_pair: MakePair, load: Load) -> None:
    """bpf_mprog_query(): ENOSPC, as many ids as fit, and the count of all."""
    pair, loaded = make_pair(), [load() for _ in range(3)]
    for program in loaded:
        hooks.attach(program, pair.primary, PRIMARY)
    short = hooks.query(pair.primary, PRIMARY, room=2)
    assert (short.errno, short.count) == (errno.ENOSPC, 3)
    assert short.prog_ids == (loaded[0].id, loaded[1].id)
    counting = hooks.query(pair.primary, PRIMARY, room=0, arrays=False)
    assert (counting.errno, counting.count, counting.revision) == (0, 3, 4)


def test_program_redirects_to_another_device(make_pair: MakePair, counters: bpf.Counters, cleanup: ExitStack) -> None:
    """netkit_xmit(), verdict REDIRECT: the target is looked up in the peer's namespace, and the primary counts tx."""
    pair = make_pair(policy=Policy.DROP)
    target = pair.peer.namespace.rtnl.add_dummy("d0")
    program = cleanup.enter_context(bpf.load_classifier(programs.redirect(target.index)))
    cleanup.enter_context(hooks.link(program, pair.primary, PRIMARY))
    with Capture(target, outgoing=True) as capture:
        pair.send(b"redirected")
        frame = capture.next()
    assert b"redirected" in frame.raw, f"expected the redirected frame, got {frame}"
    assert (pair.primary.stats.tx_packets, pair.peer.stats.rx_packets) == (1, 0)
