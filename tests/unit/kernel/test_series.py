"""series.toml: what it says, and where an error in it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import paths
from harness.errors import UserError
from harness.kernel.patching import read_content
from harness.kernel.series import load_series, select, status
from harness.model import SeriesState, Version

from .conftest import FAKE_KERNEL, QUEUE_PATCH, write

GOOD = """title = "t"
symbols = ["A"]

[[evidence]]
all = [{ file = "Kconfig", regex = "x" }]
"""


def test_the_project_has_its_five() -> None:
    series = {one.name: one for one in load_series(paths.project_root() / "patches")}
    assert {"netkit", "redirect_peer", "netns_cookie", "nf_egress", "xps_bpf"} <= set(series)
    assert series["netkit"].since == Version(6, 7)
    assert series["xps_bpf"].since is None
    for one in series.values():
        assert (paths.project_root() / "kconfigs" / f"{one.name}.config").exists()


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("title = \n", 1, "Invalid value"),
        ('title = "t"\nsymbols = ["A"\nsince = 1\n', 3, "Unclosed array"),
        (GOOD.replace('title = "t"\n', ""), 1, "title is missing"),
        (GOOD.replace("symbols", "symbol"), 2, "unknown key 'symbol'"),
        (GOOD.replace('["A"]', '"A"'), 2, "must be a list"),
        (GOOD.replace('["A"]', '["CONFIG-A"]'), 2, "no Kconfig symbol"),
        (GOOD.replace('"x"', '"("'), 5, "regex '\\('"),
        (GOOD.replace("regex", "regexp"), 5, "unknown key 'regexp'"),
        (GOOD.split("[[")[0], 1, "at least one"),
        (GOOD + '\n[[patches]]\nversions = ">=6.1"\nfiles = ["none.patch"]\n', 9, "there is no patch none.patch"),
        (GOOD + '\n[[patches]]\nversions = "6.1"\nfiles = ["p"]\n', 8, "is not a version range term"),
        (GOOD + '\n[[commits]]\nsubject = "a"\n\n[[commits]]\nsubject = "b"\nid = "xyz"\n', 12, "no commit id"),
        (GOOD + '\n[[commits]]\nsubject = "a"\nsince = "six"\n', 9, "not a kernel version"),
        ("since = 6\n" + GOOD, 1, "must be a text"),
        ('title = "t"\ntools = ["brush"]\n' + GOOD.split("\n", 1)[1], 2, "there is no tool 'brush'"),
    ],
)
def test_an_error_has_file_and_line(tmp_path: Path, text: str, line: int, words: str) -> None:
    path = write(tmp_path / "broken/series.toml", text)
    with pytest.raises(UserError, match=words) as caught:
        load_series(tmp_path)
    assert str(caught.value).startswith(f"{path}:{line}: ")


VERSION = Version(6, 12, 3)


def find(tmp_path: Path, text: str, version: Version = VERSION) -> tuple[SeriesState, str]:
    write(tmp_path / "s/series.toml", text)
    found = status(load_series(tmp_path)[0], version, lambda path: read_content(FAKE_KERNEL / path), workspace=tmp_path)
    return found.state, found.reason


CLUES = 'all = [{ file = "Kconfig", regex = "^config NET$" }, { file = "fs/namei.c", regex = "PATTERN" }]'


def test_a_series_names_its_tools(tmp_path: Path) -> None:
    write(tmp_path / "queues/series.toml", 'tools = ["brush"]\n' + GOOD)
    write(tmp_path / "brush/tool.toml", "")
    assert [(one.name, one.tools) for one in load_series(tmp_path)] == [("queues", ("brush",))]


def test_present_needs_every_clue_of_one_alternative(tmp_path: Path) -> None:
    head = 'title = "t"\nsymbols = []\nsince = "6.7"\n'
    good = f"[[evidence]]\n{CLUES.replace('PATTERN', 'namei')}\n"
    bad = f"[[evidence]]\n{CLUES.replace('PATTERN', 'nonsense')}\n"
    missing = '[[evidence]]\nall = [{ file = "none", regex = "." }]\n'
    assert find(tmp_path, head + bad + missing + good) == (
        SeriesState.PRESENT,
        "seen in Kconfig:1, fs/namei.c:1",
    )
    assert find(tmp_path, head + bad + missing) == (
        SeriesState.ABSENT,
        "exists since 6.7; no patches for 6.12.3",
    )


def test_patches_are_for_versions(tmp_path: Path) -> None:
    text = GOOD.replace('"x"', '"nowhere"') + '\n[[patches]]\nversions = ">=6.12,<6.13"\nfiles = ["q.patch"]\n'
    write(tmp_path / "s/q.patch", QUEUE_PATCH)
    assert find(tmp_path, text)[0] is SeriesState.APPLIES
    assert find(tmp_path, text, Version(6, 13)) == (
        SeriesState.ABSENT,
        "in no mainline release; no patches for 6.13.0",
    )
    write(tmp_path / "s/q.patch", QUEUE_PATCH.replace("int index = 0;", "int index = 5;"))
    state, reason = find(tmp_path, text)
    assert state is SeriesState.ABSENT
    assert "does not apply: net/core/dev.c, hunk 1 of 1" in reason


def test_the_definition_covers_the_patches(tmp_path: Path) -> None:
    text = GOOD + '\n[[patches]]\nversions = ">=6.12"\nfiles = ["q.patch"]\n'
    write(tmp_path / "s/series.toml", text)
    write(tmp_path / "s/q.patch", QUEUE_PATCH)
    before = load_series(tmp_path)[0].definition
    write(tmp_path / "s/q.patch", QUEUE_PATCH + "\n")
    assert load_series(tmp_path)[0].definition != before


def test_select_keeps_the_order_and_knows_its_names(tmp_path: Path) -> None:
    for name in ("b", "a"):
        write(tmp_path / name / "series.toml", GOOD)
    series = load_series(tmp_path)
    assert [one.name for one in select(["b", "a"], series)] == ["a", "b"]
    assert select([], series) == ()
    with pytest.raises(UserError, match="no series 'c'; there are a, b"):
        select(["c"], series)
