"""The verb: from two ends and a test to the culprit on the screen, in files, and as an exit status."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.bisect.commits import SCHEME, Commits
from harness.bisect.judge import Judge, command_test
from harness.bisect.patches import Patches
from harness.bisect.ranges import Range
from harness.bisect.report import Call
from harness.bisect.search import Answer, Search
from harness.bisect.state import State
from harness.bisect.versions import Image, Versions
from harness.display import display_for
from harness.errors import UserError
from harness.events import Notice, Sink
from harness.kernel.files import digest, disk_errors
from harness.kernel.layout import Layout
from harness.kernel.locks import locked
from harness.matrix.identity import Sources
from harness.model import Request
from harness.paths import project_root
from harness.run import shown

INCONCLUSIVE = 4
"""Exit status: the answer is a range."""
CONFIDENCE = 0.99
SOURCES = ("dir:", "tar:", "debian:", "kernel:")


@dataclass(frozen=True)
class Asked:
    """What was asked for."""

    good: str
    bad: str
    series: str
    """A file or folder of patches; then the ends are the base without and with all of them."""
    base: Request
    """What all kernels of commits have in common, or what the series is for."""
    breaks: bool
    """Find what broke the test; else what mended it."""
    tests: tuple[str, ...]
    command: str
    """A shell command in the guest instead of tests."""
    confidence: float

    def words(self, shape: Sequence[str]) -> list[str]:
        """The arguments of ``kproof bisect`` that ask for it, from whatever folder."""
        pairs = {
            "--good": self.good,
            "--bad": self.bad,
            "--series": str(Path(self.series).expanduser().absolute()) if self.series else "",
            "--find": "" if self.breaks else "fixed",
            "--exec": self.command,
            "--kernel": "" if self.base == Request() else str(self.base),
            "--confidence": "" if self.confidence == CONFIDENCE else f"{self.confidence:g}",
        }
        words = [word for name, value in pairs.items() if value for word in (name, value)]
        return [*words, *shape, *(["--", *self.tests] if self.tests else [])]


def bisect(asked: Asked, *, shape: Sequence[str], anew: bool, results: str | None) -> int:
    """Find it, show it, write it down, and return the exit status.

    ``shape``: options of ``kproof run`` that say what guests are like. ``anew``: as if nothing were known. Raises
    KproofError for what ended it early; what is known until then is kept, and the next call goes on.
    """
    from harness.bisect.report import steps_table, summary_line, verdict_lines, write
    from harness.pytest_plugin.results import open_folder, run_folder

    layout = Layout.default()
    root = _root()
    _check(asked)
    with disk_errors(layout.root), display_for(sys.stdout) as display:
        tests = _from_root(asked.tests or [command_test(root / "build", asked.command)], root)
        what = [asked.good, asked.bad, asked.series, str(asked.base), asked.breaks]
        place = layout.root / "bisect" / digest([str(root), what, tests, list(shape)])
        with locked(layout.locks / f"bisect-{place.name}.lock", what="bisects the same", events=display.sink):
            range_ = _range(asked, place, display.sink)
            facts = [range_.key, asked.breaks, list(tests), _sources(root, tests), list(shape), asked.confidence]
            state = State.load(place, facts, anew=anew)
            if known := len(state.judgements):
                display.sink(Notice(f"going on where an earlier call was ({known} judged); --rerun forgets it"))
            elif state.forgotten and not anew:
                display.sink(
                    Notice("the tests, or what is bisected, have changed since an earlier call: from the beginning")
                )
            folder = open_folder(run_folder(root / "results", results), latest=not results)
            judge = Judge(root, tests, shape)
            search, answer = _search(asked, range_, judge, state, folder / "runs", display.sink)
    status = INCONCLUSIVE if answer.culprit is None else 0
    call = Call(asked.words(shape), tests, tuple(shape), root)
    write(folder, search, answer, call=call, status=status)
    print(steps_table(search))
    print("\n".join(verdict_lines(search, answer)))
    print(summary_line(search, answer, shown(folder)))
    return status


def _search(
    asked: Asked, range_: Range, judge: Judge, state: State, folder: Path, events: Sink
) -> tuple[Search, Answer]:
    """Search and prove. What is known is saved, however this ends; kernels stay only for a call that goes on."""
    from harness.bisect.kernels import Kernels
    from harness.bisect.proof import prove

    kernels = Kernels(state, events)
    search = Search(
        range_,
        kernels=kernels,
        judge=judge,
        state=state,
        folder=folder,
        breaks=asked.breaks,
        confidence=asked.confidence,
        events=events,
    )
    try:
        answer = search.run()
        if state.proof is None:
            state.proof = prove(search, answer, kernels=kernels, folder=state.folder, events=events)
        kernels.close()
    except UserError:  # another call would end as this one
        kernels.close()
        raise
    finally:
        state.save()
    return search, answer


def _check(asked: Asked) -> None:
    """Raises UserError for what does not go together."""
    if bool(asked.tests) == bool(asked.command):
        raise UserError("what decides? kproof bisect … -- TEST, or --exec COMMAND" + (", not both" * bool(asked.tests)))
    if not 0.5 <= asked.confidence < 1:
        raise UserError(f"--confidence {asked.confidence:g}: write a number from 0.5 to 0.9999")
    if asked.series:
        if asked.good or asked.bad:
            raise UserError(
                "--series has its own ends, the base without and with all patches: leave --good and --bad out"
            )
    elif not (asked.good and asked.bad):
        raise UserError("between what? --good A --bad B (versions, or git:PATH@REF), or --series FILE")


def _range(asked: Asked, place: Path, events: Sink) -> Range:
    old, new = (asked.good, asked.bad) if asked.breaks else (asked.bad, asked.good)
    if asked.series:
        return Patches(asked.base, Path(asked.series).expanduser().absolute(), place / "patches")
    if old.startswith(SCHEME) or new.startswith(SCHEME):
        clone, one, other = Commits.parse(old, new)
        base = replace(asked.base, source=f"{SCHEME}{clone}")
        return Commits(clone, one, other, base=base, folder=place, breaks=asked.breaks, events=events)
    for end in (old, new):
        if end.startswith(SOURCES):
            raise UserError(f"{end} has no history: an end is a version, such as 6.12.94, or git:PATH@REF")
    return Versions(images(events), old, new, breaks=asked.breaks)


def images(events: Sink) -> list[Image]:
    """What the archive has, the oldest first; of one that was rebuilt for other suites, the newest build."""
    from harness.kernel.ready import catalogue

    listed = catalogue(Layout.default(), events).images()
    # 6.12.94-1~bpo12+1 is 6.12.94-1 built elsewhere
    builds = {one.version.partition("~")[0]: one for one in reversed(listed)}
    return [Image(one.version, one.release, one.suites) for one in builds.values()]


def _root() -> Path:
    """The project: the nearest folder, from here upwards, that has selftests; else kproof's own."""
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / "selftests").is_dir()), project_root())


def _sources(root: Path, tests: Sequence[str]) -> list[str]:
    """Hashes of the files that have the tests, and of all that these import."""
    sources = Sources(root)
    found = []
    for test in tests:
        path = root / test.partition("::")[0]
        files = sorted(path.rglob("test_*.py")) if path.is_dir() else [path]
        found += [sources.of(str(file.relative_to(root))) for file in files]
    return found


def _from_root(tests: Sequence[str], root: Path) -> tuple[str, ...]:
    """Test paths and ids as they are called in the project's folder."""
    found = []
    for test in tests:
        file, colons, name = test.partition("::")
        path = Path.cwd() / file
        if not path.exists():
            raise UserError(f"there are no selftests {path}")
        if not path.resolve().is_relative_to(root.resolve()):
            raise UserError(f"{path} is not in the project {root}, which is all that guests see")
        found.append(f"{path.resolve().relative_to(root.resolve())}{colons}{name}")
    return tuple(found)
