"""Guests that count: their machine, what is in their memory, and what is made of their reports."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from harness.bench import exact, initramfs
from harness.errors import BootError, InfraError, UserError
from harness.guest import machine
from harness.guest.image import SITE


def entries(data: bytes) -> dict[str, tuple[int, bytes]]:
    """Mode and content by name of a cpio archive in format newc, as the kernel reads it (init/initramfs.c)."""
    found: dict[str, tuple[int, bytes]] = {}
    at = 0
    while True:
        assert data[at : at + 6] == b"070701", at
        fields = [int(data[at + 6 + 8 * index : at + 14 + 8 * index], 16) for index in range(13)]
        mode, size, length = fields[1], fields[6], fields[11]
        name = data[at + 110 : at + 110 + length - 1].decode()
        at += 110 + length + 3 & ~3
        if name == "TRAILER!!!":
            return found
        found[name] = (mode, data[at : at + size])
        at += size + 3 & ~3


def test_archive_has_folders_before_their_files() -> None:
    names = list(entries(initramfs.archive({"/usr/lib/a": b"1", "/usr/b": b"22"})))
    assert names.index("usr") < names.index("usr/lib") < names.index("usr/lib/a")
    assert names.count("usr") == 1


def test_archive_of_a_root() -> None:
    found = entries(initramfs.archive({"/dev/.keep": b"", "/init": b"#!x"}, programs={"/init"}, console=True))
    assert found["init"] == (stat.S_IFREG | 0o755, b"#!x")
    assert stat.S_ISCHR(found["dev/console"][0])


def test_two_archives_can_stand_one_behind_the_other() -> None:
    """The kernel wants the second one at a multiple of four."""
    assert len(initramfs.archive({"/a": b"12345"})) % 512 == 0


@pytest.fixture
def module(tmp_path: Path) -> Path:
    """A benchmark of one's own."""
    path = tmp_path / "mine.py"
    path.write_text("import colorsys\nfrom selftests.bench import egress\nBENCHMARK = egress.BENCHMARK\n")
    return path


def test_closure_of_a_benchmark(module: Path) -> None:
    """What it imports, where the guest looks for it: the standard library in its place, all else in one folder."""
    parts = initramfs.closure("mine", module.parent)
    assert parts.files[f"{SITE}/mine.pyc"] == module
    assert f"{SITE}/selftests/lib/nft.pyc" in parts.files, "imported by a function, and so not yet"
    assert f"{SITE}/harness/bench/guest.pyc" in parts.files
    assert any(name == f"{os.path.dirname(os.__file__)}/colorsys.pyc" for name in parts.files)
    assert any(name.endswith("/libnftables.so.1") for name in parts.files), "opened by name"
    assert (parts.symbols, parts.packets) == (("egress_needed_key", "nf_hooks_needed"), 6400)


_REPLACED = (
    "from dataclasses import replace\nfrom selftests.bench.egress import BENCHMARK\nBENCHMARK = replace(BENCHMARK, "
)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("\nimport nowhere_to_be_found", r"No module named 'nowhere_to_be_found' \(mine.py, line 2\)"),
        ("def (", r"SyntaxError: invalid syntax \(mine.py, line 1\)"),
        ("BENCHMARK = 1", "it has no BENCHMARK, a selftests.bench.benchmark.Benchmark$"),
        (f"{_REPLACED} rows=())", r"ValueError: a benchmark has a row to compare others with"),
        (f"{_REPLACED} sizes=(100, 100))", r"ValueError: sizes \(100, 100\): runs of different lengths are needed"),
        (f"{_REPLACED} rows=BENCHMARK.rows[-2:])", r"'tc accept and 50 additions' .* 'tc accept', which is no row"),
        (f"{_REPLACED} rows=BENCHMARK.rows[:1] * 2)", r"ValueError: two rows are called 'none'"),
    ],
)
def test_module_that_is_no_benchmark(module: Path, text: str, says: str) -> None:
    module.write_text(text)
    with pytest.raises(UserError, match=rf"the benchmark mine cannot be loaded: .*{says}"):
        initramfs.closure("mine", module.parent)


def test_root_is_made_once(module: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KPROOF_CACHE", str(tmp_path / "cache"))
    files = {"/lib/mine.pyc": module, "/lib/note": module}
    root = initramfs.initramfs(files)
    made = root.stat().st_mtime_ns
    found = entries(root.read_bytes())
    assert found["lib/note"][1] == module.read_bytes()
    assert found["lib/mine.pyc"][1][4:8] == b"\1\0\0\0", "valid without a look at the source (PEP 552)"
    assert found["init"][1].startswith(b"#!/")
    assert initramfs.initramfs(files) == root
    assert initramfs.initramfs(files).read_bytes() is not None
    assert root.stat().st_mtime_ns >= made
    module.write_text("BENCHMARK = 2  # longer than before\n")
    assert initramfs.initramfs(files) != root


def test_counting_machine_hears_nothing_of_the_host() -> None:
    text = " ".join(machine.command_line([exact.counting_machine(512)]))
    for part in ("-icount shift=0,sleep=off,align=off", "tcg,thread=single", "-rdrand", "clock=vm", "-smp 1"):
        assert part in text
    for part in ("virtio", "socket", "urandom"):
        assert part not in text


@pytest.fixture
def guest(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Report, console and QEMU's log of a guest that ended without a word."""
    paths = tmp_path / "report.json", tmp_path / "console.log", tmp_path / "qemu.log"
    for path in paths:
        path.touch()
    return paths


def test_report_is_read(guest: tuple[Path, Path, Path]) -> None:
    guest[0].write_text(json.dumps({"rows": []}))
    assert exact.read_report(*guest) == {"rows": []}


def test_what_the_guest_refuses_is_the_users(guest: tuple[Path, Path, Path]) -> None:
    guest[0].write_text(json.dumps({"refused": "kernel lacks pktgen: CONFIG_NET_PKTGEN is n"}))
    with pytest.raises(UserError, match=r"^kernel lacks pktgen: CONFIG_NET_PKTGEN is n$"):
        exact.read_report(*guest)


def test_what_fails_in_the_guest_is_ours(guest: tuple[Path, Path, Path]) -> None:
    guest[0].write_text(json.dumps({"error": "Traceback …\n  File x\nKeyError: 'y'\n"}))
    with pytest.raises(InfraError, match=r"^the guest failed: KeyError: 'y'; see "):
        exact.read_report(*guest)


def test_kernel_that_dies_is_a_result(guest: tuple[Path, Path, Path]) -> None:
    guest[1].write_text("BUG: kernel NULL pointer dereference\nKernel panic - not syncing: Fatal exception\n")
    with pytest.raises(BootError, match=r"before the benchmark did: Kernel panic .* \(BUG: kernel NULL"):
        exact.read_report(*guest)


def test_kernel_that_complains_has_no_numbers(guest: tuple[Path, Path, Path]) -> None:
    guest[0].write_text(json.dumps({"rows": []}))
    guest[1].write_text(
        "------------[ cut here ]------------\nWARNING: CPU: 0 PID: 1 at net/core/dev.c:1 f+0x1/0x2\n"
        "---[ end trace 0000000000000000 ]---\n"
    )
    with pytest.raises(BootError, match="the kernel complained while it was measured: WARNING"):
        exact.read_report(*guest)


def test_qemu_that_does_not_start_is_the_machines(guest: tuple[Path, Path, Path]) -> None:
    guest[2].write_text("qemu-system-x86_64: no such thing\n")
    with pytest.raises(InfraError, match="QEMU failed: qemu-system-x86_64: no such thing"):
        exact.read_report(*guest)
