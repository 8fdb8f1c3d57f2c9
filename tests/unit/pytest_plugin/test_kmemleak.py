"""The protocol with the kernel's leak detector, against one that keeps mm/kmemleak.c's rules."""

from __future__ import annotations

import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from harness.guest.splats import splats
from harness.model import SplatKind
from harness.pytest_plugin import kmemleak
from harness.pytest_plugin.kmemleak import MOST, Kmemleak, shown

RECORD = """unreferenced object 0xffff888005b2c{number:03x} (size 128):
  comm "python3", pid 310, jiffies 4294937298
  hex dump (first 32 bytes):
    6b 6b 6b 6b 6b 6b 6b 6b 6b 6b 6b 6b 6b 6b 6b 6b  kkkkkkkkkkkkkkkk
    6b 6b 6b 6b 6b 6b 6b 6b 6b 6b 6b 6b 6b 6b 6b a5  kkkkkkkkkkkkkkk.
  backtrace (crc 6a5b4c3d):
    __kmalloc_noprof+0x1b2/0x450
    {function}+0x2c/0x70
    rtnl_newlink+0x2d1/0x7f0
"""


@dataclass
class Object:
    born: float
    text: str
    referenced_after: float = float("inf")
    """When something points to it again: the detector was wrong."""
    seen: bool = False
    """Its content is known from an earlier scan."""
    reported: bool = False


@dataclass
class FakeDetector:
    """kmemleak_scan(), kmemleak_clear() and the seq_file, as far as they decide on what is told; time is counted."""

    now: float = 100.0
    last_scan: float = 0.0
    objects: list[Object] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    off: bool = False

    def unreferenced(self, thing: Object) -> bool:
        return thing.referenced_after > self.last_scan and thing.born + 5 <= self.last_scan

    def write(self, command: str) -> None:
        self.commands.append(command)
        if command == "scan":
            self.now += 0.5
            self.last_scan = self.now
            for thing in self.objects:
                thing.reported |= thing.seen and self.unreferenced(thing)
                thing.seen = True
        if command == "clear":
            self.objects = [thing for thing in self.objects if not (thing.reported and self.unreferenced(thing))]

    def read(self) -> str:
        return "".join(thing.text for thing in self.objects if thing.reported and self.unreferenced(thing))

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeDetector:
    fake = FakeDetector()
    monkeypatch.setattr(Kmemleak, "_write", lambda self, command: fake.write(command))
    monkeypatch.setattr(Kmemleak, "_read", lambda self: fake.read())
    return fake


def asked(fake: FakeDetector) -> str:
    leaks = Kmemleak(sleep=fake.sleep, clock=lambda: fake.now, prepare=lambda: None).leaks()
    assert {leak.born for leak in leaks} <= {4294937298}
    return shown(leaks)


def leak(fake: FakeDetector, function: str = "nk_alloc_queues", **more: Any) -> None:
    fake.objects.append(Object(fake.now, RECORD.format(number=len(fake.objects), function=function), **more))


def test_nothing_costs_two_scans_and_the_least_age(fake: FakeDetector) -> None:
    assert asked(fake) == ""
    assert fake.commands == ["scan", "scan"]
    assert 5 < fake.now - 100 < 7


def test_what_leaked_a_moment_ago_is_found_and_told_once(fake: FakeDetector) -> None:
    """An object that is allocated at the very end of a test is five seconds old in the second scan."""
    leak(fake)
    found = splats(asked(fake))
    assert [(splat.kind, splat.title) for splat in found] == [(SplatKind.KMEMLEAK, "memory leak in nk_alloc_queues")]
    assert "rtnl_newlink+0x2d1/0x7f0" in found[0].text
    assert "hex dump" in found[0].text
    assert asked(fake) == "", "the next test is not to blame"
    leak(fake, "tcx_alloc")
    assert [splat.title for splat in splats(asked(fake))] == ["memory leak in tcx_alloc"]


def test_what_is_referenced_in_the_third_scan_was_none(fake: FakeDetector) -> None:
    leak(fake, referenced_after=106.5)
    leak(fake, "real")
    assert [splat.title for splat in splats(asked(fake))] == ["memory leak in real"]


def test_thousands_of_the_same_are_cut(fake: FakeDetector) -> None:
    for _ in range(1000):
        leak(fake)
    text = asked(fake)
    assert text.count("unreferenced object") == MOST
    assert text.endswith(f"… and {1000 - MOST} more")


def test_a_kernel_without_it_and_one_that_gave_up_are_errors_that_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="--flavour kmemleak"):
        Kmemleak(tmp_path / "kmemleak", prepare=lambda: None).leaks()


def test_each_command_is_one_write_to_the_control_file(tmp_path: Path) -> None:
    control = tmp_path / "kmemleak"
    control.write_text("")
    control.chmod(stat.S_IRUSR | stat.S_IWUSR)
    Kmemleak(control, sleep=lambda seconds: None, prepare=lambda: None)._write("scan")
    assert control.read_text() == "scan"


def test_the_kernels_own_line_on_its_finds_is_known() -> None:
    line = "[   12.345678] kmemleak: 3 new suspected memory leaks (see /sys/kernel/debug/kmemleak)"
    assert kmemleak.FOUND.search(line)
    assert [splat.kind for splat in splats(line)] == [SplatKind.KMEMLEAK], "left in, it would be counted twice"
