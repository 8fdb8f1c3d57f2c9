"""What outcomes depend on: a test's sources, and of a vmlinux only what runs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from harness.errors import InfraError
from harness.guest import machine
from harness.kernel.code import code_identity
from harness.matrix.identity import Sources, place_of

FILES = {
    "pyproject.toml": "[tool.pytest.ini_options]\naddopts = []\n[tool.ruff]\nline-length = 120\n",
    "bpf/a.bpf.c": "int x;\n",
    "selftests/__init__.py": "",
    "selftests/conftest.py": "from selftests.lib import base\n",
    "selftests/lib/__init__.py": "",
    "selftests/lib/base.py": "x = 1\n",
    "selftests/lib/used.py": "from . import deep\n",
    "selftests/lib/deep.py": "y = 1\n",
    "selftests/lib/late.py": "z = 1\n",
    "selftests/lib/other.py": "w = 1\n",
    "selftests/a/__init__.py": "",
    "selftests/a/conftest.py": "",
    "selftests/a/test_one.py": "import selftests.lib.used\n\ndef test_one():\n    from selftests.lib.late import z\n",
    "selftests/b/conftest.py": "",
    "selftests/b/test_two.py": "",
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("changed", "one", "two"),
    [
        ("selftests/a/test_one.py", True, False),
        ("selftests/a/conftest.py", True, False),
        ("selftests/conftest.py", True, True),
        ("selftests/lib/base.py", True, True),
        ("selftests/lib/used.py", True, False),
        ("selftests/lib/deep.py", True, False),
        ("selftests/lib/late.py", True, False),
        ("selftests/lib/other.py", False, False),
        ("selftests/lib/__init__.py", True, True),
        ("selftests/b/conftest.py", False, True),
        ("bpf/a.bpf.c", True, True),
    ],
)
def test_what_a_test_rests_on(project: Path, changed: str, one: bool, two: bool) -> None:
    files = ("selftests/a/test_one.py", "selftests/b/test_two.py")
    before = [Sources(project).of(file) for file in files]
    with (project / changed).open("a") as file:
        file.write("# changed\n")
    after = [Sources(project).of(file) for file in files]
    assert [old != new for old, new in zip(before, after, strict=True)] == [one, two]


def test_of_the_settings_only_those_of_pytest_count(project: Path) -> None:
    before = Sources(project).of("selftests/b/test_two.py")
    settings = project / "pyproject.toml"
    settings.write_text(settings.read_text().replace("120", "100"))
    assert Sources(project).of("selftests/b/test_two.py") == before
    settings.write_text(settings.read_text().replace("[]", '["-x"]'))
    assert Sources(project).of("selftests/b/test_two.py") != before


def test_a_file_that_is_no_python_is_pytests_to_tell(project: Path) -> None:
    (project / "selftests/b/test_two.py").write_text("def\n")
    assert Sources(project).of("selftests/b/test_two.py")


def test_places_differ_by_each_of_their_parts() -> None:
    places = [("code", "root", ["a"]), ("other", "root", ["a"]), ("code", "other", ["a"]), ("code", "root", ["b"])]
    assert len({place_of(*parts) for parts in places}) == 4


def test_a_place_is_another_when_kernels_are_told_other_things(monkeypatch: pytest.MonkeyPatch) -> None:
    before = place_of("code", "root", ["a"])
    monkeypatch.setattr(machine, "EMULATED", ("mitigations=off",))
    assert place_of("code", "root", ["a"]) != before


# -- vmlinux ---------------------------------------------------------------------------------------------------------

SOURCE = """\
const char linux_banner[] = "Linux version 6.12.@BANNER@";
int value = @VALUE@;
static int zeroes[100];
int _start(void)
{
    asm volatile("1: nop\\n"
                 ".pushsection __bug_table, \\"aw\\"\\n"
                 ".long 1b - .\\n.long linux_banner - .\\n.word @LINE@\\n.word @FLAGS@\\n"
                 ".popsection");
    return value + zeroes[1];
}
"""
PLAIN = {"BANNER": "1", "VALUE": "1", "LINE": "10", "FLAGS": "0"}


def vmlinux(folder: Path, **changes: str) -> str:
    """The identity of a small program with what a vmlinux has."""
    text = SOURCE
    for name, value in (PLAIN | changes).items():
        text = text.replace(f"@{name}@", value)
    source, made = folder / "vmlinux.c", folder / "vmlinux"
    source.write_text(text)
    command = ["gcc", "-O2", "-g", "-nostdlib", "-static", "-Wl,--build-id=sha1", "-o", str(made), str(source)]
    subprocess.run(command, check=True, timeout=60)
    return code_identity(made)


@pytest.mark.skipif(not shutil.which("gcc"), reason="no compiler")
@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"BANNER": "2"}, True),
        ({"LINE": "11"}, True),
        ({"FLAGS": "1"}, False),
        ({"VALUE": "2"}, False),
    ],
)
def test_what_runs_makes_a_kernels_identity(tmp_path: Path, change: dict[str, str], same: bool) -> None:
    assert (vmlinux(tmp_path) == vmlinux(tmp_path, **change)) is same


def test_what_is_no_elf_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "vmlinux").write_text("no")
    with pytest.raises(InfraError, match="cannot be read as an ELF file"):
        code_identity(tmp_path / "vmlinux")
