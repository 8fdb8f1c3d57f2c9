"""Where bpf_mprog puts a program or a link among others, which revision that makes, and what it refuses.

Source of the promises: 053c8e1f235d "bpf: Add generic attach/detach/query API for multi-progs" (kernel/bpf/mprog.c),
e420bed02507 (kernel/bpf/tcx.c), 35dfaad7188c (drivers/net/netkit.c).
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from selftests.lib import bpf, expect, hooks, programs, wait
from selftests.lib.bpf import AttachType, Cmd, Flags, Verdict
from selftests.lib.netns import Namespace
from selftests.netkit.conftest import ONE_OF_EACH, ONE_WAY_EACH, PLACES, Hook, Load, make_hook

NOWHERE = 0x7FFFFFFF
"""A descriptor that is not open, an id that no object has."""

WAYS = pytest.mark.parametrize("way", ["program", "link"])


class Attached:
    """What is at a hook, by letter."""

    def __init__(self, hook: Hook, load: Load, cleanup: ExitStack) -> None:
        self.hook = hook
        self.programs: dict[str, bpf.Program] = {}
        self.links: dict[str, bpf.Link] = {}
        self._load, self._cleanup = load, cleanup

    def program(self, letter: str) -> bpf.Program:
        """A program of this name, loaded once."""
        if letter not in self.programs:
            self.programs[letter] = self._load()
        return self.programs[letter]

    def add(self, letter: str, way: str, **options: int) -> None:
        """Attach ``letter`` as a plain program or by a link."""
        if way == "link":
            self.links[letter] = self._cleanup.enter_context(self.hook.link(self.program(letter), **options))
        else:
            self.hook.attach(self.program(letter), **options)

    def relative(self, words: str) -> int:
        """``A program``, ``B link id``, ``nothing``, ``nowhere``: the number for relative_fd or relative_id."""
        if words in ("nothing", "nowhere"):
            return NOWHERE if words == "nowhere" else 0
        letter, what, *by_id = words.split()
        thing = self.links[letter] if what == "link" else self.program(letter)
        return thing.id if by_id else thing.fd

    @property
    def order(self) -> str:
        """By query."""
        names = {program.id: letter for letter, program in self.programs.items()}
        return "".join(names[number] for number in self.hook.query().programs)


@pytest.fixture
def attached(hook: Hook, load: Load, cleanup: ExitStack) -> Attached:
    """Program A and, by a link, program B."""
    found = Attached(hook, load, cleanup)
    found.add("A", "program")
    found.add("B", "link")
    return found


@pytest.mark.promise("order")
@ONE_WAY_EACH
@pytest.mark.parametrize(
    ("flags", "relative", "order"),
    [
        pytest.param(0, "nothing", "ABN", id="no-flag-goes-last"),
        pytest.param(Flags.BEFORE, "nothing", "NAB", id="before-nothing-goes-first"),
        pytest.param(Flags.AFTER, "nothing", "ABN", id="after-nothing-goes-last"),
        pytest.param(Flags.BEFORE, "A program", "NAB", id="before-the-first-program"),
        pytest.param(Flags.BEFORE, "B program", "ANB", id="before-the-program-of-a-link"),
        pytest.param(Flags.AFTER, "A program", "ANB", id="after-the-first-program"),
        pytest.param(Flags.AFTER, "B program", "ABN", id="after-the-last-program"),
        pytest.param(Flags.BEFORE | Flags.ID, "B program id", "ANB", id="before-a-program-id"),
        pytest.param(Flags.AFTER | Flags.ID, "A program id", "ANB", id="after-a-program-id"),
        pytest.param(Flags.BEFORE | Flags.LINK, "B link", "ANB", id="before-a-link"),
        pytest.param(Flags.AFTER | Flags.LINK | Flags.ID, "B link id", "ABN", id="after-a-link-id"),
    ],
)
def test_order(attached: Attached, way: str, flags: int, relative: str, order: str) -> None:
    """bpf_mprog_attach(): where N goes among A (a program) and B (a link), and that this is one revision."""
    attached.add("N", way, flags=flags, relative=attached.relative(relative))
    assert attached.order == order
    assert attached.hook.query().revision == 4, "revision after three attachments"


@pytest.mark.promise("order-of-execution")
def test_order_of_execution(hook: Hook, counters: bpf.Counters, cleanup: ExitStack) -> None:
    """bpf_mprog_foreach_prog(): a packet runs all programs that say NEXT, in the order that a query tells."""
    loaded = {}
    for slot, (name, flags) in enumerate({"third": 0, "first": Flags.BEFORE, "last": Flags.AFTER}.items(), start=1):
        code = programs.stamp(counters.fd, slot), programs.ret(Verdict.NEXT)
        loaded[name] = cleanup.enter_context(bpf.load_classifier(*code, name=name))
        cleanup.enter_context(hook.link(loaded[name], flags=flags))
    code = programs.stamp(counters.fd, 4), programs.ret(Verdict.NEXT)
    loaded["second"] = cleanup.enter_context(bpf.load_classifier(*code, name="second"))
    hook.attach(loaded["second"], flags=Flags.AFTER, relative=loaded["first"].fd)
    names = {program.id: name for name, program in loaded.items()}
    assert [names[number] for number in hook.query().programs] == ["first", "second", "third", "last"], "by query"
    hook.run()
    ran = dict(
        zip(("third", "first", "last", "second"), wait.until(lambda: _all_set(counters, 4), "runs"), strict=True)
    )
    assert sorted(ran, key=lambda name: ran[name]) == ["first", "second", "third", "last"], f"by execution: {ran}"


def _all_set(counters: bpf.Counters, slots: int) -> tuple[int, ...] | None:
    """Slots 1 to ``slots``, once each is set."""
    values = counters.read()[1 : slots + 1]
    return values if all(values) else None


@pytest.mark.promise("attach-refusals")
@ONE_WAY_EACH
@pytest.mark.parametrize(
    ("flags", "relative", "code"),
    [
        pytest.param(Flags.BEFORE | Flags.AFTER, "nothing", errno.ERANGE, id="first-and-last"),
        pytest.param(Flags.BEFORE | Flags.AFTER, "A program", errno.ERANGE, id="before-and-after-one-program"),
        pytest.param(Flags.BEFORE | Flags.ID, "nothing", errno.ENOENT, id="before-id-0"),
        pytest.param(Flags.BEFORE | Flags.AFTER | Flags.ID, "nothing", errno.ENOENT, id="before-and-after-id-0"),
        pytest.param(Flags.ID, "nothing", errno.ENOENT, id="id-0-without-direction"),
        pytest.param(Flags.BEFORE | Flags.ID, "nowhere", errno.ENOENT, id="before-an-unknown-program-id"),
        pytest.param(Flags.AFTER | Flags.LINK | Flags.ID, "nowhere", errno.ENOENT, id="after-an-unknown-link-id"),
        pytest.param(Flags.LINK | Flags.ID, "nothing", errno.ENOENT, id="link-id-0"),
        pytest.param(Flags.LINK, "nothing", errno.EINVAL, id="link-without-descriptor"),
        pytest.param(Flags.BEFORE | Flags.LINK, "nothing", errno.EINVAL, id="before-a-link-without-descriptor"),
        pytest.param(Flags.BEFORE | Flags.LINK, "A program", errno.EINVAL, id="a-program-that-is-said-to-be-a-link"),
        pytest.param(Flags.BEFORE, "B link", errno.EINVAL, id="a-link-that-is-not-said-to-be-one"),
        pytest.param(Flags.AFTER, "nowhere", errno.EBADF, id="after-a-closed-descriptor"),
        pytest.param(Flags.AFTER | Flags.LINK, "nowhere", errno.EBADF, id="after-a-closed-link-descriptor"),
        pytest.param(0, "A program", errno.EINVAL, id="program-without-direction"),
        pytest.param(Flags.LINK, "B link", errno.EINVAL, id="link-without-direction"),
        pytest.param(Flags.ID, "A program id", errno.EINVAL, id="program-id-without-direction"),
        pytest.param(Flags.BEFORE, "Z program", errno.ENOENT, id="before-a-program-that-is-not-attached"),
        pytest.param(1 << 6, "nothing", errno.EINVAL, id="unknown-flag"),
    ],
)
def test_attach_refuses(attached: Attached, way: str, flags: int, relative: str, code: int) -> None:
    """bpf_mprog_attach(), bpf_mprog_tuple_relative(): each rule's errno; the hook stays as it was."""
    before = attached.hook.query()
    with expect.refusal(code, f"a {way} with flags {flags:#x} relative to {relative}"):
        attached.add("N", way, flags=flags, relative=attached.relative(relative))
    assert attached.hook.query() == before, "a refused attachment changed the hook"


@pytest.mark.promise("unknown-link-flags")
@pytest.mark.known_bug(
    "LINK_CREATE at tcx and netkit takes flags that nobody knows beside one that says where",
    evidence="link_create() checks no flags, and bpf_mprog_attach() looks at others only where no place is said",
    match="an unknown flag beside BEFORE: expected EINVAL .*, but it was allowed",
)
@ONE_OF_EACH
def test_unknown_flag_of_a_link_is_refused(hook: Hook, load: Load) -> None:
    """BPF_F_ATTACH_MASK_MPROG: PROG_ATTACH takes the flags that there are and no other, and so should a link."""
    with expect.refusal(errno.EINVAL, "an unknown flag beside BEFORE"):
        hook.link(load(), flags=Flags.BEFORE | 1 << 20).close()


@pytest.mark.promise("unknown-attach-flags")
@ONE_OF_EACH
def test_unknown_flag_of_a_program_is_refused(hook: Hook, load: Load) -> None:
    """BPF_F_ATTACH_MASK_MPROG: EINVAL, also beside a flag that says where."""
    with expect.refusal(errno.EINVAL, "an unknown flag beside BEFORE"):
        hook.attach(load(), flags=Flags.BEFORE | 1 << 20)


@pytest.mark.promise("relative-must-be-here")
@ONE_OF_EACH
def test_relative_link_must_be_of_this_hook(hook: Hook, load: Load, namespace: Namespace, cleanup: ExitStack) -> None:
    """bpf_mprog_pos_before(): a link on another device is ENOENT, also where its program is attached here, too."""
    other = make_hook(namespace, "netkit", "primary", "other")
    both = load()
    hook.attach(both)
    foreign = cleanup.enter_context(other.link(both))
    with expect.refusal(errno.ENOENT, "before a link of another device"):
        hook.attach(load(), flags=Flags.BEFORE | Flags.LINK, relative=foreign.fd)


@pytest.mark.promise("relative-type")
@ONE_OF_EACH
def test_relative_program_must_be_of_the_same_type(hook: Hook, load: Load, cleanup: ExitStack) -> None:
    """bpf_mprog_prog(): EINVAL where the relative program is no classifier."""
    other = cleanup.enter_context(bpf.filter_returning(0))
    with expect.refusal(errno.EINVAL, "before a socket filter"):
        hook.attach(load(), flags=Flags.BEFORE, relative=other.fd)


@pytest.mark.promise("stale-revision")
@WAYS
def test_stale_revision_is_refused(hook: Hook, load: Load, cleanup: ExitStack, way: str) -> None:
    """bpf_mprog_attach(): an expected revision that is not the hook's is ESTALE, the right one is taken."""
    attached = Attached(hook, load, cleanup)
    attached.add("A", way, revision=1)
    for stale in (1, 3):
        with expect.refusal(errno.ESTALE, f"expecting revision {stale} where it is 2"):
            attached.add("N", way, revision=stale)
    attached.add("N", way, revision=2)
    assert (attached.order, hook.query().revision) == ("AN", 3)


@pytest.mark.promise("once")
@ONE_OF_EACH
@pytest.mark.parametrize("second", ["program", "link"])
@pytest.mark.parametrize("first", ["program", "link"])
def test_the_same_program_twice_is_refused(hook: Hook, load: Load, cleanup: ExitStack, first: str, second: str) -> None:
    """bpf_mprog_exists(): EEXIST, whether it is there as a program or by a link, and whichever way it comes again."""
    attached = Attached(hook, load, cleanup)
    attached.add("A", first)
    with expect.refusal(errno.EEXIST, f"a program that is attached as a {first}, again as a {second}"):
        attached.add("A", second)


@pytest.mark.promise("one-program-many-hooks")
@pytest.mark.feature("netkit")
@pytest.mark.feature("tcx")
def test_one_program_at_many_hooks(namespace: Namespace, load: Load) -> None:
    """syscall.c: for classifiers the expected attach type is not looked at; one program serves all four hooks."""
    program = load()
    places = [make_hook(namespace, kind, side, f"nk{at}") for at, (kind, side) in enumerate(PLACES)]
    for place in places:
        place.attach(program)
    assert [place.query().programs for place in places] == [(program.id,)] * 4


@pytest.mark.promise("program-must-be-a-classifier")
@WAYS
@ONE_OF_EACH
@pytest.mark.parametrize(
    ("what", "code"),
    [
        pytest.param("socket filter", errno.EINVAL, id="another-type-of-program"),
        pytest.param("map", errno.EINVAL, id="a-map"),
        pytest.param("nothing", errno.EBADF, id="a-closed-descriptor"),
    ],
)
def test_what_is_no_classifier_is_refused(
    hook: Hook, counters: bpf.Counters, cleanup: ExitStack, way: str, what: str, code: int
) -> None:
    """bpf_prog_get_type(), bpf_prog_attach_check_attach_type()."""
    socket_filter = cleanup.enter_context(bpf.filter_returning(0))
    fd = {"socket filter": socket_filter.fd, "map": counters.fd, "nothing": NOWHERE}[what]
    make: Callable[..., Any] = bpf.link_create if way == "link" else _attach_fd
    with hook.device.namespace.entered(), expect.refusal(code, f"{what} as a {way}"):
        make(fd, hook.device.index, hook.type)


def _attach_fd(program: int, index: int, kind: int) -> None:
    bpf.attach(index, program, kind)


@pytest.mark.promise("no-such-device")
@WAYS
@pytest.mark.parametrize("index", [pytest.param(0, id="index-0"), pytest.param(NOWHERE, id="unknown-index")])
def test_absent_device_is_refused(hook: Hook, load: Load, way: str, index: int) -> None:
    """__dev_get_by_index(): ENODEV for an index that no device of the caller's namespace has."""
    make: Callable[..., Any] = bpf.link_create if way == "link" else _attach_fd
    with hook.device.namespace.entered(), expect.refusal(errno.ENODEV, f"a {way} on index {index}"):
        make(load().fd, index, hook.type)


@pytest.mark.promise("index-of-own-namespace")
def test_index_is_looked_up_in_the_callers_namespace(hook: Hook, load: Load, new_namespace: Any) -> None:
    """current->nsproxy->net_ns: from elsewhere the same number is another device, or none."""
    program = load()
    elsewhere = new_namespace("elsewhere")
    with elsewhere.entered():
        if hook.kind == "netkit":
            with expect.refusal(errno.ENODEV, "an index of another namespace"):
                bpf.attach(hook.device.index, program.fd, hook.type)
        else:
            bpf.attach(hook.device.index, program.fd, hook.type)
    assert hook.query().count == 0, "the other namespace's device got the program"


@pytest.mark.promise("other-attach-types")
@pytest.mark.feature("netkit")
@pytest.mark.parametrize("way", ["program", "link"])
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(AttachType.CGROUP_INET_INGRESS, id="a-cgroup's"),
        pytest.param(AttachType.SK_MSG_VERDICT, id="a-socket-map's"),
        pytest.param(9999, id="unknown"),
    ],
)
def test_other_attach_types_are_refused(namespace: Namespace, load: Load, way: str, kind: int) -> None:
    """attach_type_to_prog_type(): a classifier goes to tcx and netkit only; EINVAL elsewhere."""
    hook = make_hook(namespace, "netkit", "primary")
    with expect.refusal(errno.EINVAL, f"a classifier as {way} of attach type {kind}"):
        if way == "link":
            hooks.link(load(), hook.device, kind).close()
        else:
            hooks.attach(load(), hook.device, kind)


@pytest.mark.promise("unused-attributes")
@ONE_OF_EACH
@pytest.mark.parametrize("command", [Cmd.PROG_ATTACH, Cmd.PROG_DETACH, Cmd.PROG_QUERY], ids=lambda each: each.name)
def test_attributes_behind_the_last_are_refused(hook: Hook, load: Load, command: Cmd) -> None:
    """CHECK_ATTR and ba62d61128bd "bpf: Refuse unused attributes in bpf_prog_{attach,detach}": EINVAL."""
    program = load()
    if command == Cmd.PROG_QUERY:
        known = struct.pack("<II56x", hook.device.index, hook.type)
    else:
        known = struct.pack("<III20x", hook.device.index, program.fd, hook.type)
    with hook.device.namespace.entered(), expect.refusal(errno.EINVAL, f"{command.name} with one attribute more"):
        bpf.bpf(command, known + b"\1" + bytes(7))
    assert hook.query().count == 0


@pytest.mark.promise("63-programs")
def test_63_programs_fit_and_the_64th_is_refused(hook: Hook, load: Load) -> None:
    """bpf_mprog_max(): 63 programs, all of which a query tells; the next is ERANGE."""
    loaded = [load() for _ in range(63)]
    for program in loaded:
        hook.attach(program)
    full = hook.query()
    assert full.programs == tuple(program.id for program in loaded)
    with expect.refusal(errno.ERANGE, "a 64th program"):
        hook.attach(load())
    assert hook.query() == full, "a refused program changed the hook"


@pytest.fixture
def full_hook(hook: Hook, load: Load, counters: bpf.Counters) -> Hook:
    """63 programs, the last of which counts into slot 0."""
    for _ in range(62):
        hook.attach(load())
    hook.attach(load(Verdict.NEXT, counters, 0))
    return hook


@pytest.mark.promise("63-programs-anywhere")
@ONE_OF_EACH
def test_a_full_hook_takes_no_program_anywhere(full_hook: Hook, load: Load) -> None:
    """f9b0e1088bbf "bpf, mprog: Fix maximum program check on mprog attachment": ERANGE also before and after others."""
    full, another = full_hook.query(), load()
    for flags, relative in (
        (Flags.BEFORE, 0),
        (Flags.AFTER, 0),
        (Flags.BEFORE | Flags.ID, full.programs[30]),
        (Flags.AFTER | Flags.ID, full.programs[30]),
    ):
        with expect.refusal(errno.ERANGE, f"a 64th program with flags {flags:#x}"):
            full_hook.attach(another, flags=flags, relative=relative)
        with expect.refusal(errno.ERANGE, f"a 64th program by a link with flags {flags:#x}"):
            full_hook.link(another, flags=flags, relative=relative).close()
    assert full_hook.query() == full, "a refused program changed the hook"


@pytest.mark.promise("63-programs-run")
@ONE_OF_EACH
def test_the_63rd_program_runs(full_hook: Hook, counters: bpf.Counters) -> None:
    """bpf_mprog_foreach_prog(): the array ends behind the last of 63 programs, not before it."""
    full_hook.run()
    wait.until(lambda: counters[0], "a run of the 63rd program")


@pytest.mark.promise("63-programs-replace")
@ONE_OF_EACH
def test_a_full_hook_replaces_and_takes_again(full_hook: Hook, load: Load) -> None:
    """bpf_mprog_attach(): the limit is of programs, not of attachments: REPLACE works, and so does one out, one in."""
    last = full_hook.query().programs[-1]
    with bpf.program_by_id(last) as old:
        full_hook.attach(load(), flags=Flags.REPLACE, replace=old.fd)
    full_hook.detach(flags=Flags.BEFORE)
    full_hook.attach(load(), flags=Flags.BEFORE)
    assert (full_hook.query().count, full_hook.query().revision) == (63, 67)
