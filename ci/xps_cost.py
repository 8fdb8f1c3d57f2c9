"""Inside a guest whose clock counts instructions, for ci/docs.py: what a packet costs, with and without XPS programs.

QEMU is told ``-icount shift=0``: one instruction is one nanosecond of the guest's time, which pktgen measures. Prints a
table in Markdown.
"""

from __future__ import annotations

from contextlib import ExitStack

from selftests.lib import bpf, pktgen
from selftests.lib.netns import Namespace
from selftests.lib.rtnl import Link
from selftests.lib.xps import Attachment, Way

PACKETS = 20_000
QUEUES = 4

CASES: tuple[tuple[str, str, Way, tuple[int, ...]], ...] = (
    ("none", "d0", "netlink", ()),
    ("one, on another device", "d1", "netlink", (1,)),
    ("one that returns -1: the flow hash decides", "d0", "netlink", (-1,)),
    ("one that returns 1", "d0", "netlink", (1,)),
    (f"one that returns {QUEUES}, of {QUEUES} queues", "d0", "netlink", (QUEUES,)),
    ("three by links, that return -1, -1 and 1", "d0", "link", (-1, -1, 1)),
    ("none, after all that", "d0", "netlink", ()),
)
"""What it is called, the device that has programs, how they come, what they return."""


def instructions(link: Link) -> float:
    """For each packet through a device. Raises RuntimeError when packets were lost on the way."""
    report = pktgen.run(link, PACKETS)
    if report.errors:
        raise RuntimeError(f"pktgen: {report.errors} errors")
    return report.microseconds * 1000 / PACKETS


def main() -> None:
    with Namespace.current() as here:
        devices = {name: here.rtnl.add_dummy(name, num_tx_queues=QUEUES) for name in ("d0", "d1")}
        instructions(devices["d0"])  # the first run fills caches
        print("| programs | instructions for a packet |\n| --- | --- |")
        for what, name, way, results in CASES:
            with ExitStack() as stack:
                for result in results:
                    program = stack.enter_context(bpf.filter_returning(result))
                    stack.enter_context(Attachment(way, program, devices[name]))
                print(f"| {what} | {instructions(devices['d0']):.0f} |", flush=True)


if __name__ == "__main__":
    main()
