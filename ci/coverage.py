"""`make coverage`: docs/coverage.md, from promise to tests to mutants, and whether they agree (promises.py).

With --check nothing is written. Ends 1 where they do not agree, or, with --check, where the document is an older one.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from ci.promises import Promise, Test, collect, disagreements, load
from harness.errors import UserError
from harness.kernel import mutants
from harness.kernel.mutants import Mutant, covers
from harness.paths import project_root

HEAD = """\
# What the selftests check

From promise to test to mutant; made by `make coverage` from `selftests/*/promises.toml`, the tests' markers and
`patches/*/mutants`. A mutant breaks the kernel, and stands beside the tests that must notice; `kproof mutate` finds out
whether they do. *× 4* after a test: it has four sets of parameters. In brackets: what its markers say of versions.

"""
SUMMARY = (
    *("feature", "promises", "not tested", "test functions", "tests", "mutants", "promises that a mutant breaks"),
)


def document(promises: dict[str, tuple[Promise, ...]], tests: Sequence[Test], found: Sequence[Mutant]) -> str:
    """The whole of it."""
    breaking = {
        promise.id: [mutant for mutant in found if _breaks(mutant, promise, tests)]
        for group in promises.values()
        for promise in group
    }
    rows = [_row(*SUMMARY), _row(*["---"] + ["---:"] * (len(SUMMARY) - 1))]
    for feature, group in promises.items():
        own = [test for test in tests if test.feature == feature]
        counts = (
            len(group),
            sum(bool(promise.not_tested) for promise in group),
            len(own),
            sum(len(test.sets) for test in own),
            sum(mutant.feature == feature for mutant in found),
            sum(bool(breaking[promise.id]) for promise in group),
        )
        rows.append(_row(feature, *map(str, counts)))
    text = HEAD + "\n".join(rows) + "\n"
    for feature, group in promises.items():
        lines = [_row("promise", "source", "tests", "mutants"), _row(*["---"] * 4)]
        lines += [_promise(promise, tests, breaking[promise.id]) for promise in group]
        text += f"\n## {feature}\n\n" + "\n".join(lines) + "\n"
    return text


def _promise(promise: Promise, tests: Sequence[Test], breaking: Sequence[Mutant]) -> str:
    shown = [_test(test, promise) for test in tests if promise.id in test.promises]
    if promise.not_tested:
        shown = [f"*not tested: {promise.not_tested}*"]
    names = [f"`{one.path.stem if one.feature == promise.feature else one.name}`" for one in breaking]
    return _row(f"**{promise.name}**: {promise.text}", promise.source, "<br>".join(shown), "<br>".join(names))


def _test(test: Test, promise: Promise) -> str:
    path, _, name = test.nodeid.partition("::")
    file = Path(path).name if test.feature == promise.feature else f"{test.feature}/{Path(path).name}"
    sets = sum(promise.id in named for named in test.sets.values())
    return f"`{file}::{name}`" + f" × {sets}" * (sets > 1) + (f" ({'; '.join(test.versions)})" if test.versions else "")


def _breaks(mutant: Mutant, promise: Promise, tests: Sequence[Test]) -> bool:
    """Whether a test must notice it that checks the promise."""
    ids = [nodeid for test in tests for nodeid, named in test.sets.items() if promise.id in named]
    return any(covers(killer, nodeid) for killer in mutant.killers for nodeid in ids)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def main(arguments: Sequence[str]) -> int:
    root = project_root()
    path = root / "docs" / "coverage.md"
    try:
        promises, tests, found = load(root / "selftests"), collect(root / "selftests"), mutants.find((), root)
    except UserError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    wrong = disagreements(promises, tests, found)
    made = document(promises, tests, found)
    if "--check" not in arguments:
        path.write_text(made)
        print(path.relative_to(root))
    elif not path.exists() or path.read_text() != made:
        wrong.append(f"{path.relative_to(root)} is not what `make coverage` makes")
    print("\n".join(wrong), end="\n" * bool(wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
