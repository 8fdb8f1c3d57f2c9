"""The store: an entry is complete or it is not there."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from harness.errors import UserError
from harness.kernel.store import FILES, Finished, Store
from harness.model import Kernel, Patch, Recipe, Request, Source, Version


def recipe(name: str = "one") -> Recipe:
    source = Source("debian:6.12", Version(6, 12, 3), name, "debian 6.12.3-1")
    return Recipe(source, (), (Patch("p", b"text"),), (("NET", "y"),), (), "gcc 12")


def put(store: Store, name: str = "one") -> Kernel:
    entry = store.begin(recipe(name), Request())
    for file in FILES:
        (entry.folder / file).write_text(f"{name} {file}")
    return entry.finish(Finished("6.12.3", (("NET", "y"),), 1.5, 10))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "kernels")


def test_what_is_put_is_found(store: Store) -> None:
    kernel = put(store)
    assert kernel.identity == recipe().identity
    assert store.get(kernel.identity) == kernel
    assert store.find(kernel.identity[:5]) == kernel
    assert store.recipe(kernel) == recipe()
    assert [row[0] for row in store.kernels()] == [kernel]
    assert store.kernels()[0][1] == sum(path.stat().st_size for path in kernel.folder.rglob("*") if path.is_file())


def test_the_manifest_is_there_before_the_build(store: Store) -> None:
    entry = store.begin(recipe(), Request(source="debian:6.12"))
    manifest = json.loads((entry.folder / "manifest.json").read_text())
    assert manifest["command"].startswith("kproof exec 'debian:6.12.3-1 +none config=")
    assert store.kernels() == []
    with pytest.raises(UserError, match="no such kernel"):
        store.find(recipe().identity)


@pytest.mark.parametrize("file", [*FILES, "manifest.json"])
def test_a_cut_entry_is_not_served(store: Store, file: str) -> None:
    kernel = put(store)
    os.truncate(kernel.folder / file, 3)
    assert store.get(kernel.identity) is None
    assert put(store) == kernel


@pytest.mark.parametrize("file", [*FILES, "manifest.json"])
def test_an_entry_that_lacks_a_file_is_not_served(store: Store, file: str) -> None:
    kernel = put(store)
    (kernel.folder / file).unlink()
    assert store.get(kernel.identity) is None
    assert store.kernels() == []


def test_a_prefix_must_mean_one(store: Store) -> None:
    kernels = [put(store, str(number)) for number in range(40)]
    first = kernels[0].identity[0]
    assert sum(kernel.identity.startswith(first) for kernel in kernels) > 1
    with pytest.raises(UserError, match="several kernels"):
        store.find(first)
    with pytest.raises(UserError, match="no such kernel"):
        store.find("0" * 16)
    with pytest.raises(UserError, match="digits"):
        store.find("../x")


def test_prune_keeps_the_newest(store: Store) -> None:
    kernels = [put(store, str(number)) for number in range(3)]
    for age, kernel in enumerate(kernels):
        os.utime(kernel.manifest, (1000 - age, 1000 - age))
    half = put(store, "half")
    half.image.unlink()
    assert sorted(store.prune(2)) == sorted([kernels[2].identity, half.identity])
    assert [row[0] for row in store.kernels()] == kernels[:2]
    assert store.prune(2) == []
    with pytest.raises(UserError, match="write 0 or more"):
        store.prune(-1)
    assert len(store.prune(0)) == 2


def test_one_kernel_is_removed_and_no_other(store: Store) -> None:
    one, other = put(store, "one"), put(store, "other")
    store.remove(one.identity)
    assert [row[0] for row in store.kernels()] == [other]
    assert [path.name for path in store.root.iterdir()] == [other.identity]


def test_prune_removes_what_a_killed_build_left_and_no_running_one(store: Store) -> None:
    running = store.begin(recipe("running"), Request())
    dead = store.root / ".incoming-00"
    dead.mkdir()
    fresh = store.root / ".incoming-11"
    fresh.mkdir()
    for folder in (running.folder, dead):
        os.utime(folder, (1000, 1000))
    store.prune(0)
    assert {path.name for path in store.root.iterdir()} == {running.folder.name, fresh.name}
    running.discard()
    assert [path.name for path in store.root.iterdir()] == [fresh.name]


def test_a_failed_build_keeps_its_log_elsewhere(store: Store, tmp_path: Path) -> None:
    entry = store.begin(recipe(), Request())
    entry.log.write_text("error")
    assert entry.fail(tmp_path / "failed").read_text() == "error"
    assert list(store.root.iterdir()) == []
