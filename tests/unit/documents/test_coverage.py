"""Promises, tests and mutants: how they are read, when they disagree, and that those of the selftests do not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ci.coverage import document
from ci.promises import FILE, Promise, Test, collect, disagreements, load
from harness.errors import UserError
from harness.kernel.mutants import Mutant
from harness.model import VersionRange
from harness.paths import project_root

DROP = Promise("netkit", "policy-drop", "policy DROP drops | all", "35dfaad7188c, netkit_xmit()")
PASS = Promise("netkit", "policy-pass", "policy PASS passes", "35dfaad7188c, netkit_xmit()")
LEASE = Promise("netkit", "lease", "queues can be leased", "481038960538", not_tested="since 7.1, needs a NIC")


def checks(name: str, *promises: str, feature: str = "netkit", sets: int = 1) -> Test:
    nodeid = f"selftests/{feature}/test_it.py::{name}"
    ids = [nodeid] if sets == 1 else [f"{nodeid}[{number}]" for number in range(sets)]
    return Test(feature, nodeid, dict.fromkeys(ids, frozenset(promises)), ())


def mutant(name: str, *killers: str) -> Mutant:
    return Mutant(
        path=Path(f"patches/netkit/mutants/{name}.patch"),
        feature="netkit",
        title=name,
        breaks="a promise",
        versions=VersionRange(""),
        series=(),
        killers=killers,
        equivalent="",
        touches=(),
        sha256="",
    )


def test_the_selftests_agree_with_their_promises_and_the_document_is_of_now() -> None:
    """In a process of its own, as `make coverage` has it: pytest is no guest of itself."""
    done = subprocess.run(
        [sys.executable, "-m", "ci.coverage", "--check"],
        cwd=project_root(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


# -- what agrees --


def test_every_promise_has_a_test_and_every_test_a_promise() -> None:
    tests = [checks("test_drop", DROP.id), checks("test_both", DROP.id, PASS.id)]
    assert disagreements({"netkit": (DROP, PASS, LEASE)}, tests, []) == []


def test_tests_of_a_feature_without_promises_need_name_none() -> None:
    assert disagreements({"netkit": ()}, [checks("test_it", feature="xps_bpf")], []) == []
    assert disagreements({}, [checks("test_it", "xps_bpf/no", feature="xps_bpf")], []) == [
        "selftests/xps_bpf/test_it.py::test_it: there is no promise xps_bpf/no"
    ]


@pytest.mark.parametrize(
    ("promises", "tests", "line"),
    [
        ([DROP], [], "netkit/policy-drop: no test names it, and no not_tested says why"),
        ([LEASE], [checks("test_it", LEASE.id)], "netkit/lease: a test names it, and not_tested says that none does"),
        ([], [checks("test_it")], "selftests/netkit/test_it.py::test_it: it names no promise"),
        ([], [checks("test_it", "netkit/no")], "selftests/netkit/test_it.py::test_it: there is no promise netkit/no"),
        ([], [checks("test_it", "netkit/no", feature="cross")],
         "selftests/cross/test_it.py::test_it: there is no promise netkit/no"),
    ],
)  # fmt: skip
def test_a_disagreement(promises: list[Promise], tests: list[Test], line: str) -> None:
    assert disagreements({"netkit": tuple(promises)}, tests, []) == [line]


def test_each_set_of_parameters_names_a_promise() -> None:
    some = checks("test_it", sets=2)
    some.sets["selftests/netkit/test_it.py::test_it[0]"] = frozenset({DROP.id})
    assert disagreements({"netkit": (DROP,)}, [some], []) == [
        "selftests/netkit/test_it.py::test_it[1]: it names no promise"
    ]


@pytest.mark.parametrize(
    ("killer", "exists"),
    [
        ("selftests/netkit/test_it.py::test_drop", True),
        ("selftests/netkit/test_it.py::test_drop[1]", True),
        ("selftests/netkit/test_it.py::test_drop[7]", False),
        ("selftests/netkit/test_it.py::test_dro", False),
        ("selftests/netkit/test_at.py::test_drop", False),
    ],
)
def test_what_kills_a_mutant_exists(killer: str, exists: bool) -> None:
    found = disagreements({}, [checks("test_drop", sets=2)], [mutant("ignored", killer)])
    assert found == ([] if exists else [f"mutant netkit/ignored: killed by {killer}, which does not exist"])


# -- what is shown --


def test_a_document() -> None:
    tests = [checks("test_drop", DROP.id, sets=4), checks("test_else", PASS.id, DROP.id, feature="cross")]
    found = [mutant("ignored", tests[0].nodeid), mutant("equal")]
    text = document({"netkit": (DROP, PASS, LEASE)}, tests, found)
    assert text.splitlines()[-9:] == [
        "| netkit | 3 | 1 | 1 | 4 | 2 | 1 |",
        "",
        "## netkit",
        "",
        "| promise | source | tests | mutants |",
        "| --- | --- | --- | --- |",
        r"| **policy-drop**: policy DROP drops \| all | 35dfaad7188c, netkit_xmit() |"
        " `test_it.py::test_drop` × 4<br>`cross/test_it.py::test_else` | `ignored` |",
        "| **policy-pass**: policy PASS passes | 35dfaad7188c, netkit_xmit() | `cross/test_it.py::test_else` |  |",
        "| **lease**: queues can be leased | 481038960538 | *not tested: since 7.1, needs a NIC* |  |",
    ]


def test_what_is_said_of_versions_is_shown() -> None:
    one = Test(
        "netkit", "selftests/netkit/test_it.py::test_it", {"": frozenset({DROP.id})}, ("since 6.13", "since 6.15")
    )
    assert "`test_it.py::test_it` (since 6.13; since 6.15)" in document({"netkit": (DROP,)}, [one], [])


# -- what is read --


def test_promises_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "netkit").mkdir()
    (tmp_path / "netkit" / FILE).write_text(
        '[lease]\ntext = "queues can\\n be leased"\nsource = "481038960538"\nnot_tested = "since 7.1, needs a NIC"\n'
    )
    (tmp_path / "other").mkdir()
    assert load(tmp_path) == {"netkit": (LEASE,)}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[", "is not TOML"),
        ("drop = 3", r"\[drop\] is no table"),
        ("[Policy_drop]", r"\[Policy_drop\]: an id is of small letters"),
        ('[drop]\ntext = "x"', r"\[drop\]: 'source' must be a text that is not empty"),
        ('[drop]\ntext = " "\nsource = "x"', r"\[drop\]: 'text' must be a text that is not empty"),
        ('[drop]\ntext = "x"\nsource = "x"\nnot_tested = true', "'not_tested' must be a text"),
        ('[drop]\ntext = "x"\nsource = "x"\nnottested = "x"', "'nottested' is not understood"),
    ],
)
def test_promises_that_are_wrong(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "netkit").mkdir()
    (tmp_path / "netkit" / FILE).write_text(text)
    with pytest.raises(UserError, match=complaint):
        load(tmp_path)


TESTS = """
import pytest

pytestmark = pytest.mark.promise("a")

@pytest.mark.promise("b", "cross/c")
@pytest.mark.parametrize("x", [1, pytest.param(2, marks=[pytest.mark.promise("d"), pytest.mark.since("6.13")])])
def test_it(x):
    pass

@pytest.mark.promise()
def test_wrong():
    pass
"""


def test_tests_are_collected_with_their_markers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "netkit"
    folder.mkdir()
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = promise(id)\n")
    (folder / "test_collected_it.py").write_text(TESTS.partition("@pytest.mark.promise()")[0])
    monkeypatch.chdir(tmp_path)
    (found,) = collect(tmp_path)
    assert (found.feature, found.versions) == ("netkit", ("since 6.13",))
    assert list(found.sets.values()) == [
        frozenset({"netkit/a", "netkit/b", "cross/c"}),
        frozenset({"netkit/a", "netkit/b", "netkit/d", "cross/c"}),
    ]
    (folder / "test_collected_broken.py").write_text("import nothing_of_that_name")
    with pytest.raises(UserError, match=r"test_collected_broken.py: ModuleNotFoundError: No module named 'nothing"):
        collect(tmp_path)
    (folder / "test_collected_broken.py").unlink()
    (folder / "test_collected_wrong.py").write_text(TESTS)
    with pytest.raises(UserError, match="test_wrong: marker promise takes ids"):
        collect(tmp_path)
