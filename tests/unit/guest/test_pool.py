"""The pool hands out guests, in the order that they were started, to processes of its own user."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from harness.errors import BootError, InfraError
from harness.events import Event, GuestEvent, Notice
from harness.guest.launch import Guest
from harness.guest.pool import LOST, GuestPool
from harness.model import GuestSpec


def spec(tmp_path: Path) -> GuestSpec:
    return GuestSpec("image", "/k", "/r", "/p", "tcg", str(tmp_path), speed=0.02)


def fake_launcher(
    answer: Callable[[socket.socket], None], program: str = "import time; time.sleep(60)"
) -> Callable[..., Guest]:
    """Guests whose agent is a function on a thread and whose QEMU is a sleeping Python."""

    def launch(spec: GuestSpec, name: str) -> Guest:
        Path(spec.folder).mkdir(parents=True)
        ours, theirs = socket.socketpair()
        monitor, control = socket.socketpair()
        threading.Thread(target=answer, args=(theirs,), daemon=True).start()
        process = subprocess.Popen([sys.executable, "-c", program])
        return Guest(name=name, spec=spec, process=process, channel=ours, monitor=monitor, control=control)

    return launch


def echo_agent(channel: socket.socket, *, boots: bool = True) -> None:
    """Answers its orders, then sends back in capitals what it is told."""
    with channel, channel.makefile("rwb") as file:
        if boots:  # one that is restored has said so before
            file.write(b'{"waiting": true}\n')
            file.flush()
        orders = json.loads(file.readline())
        file.write(json.dumps({"ready": 1.0, "kernel": "6.12.0-" + orders["name"]}).encode() + b"\n")
        file.flush()
        with suppress(ConnectionResetError):
            for line in file:
                file.write(line.upper())
                file.flush()


def worker(address: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "harness.guest.worker", address, "-u", "-c", "ignored"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def test_a_worker_is_spliced_to_its_guest_and_the_next_worker_to_the_next(tmp_path: Path) -> None:
    with GuestPool(spec(tmp_path), ahead=1, launcher=fake_launcher(echo_agent)) as pool:
        for expected in ("g0", "g1"):  # g0 was started ahead, g1 when it was wanted
            process = worker(pool.address)
            assert process.stdin
            assert process.stdout
            process.stdin.write(b"hello\n")
            process.stdin.flush()
            assert process.stdout.readline() == b"HELLO\n"
            assert pool.last_handed.name == expected
            process.communicate(timeout=20)  # end of file ends it
        guests = list(pool._all)
    assert [guest.process.poll() is not None for guest in guests] == [True, True]


def test_a_guest_that_dies_while_booting_is_a_boot_error_with_its_console(tmp_path: Path) -> None:
    def launch(spec: GuestSpec, name: str) -> Guest:
        guest = fake_launcher(lambda channel: channel.close(), "")(spec, name)
        guest.console.write_text("early boot\nKernel panic - not syncing: No working init found.\n")
        return guest

    with GuestPool(spec(tmp_path), ahead=1, launcher=launch) as pool:
        process = worker(pool.address)
        assert process.wait(20) == 3
        process.communicate()
        assert isinstance(pool.error, BootError)
        assert "does not boot: Kernel panic - not syncing: No working init found." in str(pool.error)
        assert "    early boot" in str(pool.error)


def test_a_guest_that_hangs_is_given_up_at_the_boot_limit(tmp_path: Path) -> None:
    def hang(channel: socket.socket) -> None:
        channel.recv(1 << 16)
        threading.Event().wait(30)

    with GuestPool(spec(tmp_path), ahead=1, launcher=fake_launcher(hang)) as pool:  # 60 s times 0.02
        process = worker(pool.address)
        assert process.wait(20) == 3
        process.communicate()
        assert "did not come up within 1 s" in str(pool.error)
        assert pool._all[0].process.returncode is not None


def test_an_agent_that_cannot_obey_is_an_infra_error(tmp_path: Path) -> None:
    def refuse(channel: socket.socket) -> None:
        with channel, channel.makefile("rwb") as file:
            file.write(b'{"waiting": true}\n')
            file.flush()
            file.readline()
            file.write(b'{"error": "mount 9p on /p: No such device"}\n')

    with GuestPool(spec(tmp_path), ahead=1, launcher=fake_launcher(refuse)) as pool:
        process = worker(pool.address)
        process.wait(20)
        process.communicate()
        assert isinstance(pool.error, InfraError)
        assert "mount 9p on /p" in str(pool.error)


def test_a_launch_that_fails_is_raised_on_entry(tmp_path: Path) -> None:
    def launch(spec: GuestSpec, name: str) -> Guest:
        raise InfraError("qemu is missing")

    with pytest.raises(InfraError, match="qemu is missing"), GuestPool(spec(tmp_path), ahead=2, launcher=launch):
        pass


def test_a_worker_without_a_pool_ends_with_the_infra_status() -> None:
    process = worker("kproof-nobody-listens")
    assert process.wait(20) == 3
    process.communicate()


def test_a_guests_peak_memory_is_read_before_it_goes(tmp_path: Path) -> None:
    with GuestPool(spec(tmp_path), ahead=2, launcher=fake_launcher(lambda channel: None)) as pool:
        first, second = pool.guests
        second.process.kill()
        second.process.wait()
    assert 1 < first.peak_mb < 500
    assert second.peak_mb == 0, "nobody looked in time"


def fetch(pool: GuestPool) -> str:
    """Be a worker that comes and goes; returns the name of its guest."""
    process = worker(pool.address)
    assert process.stdin
    assert process.stdout
    process.stdin.write(b"hello\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"HELLO\n"
    process.communicate(timeout=20)
    return pool.last_handed.name


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_guest_that_is_expected_is_ready_before_it_is_fetched(tmp_path: Path) -> None:
    events: list[Event] = []
    ready = ["g0", "g1", "g2"]
    with GuestPool(spec(tmp_path), ahead=1, events=events.append, launcher=fake_launcher(echo_agent)) as pool:
        pool.expect(1)
        assert fetch(pool) == "g0"
        until(lambda: len([event for event in events if isinstance(event, GuestEvent) and event.state == "ready"]) == 2)
        pool.expect(0)
        assert fetch(pool) == "g1"
        assert fetch(pool) == "g2"  # was not expected, and is there
        assert len(pool.guests) == 3
    assert [event.name for event in events if isinstance(event, GuestEvent) and event.state == "ready"] == ready


def test_a_snapshot_that_is_removed_meanwhile_serves_until_the_end(tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshot"
    snapshot.write_text("a guest")
    restored: list[str] = []

    def launch(spec: GuestSpec, name: str) -> Guest:
        restored.append(Path(spec.snapshot).read_text())
        return fake_launcher(partial(echo_agent, boots=False))(spec, name)

    with GuestPool(replace(spec(tmp_path), snapshot=str(snapshot)), ahead=1, launcher=launch) as pool:
        fetch(pool)
        snapshot.unlink()
        fetch(pool)
    assert restored == ["a guest"] * 2


def test_a_pool_that_is_closed_while_a_guest_is_restored_keeps_the_snapshot(tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshot"
    snapshot.write_text("a guest")
    events: list[Event] = []
    asked = threading.Event()

    def silent(channel: socket.socket) -> None:
        with channel:  # until its QEMU is gone
            channel.recv(1)
            asked.set()
            until(lambda: pool.guests[0].process.poll() is not None)

    slow = replace(spec(tmp_path), snapshot=str(snapshot), speed=1.0)
    with GuestPool(slow, ahead=1, events=events.append, launcher=fake_launcher(silent)) as pool:
        process = worker(pool.address)
        assert asked.wait(20)
    assert process.wait(20) == 3
    process.communicate()
    pool._thread.join(20)
    assert snapshot.exists()
    assert not [event for event in events if isinstance(event, Notice)]


def test_without_its_snapshot_a_pool_boots_and_says_so(tmp_path: Path) -> None:
    events: list[Event] = []
    gone = replace(spec(tmp_path), snapshot=str(tmp_path / "gone"))
    with GuestPool(gone, ahead=1, events=events.append, launcher=fake_launcher(echo_agent)) as pool:
        fetch(pool)
        assert pool.guests[0].spec.snapshot == ""
    assert [event.text for event in events if isinstance(event, Notice)] == [
        "the snapshot cannot be read (No such file or directory): this run's guests boot cold"
    ]


def test_a_guest_that_dies_while_it_waits_is_said_and_not_handed_out(tmp_path: Path) -> None:
    events: list[Event] = []
    with GuestPool(spec(tmp_path), ahead=1, events=events.append, launcher=fake_launcher(echo_agent)) as pool:
        pool.expect(1)
        fetch(pool)
        until(
            lambda: any(
                isinstance(event, GuestEvent) and event.state == "ready" and event.name == "g1" for event in events
            )
        )
        pool.guests[1].process.kill()
        pool.guests[1].process.wait()
        pool.expect(0)
        assert fetch(pool) == "g2"
    assert [event.name for event in events if isinstance(event, GuestEvent) and event.state == LOST] == ["g1"]
