"""`make bench`: how fast guests answer, side by side with virtme-ng on the same kernel, in the same run.

Several rounds, medians, and ratios against the peer: seconds alone say more about the machine than about us. Writes
results/bench.json and prints a table.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.events import Event, GuestEvent, TestEvent
from harness.guest.accel import measured_host
from harness.kernel.obtain import obtain
from harness.model import Kernel, Request
from harness.paths import project_root
from harness.pytest_plugin.host import Watcher
from harness.tables import table

ROUNDS = 5
PEER = "virtme-ng: pytest --version"
ONE_TEST = "def test_it():\n    pass\n"
PANIC_THEN_TEST = """
def test_a():
    with open("/proc/sysrq-trigger", "w") as trigger:
        trigger.write("c")

def test_b():
    pass
"""


def virtme(kernel: Kernel, folder: Path) -> float:
    """Seconds of virtme-ng to boot this kernel on the host's root and start pytest once."""
    vng = Path(sys.executable).with_name("vng")
    # verbose: where no udev makes its ports, virtme-ng lets the command write to the console, which it hides otherwise
    command = [str(vng), "--verbose", "--run", str(kernel.image), "--memory", "512M", "--cpus", "1", "--force-9p"]
    command += ["--disable-kvm"] if measured_host(kernel.boot_image).accel == "tcg" else []
    environment = {**os.environ, "PATH": f"{vng.parent}:{os.environ['PATH']}"}  # vng looks for virtme-run there
    start = time.monotonic()
    done = subprocess.run(
        [*command, "--exec", f"{sys.executable} -m pytest --version"],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.monotonic() - start
    if f"pytest {pytest.__version__}" not in done.stdout + done.stderr:
        sys.exit(f"virtme-ng did not run pytest: {done.stdout}{done.stderr}")
    return seconds


def run(kernel: Kernel, folder: Path, test: str, *options: str) -> list[tuple[float, Event]]:
    """One session with one guest; the events with their times."""
    if not (folder / "test_it.py").exists():  # a file that was written again is one that has changed
        (folder / "pytest.ini").write_text("[pytest]\n")
        (folder / "test_it.py").write_text(test)
    events: list[tuple[float, Event]] = []
    watcher = Watcher(lambda event: events.append((time.monotonic(), event)))
    arguments = ["--kernel", f"kernel:{kernel.identity}", "-n", "1", "-p", "no:terminal", "-p", "no:cacheprovider"]
    arguments += ["--guest-cpus", "1"]  # as its peer
    pytest.main([*arguments, *options, "--rootdir", str(folder), str(folder / "test_it.py")], plugins=[watcher])
    if watcher.error:
        sys.exit(str(watcher.error))
    return events


def first(events: list[tuple[float, Event]], condition: Callable[[Event], bool]) -> float:
    return next(moment for moment, event in events if condition(event))


def to_first_outcome(kernel: Kernel, folder: Path, *options: str) -> float:
    """Seconds from the start of QEMU until a test's outcome is known on the host."""
    events = run(kernel, folder, ONE_TEST, *options)
    return first(events, lambda event: isinstance(event, TestEvent)) - first(
        events, lambda event: isinstance(event, GuestEvent) and event.state == "booting"
    )


def cold(kernel: Kernel, folder: Path) -> float:
    return to_first_outcome(kernel, folder, "--cold")


def restored(kernel: Kernel, folder: Path) -> float:
    return to_first_outcome(kernel, folder)


def after_panic(kernel: Kernel, folder: Path) -> float:
    """Seconds from the moment that a panic is known until the next test's outcome is."""
    events = run(kernel, folder, PANIC_THEN_TEST)
    return first(events, lambda event: isinstance(event, TestEvent) and event.outcome.result == "passed") - first(
        events, lambda event: isinstance(event, GuestEvent) and event.state.startswith("died")
    )


MEASURED = {
    PEER: virtme,
    "cold boot to one passed test": cold,
    "restore to one passed test": restored,
    "panic to the next test's outcome": after_panic,
}


def main() -> None:
    kernel = obtain(Request())
    seconds: dict[str, list[float]] = {name: [] for name in MEASURED}
    with tempfile.TemporaryDirectory(prefix="kproof-bench-") as scratch:
        folders = {name: Path(scratch, str(number)) for number, name in enumerate(MEASURED)}
        for folder in folders.values():
            folder.mkdir()
        for warm_up in (restored, after_panic):  # makes the snapshots
            warm_up(kernel, folders[next(name for name, function in MEASURED.items() if function is warm_up)])
        for number in range(ROUNDS):
            for name, function in MEASURED.items():
                seconds[name].append(function(kernel, folders[name]))
                print(f"round {number + 1} of {ROUNDS}: {name}: {seconds[name][-1]:.2f} s", flush=True)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    rows = [
        (
            name,
            f"{medians[name]:.2f} s",
            f"{min(values):.2f} to {max(values):.2f}",
            f"{medians[PEER] / medians[name]:.1f}x",
        )
        for name, values in seconds.items()
    ]
    print(table((f"kernel {kernel.release}, {ROUNDS} rounds", "MEDIAN", "RANGE", "FASTER"), rows))
    target = project_root() / "results" / "bench.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps({"kernel": kernel.release, "seconds": seconds, "medians": medians}, indent=1) + "\n")


if __name__ == "__main__":
    main()
