"""The door of the floor, on a kernel tree in miniature: what is built, what is not built again, and what is refused."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import textwrap
from pathlib import Path

import pytest

from harness.errors import InfraError, UserError
from harness.events import Event, Notice, Phase, Progress
from harness.kernel.obtain import obtain, resolve, series_status
from harness.kernel.store import Store
from harness.model import Request, SeriesState

from .conftest import diff, git, gone, write

pytestmark = pytest.mark.usefixtures("cache", "project")


@pytest.fixture
def request_(kernel_tree: Path) -> Request:
    return Request(source=f"dir:{kernel_tree}")


def with_patch(request: Request, path: Path) -> Request:
    return Request(source=request.source, patches=(str(path),))


def compiled(events: list[Event]) -> int:
    return max((event.done for event in events if isinstance(event, Progress) and event.unit == "objects"), default=0)


def phases(events: list[Event]) -> list[str]:
    return [event.name for event in events if isinstance(event, Phase)]


def test_a_kernel_has_all_that_is_promised(request_: Request) -> None:
    kernel = obtain(request_)
    for path in (kernel.image, kernel.vmlinux, kernel.system_map, kernel.config, kernel.build_log):
        assert path.stat().st_size > 0
    assert kernel.release == "6.12.3"
    assert dict(kernel.config_proof) == {"NET": "y", "BPF_SYSCALL": "y", "LOG_SHIFT": "12", "NETKIT": "y"}
    assert {one.name: one.state for one in kernel.series} == {
        "future": SeriesState.ABSENT,
        "netkit": SeriesState.PRESENT,
        "queue": SeriesState.APPLIES,
    }
    manifest = json.loads(kernel.manifest.read_text())
    assert manifest["command"].startswith("kproof exec ")
    assert manifest["patches"][0]["name"] == "patches/queue/6.12/0001-queue.patch"
    assert "queue_of_choice" in (kernel.folder / manifest["patches"][0]["file"]).read_text()


def test_debug_information_is_kept_compressed(request_: Request) -> None:
    kernel = obtain(Request(source=request_.source, settings=("DEBUG_INFO=y",)))
    headers = subprocess.run(["readelf", "-tW", kernel.vmlinux], check=True, capture_output=True, text=True).stdout
    assert re.search(r"\.debug_info\n.*\n.*COMPRESSED", headers)
    assert ".debug_frame" not in headers


def test_the_command_in_the_manifest_means_the_same_kernel(request_: Request) -> None:
    import shlex

    kernel = obtain(request_)
    text = shlex.split(json.loads(kernel.manifest.read_text())["command"])[2]
    assert resolve(Request.parse(text)).identity == kernel.identity


def test_a_stored_kernel_is_not_built_again(request_: Request, events: list[Event]) -> None:
    first = obtain(request_)
    assert obtain(request_, events=events.append) == first
    assert "build" not in phases(events)


def test_a_stored_kernel_needs_no_tree(tmp_path: Path, kernel_tree: Path, cache: Path, events: list[Event]) -> None:
    import shutil

    archive = tmp_path / "linux.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(kernel_tree, "linux-6.12.3")
    first = obtain(Request(source=f"tar:{archive}"))
    shutil.rmtree(cache / "trees")
    assert obtain(Request(source=f"tar:{archive}"), events=events.append) == first
    assert not (cache / "trees").exists()


def test_a_patch_compiles_only_what_it_changes(
    request_: Request, kernel_tree: Path, tmp_path: Path, events: list[Event]
) -> None:
    base = obtain(request_, events=events.append)
    assert compiled(events) == 3
    events.clear()
    patch = write(tmp_path / "p.patch", diff(kernel_tree, "fs/namei.c", lambda text: text.replace("1", "2")))
    kernel = obtain(with_patch(request_, patch), events=events.append)
    assert compiled(events) == 1
    assert [event.total for event in events if isinstance(event, Progress)] == [1, 1]
    assert b"return 2" in kernel.image.read_bytes()
    assert b"return 2" not in base.image.read_bytes()


def test_the_users_folder_is_not_touched(request_: Request, kernel_tree: Path) -> None:
    before = {path: path.read_bytes() for path in kernel_tree.rglob("*") if path.is_file()}
    obtain(request_)
    assert {path: path.read_bytes() for path in kernel_tree.rglob("*") if path.is_file()} == before


def test_an_edit_in_the_users_folder_is_another_kernel(
    request_: Request, kernel_tree: Path, events: list[Event]
) -> None:
    first = obtain(request_)
    write(kernel_tree / "fs/namei.c", "int namei(void) { return 7; }\n")
    (kernel_tree / "fs/extra.c").write_text("")
    second = obtain(request_, events=events.append)
    assert second.identity != first.identity
    assert compiled(events) == 1
    assert b"return 7" in second.image.read_bytes()


def test_commits_of_one_clone_share_objects(clone: Path, events: list[Event]) -> None:
    first = obtain(Request(source=f"git:{clone}@v6.12.3"))
    assert resolve(Request(source=f"dir:{clone}")).identity == first.identity
    write(clone / "fs/namei.c", "int namei(void) { return 7; }\n")
    git(clone, "commit", "-qam", "second")
    second = obtain(Request(source=f"git:{clone}@main"), events=events.append)
    assert compiled(events) == 1
    assert b"return 7" in second.image.read_bytes()
    assert obtain(Request(source=f"git:{clone}@v6.12.3")) == first


def test_two_folders_give_the_same_image(kernel_tree: Path, tmp_path: Path) -> None:
    import shutil

    other = shutil.copytree(kernel_tree, tmp_path / "elsewhere" / "linux")
    one = resolve(Request(source=f"dir:{kernel_tree}"))
    two = resolve(Request(source=f"dir:{other}"))
    assert one.identity == two.identity


def test_a_setting_wins_over_a_fragment(request_: Request) -> None:
    kernel = obtain(Request(source=request_.source, settings=("NETKIT=n",)))
    assert dict(kernel.config_proof)["NETKIT"] == "n"
    assert b"netkit_run" not in kernel.image.read_bytes()


def test_later_configs_win_over_flavours(request_: Request, tmp_path: Path) -> None:
    config = write(tmp_path / "mine.config", "# CONFIG_DEBUG_FAKE is not set\n")
    slow = obtain(Request(source=request_.source, flavours=("slow",)))
    assert dict(slow.config_proof)["DEBUG_FAKE"] == "y"
    mine = resolve(Request(source=request_.source, flavours=("slow",), configs=(str(config),)))
    assert dict(mine.settings)["DEBUG_FAKE"] == "n"


def test_no_series_at_all(request_: Request) -> None:
    recipe = resolve(Request(source=request_.source, series=()))
    assert recipe.series == ()
    assert recipe.patches == ()
    assert "NETKIT" not in dict(recipe.settings)


def test_stored_kernels_have_a_source_name(request_: Request) -> None:
    kernel = obtain(request_)
    assert obtain(Request(source=f"kernel:{kernel.identity[:6]}")) == kernel
    assert resolve(Request(source=f"kernel:{kernel.identity}")).identity == kernel.identity
    with pytest.raises(UserError, match="finished kernel"):
        obtain(Request(source=f"kernel:{kernel.identity}", settings=("NET=n",)))


def test_status_says_where_and_since_when(kernel_tree: Path) -> None:
    future, netkit, queue = series_status(f"dir:{kernel_tree}")
    assert netkit.reason == "seen in Kconfig:11"
    assert future.reason == "exists since 7.1; no patches for 6.12.3"
    assert queue.state is SeriesState.APPLIES


# --- what is refused ------------------------------------------------------------------------------------------------


def test_a_compiler_error_shows_its_lines_and_the_log(
    request_: Request, kernel_tree: Path, tmp_path: Path, cache: Path
) -> None:
    patch = write(tmp_path / "p.patch", diff(kernel_tree, "fs/namei.c", lambda text: text.replace("1", "BROKEN")))
    with pytest.raises(UserError) as caught:
        obtain(with_patch(request_, patch))
    first, last = str(caught.value).splitlines()
    assert first == "the kernel does not compile: fs/namei.c:1: 'BROKEN' undeclared (first use in this function)"
    assert "BROKEN" in Path(last.removeprefix("build log: ")).read_text()
    assert Store(cache / "kernels").kernels() == []
    assert list((cache / "kernels").iterdir()) == []
    # and the next build is as if nothing had been
    assert b"BROKEN" not in obtain(request_).image.read_bytes()


@pytest.mark.parametrize(("order", "words"), [("disk", "no space left"), ("killed", "out of memory")])
def test_a_fault_of_the_machine_is_no_users_error(
    request_: Request, monkeypatch: pytest.MonkeyPatch, order: str, words: str
) -> None:
    monkeypatch.setenv("FAKE_KERNEL", order)
    with pytest.raises(InfraError, match=words):
        obtain(request_)
    monkeypatch.delenv("FAKE_KERNEL")
    obtain(request_)


def test_a_dropped_symbol_names_what_is_missing(request_: Request) -> None:
    with pytest.raises(
        UserError, match=r"NETKIT=y was requested, got n: it needs BPF_SYSCALL, which is n \(Kconfig:11"
    ):
        obtain(Request(source=request_.source, settings=("BPF_SYSCALL=n",)))


def test_a_refused_configuration_is_not_taken_for_the_last_good_one(
    request_: Request, kernel_tree: Path, tmp_path: Path
) -> None:
    obtain(request_)
    with pytest.raises(UserError):
        obtain(Request(source=request_.source, settings=("BPF_SYSCALL=n",)))
    patch = write(tmp_path / "p.patch", diff(kernel_tree, "fs/namei.c", lambda text: text.replace("1", "2")))
    obtain(with_patch(request_, patch))


def test_one_object_directory_serves_several_configurations(request_: Request, events: list[Event]) -> None:
    obtain(request_)
    kernel = obtain(Request(source=request_.source, settings=("NETKIT=n",)), events=events.append)
    assert "CONFIG_NETKIT" not in kernel.config.read_text()
    assert obtain(Request(source=request_.source, settings=("LOG_SHIFT=13",))).config.read_text().count("NETKIT=y") == 1


def test_a_selected_symbol_cannot_be_off(request_: Request) -> None:
    with pytest.raises(UserError, match="CRC32=n was requested, got y because it is selected by NET"):
        obtain(Request(source=request_.source, settings=("CRC32=n",)))


@pytest.mark.parametrize("value", ["y", "n"])
def test_an_unknown_symbol_is_said_with_what_is_near(request_: Request, value: str) -> None:
    with pytest.raises(UserError, match="no symbol NETKTI; did you mean NETKIT"):
        obtain(Request(source=request_.source, settings=(f"NETKTI={value}",)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"settings": ("NETKIT",)}, "write SYMBOL=value"),
        ({"series": ("nonsense",)}, "no series 'nonsense'; there are future, netkit, queue"),
        ({"series": ("future",)}, "future is absent.*exists since 7.1.*--upstream"),
        ({"flavours": ("netkit",)}, "no debug flavour 'netkit'; there are slow"),
        ({"patches": ("/nonexistent.patch",)}, "No such file"),
        ({"configs": ("/nonexistent.config",)}, "No such file"),
        ({"upstream": "/nonexistent", "series": ("future",)}, "no git clone"),
        ({"source": "nonsense"}, "not understood"),
        ({"source": "ftp:somewhere"}, "scheme 'ftp' is not known"),
        ({"source": "dir:/nonexistent"}, "no folder /nonexistent"),
        ({"source": "dir:/etc"}, "no kernel tree"),
        ({"source": "git:/etc@main"}, "no git clone"),
        ({"source": "git:/etc"}, "names no ref"),
        ({"source": "tar:/etc"}, "a folder, not a tarball"),
        ({"source": "debian:six"}, "write a series"),
        ({"source": "kernel:00ff"}, "no such kernel"),
        ({"source": "kernel:xyz"}, "digits 0-9 and a-f"),
    ],
)
def test_what_cannot_be_is_one_clear_line(request_: Request, change: dict[str, object], words: str) -> None:
    from dataclasses import replace

    with pytest.raises(UserError, match=words) as caught:
        obtain(replace(request_, **change))  # type: ignore[arg-type]
    assert len(str(caught.value).splitlines()) == 1


def test_a_ref_that_does_not_exist(clone: Path) -> None:
    with pytest.raises(UserError, match="has no commit 'nowhere'"):
        obtain(Request(source=f"git:{clone}@nowhere"))


def test_a_tarball_that_is_none(tmp_path: Path, cache: Path) -> None:
    path = write(tmp_path / "linux.tar.xz", "not a tarball")
    with pytest.raises(UserError, match="cannot be unpacked"):
        obtain(Request(source=f"tar:{path}"))
    assert list((cache / "trees").iterdir()) == []


def test_no_compiler(request_: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    for program in ("git", "flock", "make"):
        (tmp_path / "bin" / program).symlink_to(f"/usr/bin/{program}")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(InfraError, match="apt install binutils gcc"):
        obtain(request_)


def test_a_full_disk_leaves_nothing_half(kernel_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0:
        pytest.skip("a tiny file system can be mounted by root only")
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)], check=False).returncode:
        pytest.skip("this machine does not allow mounts")
    try:
        monkeypatch.setenv("KPROOF_CACHE", str(small))
        with pytest.raises(InfraError, match="no space left"):
            obtain(Request(source=f"dir:{kernel_tree}"))
        assert Store(small / "kernels").kernels() == []
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


# --- several processes ----------------------------------------------------------------------------------------------

DRIVER = """
import signal
import sys
from pathlib import Path
# a shell that runs the tests in the background has this one ignored, and that is inherited
signal.signal(signal.SIGINT, signal.default_int_handler)
from harness import paths
from harness.kernel.obtain import obtain
from harness.model import Request
paths.project_root = lambda: Path(sys.argv[1])
print(obtain(Request(source=sys.argv[2]), events=lambda event: print(event, flush=True)).identity)
"""


def start(project: Path, source: str, **env: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", textwrap.dedent(DRIVER), str(project), source]
    return subprocess.Popen(
        argv,
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_two_at_once_build_once(project: Path, kernel_tree: Path) -> None:
    # the first holds the kernel's lock while the second asks: seen in the second's notice
    from harness.kernel.layout import Layout
    from harness.kernel.locks import locked

    source = f"dir:{kernel_tree}"
    identity = resolve(Request(source=source)).identity
    lock = Layout.default().locks / f"kernel-{identity}.lock"
    with locked(lock, what="", events=lambda event: None):
        second = start(project, source)
        assert second.stdout is not None
        assert "waiting for it" in _until(second, "Notice")
        # it is inside flock(1) now; the first finishes its kernel before the lock opens
        from harness.kernel import obtain as module

        layout = Layout.default()
        request = Request(source=source)
        plan = module._plan(request, layout, lambda event: None, False)
        module._build(plan, request, Store(layout.kernels), layout, lambda event: None)
    out, err = second.communicate(timeout=60)
    assert out.splitlines()[-1] == identity, err
    assert "Phase(name='build'" not in out


def _until(process: subprocess.Popen[str], word: str) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if word in line:
            return line
    raise AssertionError(f"the process ended without {word}")


def test_an_interrupt_leaves_no_process_and_nothing_half(project: Path, kernel_tree: Path, cache: Path) -> None:
    pids = cache.parent / "pids"
    os.mkfifo(pids)
    process = start(project, f"dir:{kernel_tree}", FAKE_KERNEL="hang", FAKE_PIDS=str(pids))
    compiler = int(pids.read_text().split()[0])
    process.send_signal(signal.SIGINT)
    try:
        _, err = process.communicate(timeout=60)
    finally:
        # a test that fails leaves nothing either: make has this one's death as its own
        process.kill()
    assert process.returncode != 0
    assert "KeyboardInterrupt" in err
    assert gone(compiler)
    assert list((cache / "kernels").iterdir()) == []
    obtain(Request(source=f"dir:{kernel_tree}"))


def test_a_wait_is_told(cache: Path, events: list[Event]) -> None:
    from harness.kernel.locks import locked

    path = cache / "locks" / "some.lock"
    with (
        locked(path, what="works", events=events.append),
        pytest.raises(InfraError, match="more than 0 s"),
        locked(path, what="works", events=events.append, limit=0.1),
    ):
        pass
    assert events == [Notice("another kproof works; waiting for it")]


# --- upstream -------------------------------------------------------------------------------------------------------


def test_upstream_commits_make_an_absent_series_apply(clone: Path, request_: Request) -> None:
    write(clone / "fs/namei.c", "int namei(void) { return 1; } /* the_future */\n")
    git(clone, "commit", "-qam", "net: the future")
    source = f"git:{clone}@v6.12.3"
    kernel = obtain(Request(source=source, series=("future",), upstream=str(clone)))
    assert b"the_future" in kernel.image.read_bytes()
    assert kernel.series[0].state is SeriesState.APPLIES
    assert kernel.series[0].reason == f"1 upstream commits from {clone}"


def test_upstream_without_the_commit(clone: Path) -> None:
    with pytest.raises(UserError, match="has no commit 'net: the future' of series future"):
        obtain(Request(source=f"git:{clone}@main", series=("future",), upstream=str(clone)))


def test_upstream_commits_that_do_not_apply_are_told_unless_they_were_asked_for(
    clone: Path, events: list[Event]
) -> None:
    for number in (5, 6):
        write(clone / "fs/namei.c", f"int namei(void) {{ return {number}; }}\n")
        git(clone, "commit", "-qam", "net: the future" if number == 6 else "before")
    source = f"git:{clone}@v6.12.3"
    recipe = resolve(Request(source=source, upstream=str(clone)), events=events.append)
    assert {one.name: one.state for one in recipe.series}["future"] is SeriesState.ABSENT
    notices = [event.text for event in events if isinstance(event, Notice)]
    assert len(notices) == 1
    assert notices[0].startswith("series future: patch upstream ")
    assert "does not apply: fs/namei.c, hunk 1 of 1" in notices[0]
    with pytest.raises(UserError, match="does not apply"):
        resolve(Request(source=source, series=("future",), upstream=str(clone)))


def test_the_compiler_is_the_one_behind_ccache(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.kernel import toolchain

    real = toolchain.describe(cache)
    (tmp_path / "bin").mkdir()
    write(tmp_path / "ccache", "#!/bin/sh\necho ccache version 4\n").chmod(0o755)
    (tmp_path / "bin/gcc").symlink_to(tmp_path / "ccache")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    assert toolchain.describe(cache) == real
    assert "gcc" in real
