"""Real kernels: from a name in Debian's archive to an image. The user's cache is shared: only the first run is slow."""

from __future__ import annotations

import io
import time
from pathlib import Path

import pytest

from harness import paths
from harness.errors import UserError
from harness.events import Event, Phase, Progress, ignore
from harness.kernel.build import Bench
from harness.kernel.layout import Layout
from harness.kernel.obtain import obtain, resolve, series_status
from harness.kernel.source import locate
from harness.model import Kernel, Request, SeriesState

SOURCE = "debian:6.12"
FEATURES = {"netkit", "redirect_peer", "netns_cookie", "nf_egress"}


@pytest.fixture(scope="module")
def kernel() -> Kernel:
    return obtain(Request(source=SOURCE))


def pristine(path: str) -> str:
    with locate(SOURCE, layout=Layout.default(), events=ignore).reading(ignore) as read:
        content = read(path)
    assert content is not None
    return content.data.decode()


def patch(folder: Path, path: str, old: str, new: str) -> str:
    import difflib

    before = pristine(path)
    assert before.count(old) == 1
    lines = difflib.unified_diff(
        before.splitlines(keepends=True), before.replace(old, new).splitlines(keepends=True), f"a/{path}", f"b/{path}"
    )
    (folder / "test.patch").write_text("".join(lines))
    return str(folder / "test.patch")


def test_a_kernel_with_every_feature(kernel: Kernel) -> None:
    # the boot protocol's magic, which a bzImage has at this offset
    assert kernel.image.read_bytes()[0x202:0x206] == b"HdrS"
    assert kernel.release == str(kernel.version)
    assert {one.name for one in kernel.series if one.state is SeriesState.PRESENT} == FEATURES
    proof = dict(kernel.config_proof)
    assert {proof[symbol] for symbol in ("NETKIT", "NETFILTER_EGRESS", "CGROUP_BPF", "NET_CLS_ACT", "9P_FS")} == {"y"}
    assert " netkit_link_attach\n" in kernel.system_map.read_text()


def test_it_is_stored(kernel: Kernel) -> None:
    events: list[Event] = []
    assert obtain(Request(source=SOURCE), events=events.append) == kernel
    assert events == []


def test_a_patch_costs_its_objects(kernel: Kernel, tmp_path: Path) -> None:
    """The second of two patched kernels: before the first, the tree may have been at any other configuration."""
    for _ in range(2):
        # the time makes it a kernel that no earlier run has stored
        comment = f"/* {tmp_path} {time.time_ns()} */\n#define DRV_NAME"
        changed_file = patch(tmp_path, "drivers/net/netkit.c", "#define DRV_NAME", comment)
        events: list[Event] = []
        changed = obtain(Request(source=SOURCE, patches=(changed_file,)), events=events.append)
        assert changed.identity != kernel.identity
    progress = [event for event in events if isinstance(event, Progress)]
    assert 1 <= progress[-1].done <= progress[-1].total < 20


def test_a_compiler_error_is_short(kernel: Kernel, tmp_path: Path) -> None:
    broken = patch(tmp_path, "drivers/net/netkit.c", "#define DRV_NAME", "int x = broken;\n#define DRV_NAME")
    with pytest.raises(UserError, match=r"drivers/net/netkit\.c:\d+: .broken. undeclared") as caught:
        obtain(Request(source=SOURCE, patches=(broken,)))
    assert len(str(caught.value).splitlines()) <= 5


def test_a_dropped_symbol_is_explained_from_the_real_kconfig(kernel: Kernel) -> None:
    with pytest.raises(
        UserError, match=r"NETKIT=y was requested, got n: it needs BPF_SYSCALL, which is n \(drivers/net"
    ):
        obtain(Request(source=SOURCE, settings=("BPF_SYSCALL=n",)))


@pytest.mark.parametrize("flavour", ["kasan", "lockdep", "kmemleak"])
def test_the_debug_flavours_are_accepted_whole(kernel: Kernel, flavour: str) -> None:
    recipe = resolve(Request(source=SOURCE, flavours=(flavour,)))
    located = locate(SOURCE, layout=Layout.default(), events=ignore)
    with located.building(ignore):
        with located.writing(ignore):
            tree = located.prepare(ignore)
            tree.switch(recipe.patches)
        bench = Bench(tree, recipe, own=False, ccache=Layout.default().ccache, events=ignore)
        proof = bench.configure(io.BytesIO())
    assert set(recipe.settings) <= set(proof)


def test_the_status_of_every_series(kernel: Kernel) -> None:
    states = {one.name: one.state for one in series_status(SOURCE)}
    assert {name for name, state in states.items() if state is SeriesState.PRESENT} == FEATURES
    assert set(states) == {path.parent.name for path in (paths.project_root() / "patches").glob("*/series.toml")}


def test_a_version_that_the_archive_lacks(kernel: Kernel) -> None:
    events: list[Event] = []
    with pytest.raises(UserError, match=r"debian:6\.12\.999: the archive has no such kernel; of 6\.12 it has"):
        resolve(Request(source="debian:6.12.999"), events=events.append)
    assert events[0] == Phase("source", "looking for 6.12.999 in the archive")
