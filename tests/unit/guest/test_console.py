"""What a console says about the end of its guest."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.guest.console import death_title, read_tail


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("all is well\n", ""),
        ("Kernel panic - not syncing: sysrq\r\nCPU: 0", "Kernel panic - not syncing: sysrq"),
        (
            "[   12.345678] BUG: kernel NULL pointer dereference, address: 0\n"
            "[   12.345690][  T42] Kernel panic - not syncing: Fatal exception in interrupt\n",
            "Kernel panic - not syncing: Fatal exception in interrupt"
            " (BUG: kernel NULL pointer dereference, address: 0)",
        ),
        ("\x1b[31mKernel panic - not syncing: No init\x1b[0m", "Kernel panic - not syncing: No init"),
        ("kproof: the guest's Python ended with status 3\nreboot: Power", "the guest's Python ended with status 3"),
        (
            "BUG: kernel NULL pointer dereference, address: 0000000000000000\n"
            "Oops: Oops: 0002 [#1] SMP NOPTI\n"
            "CPU: 0 UID: 0 PID: 38 Comm: init Not tainted 6.12.117 #1\n"
            "RIP: 0010:netkit_xmit+0x0/0x10\n"
            "---[ end trace 0000000000000000 ]---\n"
            "kproof: the guest's Python ended by signal 9\n",
            "the guest's Python ended by signal 9"
            " (BUG: kernel NULL pointer dereference, address: 0000000000000000 in netkit_xmit)",
        ),
        (
            "Out of memory: Killed process 38 (init) total-vm:575460kB\nkproof: the guest's Python ended by signal 9\n",
            "the guest's Python ended by signal 9 (Out of memory)",
        ),
        (
            "WARNING: CPU: 0 PID: 38 at net/core/dev.c:1 netif_rx+0x1/0x2\n---[ end trace 0 ]---\n"
            "kproof: the guest's Python ended by signal 11\n",
            "the guest's Python ended by signal 11",
        ),
        ("reboot: Power down\n", "the guest ended itself: Power down"),
        ("a test prints: it will panic\n", ""),
    ],
)  # fmt: skip
def test_the_title_names_why_a_guest_ended(text: str, title: str) -> None:
    assert death_title(text) == title


def test_the_tail_keeps_every_byte_and_only_the_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    log.write_bytes(b"".join(b"line %d\r\n" % n for n in range(1000)) + b"\xff\x00end")
    tail = read_tail(log, 3)
    assert tail == "line 998\nline 999\n\\xff\x00end"


def test_no_log_yet_is_an_empty_tail(tmp_path: Path) -> None:
    assert read_tail(tmp_path / "none") == ""
