"""Whether KVM works is found out once: the failures of kernels are remembered, and two of them are the host's."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.guest import accel


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The kernels that were booted under KVM; none of them comes up, but a ROM runs."""
    tried: list[str] = []

    def why_no_kvm(kernel: Path | None) -> str:
        tried.append(str(kernel))
        return f"{kernel} did not end" if kernel else ""

    monkeypatch.setattr(accel, "cache_root", lambda: tmp_path)
    monkeypatch.setattr(accel, "_why_no_kvm", why_no_kvm)
    monkeypatch.setattr(accel, "_speed", lambda: 1.0)
    return tried


def test_kernel_that_failed_is_not_booted_again(asked: list[str]) -> None:
    for _ in range(3):
        host = accel.measured_host(Path("/k/1"))
        assert (host.accel, host.reason) == ("tcg", "/k/1 did not end")
    assert asked == ["None", "/k/1"]


def test_second_kernel_that_fails_decides_for_the_host(asked: list[str]) -> None:
    for name in ("1", "2", "3"):
        assert accel.measured_host(Path("/k", name)).accel == "tcg"
    assert asked == ["None", "/k/1", "/k/2"]
    assert accel.measured_host().accel == "tcg"


def test_kernel_that_runs_decides_for_all(asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """One that failed before may have been the broken one."""
    assert accel.measured_host(Path("/k/broken")).accel == "tcg"
    monkeypatch.setattr(accel, "_why_no_kvm", lambda kernel: "")
    assert accel.measured_host(Path("/k/good")).accel == "kvm"
    assert accel.measured_host(Path("/k/other")).accel == "kvm"


def test_what_an_earlier_boot_of_the_host_has_found_is_forgotten(
    asked: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    accel.measured_host(Path("/k/1"))
    memory = tmp_path / "host.json"
    memory.write_text(memory.read_text().replace('"boot": "', '"boot": "another '))
    accel.measured_host(Path("/k/1"))
    assert asked == ["None", "/k/1"] * 2
