"""What a test's splats mean for it, and the evidence that is cut out of a log."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.guest.splats import splats
from harness.model import Splat
from harness.pytest_plugin.evidence import BEGIN, END, MOST, SCAN, part_of_console, taint_letters, taint_text
from harness.pytest_plugin.guest import GuestSide, shortened, verdict
from harness.pytest_plugin.kmemleak import Leak


def found(*functions: str) -> list[Splat]:
    lines = "".join(
        f"WARNING: CPU: 0 PID: 4 at net/x.c:1 {name}+0x1/0x2\n---[ end trace 0 ]---\n" for name in functions
    )
    return splats(lines)


def test_a_surprise_fails_and_a_known_one_is_excused() -> None:
    assert verdict([], [], []) == ("", [])
    complaint, excused = verdict(found("foo", "bar"), [], ["in bar$"])
    assert complaint.startswith("the kernel complained: WARNING in foo\n\nWARNING: CPU: 0")
    assert "bar" not in complaint
    assert excused == [["in bar$", "WARNING in bar"]]
    assert verdict(found("bar"), [], ["nothing", "in bar$"]) == ("", [["in bar$", "WARNING in bar"]])


def test_what_is_expected_needs_no_excuse() -> None:
    assert verdict(found("bar"), ["in bar"], ["in bar$"]) == ("", [])


def test_a_missing_one_counts_only_if_the_test_came_to_its_end() -> None:
    assert "no splat matches 'in foo'" in verdict([], ["in foo"], [])[0]
    assert verdict([], ["in foo"], [], complete=False) == ("", [])


def test_the_same_title_is_named_once_with_each_text() -> None:
    complaint, _ = verdict(found("foo", "foo"), [], [])
    assert complaint.splitlines()[0] == "the kernel complained: WARNING in foo"
    assert complaint.count("WARNING: CPU: 0") == 2


def test_taint_is_decoded() -> None:
    assert taint_letters(0) == ""
    assert taint_letters(1 << 9 | 1 << 7 | 1 << 12) == "DWO"
    assert taint_letters(1 << 40) == "(40)"
    assert taint_text(0, 0) == "taint 0 -> 0"
    assert taint_text(512, 512 + 16384) == "taint 512 -> 16896 (L: soft lockup occurred)"


@pytest.fixture
def console(tmp_path: Path) -> Path:
    return tmp_path / "console.log"


def write(console: Path, *lines: str) -> None:
    console.write_bytes("\r\n".join([*lines, ""]).encode(errors="backslashreplace"))


def test_the_part_of_the_test_that_ran_last_is_cut_out_of_a_console(console: Path) -> None:
    write(
        console,
        *("booted", f"{BEGIN}(60 s) t.py::test_a", "of a", f"{END}t.py::test_a"),
        *(f"{BEGIN}(60 s) t.py::test_b[ü]", "of b", f"{SCAN}(60 s) t.py::test_b[ü]", "Kernel panic"),
    )
    assert part_of_console(console, "t.py::test_b[ü]") == f"of b\n{SCAN}(60 s) t.py::test_b[ü]\nKernel panic\n"
    assert part_of_console(console, "t.py::test_c") == ""
    write(console, f"{BEGIN}(60 s) t.py::test_a")
    assert part_of_console(console, "t.py::test_a") == ""


def test_there_may_be_no_console_or_an_empty_one(console: Path) -> None:
    assert part_of_console(console, "t.py::test_a") == ""
    console.write_bytes(b"")
    assert part_of_console(console, "t.py::test_a") == ""


def test_of_a_flood_beginning_and_end_are_kept(console: Path) -> None:
    write(console, f"{BEGIN}(60 s) t.py::test_a", "first", *["junk\x00" * 20] * 20_000, "last")
    part = part_of_console(console, "t.py::test_a")
    assert part.startswith("first\n")
    assert part.endswith("last\n")
    assert len(part) < MOST + 100
    assert "bytes more are in console.log" in part


def test_what_a_test_prints_is_cut_in_the_middle() -> None:
    assert shortened("x" * MOST) == "x" * MOST
    cut = shortened("a" + "x" * (MOST + 99) + "z")
    assert (cut[0], cut[-1], len(cut) < MOST + 50) == ("a", "z", True)
    assert "[... 101 characters more]" in cut


class NoLog:
    """A kernel that says nothing but what each scan says of itself."""

    def mark(self, text: str) -> None:
        pass

    def read(self) -> list[str]:
        return ["[ 1.0] kmemleak: 2 new suspected memory leaks (see /sys/kernel/debug/kmemleak)", "[ 1.1] eth0: up"]


def test_a_leak_is_of_the_test_in_which_it_was_allocated() -> None:
    """The second test is not to blame for what the first one, or nobody, has leaked."""
    record = "unreferenced object 0xffff888000{born:06d} (size 96):\n  backtrace (crc 0):\n    {name}_alloc+0x1/0x2"
    leaks = [Leak(born, record.format(born=born, name=name)) for born, name in ((50, "boot"), (150, "a"), (200, "b"))]
    detector: Any = SimpleNamespace(leaks=lambda: leaks)
    item: Any = SimpleNamespace(nodeid="t.py::test_b")
    side: Any = GuestSide.__new__(GuestSide)
    side.log, side.outside, side.began = NoLog(), [], [(100, "t.py::test_a"), (200, "t.py::test_b")]
    lines: list[str] = []
    text, trouble = side._leaks(detector, item, lines)
    assert (text, trouble) == (leaks[2].text, "")
    assert lines == ["[ 1.1] eth0: up"]
    assert [title for title, _ in side.outside] == ["memory leak in boot_alloc", "memory leak in a_alloc"]
    assert side.outside[0][1].startswith("found after t.py::test_b, allocated before any test:\nunreferenced object")
    assert side.outside[1][1].startswith("found after t.py::test_b, allocated during t.py::test_a:\nunreferenced")
