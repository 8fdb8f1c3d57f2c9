"""How programs and links leave a hook: by name, by place, with a revision; and what is refused.

Source of the promises: bpf_mprog_detach() of kernel/bpf/mprog.c (053c8e1f235d), netkit_prog_detach(),
tcx_prog_detach(), the releases of links beside them.
"""

from __future__ import annotations

import errno
from contextlib import ExitStack

import pytest

from selftests.lib import bpf, expect, wait
from selftests.lib.bpf import Flags, Verdict
from selftests.netkit.conftest import ONE_OF_EACH, TCX_ONLY, Hook, Load


@pytest.fixture
def abcd(hook: Hook, load: Load, cleanup: ExitStack) -> dict[str, bpf.Program | bpf.Link]:
    """Programs A, C and D, and link b with program B, in this order."""
    found: dict[str, bpf.Program | bpf.Link] = {letter: load() for letter in "ABCD"}
    for letter in "ABCD":
        program = found[letter]
        assert isinstance(program, bpf.Program)
        if letter == "B":
            found["b"] = cleanup.enter_context(hook.link(program))
        else:
            hook.attach(program)
    found["Z"] = load()
    return found


Abcd = dict[str, bpf.Program | bpf.Link]


def order(hook: Hook, abcd: Abcd) -> str:
    names = {thing.id: letter for letter, thing in abcd.items() if letter.isupper()}
    return "".join(names[number] for number in hook.query().programs)


def detach(hook: Hook, abcd: Abcd, program: str, flags: int, relative: str) -> None:
    thing = abcd.get(relative)
    number = 0 if thing is None else thing.id if flags & Flags.ID else thing.fd
    named = abcd.get(program)
    assert named is None or isinstance(named, bpf.Program)
    hook.detach(named, flags=flags, relative=number)


@pytest.mark.promise("detach")
@ONE_OF_EACH
@pytest.mark.parametrize(
    ("program", "flags", "relative", "left"),
    [
        pytest.param("A", 0, "", "BCD", id="the-first-by-program"),
        pytest.param("C", 0, "", "ABD", id="one-in-the-middle-by-program"),
        pytest.param("D", 0, "", "ABC", id="the-last-by-program"),
        pytest.param("", 0, "", "ABC", id="nothing-said-is-the-last"),
        pytest.param("", Flags.BEFORE, "", "BCD", id="before-nothing-is-the-first"),
        pytest.param("", Flags.AFTER, "", "ABC", id="after-nothing-is-the-last"),
        pytest.param("", Flags.BEFORE, "D", "ABD", id="the-one-before-a-program"),
        pytest.param("", Flags.BEFORE | Flags.LINK, "b", "BCD", id="the-one-before-a-link"),
        pytest.param("", Flags.AFTER, "C", "ABC", id="the-one-after-a-program"),
        pytest.param("", Flags.AFTER | Flags.LINK | Flags.ID, "b", "ABD", id="the-one-after-a-link-id"),
        pytest.param("", Flags.AFTER | Flags.ID, "B", "ABD", id="the-one-after-the-id-of-a-link's-program"),
        pytest.param("C", Flags.BEFORE, "D", "ABD", id="by-program-that-is-before-that-one"),
        pytest.param("C", Flags.AFTER | Flags.LINK, "b", "ABD", id="by-program-that-is-after-that-link"),
        pytest.param("", Flags.BEFORE, "A", "BCD", id="before-the-first-is-the-first"),
        pytest.param("", Flags.AFTER, "D", "ABC", id="after-the-last-is-the-last"),
    ],
)
def test_detach(hook: Hook, abcd: Abcd, program: str, flags: int, relative: str, left: str) -> None:
    """bpf_mprog_detach(), bpf_mprog_delete(): who goes, that the others keep their order, and one revision."""
    detach(hook, abcd, program, flags, relative)
    found = hook.query()
    assert (order(hook, abcd), found.revision) == (left, 6)
    assert found.links[left.index("B")] == abcd["b"].id, "the link is not beside its program any more"


@pytest.mark.promise("detach-refusals")
@ONE_OF_EACH
@pytest.mark.parametrize(
    ("program", "flags", "relative", "code"),
    [
        pytest.param("Z", 0, "", errno.ENOENT, id="a-program-that-is-not-there"),
        pytest.param("B", 0, "", errno.EBUSY, id="a-link's-program"),
        pytest.param("", Flags.AFTER, "A", errno.EBUSY, id="a-link-by-place"),
        pytest.param("", Flags.BEFORE, "Z", errno.ENOENT, id="before-a-program-that-is-not-there"),
        pytest.param("", Flags.AFTER, "Z", errno.ENOENT, id="after-a-program-that-is-not-there"),
        pytest.param("C", Flags.BEFORE, "B", errno.ERANGE, id="it-is-not-before-that-one"),
        pytest.param("C", Flags.AFTER, "A", errno.ERANGE, id="it-is-not-after-that-one"),
        pytest.param("A", Flags.BEFORE, "", errno.ERANGE, id="the-first-is-not-before-itself"),
        pytest.param("D", Flags.AFTER, "", errno.ERANGE, id="the-last-is-not-after-itself"),
        pytest.param("", Flags.BEFORE | Flags.AFTER, "", errno.ERANGE, id="first-and-last"),
        pytest.param("", 0, "A", errno.EINVAL, id="relative-without-direction"),
        pytest.param("", Flags.LINK, "", errno.EINVAL, id="link-without-descriptor"),
        pytest.param("", Flags.ID, "", errno.ENOENT, id="id-0"),
        pytest.param("", Flags.LINK | Flags.ID, "", errno.ENOENT, id="link-id-0"),
        pytest.param("", Flags.BEFORE | Flags.LINK, "A", errno.EINVAL, id="a-program-that-is-said-to-be-a-link"),
        pytest.param("A", Flags.REPLACE, "", errno.EINVAL, id="replace"),
        pytest.param("A", 1 << 6, "", errno.EINVAL, id="unknown-flag"),
    ],
)
def test_detach_refuses(hook: Hook, abcd: Abcd, program: str, flags: int, relative: str, code: int) -> None:
    """bpf_mprog_detach(), bpf_mprog_fetch(): each rule's errno; the hook stays as it was."""
    before = hook.query()
    with expect.refusal(code, f"detach of {program or 'no program'} with flags {flags:#x} relative to {relative!r}"):
        detach(hook, abcd, program, flags, relative)
    assert hook.query() == before, "a refused detach changed the hook"


@pytest.mark.promise("detach-revision")
def test_detach_with_a_stale_revision_is_refused(hook: Hook, load: Load) -> None:
    """bpf_mprog_detach(): ESTALE, and nothing changed; the right one is taken."""
    program = load()
    hook.attach(program)
    for stale in (1, 3):
        with expect.refusal(errno.ESTALE, f"detach expecting revision {stale} where it is 2"):
            hook.detach(program, revision=stale)
    assert hook.query().programs == (program.id,)
    hook.detach(program, revision=2)
    assert hook.query().count == 0


@pytest.mark.promise("detach-empty")
@pytest.mark.parametrize("flags", [0, Flags.BEFORE, Flags.AFTER], ids=["no-flag", "before", "after"])
@pytest.mark.parametrize("named", [False, True], ids=["by-place", "by-program"])
def test_detach_from_an_empty_hook_is_refused(hook: Hook, load: Load, flags: int, named: bool) -> None:
    """netkit_prog_detach(), tcx_prog_detach(): ENOENT, before the first program and after the last."""
    with expect.refusal(errno.ENOENT, "detach where nothing ever was"):
        hook.detach(load() if named else None, flags=flags)
    hook.attach(load())
    hook.detach()
    with expect.refusal(errno.ENOENT, "detach where nothing is any more"):
        hook.detach(load() if named else None, flags=flags)


@pytest.mark.promise("detach-empty-clsact")
@pytest.mark.feature("clsact")
@TCX_ONLY
@pytest.mark.parametrize("flags", [0, Flags.BEFORE, Flags.AFTER], ids=["no-flag", "before", "after"])
def test_detach_from_an_empty_hook_with_clsact_is_refused(hook: Hook, flags: int) -> None:
    """d210f9735e13 "bpf: Fix mprog detachment for empty mprog entry": the qdisc's entry is no program to detach."""
    hook.device.namespace.rtnl.add_clsact(hook.device)
    with expect.refusal(errno.ENOENT, "detach where only clsact is"):
        hook.detach(flags=flags)


@pytest.mark.promise("detached-program-does-not-run")
def test_detached_program_does_not_run(hook: Hook, load: Load, counters: bpf.Counters) -> None:
    """The array that packets walk is swapped before PROG_DETACH returns; programs behind it still run."""
    gone = load(Verdict.NEXT, counters, 0)
    hook.attach(gone)
    hook.attach(load(Verdict.NEXT, counters, 1))
    hook.detach(gone)
    hook.run()
    wait.until(lambda: counters[1], "a run of the program that stayed")
    assert counters[0] == 0, "runs of the program that was detached"


@pytest.mark.promise("detached-program-is-freed")
@ONE_OF_EACH
def test_detached_program_is_let_go(hook: Hook) -> None:
    """bpf_mprog_complete_release(): a program that only the hook held is freed."""
    with bpf.classifier_returning(Verdict.NEXT) as program:
        number = program.id
        hook.attach(program)
    assert number in bpf.ids(bpf.Cmd.PROG_GET_NEXT_ID), "the hook does not hold its program"
    hook.detach()
    wait.until(lambda: number not in bpf.ids(bpf.Cmd.PROG_GET_NEXT_ID), f"program {number} to go")
