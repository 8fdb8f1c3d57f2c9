"""What a matrix file means, and that each mistake in one is told with its line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from harness.errors import UserError
from harness.matrix.cells import cells
from harness.matrix.definition import Definition
from harness.model import Version

Define = Callable[[str], Definition]

FULL = """\
kernel = ["image:debian:6.12.94", "debian:6.12"]
flavour = ["base", "kasan"]

[[exclude]]
kernel = "image:*"
flavour = "kasan"

[[include]]
kernel = "debian:6.12.8"
series = "netkit+nf_egress"

[[skips]]
features = ["netkit"]
versions = "<6.7"
because = "35dfaad7188c, Linux 6.7"
"""


def ids(definition: Definition) -> list[str]:
    return [cell.id for cell in cells(definition.choices, Path("/project"))]


def test_axes_are_multiplied_and_exceptions_hold(define: Define) -> None:
    assert ids(define(FULL)) == [
        "image-debian-6.12.94",
        "debian-6.12",
        "debian-6.12-kasan",
        "debian-6.12.8-netkit+nf_egress",
    ]


def test_a_cell_is_a_recipe(define: Define) -> None:
    recipes = [cell.recipe for cell in cells(define(FULL).choices, Path("/project"))]
    assert recipes == [
        "image:debian:6.12.94",
        "debian:6.12",
        "debian:6.12 flavour=kasan",
        "debian:6.12.8 +netkit +nf_egress",
    ]


def test_series_none_is_none(define: Define) -> None:
    (cell,) = cells(define('kernel = ["debian:6.12"]\nseries = ["none"]').choices, Path("/project"))
    assert cell.request.series == ()


def test_paths_are_from_the_project(define: Define) -> None:
    (cell,) = cells(define('kernel = ["debian:6.12 patch=fix.patch"]').choices, Path("/project"))
    assert cell.request.patches == ("/project/fix.patch",)


def test_several_groups_of_selftests_are_cells_of_their_own(define: Define) -> None:
    text = 'kernel = ["debian:6.12"]\nselftests = ["selftests/a", "selftests/b selftests/c"]'
    found = cells(define(text).choices, Path("/project"))
    assert [cell.id for cell in found] == ["debian-6.12-selftests-a", "debian-6.12-selftests-b-selftests-c"]
    assert found[1].tests == ["selftests/b", "selftests/c"]


def test_an_include_runs_all_selftests_unless_it_says_which(define: Define) -> None:
    text = 'kernel = ["debian:6.12"]\nselftests = ["a", "b"]\n[[include]]\nkernel = "debian:6.1"'
    assert [choice.selftests for choice in define(text).choices] == ["a", "b", "a", "b"]
    assert [choice.selftests for choice in define(text + '\nselftests = ["c"]').choices] == ["a", "b", "c"]


def test_ids_are_unique_and_short(define: Define) -> None:
    path = "/very/long" * 10
    found = ids(define(f'kernel = ["git:{path}@one", "git:{path}@two", "dir:a/b", "dir:a-b"]'))
    assert len(set(found)) == 4
    assert max(map(len, found)) <= 60
    assert not any("/" in name for name in found)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ('kernel = ["debian:6.12"]\nkernels = ["x"]', 2, "unknown key 'kernels'"),
        ('kernel = "debian:6.12"', 1, "kernel must be a list"),
        ('\nkernel = ["debian:6.12", 7]', 2, "7 is no text"),
        ('kernel = ["debian:6.12", "debian:6.12"]', 1, "is there twice"),
        ("kernel = []", 1, "names no kernel"),
        ('flavour = ["kasan"]', 1, "names no kernel"),
        ('\n\nkernel = ["six"]', 3, "recipe word 'six'"),
        ('kernel = ["image:debian:6.12"]\nflavour = ["kasan"]', 1, "is a finished kernel"),
        ('kernel = ["kernel:abc"]\nseries = ["netkit"]', 1, "is a finished kernel"),
        ('kernel = ["debian:6.12"]\n[[include]]\nkernal = "x"', 3, "unknown key 'kernal' in [[include]]"),
        ('kernel = ["debian:6.12"]\n[[include]]\nflavour = "kasan"', 2, "kernel in [[include]] is missing"),
        ('kernel = ["debian:6.12"]\n\n[[include]]\nkernel = "debian:6.12"', 4, "is there already"),
        ('kernel = ["debian:6.12"]\n[[include]]\nkernel = "six"', 3, "recipe word 'six'"),
        ('kernel = ["debian:6.12"]\n[[exclude]]\nkernel = "7.*"', 2, "excludes nothing"),
        ('kernel = ["debian:6.12"]\n[[exclude]]\nkernel = ["7.*"]', 3, "must be a text"),
        ('kernel = ["debian:6.12"]\n[exclude]\nkernel = "7.*"', 2, "exclude must be a list"),
        ('kernel = ["debian:6.12"]\n[[exclude]]', 2, "must say which cells"),
        ('kernel = ["debian:6.12"]\n[[exclude]]\nkernel = "*"', 1, "names no kernel"),
        ('kernel = ["debian:6.12"]\n[[skips]]\nfeatures = ["x"]', 2, "because in [[skips]] is missing"),
        ('kernel = ["debian:6.12"]\n[[skips]]\nbecause = "x"', 2, "needs features or tests"),
        ('kernel = ["debian:6.12"]\n[[skips]]\nbecause = "x"\nfeatures = ["y"]\nversions = "old"', 5, "'old' is not"),
        ('kernel = ["debian:6.12"]\n[[skips]]\nbecause = "x"\nfeature = ["y"]', 4, "unknown key 'feature'"),
        ("kernel = [", 1, ""),
    ],
)
def test_each_mistake_has_its_line(define: Define, tmp_path: Path, text: str, line: int, message: str) -> None:
    with pytest.raises(UserError) as caught:
        define(text)
    assert str(caught.value).startswith(f"{tmp_path / 'matrix.toml'}:{line}: ")
    assert message in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    from harness.matrix.definition import load

    with pytest.raises(UserError, match="No such file"):
        load(tmp_path / "gone.toml")


def test_a_foretold_skip_by_an_unknown_feature(define: Define) -> None:
    definition = define(FULL)
    definition.check({"netkit", "tcx"})
    with pytest.raises(UserError, match=r"matrix\.toml:13: no feature is called 'netkit'"):
        definition.check({"tcx"})


def test_where_a_skip_holds(define: Define) -> None:
    text = FULL + '[[skips]]\nfeatures = ["xps_bpf"]\nkernel = "image:*"\nbecause = "not merged"\n'
    definition = define(text)
    image, plain, *_ = definition.choices
    old, never = definition.skips
    assert old.holds(image, Version(6, 6))
    assert not old.holds(image, Version(6, 7))
    assert never.holds(image, Version(6, 7))
    assert not never.holds(plain, Version(6, 7))
