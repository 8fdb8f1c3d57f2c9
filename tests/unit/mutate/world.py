"""A project with mutants that is made up, and kernels and runs that are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.events import Event
from harness.kernel.mutants import find
from harness.model import Kernel, Result, Version
from harness.mutate.campaign import Campaign
from harness.mutate.kept import Kept, contents
from harness.mutate.runner import Report
from harness.mutate.verdicts import Judged

TEST_A, TEST_B, TEST_C = (f"selftests/netkit/test_{name}.py::test_{name}" for name in "abc")
GREEN = {TEST_A: Result.PASSED, f"{TEST_B}[x]": Result.PASSED, TEST_C: Result.SKIPPED}

HEADER = """Mutant: {name}

Breaks: promise of {name}
Base:   {base}
Killed by:
{killers}

{more}
---
--- a/{file}
+++ b/{file}
@@ -1 +1 @@
-a
+b
"""


def kernel(identity: str) -> Kernel:
    return Kernel(identity, Path("/k"), Version(6, 12, 117), "6.12.117", "", (), (), 1.0)


@dataclass
class World:
    """A project with mutants, the machine that builds and runs them, and what it was asked to do."""

    root: Path
    log: list[str] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    reports: dict[str, list[Report | BaseException]] = field(default_factory=dict)
    """What runs on a mutant's kernel find out, one after the other; more of them find nothing."""
    broken: dict[str, Exception] = field(default_factory=dict)
    """Builds that fail, by mutant."""
    suite: dict[str, Result] = field(default_factory=lambda: dict(GREEN))
    of_base: Report | None = None
    """Of a base that is not what it should be."""
    base: str = "base"

    def add(
        self,
        name: str,
        *killers: str,
        base: str = ">=6.12,<6.13",
        more: str = "",
        file: str = "a.c",
        feature: str = "netkit",
    ) -> None:
        path = self.root / "patches" / feature / "mutants" / f"{name}.patch"
        path.parent.mkdir(parents=True, exist_ok=True)
        named = "\n".join(f"  {killer}" for killer in killers or (TEST_A,))
        path.write_text(HEADER.format(name=name, base=base, killers=named, more=more, file=file))

    # -- harness.mutate.campaign.Kernels

    def build(self, mutant: object) -> Kernel:
        name = mutant.path.stem  # type: ignore[attr-defined]
        self.log.append(f"build {name}")
        if name in self.broken:
            raise self.broken[name]
        return kernel(name)

    def discard(self, kernel: Kernel) -> None:
        self.log.append(f"discard {kernel.identity}")

    # -- harness.mutate.campaign.Runner

    def start(self, kernel: Kernel, tests: Sequence[str], folder: Path, *, guests: int, first: bool = False) -> FakeRun:
        asked = " ".join(re.split("/|::", test)[-1] for test in tests)
        self.log.append(f"run {kernel.identity}: {asked}{' -x' if first else ''} -n {guests}")
        if kernel.identity == self.base:
            if self.of_base:
                return FakeRun(self, kernel, self.of_base)
            return FakeRun(self, kernel, Report(self.suite, dict.fromkeys(self.suite, "oh"), seconds=1.0))
        waiting = self.reports.get(kernel.identity) or [good()]
        return FakeRun(self, kernel, waiting.pop(0))

    def campaign(self, *, every: bool = False, base: str = "base") -> Campaign:
        self.base = base
        return Campaign(
            kernel(base),
            root=self.root,
            kernels=self,
            runner=self,
            kept=Kept(self.root / "memo"),
            contents=contents,
            folder=self.root / "results",
            guests=2,
            events=self.events.append,
            every=every,
        )

    def judge(self, *names: str, every: bool = False, anew: bool = False) -> dict[str, Judged]:
        self.log.clear()
        campaign = self.campaign(every=every)
        campaign.run(find(names, self.root), anew=anew)
        return {one.mutant.path.stem: one for one in campaign.judged}


@dataclass
class FakeRun:
    world: World
    kernel: Kernel
    report: Report | BaseException

    def wait(self) -> Report:
        self.world.log.append(f"wait {self.kernel.identity}")
        if isinstance(self.report, BaseException):
            raise self.report
        return self.report

    def end(self) -> None:
        pass


def good() -> Report:
    return Report({TEST_A: Result.PASSED}, seconds=2.0)


def kills(test: str, result: Result = Result.FAILED, message: str = "expected DROP") -> Report:
    return Report({test: result}, {test: message}, seconds=2.0)
