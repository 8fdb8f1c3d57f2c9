"""What PROG_QUERY tells of a hook: count, revision, ids of programs and links, into arrays of any length.

Source of the promises: bpf_mprog_query() of kernel/bpf/mprog.c (053c8e1f235d).
"""

from __future__ import annotations

import ctypes
import errno
import struct
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

import pytest

from selftests.lib import bpf, expect
from selftests.lib.bpf import Cmd
from selftests.netkit.conftest import EVERY_HOOK, ONE_OF_EACH, Hook, Load

UNTOUCHED: Final = 0xDEADBEEF
SLOTS: Final = 6
"""Of each array; what is told to the kernel may be less."""


@dataclass(frozen=True)
class Answer:
    """What a query left in its attributes and arrays."""

    errno: int
    count: int
    revision: int
    attach_flags: int
    programs: tuple[int, ...]
    program_flags: tuple[int, ...]
    links: tuple[int, ...]
    link_flags: tuple[int, ...]


def ask(hook: Hook, count: int, *, omit: str = "", query_flags: int = 0, attach_flags: int = 0) -> Answer:
    """PROG_QUERY with four arrays whose entries are all UNTOUCHED, but for one that is left out."""
    names = ("programs", "program_flags", "links", "link_flags")
    arrays = {name: (ctypes.c_uint32 * SLOTS)(*[UNTOUCHED] * SLOTS) for name in names}
    where = {name: 0 if name == omit else ctypes.addressof(array) for name, array in arrays.items()}
    attributes = bytearray(
        struct.pack(
            "<IIIIQI4xQQQQ",
            *(hook.device.index, hook.type, query_flags, attach_flags, where["programs"], count),
            *(where["program_flags"], where["links"], where["link_flags"], 0),
        )
    )
    code = 0
    with hook.device.namespace.entered():
        try:
            bpf.bpf(Cmd.PROG_QUERY, attributes)
        except OSError as error:
            code = error.errno or -1
    (flags,) = struct.unpack_from("<I", attributes, 12)
    (told,) = struct.unpack_from("<I", attributes, 24)
    (revision,) = struct.unpack_from("<Q", attributes, 56)
    return Answer(code, told, revision, flags, **{name: tuple(array) for name, array in arrays.items()})


@dataclass(frozen=True)
class Three:
    """What is at the hook: a program, a link, a program."""

    programs: tuple[int, int, int]
    links: tuple[int, int, int]


@pytest.fixture
def three(hook: Hook, load: Load, cleanup: ExitStack) -> Three:
    first, second, third = load(), load(), load()
    hook.attach(first)
    link = cleanup.enter_context(hook.link(second))
    hook.attach(third)
    return Three((first.id, second.id, third.id), (0, link.id, 0))


def untouched(written: tuple[int, ...] = ()) -> tuple[int, ...]:
    """An array whose first entries are these, and the others as they were."""
    return written + (UNTOUCHED,) * (SLOTS - len(written))


@pytest.mark.promise("query-empty")
@pytest.mark.parametrize("count", [0, SLOTS])
def test_an_empty_hook_has_revision_1(hook: Hook, count: int) -> None:
    """edfa9af0a73e "bpf: Handle bpf_mprog_query with NULL entry": no programs, revision 1, nothing written."""
    answer = ask(hook, count)
    assert (answer.errno, answer.count, answer.revision) == (0, 0, 1), "(errno, count, revision)"
    assert answer.programs == answer.links == untouched()


@pytest.mark.promise("query-all")
@pytest.mark.parametrize("count", [3, SLOTS], ids=["just-enough-room", "more-room"])
def test_query_tells_all(hook: Hook, three: Three, count: int) -> None:
    """Program ids in order, the links beside them, 0 for a program without one; no entry behind the last is written."""
    assert ask(hook, count) == Answer(
        errno=0,
        count=3,
        revision=4,
        attach_flags=0,
        programs=untouched(three.programs),
        program_flags=untouched((0, 0, 0)),
        links=untouched(three.links),
        link_flags=untouched((0, 0, 0)),
    )


@pytest.mark.promise("query-short")
@ONE_OF_EACH
@pytest.mark.parametrize("count", [1, 2])
def test_short_arrays_are_filled_and_the_full_count_is_told(hook: Hook, three: Three, count: int) -> None:
    """ENOSPC, as many entries as fit and not one more, the count of all, the revision."""
    answer = ask(hook, count)
    assert (answer.errno, answer.count, answer.revision) == (errno.ENOSPC, 3, 4), "(errno, count, revision)"
    assert answer.programs == untouched(three.programs[:count])
    assert answer.links == untouched(three.links[:count])
    assert answer.program_flags == answer.link_flags == untouched((0,) * count)


@pytest.mark.promise("query-count")
@ONE_OF_EACH
@pytest.mark.parametrize(
    ("count", "omit"),
    [
        pytest.param(0, "programs", id="no-room-and-no-array"),
        pytest.param(0, "", id="arrays-but-no-room"),
        pytest.param(SLOTS, "programs", id="room-but-no-array"),
    ],
)
def test_without_room_only_the_count_is_told(hook: Hook, three: Three, count: int, omit: str) -> None:
    """`query.count == 0 || !uprog_id`: count and revision, no error, nothing written."""
    answer = ask(hook, count, omit=omit)
    assert (answer.errno, answer.count, answer.revision) == (0, 3, 4), "(errno, count, revision)"
    assert answer.programs == answer.links == answer.program_flags == answer.link_flags == untouched()


@pytest.mark.promise("query-some-arrays")
@ONE_OF_EACH
@pytest.mark.parametrize("omit", ["program_flags", "links", "link_flags"])
def test_each_other_array_may_be_left_out(hook: Hook, three: Three, omit: str) -> None:
    """All arrays but the first are for those who ask."""
    answer = ask(hook, SLOTS, omit=omit)
    assert (answer.errno, answer.programs) == (0, untouched(three.programs))
    assert getattr(answer, omit) == untouched()


@pytest.mark.promise("query-flags")
@ONE_OF_EACH
@pytest.mark.parametrize("flag", ["query_flags", "attach_flags"])
def test_flags_are_refused(hook: Hook, three: Three, flag: str) -> None:
    """bpf_mprog_query(): EINVAL for any flag, also BPF_F_QUERY_EFFECTIVE (1), which cgroups know."""
    assert ask(hook, SLOTS, **{flag: 1}).errno == errno.EINVAL  # type: ignore[arg-type]


@pytest.mark.promise("query-fault")
@ONE_OF_EACH
def test_an_array_that_is_not_mapped_is_a_fault(hook: Hook, three: Three) -> None:
    """copy_to_user(): EFAULT, no crash."""
    attributes = struct.pack("<IIIIQI4xQQQQ", hook.device.index, hook.type, 0, 0, 8, SLOTS, 0, 0, 0, 0)
    with hook.device.namespace.entered(), expect.refusal(errno.EFAULT, "a query into page 0"):
        bpf.bpf(Cmd.PROG_QUERY, attributes)


@pytest.mark.promise("query-device")
@pytest.mark.parametrize("index", [pytest.param(0, id="index-0"), pytest.param(0x7FFFFFFF, id="unknown-index")])
def test_query_of_an_absent_device_is_refused(hook: Hook, index: int) -> None:
    """__dev_get_by_index(): ENODEV."""
    with hook.device.namespace.entered(), expect.refusal(errno.ENODEV, f"a query of index {index}"):
        bpf.query(index, hook.type)


@pytest.mark.promise("query-one-hook")
def test_the_other_hook_of_the_device_is_another(hook: Hook, three: Three) -> None:
    """Each of ingress and egress, primary and peer, has programs and a revision of its own."""
    other = {46: 47, 47: 46, 54: 55, 55: 54}[hook.type]
    with hook.device.namespace.entered():
        found = bpf.query(hook.device.index, other)
    assert (found.count, found.revision) == (0, 1), f"(count, revision) of attach type {other}"


@pytest.mark.promise("query-emptied")
def test_a_hook_that_was_emptied_tells_nothing_of_before(hook: Hook, load: Load) -> None:
    """The last program takes the entry along: count 0 and revision 1, as at the beginning."""
    hook.attach(load())
    hook.detach()
    found = hook.query()
    assert (found.count, found.revision) == (0, 1)


@pytest.mark.promise("revision-of-an-emptied-hook")
@pytest.mark.parametrize("hook", EVERY_HOOK[:2], indirect=True)
@pytest.mark.known_bug(
    "the revision that a query tells of an emptied netkit hook is not the one that attach compares with",
    evidence="bpf_mprog_query() without an entry says 1, netkit_entry_fetch() with bundle_fallback finds the old count",
    match="ESTALE|Stale file handle",
)
def test_told_revision_of_an_emptied_netkit_hook_is_good_for_attach(hook: Hook, load: Load) -> None:
    """053c8e1f235d: the revision of a query is what the next request may expect."""
    hook.attach(load())
    hook.detach()
    hook.attach(load(), revision=hook.query().revision)


@pytest.mark.promise("revision-of-an-emptied-hook")
@pytest.mark.parametrize("hook", EVERY_HOOK[2:], indirect=True)
def test_told_revision_of_an_emptied_tcx_hook_is_good_for_attach(hook: Hook, load: Load) -> None:
    """tcx_entry_free(): the revision begins anew, and is what a query tells."""
    hook.attach(load())
    hook.detach()
    hook.attach(load(), revision=hook.query().revision)
    assert hook.query().revision == 2
