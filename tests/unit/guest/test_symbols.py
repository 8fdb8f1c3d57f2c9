"""Source lines of frames, on a program that tells of each of its calls where it returns to and which line it is in."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness import command
from harness.guest import symbols
from harness.guest.splats import splats
from harness.guest.symbols import Lines, source_lines
from harness.kernel import build
from harness.model import Kernel, Outcome, Result, Version

TRACED = Path(__file__).with_name("traced")


@dataclass
class Traced:
    """The program as a stored kernel, what its calls were, and their addresses as a kernel would print them."""

    kernel: Kernel
    lines: dict[str, int]
    frames: dict[str, str]

    def told(self, frame: str) -> list[str]:
        """The lines that become of one line of a trace."""
        return source_lines(self.kernel, [frame]).text(frame).split("\n")


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Traced:
    """Built in a folder in the source tree, as kernels are."""
    source = shutil.copytree(TRACED, tmp_path_factory.mktemp("tree") / "src")
    folder = source / ".kproof-0123456789abcdef"
    folder.mkdir()
    flags = ["-g", "-O2", "-no-pie", "-falign-functions=1"]
    subprocess.run(
        ["gcc", *flags, "-o", "vmlinux", *("../net/trace.c", "../net/twin.c")], cwd=folder, check=True, timeout=60
    )
    table = subprocess.run(["nm", "-n", "vmlinux"], cwd=folder, check=True, capture_output=True, text=True).stdout
    symbols = [line.split() for line in table.splitlines() if not line.startswith(" ")]
    (folder / "System.map").write_text("".join(f"{' '.join(symbol)}\n" for symbol in symbols))
    starts = sorted({int(address, 16) for address, _, _ in symbols})
    names = {int(address, 16): name for address, _, name in symbols}
    lines: dict[str, int] = {}
    frames: dict[str, str] = {}
    said = subprocess.run(["./vmlinux"], cwd=folder, check=True, capture_output=True, text=True).stdout
    for what, printed, line in (each.split() for each in said.splitlines()):
        lines[what] = int(line)
        if address := int(printed, 16):
            # lib/vsprintf.c, %pB: the function before the return address
            start = max(start for start in starts if start < address)
            size = min(each for each in starts if each > start) - start
            frames[what] = f"{names[start]}+{address - start:#x}/{size:#x}"
    kernel = Kernel("0123abcd", folder, Version(6, 12), "6.12", "debian:6.12", (), (), 1.0)
    return Traced(kernel, lines, frames)


def test_a_frame_is_in_the_line_of_its_call_and_what_is_inlined_there_stands_before(traced: Traced) -> None:
    frame = traced.frames["inner"]
    assert frame.startswith("outer+0x")
    inner, middle, outer = (f"net/trace.c:{traced.lines[each]}" for each in ("inner", "middle", "outer"))
    assert traced.told(f"[    1.5][   T42]  ? {frame}") == [
        f"[    1.5][   T42]  ? inner {inner} [inline]",
        f"[    1.5][   T42]  ? middle {middle} [inline]",
        f"[    1.5][   T42]  ? {frame} {outer}",
    ]


def test_a_call_that_never_returns_is_in_its_own_function(traced: Traced) -> None:
    """The address after it is that of the next function; arm64 says more behind it."""
    offset, _, size = traced.frames["last"].partition("+")[2].partition("/")
    assert offset == size
    assert traced.told(f" {traced.frames['last']} (P)") == [
        f" {traced.frames['last']} net/trace.c:{traced.lines['last']} (P)"
    ]


@pytest.mark.parametrize("place", ["RIP: 0010:{}", "pc : {}", "EIP: {}", "WARNING: CPU: 0 PID: 1 at {}"])
def test_registers_mean_the_very_instruction_and_so_do_frames_that_repeat_them(traced: Traced, place: str) -> None:
    size = traced.frames["inner"].partition("/")[2]
    log = f"{place.format('outer+0x0/' + size)}\n ? outer+0x0/{size}\n ? {traced.frames['inner']}"
    first, second, *_, last = traced.told(log)
    assert "[inline]" not in first
    for line in (first, second):
        path, _, number = line.rpartition(" ")[2].partition(":")
        assert path == "net/trace.c"
        assert traced.lines["outer"] - int(number) in (1, 2, 3)  # where outer() begins
    assert last.endswith(f" net/trace.c:{traced.lines['outer']}")


def test_of_functions_of_one_name_the_size_tells_which(traced: Traced) -> None:
    for which, file in (("twin-of-trace", "net/trace.c"), ("twin-of-twin", "net/twin.c")):
        frame = traced.frames[which]
        assert frame.startswith("twin+")
        assert traced.told(frame) == [f"{frame} {file}:{traced.lines[which]}"]
    assert traced.frames["alike"].startswith("alike+")
    assert traced.told(traced.frames["alike"]) == [traced.frames["alike"]]


def test_what_is_not_this_kernels_has_no_line(traced: Traced) -> None:
    frame = traced.frames["inner"]
    name, _, size = frame.rpartition("/")
    for line in (
        f" {frame} [netkit]",
        f" {frame} [8021q]",
        f" {name}/0x{int(size, 16) + 1:x}",
        f" x{frame}",
        " missing+0x1/0x2",
        " x+0x/0x",
    ):
        # the other has one
        assert traced.told(f"{line}\n{frame}")[0] == line
        assert len(traced.told(f"{line}\n{frame}")) == 4


def test_a_line_that_names_a_file_already_stays(traced: Traced) -> None:
    line = f"WARNING: CPU: 0 PID: 1 at net/core/dev.c:7 {traced.frames['inner']}"
    assert traced.told(line) == [line]


def test_what_a_test_prints_costs_little_whatever_it_is(traced: Traced) -> None:
    """Seconds would be minutes if a line were read more than once, or grew with each address in it."""
    frame = traced.frames["inner"]
    hostile = ["WARNING: " * 50_000, "x+0x" + "a" * 3_000_000, f"{frame} " * 100_000, "+0x/" * 500_000]
    assert traced.told("\n".join(hostile)) == hostile


def splat(traced: Traced) -> str:
    return (
        f"WARNING: CPU: 0 PID: 1 at net/trace.c:7 {traced.frames['twin-of-trace']}\n"
        f"RIP: 0010:{traced.frames['twin-of-trace']}\nCall Trace:\n <TASK>\n {traced.frames['inner']}\n"
        f" nk_xmit+0x1/0x2 [netkit]\n {traced.frames['last']}\n </TASK>\n---[ end trace 0000000000000000 ]---\n"
    )


def test_an_outcome_tells_its_splats_with_lines(traced: Traced) -> None:
    log = splat(traced)
    outcome = Outcome("t.py::t", Result.FAILED, detail=f"the kernel complained:\n\n{log}", kernel_log=log)
    told = source_lines(traced.kernel, [outcome.detail, outcome.kernel_log]).outcome(outcome)
    (found,) = told.to_json()["splats"]
    assert found["kind"] == "warning"
    assert found["title"] == "WARNING in twin"
    assert found["at"]["function"] == "twin"
    assert found["at"]["file"] == "net/trace.c"
    lines = traced.lines
    assert [(frame["function"], frame["file"], frame["line"], frame["inlined"]) for frame in found["frames"]] == [
        ("inner", "net/trace.c", lines["inner"], True),
        ("middle", "net/trace.c", lines["middle"], True),
        ("outer", "net/trace.c", lines["outer"], False),
        ("nk_xmit", "", 0, False),
        ("last", "net/trace.c", lines["last"], False),
    ]
    for text in (told.detail, told.kernel_log):
        assert f" {traced.frames['last']} net/trace.c:{lines['last']}\n" in text
        assert " nk_xmit+0x1/0x2 [netkit]\n" in text


def test_one_addr2line_for_all_and_none_for_nothing(traced: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[object] = []
    run = command.run

    def counting(*arguments: object, **options: object) -> object:
        started.append(arguments)
        return run(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(command, "run", counting)
    assert source_lines(traced.kernel, ["a quiet log", "net/core/dev.c:1 x+0x y"]) == Lines()
    assert started == []
    assert len(source_lines(traced.kernel, [splat(traced), traced.frames["twin-of-twin"]]).places) == 4
    assert len(started) == 1


def test_without_debug_information_frames_stay_as_they_are_and_why(traced: Traced, tmp_path: Path) -> None:
    shutil.copytree(traced.kernel.folder, tmp_path / "k")
    subprocess.run(["strip", "--strip-debug", tmp_path / "k" / "vmlinux"], check=True)
    kernel = Kernel("0123abcd", tmp_path / "k", Version(6, 12), "6.12", "debian:6.12", (), (), 1.0)
    log = splat(traced)
    lines = source_lines(kernel, [log])
    assert lines.why_not == "kernel 0123abcd has no debug information (CONFIG_DEBUG_INFO)"
    assert lines.text(log) == log
    assert lines.splat(splats(log)[0]) == splats(log)[0]
    (tmp_path / "k" / "vmlinux").unlink()
    assert source_lines(kernel, [log]).why_not.startswith("addr2line")
    (tmp_path / "k" / "System.map").unlink()
    assert "System.map" in source_lines(kernel, [log]).why_not


def test_without_addr2line_the_package_is_named(traced: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    why_not = source_lines(traced.kernel, [splat(traced)]).why_not
    assert why_not == "addr2line: not found; install it with: apt install binutils"


@pytest.mark.parametrize("compressions", [build.COMPRESSIONS, ("unheard-of", "zlib")])
def test_the_stored_vmlinux_keeps_its_lines(
    traced: Traced, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compressions: tuple[str, ...]
) -> None:
    """Also where binutils does not know the better compression."""
    monkeypatch.setattr(build, "COMPRESSIONS", compressions)
    shutil.copy(traced.kernel.system_map, tmp_path)
    build.compress_debug_information(traced.kernel.vmlinux, tmp_path / "vmlinux")
    headers = subprocess.run(["readelf", "-tW", tmp_path / "vmlinux"], check=True, capture_output=True, text=True)
    assert "COMPRESSED" in headers.stdout
    kernel = Kernel("0123abcd", tmp_path, Version(6, 12), "6.12", "debian:6.12", (), (), 1.0)
    log = splat(traced)
    assert source_lines(kernel, [log]) == source_lines(traced.kernel, [log])


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/c/trees/debian/src/.kproof-41a8841eae8bf1b4/../net/core/dev.c", "net/core/dev.c"),
        ("/c/trees/debian/src/.kproof-41a8841eae8bf1b4/./../include/net/sock.h", "include/net/sock.h"),
        ("/c/src/.kproof-41a8841eae8bf1b4/arch/x86/include/generated/x.h", "arch/x86/include/generated/x.h"),
        ("../net/core/dev.c", "net/core/dev.c"),
        ("net/core/dev.c", "net/core/dev.c"),
    ],
)
def test_paths_are_as_from_the_trees_root(path: str, expected: str) -> None:
    assert symbols.from_root(path) == expected
