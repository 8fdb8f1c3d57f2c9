"""harness.guest.bpf: what is compiled again, what is not, and what a person is told."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness.errors import InfraError, UserError
from harness.guest.bpf import compile_objects

GOOD = """// SPDX-License-Identifier: GPL-2.0
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "verdict.h"

SEC("tc")
int pass(struct __sk_buff *skb)
{
	return VERDICT;
}

char LICENSE[] SEC("license") = "GPL";
"""

needs_clang = pytest.mark.skipif(not shutil.which("clang"), reason="clang is missing: apt install clang")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "bpf"
    folder.mkdir()
    (folder / "good.bpf.c").write_text(GOOD)
    (folder / "verdict.h").write_text("#define VERDICT 0\n")
    return folder


@needs_clang
def test_objects_are_named_after_their_sources(source: Path, tmp_path: Path) -> None:
    (source / "another.bpf.c").write_text(GOOD)
    out = tmp_path / "deep" / "out"
    assert compile_objects(source, out) == [out / "another.bpf.o", out / "good.bpf.o"]
    assert (out / "good.bpf.o").read_bytes()[:4] == b"\x7fELF"


@needs_clang
def test_what_is_fresh_is_left_alone(source: Path, tmp_path: Path) -> None:
    (made,) = compile_objects(source, tmp_path / "out")
    before = made.stat()
    compile_objects(source, tmp_path / "out")
    assert made.stat() == before


@needs_clang
@pytest.mark.parametrize("changed", ["good.bpf.c", "verdict.h"])
def test_a_change_is_compiled(source: Path, tmp_path: Path, changed: str) -> None:
    (made,) = compile_objects(source, tmp_path / "out")
    before = made.read_bytes()
    text = (source / changed).read_text()
    (source / changed).write_text(text.replace("VERDICT;", "2;").replace("VERDICT 0", "VERDICT 2"))
    compile_objects(source, tmp_path / "out")
    assert made.read_bytes() != before


@needs_clang
def test_an_error_is_told_in_clangs_first_lines_and_keeps_the_old_object(source: Path, tmp_path: Path) -> None:
    (made,) = compile_objects(source, tmp_path / "out")
    before = made.read_bytes()
    (source / "good.bpf.c").write_text(GOOD.replace("return VERDICT", "return MISSING"))
    with pytest.raises(UserError, match=r"good\.bpf\.c does not compile") as caught:
        compile_objects(source, tmp_path / "out")
    assert "MISSING" in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 7
    assert made.read_bytes() == before


@needs_clang
def test_two_at_once_agree(source: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda _: compile_objects(source, tmp_path / "out"), range(2)))
    assert results[0] == results[1]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [".lock", "good.bpf.o", "good.bpf.o.key"]


def test_no_clang_is_the_machines_fault(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InfraError, match="apt install clang"):
        compile_objects(source, tmp_path / "out")


def test_no_programs_need_no_clang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert compile_objects(tmp_path, tmp_path / "out") == []
