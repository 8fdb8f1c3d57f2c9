"""Programs on a device's queue selection by bpf_link: order, revision, update, query, what a link tells of itself.

Source: patches/xps_bpf, which stands on bpf_mprog (053c8e1f235d) as tcx does; 6.1, which lacks it, takes one link a
device.
"""

from __future__ import annotations

import errno
from contextlib import ExitStack
from pathlib import Path

import pytest

from selftests.lib import bpf, expect, programs, xps
from selftests.lib.bpf import AttachType, Flags
from selftests.lib.xps import Attached, State
from selftests.xps_bpf.conftest import Device, Load, MakeDevice, await_release

pytestmark = pytest.mark.feature("xps_bpf")

mprog = pytest.mark.feature("xps_bpf_mprog")


def test_query_tells_program_and_link(device: Device, load: Load) -> None:
    """BPF_PROG_QUERY: nothing, then the program and its link, then nothing."""
    program = load(1)
    assert xps.query(device.link).count == 0
    with xps.link(program, device.link) as link:
        found = xps.query(device.link)
        assert (found.programs, found.attach_flags) == ((program.id,), 0)
        assert found.links == ((link.id,) if bpf.kernel_version() >= bpf.QUERY_HAS_LINKS else (0,))
        assert set(found.prog_ids[1:]) == {0}, "entries past the count were written"
    assert xps.query(device.link).count == 0


@mprog
def test_query_tells_the_revision(device: Device, load: Load) -> None:
    """bpf_mprog_query(): an empty hook has revision 1, and each link makes one more."""
    assert xps.query(device.link).revision == 1
    with xps.link(load(1), device.link):
        assert xps.query(device.link).revision == 2
        with xps.link(load(1), device.link):
            assert xps.query(device.link).revision == 3


@mprog
def test_query_into_a_short_array_tells_the_full_count(device: Device, load: Load, cleanup: ExitStack) -> None:
    """bpf_mprog_query(): ENOSPC, as many ids as fit, and the count of all."""
    loaded = [load() for _ in range(3)]
    for program in loaded:
        cleanup.enter_context(xps.link(program, device.link))
    short = xps.query(device.link, room=2)
    assert (short.errno, short.count, short.prog_ids) == (errno.ENOSPC, 3, (loaded[0].id, loaded[1].id))
    counting = xps.query(device.link, room=0, arrays=False)
    assert (counting.errno, counting.count, counting.revision) == (0, 3, 4)


def test_query_of_no_device_and_with_flags_is_refused(device: Device) -> None:
    """BPF_PROG_QUERY: ENODEV for an ifindex that nobody has, EINVAL for flags."""
    with device.namespace.entered():
        with expect.refusal(errno.ENODEV, "a query of ifindex 4242"):
            bpf.query(4242, AttachType.XPS)
        with expect.refusal(errno.EINVAL, "a query with flags"):
            bpf.query(device.link.index, AttachType.XPS, query_flags=1)


def test_link_info_and_fdinfo_tell_the_device(device: Device, load: Load) -> None:
    """bpf_link_info.xps and /proc/PID/fdinfo: type, program, ifindex and attach type, in words as well."""
    program = load(1)
    with xps.link(program, device.link) as link:
        info = link.info
        text = Path(f"/proc/thread-self/fdinfo/{link.fd}").read_text()
    assert (info.type, info.prog_id) == (bpf.LINK_TYPE_XPS, program.id)
    assert (info.ifindex, info.attach_type) == (device.link.index, AttachType.XPS)
    assert "link_type:\txps" in text, text
    assert f"ifindex:\t{device.link.index}\n" in text, text
    assert f"attach_type:\t{AttachType.XPS:d} (xps)\n" in text, text


@mprog
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
    device: Device, cleanup: ExitStack, counters: bpf.Counters, flags: int, relative: str | None, order: str
) -> None:
    """Where a third link (N) goes among two (A, B), by query and by the packet that runs them: all say -1."""
    loaded = {
        name: cleanup.enter_context(bpf.load_filter(programs.stamp(counters.fd, slot), programs.ret(-1), name=name))
        for slot, name in enumerate("ABN", start=1)
    }
    links = {name: cleanup.enter_context(xps.link(loaded[name], device.link)) for name in "AB"}
    target = 0
    if relative:
        name, what = relative[0], relative[2:]
        thing = links[name] if what.startswith("link") else loaded[name]
        target = thing.id if what.endswith("id") else thing.fd
    links["N"] = cleanup.enter_context(xps.link(loaded["N"], device.link, flags=flags, relative=target))
    by_id = {program.id: name for name, program in loaded.items()}
    found = xps.query(device.link)
    assert "".join(by_id[number] for number in found.programs) == order, "order by query"
    assert found.revision == 4, "revision after three links"
    assert device.queue("run them") == 3, "the queue by XPS, after three programs that say -1"
    ticks = dict(zip("ABN", counters.read()[1:4], strict=True))
    assert "".join(sorted(ticks, key=lambda name: ticks[name])) == order, f"order by execution: {ticks}"
    assert xps.state(device.link) == State(Attached.LINK, loaded[order[0]].id, 3), "what rtnetlink tells"


@mprog
def test_first_program_that_decides_is_the_last_that_runs(
    device: Device, load: Load, cleanup: ExitStack, counters: bpf.Counters
) -> None:
    """-1 hands on to the next program; a queue, also one that is out of range, ends the round."""
    for slot, value in enumerate((-1, 1, 2)):
        cleanup.enter_context(xps.link(load(value, counters, slot), device.link))
    assert device.queue() == 1
    assert counters.read()[:3] == (1, 1, 0), "runs of the programs that say -1, 1, 2"
    cleanup.enter_context(xps.link(load(4, counters, 3), device.link, flags=Flags.BEFORE))
    assert device.queue() == 0
    assert counters.read()[:4] == (1, 1, 0, 1), "runs of those, and of one before them that says 4 of 4 queues"


@mprog
def test_link_with_stale_revision_is_refused(device: Device, load: Load, cleanup: ExitStack) -> None:
    """bpf_mprog_attach(): an expected revision that is not the hook's is ESTALE, the right one is taken."""
    cleanup.enter_context(xps.link(load(), device.link, revision=1))
    with expect.refusal(errno.ESTALE, "a link expecting revision 1 where it is 2"):
        xps.link(load(), device.link, revision=1).close()
    cleanup.enter_context(xps.link(load(), device.link, revision=2))
    assert xps.query(device.link).revision == 3


@mprog
@pytest.mark.parametrize(
    ("flags", "relative", "code"),
    [
        pytest.param(Flags.BEFORE | Flags.AFTER, "none", errno.ERANGE, id="BEFORE-and-AFTER"),
        pytest.param(0, "program", errno.EINVAL, id="a-program-and-no-flag"),
        pytest.param(Flags.BEFORE, "other", errno.ENOENT, id="BEFORE-a-program-that-is-not-there"),
        pytest.param(Flags.AFTER | Flags.ID, "none", errno.ENOENT, id="AFTER-id-0"),
        pytest.param(Flags.BEFORE | Flags.LINK, "program", errno.EINVAL, id="LINK-with-a-program"),
        pytest.param(Flags.BEFORE | Flags.LINK, "none", errno.EINVAL, id="LINK-with-nothing"),
        pytest.param(Flags.BEFORE, "classifier", errno.EINVAL, id="BEFORE-a-program-of-another-type"),
        pytest.param(Flags.REPLACE, "none", errno.ENOENT, id="REPLACE-with-nothing"),
        pytest.param(Flags.REPLACE, "program", errno.ENOENT, id="REPLACE-a-program"),
        pytest.param(1 << 20, "none", errno.EINVAL, id="a-flag-that-there-is-not"),
    ],
)
def test_flags_that_make_no_sense_are_refused(
    device: Device, load: Load, cleanup: ExitStack, flags: int, relative: str, code: int
) -> None:
    """bpf_mprog_attach(), as for tcx; nothing changes."""
    first = load()
    cleanup.enter_context(xps.link(first, device.link))
    before = xps.query(device.link)
    fds = {
        "none": 0,
        "program": first.fd,
        "other": load().fd,
        "classifier": cleanup.enter_context(bpf.classifier_returning(0)).fd,
    }
    with expect.refusal(code, f"a link with flags {flags:#x} relative to {relative}"):
        xps.link(load(), device.link, flags=flags, relative=fds[relative]).close()
    assert xps.query(device.link) == before, "a refused link changed the hook"


def test_same_program_twice_is_refused(device: Device, load: Load, cleanup: ExitStack) -> None:
    """A program is on a device once: EEXIST of bpf_mprog_exists(); EBUSY where a device takes one program."""
    program = load(1)
    cleanup.enter_context(xps.link(program, device.link))
    code = errno.EEXIST if xps.query(device.link).revision else errno.EBUSY
    with expect.refusal(code, "a second link of a program"):
        xps.link(program, device.link).close()


def test_device_without_mprog_takes_one_program(device: Device, load: Load, cleanup: ExitStack) -> None:
    """Before bpf_mprog: EBUSY for a second link, EINVAL for a flag; where there is bpf_mprog, both are taken."""
    cleanup.enter_context(xps.link(load(1), device.link))
    if xps.query(device.link).revision:
        cleanup.enter_context(xps.link(load(2), device.link, flags=Flags.BEFORE))
        assert device.queue() == 2
        return
    with expect.refusal(errno.EBUSY, "a second link"):
        xps.link(load(2), device.link).close()
    with expect.refusal(errno.EINVAL, "a link with a flag"):
        xps.link(load(2), device.link, flags=Flags.BEFORE).close()
    assert device.queue() == 1


@mprog
def test_63_links_fit_and_the_64th_is_refused(device: Device, cleanup: ExitStack, load: Load) -> None:
    """bpf_mprog_max(): ERANGE, wherever it should go; and the last of 63 is asked after 62 that say -1."""
    for value in [*[-1] * 62, 2]:
        cleanup.enter_context(xps.link(load(value), device.link))
    before = xps.query(device.link)
    for flags in (0, Flags.BEFORE, Flags.AFTER):
        with expect.refusal(errno.ERANGE, f"a 64th link with flags {flags}"):
            xps.link(load(), device.link, flags=flags).close()
    assert xps.query(device.link) == before, "refused links changed the hook"
    assert device.queue() == 2
    assert xps.state(device.link) == State(Attached.LINK, before.programs[0], 63)


def test_link_update_swaps_the_program(device: Device, load: Load, counters: bpf.Counters) -> None:
    """LINK_UPDATE: same link, new program, the next packet asks it; what it replaced is free."""
    old, new = load(1, counters, 0), load(2, counters, 1)
    with xps.link(old, device.link) as link:
        before = xps.query(device.link)
        link.update(new)
        assert device.queue() == 2
        assert counters.read()[:2] == (0, 1), "runs of the old and of the new program"
        found = xps.query(device.link)
        assert (found.programs, found.links) == ((new.id,), before.links)
        assert found.revision == (before.revision + 1 if before.revision else 0)
        link.update(new)
        assert xps.query(device.link) == found, "an update to the same program is none"
        gone = old.id
        old.close()
        await_release(gone)


def test_link_update_of_another_program_is_refused(device: Device, load: Load) -> None:
    """LINK_UPDATE with BPF_F_REPLACE: EPERM where the link has not the old program that is given."""
    program, other = load(1), load(2)
    with xps.link(program, device.link) as link:
        with expect.refusal(errno.EPERM, "an update that expects another program"):
            link.update(load(0), flags=Flags.REPLACE, old=other.fd)
        assert device.queue() == 1
        link.update(other, flags=Flags.REPLACE, old=program.fd)
        assert device.queue() == 2


def test_link_update_to_another_type_is_refused(device: Device, load: Load, cleanup: ExitStack) -> None:
    """LINK_UPDATE: EINVAL for a program that is no socket filter."""
    classifier = cleanup.enter_context(bpf.classifier_returning(0))
    with xps.link(load(1), device.link) as link:
        with expect.refusal(errno.EINVAL, "an update to a classifier"):
            link.update(classifier)
        assert device.queue() == 1


def test_detached_link_lives_on_without_device(device: Device, load: Load, counters: bpf.Counters) -> None:
    """LINK_DETACH: the program is off, at once; the link stays, its ifindex is 0, ENOLINK on update."""
    with xps.link(load(1, counters), device.link) as link:
        link.detach()
        assert device.queue() == 3
        assert counters[0] == 0, "runs after LINK_DETACH"
        assert (link.info.ifindex, xps.query(device.link).count) == (0, 0)
        assert xps.state(device.link) is None
        with expect.refusal(errno.ENOLINK, "an update of a detached link"):
            link.update(load())
        link.detach()


@mprog
def test_links_go_in_any_order(device: Device, load: Load, cleanup: ExitStack) -> None:
    """The first, the one in the middle and the last of three links go, and the others stay in their order."""
    for going in range(3):
        loaded = [load(-1) for _ in range(3)]
        links = [cleanup.enter_context(xps.link(program, device.link)) for program in loaded]
        links.pop(going).close()
        assert xps.query(device.link).links == tuple(link.id for link in links)
        for link in links:
            link.close()
        assert xps.query(device.link).count == 0


@pytest.mark.parametrize("kind", ["dummy", "tap"])
def test_devices_do_not_share(make_device: MakeDevice, load: Load, kind: str, counters: bpf.Counters) -> None:
    """A program on one device is not asked for another's packets, though the hook is in use."""
    one, other = make_device(kind, 4), make_device("dummy", 4)
    other.maps_to(3)
    with xps.link(load(1, counters), one.link):
        assert other.queue() == 3
        assert counters[0] == 0, "runs for a packet of another device"
        assert one.queue() == 1
        assert xps.query(other.link).count == 0
