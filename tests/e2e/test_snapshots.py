"""Guests restored from a snapshot: each its own, the tests as they are now, and never a broken snapshot."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.guest.snapshot import discard, snapshots_of
from tests.e2e.conftest import Project

WHO_AM_I = """
import json, os, pathlib, random, socket, time, uuid
import pytest
from helper import GREETING

@pytest.mark.parametrize("number", range(4))
def test_who(number, capsys):
    facts = {
        "guest": os.environ["KPROOF_GUEST"],
        "host": socket.gethostname(),
        "boot_id": pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        "urandom": os.urandom(16).hex(),
        "random": random.random(),
        "uuid": str(uuid.uuid4()),
        "clock": time.time(),
        "greeting": GREETING,
    }
    time.sleep(0.3)  # so that each guest gets its share
    pytest.fail(json.dumps(facts))
"""


@pytest.fixture
def project(project: Project) -> Iterator[Project]:
    """A project whose guests are restored; its snapshots go with it."""
    others = set(snapshots_of(project.kernel.identity))
    project.options = ()
    project.write("helper.py", 'GREETING = "hello"\n')
    project.write("test_it.py", WHO_AM_I)
    yield project
    for path in set(snapshots_of(project.kernel.identity)) - others:
        discard(path)


def facts(project: Project) -> list[dict[str, object]]:
    """What the tests told, by way of their failure."""
    data = json.loads((project.latest / "run.json").read_text())
    return [json.loads(outcome["message"].removeprefix("Failed: ")) for outcome in data["outcomes"]]


def snapshot(project: Project) -> Path:
    """The snapshot that was used last."""
    return max(snapshots_of(project.kernel.identity), key=lambda path: path.stat().st_mtime)


def test_restored_guests_are_not_twins(project: Project) -> None:
    """Two guests of one snapshot and a third of the next run share no random number and no boot id."""
    status, output = project.run("test_it.py", "-n", "2")
    assert status == 1, output
    told = facts(project)
    assert {fact["guest"] for fact in told} == {"g0", "g1"}
    status, output = project.run("test_it.py", "-n", "1")
    assert "snapshot: booting once" not in output
    told += facts(project)
    for name in ("urandom", "random", "uuid"):
        assert len({fact[name] for fact in told}) == len(told), f"{name} came twice"
    assert len({fact["boot_id"] for fact in told}) == 3
    assert all(fact["host"] == fact["guest"] for fact in told)
    now = (project.latest / "run.json").stat().st_mtime
    assert all(now - 120 < float(str(fact["clock"])) < now + 1 for fact in told)


def test_an_edited_test_runs_as_it_is_now_without_a_new_snapshot(project: Project) -> None:
    project.run("test_it.py", "-n", "1")
    before = snapshot(project)
    project.write("test_it.py", "def test_new():\n    assert 1 == 1\n")
    project.write("test_other.py", "def test_other():\n    pass\n")
    status, output = project.run("test_it.py", "test_other.py", "-n", "1", "--cold")
    assert status == 0, output
    status, output = project.run("test_it.py", "-n", "1")
    assert status == 0, output
    assert project.outcomes() == {"test_new": "passed"}
    assert "snapshot: booting once" not in output
    assert snapshot(project) == before


def test_an_edited_helper_is_never_taken_from_an_old_snapshot(project: Project) -> None:
    project.run("test_it.py", "-n", "1")
    project.write("helper.py", 'GREETING = "good morning"\n')
    _, output = project.run("test_it.py", "-n", "1")
    assert "has an older helper.py in it: booting once to make it anew" in output
    assert {fact["greeting"] for fact in facts(project)} == {"good morning"}


@pytest.mark.parametrize("damage", ["a flipped bit", "truncated", "no index"])
def test_a_damaged_snapshot_is_said_and_made_anew(project: Project, damage: str) -> None:
    project.run("test_it.py", "-n", "1")
    path = snapshot(project)
    data = bytearray(path.read_bytes())
    if damage == "a flipped bit":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif damage == "truncated":
        path.write_bytes(data[: len(data) // 2])
    else:
        path.with_suffix(".json").write_text("{")
    status, output = project.run("test_it.py", "-n", "1")
    assert status == 1, output
    assert len(facts(project)) == 4
    notes = [line for line in output.splitlines() if "note:" in line]
    assert len(notes) == 1, output
    assert "booting once to make it anew" in notes[0]


def test_a_snapshot_that_qemu_refuses_falls_back_to_a_cold_boot(project: Project) -> None:
    """Its hash is right and its content is not: as if another QEMU of the same name had written it."""
    import hashlib

    project.run("test_it.py", "-n", "1")
    path = snapshot(project)
    path.write_bytes(b"QEVM" + b"\0" * 1000)
    index = path.with_suffix(".json")
    about = json.loads(index.read_text())
    index.write_text(json.dumps(about | {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}))
    status, output = project.run("test_it.py", "-n", "2")
    assert status == 1, output
    assert len(facts(project)) == 4
    assert output.count("the snapshot cannot be restored") == 1
    assert not path.exists()


def test_two_runs_at_once_make_one_snapshot(project: Project) -> None:
    project.run("test_it.py", "-n", "1")
    discard(snapshot(project))
    first = project.start(*project.command(), "test_it.py", "-n", "1")
    second = project.start(*project.command(), "test_it.py", "-n", "1", "--results", "second")
    outputs = [process.communicate(timeout=300)[0] for process in (first, second)]
    assert [first.returncode, second.returncode] == [1, 1], outputs
    assert sum("snapshot: booting once" in output for output in outputs) == 1, outputs


def test_the_guest_that_follows_a_panic_is_restored_not_booted(project: Project) -> None:
    project.write(
        "test_it.py",
        "def test_a():\n    open('/proc/sysrq-trigger', 'w').write('c')\n\ndef test_b():\n    pass\n",
    )
    status, output = project.run("test_it.py", "-n", "1")
    assert status == 1, output
    assert project.outcomes() == {"test_a": "crashed", "test_b": "passed"}
    for guest in ("g0", "g1"):
        assert "-incoming" in (project.latest / "guests" / guest / "qemu.sh").read_text()
