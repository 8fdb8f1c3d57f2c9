"""The watch over guests: what their consoles show of tests that do not end."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.guest.launch import Guest
from harness.model import GuestSpec
from harness.pytest_plugin import watch
from harness.pytest_plugin.watch import Watch, _excerpt, _Watched


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    """A process that is no QEMU, and a console."""
    spec = GuestSpec("image", "", "", str(tmp_path), "tcg", str(tmp_path))
    ends = [socket.socketpair() for _ in range(3)]
    ours = [end for end, _ in ends]
    guest = Guest("g0", spec, subprocess.Popen(["sleep", "60"]), ours[0], ours[1], ours[2])
    guest.console.write_bytes(b"")
    yield guest
    guest.kill()
    for _, theirs in ends:
        theirs.close()


def say(guest: Guest, text: bytes) -> None:
    with open(guest.console, "ab") as console:
        console.write(text)


def test_markers_are_found_in_a_flood_that_is_read_in_pieces(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that stands behind a line without an end, and one that two reads share."""
    monkeypatch.setattr(watch, "CHUNK", 1000)
    monkeypatch.setattr(watch, "LONGEST", 100)
    watched = _Watched(guest)
    say(guest, b"x" * 12345 + b"kproof: begin (4 s) test_a.py::test_it\r\n" + b"line\n" * 5000)
    watched.look()
    assert (watched.test, watched.ended, watched.limit) == ("test_a.py::test_it", False, 4.0)
    assert len(watched.rest) <= 100
    with open(guest.console, "rb") as console:
        console.seek(watched.began_at)
        assert console.read(7) == b"\r\nline\n"
    say(guest, b"\0\xff" * 5000 + b"kproof: end test")
    watched.look()
    assert not watched.ended
    say(guest, b"_a.py::test_it\n")
    watched.look()
    assert watched.ended


def test_a_console_without_lines_costs_no_memory(guest: Guest) -> None:
    watched = _Watched(guest)
    say(guest, b"y" * (5 << 20))
    watched.look()
    assert (watched.offset, len(watched.rest)) == (5 << 20, watch.LONGEST)


@pytest.mark.parametrize("reported", [True, False])
def test_a_test_that_ended_without_a_report_has_spoilt_the_channel(
    guest: Guest, monkeypatch: pytest.MonkeyPatch, reported: bool
) -> None:
    monkeypatch.setattr(watch, "REPORT", 0.2)
    monkeypatch.setattr(watch, "LOOK", 0.05)
    monkeypatch.setattr(watch, "ANSWER", 0.1)
    say(guest, b"kproof: begin (60 s) test_it\nkproof: end test_it\n")
    with Watch(lambda: [guest], lambda guest, test: reported) as watching:
        end = time.monotonic() + (0.6 if reported else 10)
        while time.monotonic() < end and not watching.hung:
            time.sleep(0.05)
    if reported:
        assert watching.hung == {}
        assert guest.process.poll() is None
    else:
        watching.hung["g0"].over.wait(5)
        assert "no report of it came within 0 s" in watching.hung["g0"].title
        assert guest.process.poll() is not None


def test_a_worker_that_never_tells_what_it_has_collected_is_ended(
    guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "LOOK", 0.05)
    monkeypatch.setattr(watch, "ANSWER", 0.1)
    with Watch(lambda: [guest], lambda guest, test: test != "(collection)") as watching:
        watching._watched["g0"] = _Watched(guest, limit=0.2)
        end = time.monotonic() + 10
        while time.monotonic() < end and not watching.hung:
            time.sleep(0.05)
        watching.hung["g0"].over.wait(5)
    assert watching.hung["g0"].title == "no end of the collection within 0 s"


def test_an_excerpt_of_a_long_part_has_both_its_ends(tmp_path: Path) -> None:
    console = tmp_path / "console.log"
    console.write_bytes(b"before\nfirst\n" + b"x\r\n" * watch.EXCERPT + b"last\nafter")
    size = console.stat().st_size
    text = _excerpt(console, 7, size - 6)
    assert text.startswith("first\nx\n")
    assert text.endswith("x\nlast")
    assert len(text) < 2 * watch.EXCERPT
    assert _excerpt(console, size - 5) == "after"
