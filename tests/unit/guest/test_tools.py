"""Programs of ours for guests: built once for what they are made of, from a source package in miniature."""

from __future__ import annotations

import io
import os
import re
import tarfile
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from harness import paths
from harness.command import run
from harness.errors import InfraError, UserError
from harness.events import Event, Phase, Sink
from harness.guest import image, spec, tools
from harness.kernel.archive import Offer
from harness.kernel.files import sha256
from harness.model import Kernel, SeriesState, SeriesStatus, Version

BUILD = """mkdir -p out
echo "built with $MAKEFLAGS" >> "$BUILDS"
printf '#!/bin/sh\\necho %s\\n' "$(cat greeting)" > out/greet
"""

PATCH = """From: somebody
Subject: [PATCH] another greeting

--- a/greeting
+++ b/greeting
@@ -1 +1 @@
-hello
+hello, XPS
"""

TOOL = """package = "greet"
version = "1.2"
sha256 = "SHA256"
patches = ["0001-greeting.patch"]
build = [["sh", "build.sh"]]
programs = { greet = "out/greet" }
libraries = { libone = "libone-dev", libtwo = "libtwo-dev" }
optional = ["libthree"]
"""

SERIES = """title = "queues"
symbols = ["QUEUES"]
tools = ["greet"]
[[evidence]]
all = [{ file = "net/core/dev.c", regex = 'queue' }]
"""


class FakeArchive:
    """The archive, with one tarball in it."""

    tarball: Path

    def __init__(self, root: Path, downloads: Path, locks: Path, events: Sink) -> None:
        pass

    def find_source(self, package: str, upstream: str) -> Offer:
        assert (package, upstream) == ("greet", "1.2")
        return Offer(package, "1.2-3", self.tarball.name, sha256(self.tarball), 1, "sources")

    def fetch(self, offer: Offer) -> Path:
        return self.tarball


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a tool and a series that names it, a cache of its own, and libraries that pkg-config knows."""
    tarball = tmp_path / "greet_1.2.orig.tar.gz"
    with tarfile.open(tarball, "w:gz") as tar:
        for name, text in (("greeting", "hello\n"), ("build.sh", BUILD)):
            entry = tarfile.TarInfo(f"greet-1.2/{name}")
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
    monkeypatch.setattr(FakeArchive, "tarball", tarball, raising=False)
    monkeypatch.setattr(tools, "Archive", FakeArchive)
    monkeypatch.setattr(paths, "project_root", lambda: tmp_path / "project")
    monkeypatch.setenv("KPROOF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PKG_CONFIG_LIBDIR", str(tmp_path / "pc"))
    monkeypatch.setenv("BUILDS", str(tmp_path / "builds"))
    monkeypatch.setenv("MAKEFLAGS", "-j77 --jobserver-auth=3,4")
    for name in ("libone", "libtwo"):
        library(tmp_path, name, "1.0")
    here = tmp_path / "project/patches/greet"
    here.mkdir(parents=True)
    (here / "tool.toml").write_text(TOOL.replace("SHA256", sha256(tarball)))
    (here / "0001-greeting.patch").write_text(PATCH)
    (tmp_path / "project/patches/queues").mkdir()
    (tmp_path / "project/patches/queues/series.toml").write_text(SERIES)
    return tmp_path


def library(folder: Path, name: str, version: str) -> None:
    (folder / "pc").mkdir(exist_ok=True)
    (folder / "pc" / f"{name}.pc").write_text(f"Name: {name}\nDescription: x\nVersion: {version}\n")


def edit(path: Path, change: Callable[[str], str]) -> None:
    path.write_text(change(path.read_text()))


def load(folder: Path) -> tools.Tool:
    return tools.load(folder / "project/patches/greet/tool.toml")


def builds(folder: Path) -> int:
    path = folder / "builds"
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_what_is_built_has_our_patches_and_is_built_once(folder: Path) -> None:
    events: list[Event] = []
    program = tools.built(load(folder), events=events.append)["greet"]
    assert run([program], limit=10).text == "hello, XPS\n"
    assert Phase("tools", "greet 1.2 with 1 patch of ours") in events
    events.clear()
    assert tools.built(load(folder), events=events.append) == {"greet": program}
    assert (builds(folder), events) == (1, [])
    assert [path.name for path in (folder / "cache/tools").iterdir()] == [program.parent.parent.name]


def test_make_has_job_slots_of_its_own(folder: Path) -> None:
    tools.built(load(folder))
    assert re.fullmatch(r"built with -j\d+\n", (folder / "builds").read_text())
    assert "-j77" not in (folder / "builds").read_text()


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: library(folder, "libtwo", "1.1"),
        lambda folder: library(folder, "libthree", "3.0"),
        lambda folder: edit(folder / "project/patches/greet/0001-greeting.patch", lambda text: text + "\n"),
        lambda folder: edit(
            folder / "project/patches/greet/tool.toml", lambda text: text.replace('"build.sh"', '"build.sh", "x"')
        ),
    ],
    ids=["library", "optional library", "patch", "command"],
)
def test_what_it_is_made_of_makes_another(folder: Path, change: Callable[[Path], None]) -> None:
    first = tools.built(load(folder))["greet"]
    change(folder)
    second = tools.built(load(folder))["greet"]
    assert first != second
    assert (builds(folder), first.exists(), second.exists()) == (2, True, True)


def test_the_builds_used_last_are_kept(folder: Path) -> None:
    made = []
    for number in range(5):
        library(folder, "libone", f"1.{number}")
        path = tools.built(load(folder))["greet"].parent.parent
        os.utime(path, (number, number))
        made.append(path)
    assert sorted((folder / "cache/tools").iterdir()) == sorted(made[-tools.KEPT :])


def test_a_part_of_a_build_is_not_used(folder: Path) -> None:
    program = tools.built(load(folder))["greet"]
    program.unlink()
    assert tools.built(load(folder)) == {"greet": program}
    assert program.exists()
    assert builds(folder) == 2


def test_two_at_once_build_once(folder: Path) -> None:
    tool = load(folder)
    found: list[dict[str, Path]] = []
    threads = [threading.Thread(target=lambda: found.append(tools.built(tool))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2
    assert builds(folder) == 1


def test_what_a_killed_build_left_goes(folder: Path) -> None:
    left = folder / "cache/tools/.greet-abc"
    (left / "tree").mkdir(parents=True)
    tools.built(load(folder))
    assert not left.exists()


def test_a_library_that_is_missing_is_named_with_its_package(folder: Path) -> None:
    (folder / "pc/libtwo.pc").unlink()
    with pytest.raises(InfraError, match=r"^greet is built with libtwo: not found; run: apt install libtwo-dev$"):
        tools.built(load(folder))


def test_a_failing_build_says_its_last_words_and_leaves_its_log(folder: Path) -> None:
    toml = folder / "project/patches/greet/tool.toml"
    command = "echo one; echo x.c:3: error: no >&2; echo make[1]: Leaving; exit 4"
    edit(toml, lambda text: text.replace('[["sh", "build.sh"]]', f'[["sh", "-c", "{command}"], ["false"]]'))
    with pytest.raises(InfraError, match=r"greet 1\.2 with 1 patch of ours failed: x\.c:3: error: no\n") as caught:
        tools.built(load(folder))
    log = Path(str(caught.value).rpartition("build log: ")[2])
    assert log.read_text().endswith("one\nx.c:3: error: no\nmake[1]: Leaving\n")
    assert list((folder / "cache/tools").iterdir()) == []


def test_a_build_that_makes_no_program(folder: Path) -> None:
    edit(folder / "project/patches/greet/tool.toml", lambda text: text.replace("out/greet", "out/other"))
    with pytest.raises(UserError, match=r"greet: the build made no out/other"):
        tools.built(load(folder))


def test_a_patch_that_does_not_apply(folder: Path) -> None:
    edit(folder / "project/patches/greet/0001-greeting.patch", lambda text: text.replace("-hello", "-good day"))
    with pytest.raises(UserError, match="good day"):
        tools.built(load(folder))
    assert builds(folder) == 0


def test_another_tarball_than_the_patches_are_for(folder: Path) -> None:
    edit(folder / "project/patches/greet/tool.toml", lambda text: re.sub('"[0-9a-f]{64}"', f'"{"0" * 64}"', text))
    with pytest.raises(UserError, match=r"names another greet_1\.2\.orig\.tar\.gz than the archive has"):
        tools.built(load(folder))


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ('version = "1.2"\n', "", 1, "version is missing"),
        ('version = "1.2"', "version = 1.2", 2, "version must be a text"),
        ('version = "1.2"', 'version = "1.2"\ncolour = "red"', 3, "unknown key 'colour'"),
        ("libraries = {", "libraries = [] # {", 7, "libraries must be a table"),
        ("0001-greeting", "0001-gone", 4, r"there is no patch 0001-gone\.patch"),
        ('[["sh", "build.sh"]]', '["sh", "build.sh"]', 5, "build must be a list of commands"),
        ('"out/greet"', "3", 6, "programs must hold texts only"),
        ('"libthree"', "3", 8, "optional must hold texts only"),
        ('sha256 = "', 'sha256 = "x', 3, "is no sha256"),
        ('optional = ["libthree"]', "optional = [", 9, ""),
    ],
)
def test_a_malformed_file_is_named_with_its_line(folder: Path, old: str, new: str, line: int, message: str) -> None:
    toml = folder / "project/patches/greet/tool.toml"
    assert old in toml.read_text()
    edit(toml, lambda text: text.replace(old, new))
    with pytest.raises(UserError, match=rf"tool\.toml:{line}: .*{message}"):
        load(folder)


def kernel(*states: SeriesState) -> Kernel:
    series = tuple(SeriesStatus("queues", state, "") for state in states)
    return Kernel("0" * 16, Path("/nowhere"), Version(6, 12), "6.12.0", "", series, (), 0.0)


@pytest.mark.parametrize("state", [SeriesState.PRESENT, SeriesState.APPLIES])
def test_a_kernel_with_the_series_has_its_tools(folder: Path, state: SeriesState) -> None:
    assert list(tools.programs_for(kernel(state))) == ["greet"]


@pytest.mark.parametrize("states", [(), (SeriesState.ABSENT,)])
def test_a_kernel_without_the_series_has_none(folder: Path, states: tuple[SeriesState, ...]) -> None:
    assert tools.programs_for(kernel(*states)) == {}
    assert builds(folder) == 0


@pytest.mark.parametrize(("value", "found"), [("y", ["greet"]), ("n", [])])
def test_a_kernel_that_got_the_patches_one_by_one(folder: Path, value: str, found: list[str]) -> None:
    pieces = replace(kernel(), config_proof=(("NET", "y"), ("QUEUES", value)))
    assert list(tools.programs_for(pieces)) == found


def test_a_series_of_an_old_kernel_that_is_gone_from_the_project(folder: Path) -> None:
    old = kernel(SeriesState.APPLIES)
    assert tools.programs_for(replace(old, series=(SeriesStatus("gone", SeriesState.APPLIES, ""),))) == {}


@pytest.mark.parametrize("name", ["ip", "ping"], ids=["in sbin", "in bin"])
def test_in_the_root_it_takes_the_place_of_the_hosts(tmp_path: Path, name: str) -> None:
    ours = tmp_path / name
    ours.write_bytes(Path("/bin/true").resolve().read_bytes())
    ours.chmod(0o755)
    files = dict(image._files({name: ours}))
    assert [(place, path) for place, path in files.items() if Path(place).name == name] == [(f"/usr/sbin/{name}", ours)]


def test_under_virtme_it_is_found_first() -> None:
    path = spec._path([Path("/cache/tools/x/bin/ip"), Path("/cache/tools/x/bin/tc")])
    assert path.startswith("/cache/tools/x/bin:/usr/local/sbin:")
