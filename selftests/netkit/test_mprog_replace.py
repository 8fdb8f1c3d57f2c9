"""Programs and links that are replaced in place: BPF_F_REPLACE of PROG_ATTACH, and LINK_UPDATE.

Source of the promises: bpf_mprog_replace() of kernel/bpf/mprog.c (053c8e1f235d), tcx_link_update(),
netkit_link_update(), link_update() of kernel/bpf/syscall.c.
"""

from __future__ import annotations

import errno
from contextlib import ExitStack
from typing import NamedTuple

import pytest

from selftests.lib import bpf, expect, wait
from selftests.lib.bpf import Flags, Verdict
from selftests.netkit.conftest import ONE_OF_EACH, Hook, Load


class Three(NamedTuple):
    """What is at the hook, in order: two programs, and a link between them."""

    first: bpf.Program
    link: bpf.Link
    linked: bpf.Program
    last: bpf.Program


@pytest.fixture
def three(hook: Hook, load: Load, cleanup: ExitStack) -> Three:
    first, linked, last = load(), load(), load()
    hook.attach(first)
    link = cleanup.enter_context(hook.link(linked))
    hook.attach(last)
    return Three(first, link, linked, last)


def ids(*programs: bpf.Program) -> tuple[int, ...]:
    return tuple(program.id for program in programs)


@pytest.mark.promise("replace-in-place")
def test_replace_swaps_in_place(hook: Hook, three: Three, load: Load) -> None:
    """bpf_mprog_replace(): the new program is where the old one was; one revision."""
    new = load()
    hook.attach(new, flags=Flags.REPLACE, replace=three.first.fd)
    found = hook.query()
    assert (found.programs, found.revision) == (ids(new, three.linked, three.last), 5)
    assert found.links == (0, three.link.id, 0), "links by place"


@pytest.mark.promise("replaced-program-runs")
def test_packets_run_the_replacement(hook: Hook, load: Load, counters: bpf.Counters) -> None:
    """bpf_mprog_write(): the place in the running array is written, too."""
    old, new = load(Verdict.NEXT, counters, 0), load(Verdict.NEXT, counters, 1)
    hook.attach(old)
    hook.attach(new, flags=Flags.REPLACE, replace=old.fd)
    hook.run()
    wait.until(lambda: counters[1], "a run of the replacement")
    assert counters[0] == 0, "runs of the program that was replaced"


@pytest.mark.promise("replaced-program-is-freed")
@ONE_OF_EACH
def test_replaced_program_is_let_go(hook: Hook, load: Load) -> None:
    """bpf_mprog_replace(): the hook holds the old program no longer."""
    new = load()
    with bpf.classifier_returning(Verdict.NEXT) as old:
        number = old.id
        hook.attach(old)
        hook.attach(new, flags=Flags.REPLACE, replace=old.fd)
    wait.until(lambda: number not in bpf.ids(bpf.Cmd.PROG_GET_NEXT_ID), f"program {number} to go")


@pytest.mark.promise("replace-and-place")
@ONE_OF_EACH
@pytest.mark.parametrize(
    ("flags", "old", "relative", "code"),
    [
        pytest.param(Flags.BEFORE, "first", "linked", 0, id="it-is-before-that-one"),
        pytest.param(Flags.AFTER, "last", "linked", 0, id="it-is-after-that-one"),
        pytest.param(Flags.BEFORE, "last", "linked", errno.ERANGE, id="it-is-not-before-that-one"),
        pytest.param(Flags.AFTER, "first", "last", errno.ERANGE, id="it-is-not-after-that-one"),
        pytest.param(Flags.BEFORE | Flags.AFTER, "first", "linked", errno.ERANGE, id="it-is-before-but-not-after"),
        pytest.param(Flags.BEFORE, "first", "", errno.ERANGE, id="nothing-is-before-the-first"),
        pytest.param(Flags.AFTER, "last", "", errno.ERANGE, id="nothing-is-after-the-last"),
        pytest.param(0, "first", "linked", 0, id="a-relative-program-without-direction-is-not-looked-at"),
    ],
)
def test_replace_where_place_and_program_agree(
    hook: Hook, three: Three, load: Load, flags: int, old: str, relative: str, code: int
) -> None:
    """bpf_mprog_attach(): with REPLACE each further rule must point at the same place."""
    new = load()
    options = {
        "flags": Flags.REPLACE | flags,
        "replace": getattr(three, old).fd,
        "relative": getattr(three, relative).fd if relative else 0,
    }
    before = hook.query()
    if code:
        with expect.refusal(code, f"a replacement with flags {flags}"):
            hook.attach(new, **options)
        assert hook.query() == before, "a refused replacement changed the hook"
    else:
        hook.attach(new, **options)
        assert new.id in hook.query().programs


@pytest.mark.promise("replace-refusals")
@ONE_OF_EACH
@pytest.mark.parametrize(
    ("new", "old", "code"),
    [
        pytest.param("another", "linked", errno.EBUSY, id="the-program-of-a-link"),
        pytest.param("another", "absent", errno.ENOENT, id="a-program-that-is-not-there"),
        pytest.param("first", "first", errno.EEXIST, id="by-itself"),
        pytest.param("last", "first", errno.EEXIST, id="by-one-that-is-there-already"),
        pytest.param("linked", "first", errno.EEXIST, id="by-one-that-a-link-holds"),
        pytest.param("another", "link", errno.EINVAL, id="a-link's-descriptor"),
        pytest.param("another", "closed", errno.EBADF, id="a-closed-descriptor"),
    ],
)
def test_replace_refuses(hook: Hook, three: Three, load: Load, new: str, old: str, code: int) -> None:
    """netkit_prog_attach(), tcx_prog_attach(), bpf_mprog_pos_exact()."""
    named = {**three._asdict(), "another": load(), "absent": load()}
    before = hook.query()
    with expect.refusal(code, f"{old} replaced by {new}"):
        hook.attach(named[new], flags=Flags.REPLACE, replace=0x7FFFFFFF if old == "closed" else named[old].fd)
    assert hook.query() == before, "a refused replacement changed the hook"


@pytest.mark.promise("replace-revision")
@ONE_OF_EACH
def test_replace_with_a_stale_revision_is_refused(hook: Hook, three: Three, load: Load) -> None:
    """bpf_mprog_attach(): ESTALE before anything else; the right one is taken."""
    new = load()
    with expect.refusal(errno.ESTALE, "a replacement expecting revision 3 where it is 4"):
        hook.attach(new, flags=Flags.REPLACE, replace=three.first.fd, revision=3)
    hook.attach(new, flags=Flags.REPLACE, replace=three.first.fd, revision=4)
    assert hook.query().programs[0] == new.id


@pytest.mark.promise("link-does-not-replace")
@pytest.mark.parametrize("relative", ["nothing", "program", "link"])
@ONE_OF_EACH
def test_a_new_link_replaces_nothing(hook: Hook, three: Three, load: Load, relative: str) -> None:
    """netkit_link_prog_attach(), tcx_link_prog_attach(): LINK_CREATE names no old program; REPLACE is ENOENT."""
    flags, fd = {
        "nothing": (Flags.REPLACE, 0),
        "program": (Flags.REPLACE, three.first.fd),
        "link": (Flags.REPLACE | Flags.LINK, three.link.fd),
    }[relative]
    with expect.refusal(errno.ENOENT, f"a link with REPLACE relative to {relative}"):
        hook.link(load(), flags=flags, relative=fd).close()


@pytest.mark.promise("link-update")
def test_link_update_swaps_the_program_in_place(hook: Hook, three: Three, load: Load) -> None:
    """netkit_link_update(), tcx_link_update(): the same link, a new program, the same place, one revision more."""
    number, new = three.link.id, load()
    three.link.update(new)
    found = hook.query()
    assert (found.programs, found.links, found.revision) == (ids(three.first, new, three.last), (0, number, 0), 5)
    assert three.link.info.prog_id == new.id


@pytest.mark.promise("link-update-runs")
def test_packets_run_the_updated_program(hook: Hook, load: Load, counters: bpf.Counters) -> None:
    """The next packet after LINK_UPDATE runs the new program and not the old one."""
    old, new = load(Verdict.NEXT, counters, 0), load(Verdict.NEXT, counters, 1)
    with hook.link(old) as link:
        link.update(new)
        hook.run()
        wait.until(lambda: counters[1], "a run of the new program")
    assert counters[0] == 0, "runs of the old program"


@pytest.mark.promise("self-update")
def test_link_update_to_itself_is_no_change(hook: Hook, three: Three) -> None:
    """`oprog == nprog`: it succeeds, and the revision stays."""
    before = hook.query()
    three.link.update(three.linked)
    assert hook.query() == before


@pytest.mark.promise("link-update-expected")
@ONE_OF_EACH
def test_link_update_of_the_expected_program_only(hook: Hook, three: Three, load: Load) -> None:
    """link_update(): with BPF_F_REPLACE the old program must be the named one, else EPERM."""
    new = load()
    with expect.refusal(errno.EPERM, "an update that expects another program"):
        three.link.update(new, flags=Flags.REPLACE, old=three.first.fd)
    assert hook.query().programs == ids(three.first, three.linked, three.last)
    three.link.update(new, flags=Flags.REPLACE, old=three.linked.fd)
    assert hook.query().programs == ids(three.first, new, three.last)


@pytest.mark.promise("link-update-refusals")
@ONE_OF_EACH
@pytest.mark.parametrize(
    ("new", "options", "code"),
    [
        pytest.param("first", {}, errno.EEXIST, id="to-a-program-that-is-there-already"),
        pytest.param("filter", {}, errno.EINVAL, id="to-another-type-of-program"),
        pytest.param("another", {"flags": Flags.BEFORE}, errno.EINVAL, id="with-a-place"),
        pytest.param("another", {"old": 1}, errno.EINVAL, id="an-old-program-without-the-flag"),
        pytest.param("another", {"flags": Flags.REPLACE, "old": 0x7FFFFFFF}, errno.EBADF, id="expecting-a-closed-one"),
    ],
)
def test_link_update_refuses(
    hook: Hook, three: Three, load: Load, cleanup: ExitStack, new: str, options: dict[str, int], code: int
) -> None:
    """link_update() of kernel/bpf/syscall.c, and bpf_mprog_attach() below it."""
    named = {
        "first": three.first,
        "another": load(),
        "filter": cleanup.enter_context(bpf.filter_returning(0)),
    }
    before = hook.query()
    with expect.refusal(code, f"an update to {new} with {options}"):
        three.link.update(named[new], **options)
    assert hook.query() == before, "a refused update changed the hook"
