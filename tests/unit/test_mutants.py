"""The header of a mutant: what it says, where an error in it is, and that those of this project are sound."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness.errors import UserError
from harness.kernel.mutants import covers, find, load
from harness.model import Kernel, SeriesState, SeriesStatus, Version
from harness.paths import project_root

GOOD = """Mutant: netkit forgets

Breaks: a promise that
        takes two lines (35dfaad7188c)
Base:   >=6.12,<6.13 +xps_bpf
Killed by:
  selftests/netkit/test_a.py::test_one[peer-L3]
  selftests/netkit/test_a.py::test_two

Prose: with a colon.
---
 drivers/net/netkit.c | 2 +-

diff --git a/drivers/net/netkit.c b/drivers/net/netkit.c
--- a/drivers/net/netkit.c
+++ b/drivers/net/netkit.c
@@ -1 +1 @@
-a
+b
"""


def written(root: Path, text: str = GOOD, name: str = "patches/netkit/mutants/forgets.patch") -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def kernel(version: str = "6.12.117", *series: str) -> Kernel:
    statuses = tuple(SeriesStatus(name, SeriesState.APPLIES, "") for name in series)
    absent = SeriesStatus("redirect_peer", SeriesState.ABSENT, "")
    return Kernel("1" * 16, Path("/k"), Version.parse(version), version, "", (*statuses, absent), (), 1.0)


def test_all_that_a_header_says(tmp_path: Path) -> None:
    mutant = load(written(tmp_path))
    assert mutant.name == "netkit/forgets"
    assert mutant.title == "netkit forgets"
    assert mutant.breaks == "a promise that takes two lines (35dfaad7188c)"
    assert (mutant.versions.text, mutant.series) == (">=6.12,<6.13", ("xps_bpf",))
    assert mutant.killers == (
        "selftests/netkit/test_a.py::test_one[peer-L3]",
        "selftests/netkit/test_a.py::test_two",
    )
    assert (mutant.equivalent, mutant.touches) == ("", ("drivers/net/netkit.c",))


def test_an_equivalent_mutant_needs_no_killer(tmp_path: Path) -> None:
    text = re.sub(r"Killed by:\n(  .*\n)+", "Equivalent: the value is\n  read again\n", GOOD)
    mutant = load(written(tmp_path, text))
    assert (mutant.equivalent, mutant.killers) == ("the value is read again", ())


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("Mutant: netkit forgets", "Mutation: x", 1, "begins with 'Mutant:"),
        ("Mutant: netkit forgets", "Mutant:", 1, "begins with 'Mutant:"),
        ("forgets\n\n", "forgets\n", 2, "a blank line belongs behind the title"),
        ("Breaks: a promise that\n        takes two lines (35dfaad7188c)\n", "", 1, "'Breaks:' is missing"),
        ("Base:   >=6.12,<6.13 +xps_bpf\n", "", 1, "'Base:' is missing"),
        (">=6.12,<6.13", "6.12", 5, "'6.12' is not a version range term"),
        (">=6.12,<6.13", ">=six", 5, "is not a version range term"),
        ("Base: ", "Bases:", 5, "here stand Breaks, Base, Killed by, Equivalent"),
        ("Base: ", "Breaks:", 5, "'Breaks:' was there before"),
        ("Killed by:\n", "Killed by:\n\n", 1, "must name a test"),
        ("::test_two", "", 8, "is no test id"),
        ("Breaks: a promise that\n", "", 3, "there is none before it"),
    ],
)
def test_an_error_has_file_and_line(tmp_path: Path, old: str, new: str, line: int, words: str) -> None:
    assert old in GOOD
    path = written(tmp_path, GOOD.replace(old, new))
    with pytest.raises(UserError, match=re.escape(words)) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}:{line}: ")


def test_a_header_without_a_diff_is_no_mutant(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"forgets\.patch:12: the mutant holds no diff"):
        load(written(tmp_path, GOOD.partition("\ndiff")[0]))


@pytest.mark.parametrize(
    ("there", "misfit"),
    [
        (kernel("6.12.117", "xps_bpf"), ""),
        (kernel("6.13", "xps_bpf"), "it is for >=6.12,<6.13, this is 6.13.0"),
        (kernel("6.12.117", "netkit"), "it needs the series xps_bpf"),
    ],
)
def test_which_kernels_it_is_a_mutant_of(tmp_path: Path, there: Kernel, misfit: str) -> None:
    assert load(written(tmp_path)).misfit(there) == misfit


def test_a_series_that_is_absent_does_not_count(tmp_path: Path) -> None:
    mutant = load(written(tmp_path, GOOD.replace("+xps_bpf", "+redirect_peer")))
    assert mutant.misfit(kernel("6.12.117", "netkit")) == "it needs the series redirect_peer"


@pytest.mark.parametrize(
    ("killer", "test", "meant"),
    [
        ("a.py::test_x", "a.py::test_x", True),
        ("a.py::test_x", "a.py::test_x[1]", True),
        ("a.py::test_x", "a.py::test_xy", False),
        ("a.py::TestX", "a.py::TestX::test_y", True),
        ("a.py::test_x[1]", "a.py::test_x[2]", False),
    ],
)
def test_what_a_killer_covers(killer: str, test: str, meant: bool) -> None:
    assert covers(killer, test) is meant


def test_mutants_are_named_by_feature_by_name_by_file_and_by_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("netkit/mutants/a", "netkit/mutants/b", "nf_egress/mutants/c"):
        written(tmp_path, name=f"patches/{name}.patch")
    elsewhere = written(tmp_path, name="mine/own.patch")

    def names(*given: str) -> list[str]:
        return [mutant.name for mutant in find(given, tmp_path)]

    assert names() == ["netkit/a", "netkit/b", "nf_egress/c"]
    assert names("netkit") == ["netkit/a", "netkit/b"]
    assert names("nf_egress/c", "netkit/a.patch", "netkit/a") == ["nf_egress/c", "netkit/a"]
    assert names("patches/netkit/mutants/b.patch") == ["netkit/b"]
    # the feature of a file that stands elsewhere is that of its first test
    assert names(str(elsewhere)) == names("mine") == ["netkit/own"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("netkot", "features with mutants are netkit"),
        ("netkit/nought", "netkit has forgets"),
        ("", "there is no mutant"),
    ],
)
def test_a_name_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: str) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path)
    with pytest.raises(UserError, match=words):
        find([name], tmp_path)


@pytest.mark.parametrize(
    "path",
    sorted((project_root() / "patches").glob("*/mutants/*.patch")),
    ids=lambda path: f"{path.parts[-3]}/{path.stem}",
)
def test_ours_are_of_a_known_feature_and_name_tests_that_are_there(path: Path) -> None:
    mutant = load(path)
    assert (project_root() / "selftests" / mutant.feature).is_dir()
    for series in mutant.series:
        assert (project_root() / "patches" / series / "series.toml").is_file()
    for killer in mutant.killers:
        file, _, test = killer.partition("::")
        function = test.partition("[")[0].rpartition("::")[2]
        text = (project_root() / file).read_text()
        assert re.search(rf"^\s*def {function}\(", text, re.M), f"{killer} is not there"
