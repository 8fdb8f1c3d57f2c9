"""Fresh guests: a test that has one to itself sees nothing of the others, leaves nothing, and has one outcome."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.guest.snapshot import discard, snapshots_of
from harness.model import Kernel
from tests.e2e.conftest import Project, wait_until

MARKS = """
import os
from pathlib import Path

import pytest

SYSCTL = Path("/proc/sys/net/core/somaxconn")


def marks():
    return sorted(path.name for path in Path("/tmp").glob("mark-*"))


@pytest.mark.parametrize("number", range(6))
def test_ordinary(number):
    assert not [mark for mark in marks() if "fresh" in mark]
    assert SYSCTL.read_text() != "77\\n"
    Path(f"/tmp/mark-ordinary-{number}").touch()
    SYSCTL.write_text("66\\n")


@pytest.mark.fresh
@pytest.mark.parametrize("number", range(4))
def test_fresh(number):
    assert marks() == []
    assert SYSCTL.read_text() == "4096\\n"
    Path(f"/tmp/mark-fresh-{number}").touch()
    SYSCTL.write_text("77\\n")


def test_ordinary_at_the_end():
    test_ordinary("end")
"""

ENDINGS = """
import os
import time

import pytest


@pytest.mark.fresh
def test_fresh_panics():
    open("/proc/sysrq-trigger", "w").write("c")


@pytest.mark.fresh
def test_fresh_exits():
    os._exit(7)


@pytest.mark.fresh
@pytest.mark.timeout_s(0.5)
def test_fresh_hangs():
    time.sleep(600)


@pytest.mark.fresh
def test_fresh_fails():
    assert 1 == 2


@pytest.mark.fresh
def test_fresh_passes():
    pass


@pytest.mark.parametrize("number", range(5))
def test_good(number):
    pass


def test_ordinary_panics():
    open("/proc/sysrq-trigger", "w").write("c")
"""

EXPECTED = {
    "test_fresh_panics": "crashed",
    "test_fresh_exits": "crashed",
    "test_fresh_hangs": "hung",
    "test_fresh_fails": "failed",
    "test_fresh_passes": "passed",
    "test_ordinary_panics": "crashed",
    **{f"test_good[{number}]": "passed" for number in range(5)},
}


CURSED = """
import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item):
    if item.name == "test_cursed":
        open("/proc/sysrq-trigger", "w").write("c")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, kernel: Kernel) -> Iterator[Path]:
    """One for all of these tests, so that one snapshot serves them; it goes with them."""
    others = set(snapshots_of(kernel.identity))
    folder = tmp_path_factory.mktemp("fresh")
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "conftest.py").write_text(CURSED)
    yield folder
    for path in set(snapshots_of(kernel.identity)) - others:
        discard(path)


@pytest.fixture
def project(project: Project, folder: Path) -> Project:
    """A project whose guests are restored."""
    project.folder = folder
    project.options = ()
    return project


def guests(project: Project) -> dict[str, str]:
    """Guest by test name."""
    data = json.loads((project.latest / "run.json").read_text())
    return {outcome["nodeid"].partition("::")[2]: outcome["guest"] for outcome in data["outcomes"]}


def command_line(project: Project, guest: str) -> str:
    return (project.latest / "guests" / guest / "qemu.sh").read_text()


@pytest.mark.parametrize("count", ["1", "2"])
def test_a_fresh_test_sees_nothing_and_leaves_nothing(project: Project, count: str) -> None:
    """Neither a file nor a sysctl passes between a fresh test and any other, in whatever order they run."""
    project.write("test_it.py", MARKS)
    status, output = project.run("test_it.py", "-n", count)
    assert status == 0, output
    assert set(project.outcomes().values()) == {"passed"}
    assert len(project.outcomes()) == 11
    by_guest = Counter(guests(project).values())
    fresh = {guest for test, guest in guests(project).items() if test.startswith("test_fresh")}
    assert len(fresh) == 4
    assert {by_guest[guest] for guest in fresh} == {1}
    assert len(by_guest) <= 4 + int(count)
    assert all("-incoming" in command_line(project, guest) for guest in by_guest)


@pytest.mark.parametrize("launcher", [("--cold",), ("--root", "virtme")])
def test_without_a_snapshot_a_fresh_test_has_a_guest_that_was_just_booted(
    project: Project, launcher: tuple[str, ...]
) -> None:
    project.write("test_it.py", MARKS)
    status, output = project.run("test_it.py::test_fresh[0]", "test_it.py::test_ordinary[0]", "-n", "1", *launcher)
    assert status == 0, output
    assert guests(project) == {"test_fresh[0]": "g0", "test_ordinary[0]": "g1"}
    assert not any("-incoming" in command_line(project, guest) for guest in guests(project).values())


@pytest.mark.parametrize("options", [("-n", "2"), ("-n", "2", "--fresh")])
def test_whatever_becomes_of_fresh_tests_each_has_one_outcome(project: Project, options: tuple[str, ...]) -> None:
    project.write("test_it.py", ENDINGS)
    status, output = project.run("test_it.py", *options)
    assert status == 1, output
    assert project.outcomes() == EXPECTED
    alone = (
        guests(project) if "--fresh" in options else {test: g for test, g in guests(project).items() if "fresh" in test}
    )
    by_guest = Counter(guests(project).values())
    assert {by_guest[guest] for guest in alone.values()} == {1}


def test_fresh_for_all_makes_one_guest_per_test(project: Project) -> None:
    """By pytest's own command, and the run can be repeated: the script says --fresh, too."""
    project.write("test_it.py", "import pytest\n\n@pytest.mark.parametrize('n', range(5))\ndef test_it(n):\n    pass\n")
    status, output = project.call(*project.pytest_command(), "-n", "2", "--fresh", "test_it.py")
    assert status == 0, output
    assert "5 passed" in output
    assert len(set(guests(project).values())) == 5
    assert len(list((project.latest / "guests").glob("g*"))) == 5, "no guest more than there are tests"
    assert "--fresh" in (project.latest / "repro.sh").read_text()


@pytest.mark.parametrize("ending", ["assert 1 == 2", "open('/proc/sysrq-trigger', 'w').write('c')"])
def test_exitfirst_ends_the_run(project: Project, ending: str) -> None:
    """At a failure as well as at a panic. What did not run is said."""
    decorator = "@pytest.mark.parametrize('n', range(9))"
    project.write("test_it.py", f"import pytest\n\n{decorator}\ndef test_it(n):\n    if n == 1:\n        {ending}\n")
    status, output = project.run("test_it.py", "-n", "1", "--fresh", "-x")
    assert status == 1, output
    outcomes = project.outcomes()
    assert outcomes["test_it[0]"] == "passed"
    assert outcomes["test_it[1]"] in ("failed", "crashed")
    assert {outcomes[f"test_it[{n}]"] for n in range(2, 9)} == {"not run"}


def test_ctrl_c_among_fresh_guests_leaves_one_outcome_each(project: Project) -> None:
    project.write(
        "test_it.py",
        "import pytest, time\n\n@pytest.mark.parametrize('n', range(40))\ndef test_it(n):\n    time.sleep(0.2)\n",
    )
    process = project.start(*project.command(), "test_it.py", "-n", "2", "--fresh")
    assert process.stdout
    lines: list[str] = []
    wait_until(lambda: lines.append(process.stdout.readline()) or "3/40" in lines[-1], "the third test")  # type: ignore
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    outcomes = project.outcomes()
    assert len(outcomes) == 40
    assert set(outcomes.values()) == {"passed", "not run"}
    assert wait_until(lambda: not project.guests(), "the end of all QEMUs", 5)


def test_a_test_that_kills_guests_before_it_begins_is_given_up(project: Project) -> None:
    """It would be scheduled again for ever: after three guests it has crashed, and the others have run."""
    project.write(
        "test_it.py",
        "import pytest\n\ndef test_a():\n    pass\n\n@pytest.mark.fresh\ndef test_cursed():\n    pass\n\n"
        "def test_b():\n    pass\n",
    )
    status, output = project.run("test_it.py", "-n", "1")
    assert status == 1, output
    assert project.outcomes() == {"test_a": "passed", "test_cursed": "crashed", "test_b": "passed"}
    assert project.detail("test_cursed")["message"] == "Kernel panic - not syncing: sysrq triggered crash"


def test_another_way_to_distribute_is_refused(project: Project) -> None:
    project.write("test_it.py", "def test_it():\n    pass\n")
    status, output = project.run("test_it.py", "--", "--dist", "loadfile")
    assert status == 2, output
    assert "leave --dist loadfile out" in output
    assert "Traceback" not in output
