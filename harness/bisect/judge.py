"""Runs the test on one kernel: ``kproof run`` in a process of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.bisect.kernels import Made
from harness.bisect.samples import LOG, Sample, read_sample
from harness.child import Child
from harness.guest.snapshot import snapshots_of
from harness.kernel.files import digest, write

LIMIT = 7200.0
"""Seconds for one run; each of its tests has a limit of its own."""
BOOTED_RUNS = 3
"""So many runs on a kernel boot: a snapshot, which has a session with all tests, takes as long as three of them."""
SKIP_STATUS = 125
"""Of a command that says: this revision cannot be judged; as ``git bisect run`` has it."""
COMMAND = "test_command.py"


class Judge:
    """Runs the tests of one project in guests."""

    def __init__(self, root: Path, tests: Sequence[str], options: Sequence[str]) -> None:
        """``options`` of ``kproof run`` say what guests are like."""
        self._root = root
        self._tests = tuple(tests)
        self._options = tuple(options)

    def run(self, made: Made, folder: Path, *, runs: int) -> Sample:
        """One run, of so many that lie ahead of this kernel; its results go to ``folder``.

        Raises InfraError for a machine that fails and UserError for tests that are not there.
        """
        argv = ["harness.cli", "run", "--kernel", made.recipe, "-n", "1", "--results", str(folder), *self._options]
        cold = runs <= BOOTED_RUNS and not snapshots_of(made.identity)
        argv += [*(["--cold"] if cold else []), *self._tests]
        # what is known to fail must be seen to fail: predictions would turn both results round
        child = Child([*argv, "--", "--runxfail"], log=folder / LOG, cwd=self._root)
        status = child.wait(LIMIT)
        return read_sample(folder, status, child.seconds)


def command_test(folder: Path, command: str) -> str:
    """A test file that runs a shell command in the guest: 0 passes, 125 skips, all else fails; its path."""
    path = folder / f"bisect-{digest(command)}" / COMMAND
    text = f"""import subprocess

import pytest

COMMAND = {command!r}


@pytest.mark.timeout_s(600)
def test_command():
    done = subprocess.run(["sh", "-c", COMMAND], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    print(done.stdout, done.stderr, sep="")
    if done.returncode == {SKIP_STATUS}:
        pytest.skip("the command says 125: not to be judged")
    assert done.returncode == 0, f"exit status {{done.returncode}}: {{COMMAND}}"
"""
    write(path, text.encode())
    return str(path)
