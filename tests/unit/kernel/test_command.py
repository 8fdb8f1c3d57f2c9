"""Programs are bounded, captured, and gone when the call is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness import command
from harness.errors import InfraError

from .conftest import gone


def test_a_missing_program_names_its_package() -> None:
    with pytest.raises(InfraError, match="no-such-program: not found; install it with: apt install no-such-program"):
        command.run(["no-such-program"], limit=5)


def test_the_package_has_another_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InfraError, match="xz: not found; install it with: apt install xz-utils"):
        command.run(["xz"], limit=5)


def test_output_status_and_input() -> None:
    done = command.run(["sh", "-c", "cat; echo bad >&2; exit 3"], limit=5, stdin=b"in", check=False)
    assert (done.status, done.out, done.complaint) == (3, b"in", "bad")
    with pytest.raises(InfraError, match="sh failed: bad"):
        command.run(["sh", "-c", "echo bad >&2; exit 3"], limit=5)


def test_an_overdue_program_and_its_children_end(tmp_path: Path) -> None:
    script = f"sleep 1000 & echo $! > {tmp_path}/pid; wait"
    with pytest.raises(InfraError, match="did not end within"):
        command.run(["sh", "-c", script], limit=0.3)
    assert gone(int((tmp_path / "pid").read_text()))


def test_following_gives_lines_and_keeps_bytes(tmp_path: Path) -> None:
    lines: list[str] = []
    with (tmp_path / "log").open("wb") as log:
        status = command.follow(["sh", "-c", "echo one; echo two >&2; exit 4"], limit=5, on_line=lines.append, log=log)
    assert status == 4
    assert lines == ["one", "two"]
    assert (tmp_path / "log").read_bytes() == b"one\ntwo\n"


def test_following_is_bounded() -> None:
    with pytest.raises(InfraError, match="did not end within"):
        command.follow(["sleep", "1000"], limit=0.3, on_line=lambda line: None)


def test_a_program_beside_us_writes_to_its_log_and_ends_with_its_children(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pid")
    script = "echo out; echo err >&2; sleep 1000 & echo $! > pid; wait"
    process = command.beside(["sh", "-c", script], log=tmp_path / "log", cwd=tmp_path)
    child = int((tmp_path / "pid").read_text())
    command.end(process)
    assert process.returncode != 0
    assert gone(child)
    assert (tmp_path / "log").read_bytes() == b"out\nerr\n"


def test_an_exception_in_between_ends_the_program() -> None:
    pids: list[int] = []

    def stop(line: str) -> None:
        pids.append(int(line))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        command.follow(["sh", "-c", "echo $$; exec sleep 1000"], limit=60, on_line=stop)
    assert gone(pids[0])


def test_a_program_that_ignores_the_first_signal_ends_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(command, "GRACE", 0.2)
    script = f"trap '' TERM; echo $$ > {tmp_path}/pid; sleep 1000; sleep 1000"
    with pytest.raises(InfraError, match="did not end within"):
        command.run(["sh", "-c", script], limit=0.5)
    assert gone(int((tmp_path / "pid").read_text()))
