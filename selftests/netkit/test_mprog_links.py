"""Links of netkit and tcx: what they tell of themselves, who holds them, and how they end.

Source of the promises: netkit_link_lops of drivers/net/netkit.c (35dfaad7188c), tcx_link_lops of kernel/bpf/tcx.c
(e420bed02507), kernel/bpf/syscall.c, kernel/bpf/inode.c.
"""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from selftests.lib import bpf, expect, privileges, wait
from selftests.lib.bpf import Verdict
from selftests.netkit.conftest import Hook, Load


def await_release(number: int) -> None:
    """Wait until a program is freed: its last holder may let go of it in the background."""
    wait.until(lambda: number not in bpf.ids(bpf.Cmd.PROG_GET_NEXT_ID), f"program {number} to go")


@pytest.mark.promise("link-info")
def test_link_info_tells_device_and_place(hook: Hook, load: Load) -> None:
    """netkit_link_fill_info(), tcx_link_fill_info(): for netkit's peer the ifindex is the peer's own."""
    program = load()
    with hook.link(program) as link:
        assert link.info == bpf.LinkInfo(hook.link_type, link.id, program.id, hook.owner.index, hook.type)


@pytest.mark.promise("link-fdinfo")
def test_link_fdinfo_says_it_in_words(hook: Hook, load: Load) -> None:
    """netkit_link_fdinfo(), tcx_link_fdinfo(), and 117211aa739a "bpf: Add missing BPF_LINK_TYPE invocations"."""
    with hook.link(load()) as link:
        text = Path(f"/proc/thread-self/fdinfo/{link.fd}").read_text()
    said = dict(line.split(":\t") for line in text.splitlines() if ":\t" in line)
    assert said["link_type"] == hook.kind, text
    assert said["ifindex"] == str(hook.owner.index), text
    assert said["attach_type"] == f"{hook.type} ({hook.side})", text


@pytest.mark.promise("link-close")
def test_closing_the_last_descriptor_detaches(hook: Hook, load: Load, counters: bpf.Counters) -> None:
    """bpf_link_put_direct(): no packet runs the program after close(2); what is left at the hook still runs."""
    hook.attach(load(Verdict.NEXT, counters, 1))
    hook.link(load(Verdict.NEXT, counters, 0)).close()
    found = hook.query()
    assert (found.count, found.links, found.revision) == (1, (0,), 4)
    hook.run()
    wait.until(lambda: counters[1], "a run of the program that stayed")
    assert counters[0] == 0, "runs of the closed link's program"


@pytest.mark.promise("link-by-id")
def test_another_descriptor_by_id_holds_the_link(hook: Hook, load: Load) -> None:
    """LINK_GET_FD_BY_ID: the same link; it is there until the last of its descriptors is closed."""
    program = load()
    link = hook.link(program)
    info = link.info
    with bpf.link_by_id(link.id) as second:
        link.close()
        assert second.info == info
        assert hook.query().programs == (program.id,), "programs while one descriptor is open"
    assert hook.query().count == 0


@pytest.mark.promise("link-ids")
@pytest.mark.feature("netkit")
def test_id_of_no_link_is_refused() -> None:
    """bpf_link_by_id(): ENOENT, also for 0."""
    for number in (0, 0x7FFFFFFF):
        with expect.refusal(errno.ENOENT, f"link id {number}"):
            bpf.link_by_id(number).close()


@pytest.mark.promise("link-detach")
def test_detached_link_lives_on_without_a_hook(hook: Hook, load: Load, counters: bpf.Counters) -> None:
    """netkit_link_detach(), tcx_link_detach(): off the hook, ifindex 0, ENOLINK on update; a second time is nothing."""
    hook.attach(load(Verdict.NEXT, counters, 1))
    program = load(Verdict.NEXT, counters, 0)
    with hook.link(program) as link:
        link.detach()
        assert (link.info.ifindex, link.info.prog_id) == (0, program.id)
        with expect.refusal(errno.ENOLINK, "an update of a detached link"):
            link.update(load())
        after = hook.query()
        link.detach()
        assert hook.query() == after, "a second LINK_DETACH changed the hook"
        hook.run()
        wait.until(lambda: counters[1], "a run of the program that stayed")
    assert counters[0] == 0, "runs of the detached link's program"
    assert hook.query() == after, "closing a detached link changed the hook"


@pytest.mark.promise("link-of-a-process")
def test_link_ends_with_its_process(hook: Hook) -> None:
    """A process that ends without a word takes its links along."""

    def attach() -> int:
        program = bpf.classifier_returning(Verdict.NEXT)
        link = hook.link(program)
        number = program.id
        link.fd = program.fd = -1  # nobody closes them but the kernel
        return number

    await_release(privileges.in_child(attach))
    assert hook.query().count == 0


@pytest.mark.promise("link-pinned")
def test_pinned_link_outlives_its_process(hook: Hook) -> None:
    """OBJ_PIN: a name in bpffs holds the link when nobody else does; without the name it ends."""
    path = Path("/sys/fs/bpf", f"{hook.kind}-{hook.side}")

    def attach() -> int:
        with bpf.classifier_returning(Verdict.NEXT) as program, hook.link(program) as link:
            bpf.pin(link.fd, str(path))
            return program.id

    number = privileges.in_child(attach)
    try:
        assert hook.query().programs == (number,)
    finally:
        path.unlink()
    await_release(number)
    assert hook.query().count == 0


@pytest.mark.promise("program-of-a-process")
def test_attached_program_outlives_its_process(hook: Hook) -> None:
    """PROG_ATTACH: the hook holds the program, until somebody detaches it."""

    def attach() -> int:
        with bpf.classifier_returning(Verdict.NEXT) as program:
            hook.attach(program)
            return program.id

    number = privileges.in_child(attach)
    assert hook.query().programs == (number,)
    hook.detach()
    await_release(number)


@pytest.mark.promise("links-and-programs")
def test_links_and_programs_stand_side_by_side(hook: Hook, load: Load) -> None:
    """053c8e1f235d: both kinds in one array, each told for what it is, and each goes its own way."""
    programs = [load() for _ in range(4)]
    hook.attach(programs[0])
    with hook.link(programs[1]) as first:
        hook.attach(programs[2])
        with hook.link(programs[3]) as second:
            assert hook.query().links == (0, first.id, 0, second.id)
            hook.detach(programs[0])
            assert hook.query().links == (first.id, 0, second.id)
        assert hook.query().links == (first.id, 0)
    found = hook.query()
    assert (found.programs, found.links, found.revision) == ((programs[2].id,), (0,), 8)
