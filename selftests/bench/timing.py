"""The workload of benchmarks that are a loop in this process, measured by its clock."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable

from selftests.bench.benchmark import Refused, Sample


def timed(count: int, work: Callable[[], object]) -> Sample:
    """``work`` so often. What the loop itself costs is in each row alike.

    Raises Refused for one that sleeps, or waits for another process: an idle guest's time jumps to its next timer, so
    it says nothing of instructions.
    """
    before = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
    start = time.monotonic_ns()
    for _ in range(count):
        work()
    ns = time.monotonic_ns() - start
    if slept := resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw - before:
        raise Refused(f"the workload slept {slept} times in {count}: time passed that no instruction took")
    return Sample(count, ns)
