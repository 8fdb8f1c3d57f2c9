"""From options to kernels."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.bench import verb
from harness.cli import run
from harness.errors import UserError
from harness.model import Patch, Recipe, Request, SeriesState, SeriesStatus, Source, Version

HERE = Path("/here")


def test_benchmarks_that_there_are() -> None:
    assert {"cookie", "egress", "netkit", "rr", "xps"} <= set(verb.benchmarks())
    assert "benchmark" not in verb.benchmarks()


def test_benchmark_that_is_not() -> None:
    with pytest.raises(UserError, match=r"no benchmark 'ingress'; there are cookie, egress.* or give a file"):
        verb.find("ingress")


def test_benchmark_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "mine.py").touch()
    assert verb.find(str(tmp_path / "mine.py")) == verb.Benched("mine", "mine", tmp_path)


def test_one_kernel() -> None:
    assert verb.base_and_patched(Request(), None, None, (), HERE) == (None, Request())


def test_base_is_compared_with_what_the_options_say() -> None:
    base, patched = verb.base_and_patched(Request(patches=("/fix",)), "NETFILTER_EGRESS=n", None, (), HERE)
    assert base == Request(settings=("NETFILTER_EGRESS=n",))
    assert patched == Request(patches=("/fix",))


def test_patched_alone_is_compared_with_what_the_options_say() -> None:
    base, patched = verb.base_and_patched(Request(), None, "patch=fix.patch", (), HERE)
    assert (base, patched) == (Request(), Request(patches=("/here/fix.patch",)))


@pytest.fixture
def _states(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A source that has netkit, takes xps_bpf, and is too old for a third series."""
    recipe = Recipe(
        source=Source("debian:6.12", Version(6, 12), "0", "debian 6.12"),
        series=(
            SeriesStatus("netkit", SeriesState.PRESENT, "drivers/net/netkit.c:1"),
            SeriesStatus("xps_bpf", SeriesState.APPLIES, "2 patches"),
            SeriesStatus("future", SeriesState.ABSENT, "since 9.0"),
        ),
        patches=(Patch("patches/xps_bpf/6.12/0001.patch", b"+++ b/net/Kconfig\n+config NET_XPS_BPF\n+\tbool\n"),),
        settings=(),
        flavours=(),
        toolchain="gcc",
    )
    monkeypatch.setattr("harness.kernel.obtain.resolve", lambda request: recipe)
    (tmp_path / "kconfigs").mkdir()
    (tmp_path / "kconfigs" / "xps_bpf.config").write_text("CONFIG_NET_XPS_BPF=y\n# tracing\nCONFIG_FTRACE=y\n")
    monkeypatch.setattr(verb, "project_root", lambda: tmp_path)


@pytest.mark.usefixtures("_states")
def test_series_makes_both() -> None:
    """The base has the configuration that the series' fragment asks for, but for what only its patches know."""
    request = Request(settings=("FTRACE=n",))
    assert verb.base_and_patched(request, None, None, ("xps_bpf",), HERE) == (
        Request(series=("netkit",), settings=("FTRACE=y", "FTRACE=n")),
        request,
    )


@pytest.mark.usefixtures("_states")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("netkit", r"series netkit is present in debian:6.12 \(drivers/net/netkit.c:1\).* name one: --base"),
        ("nothing", "no series 'nothing'; there are netkit, xps_bpf, future"),
    ],
)
def test_series_that_makes_no_difference(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        verb.base_and_patched(Request(), None, None, (name,), HERE)


def test_series_beside_a_base() -> None:
    with pytest.raises(UserError, match="neither --base nor --patched"):
        verb.base_and_patched(Request(), "NETKIT=n", None, ("xps_bpf",), HERE)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--fail-if", "dearer"], "--fail-if dearer needs two kernels: add --base"),
        (["--margin", ""], "--margin '' is not understood"),
        (["--memory", "10"], "10 MB is less than a guest needs"),
    ],
)
def test_options_that_mean_nothing(arguments: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        run(["bench", "egress", *arguments])


def test_guests_that_cannot_count() -> None:
    with pytest.raises(UserError, match="counted by QEMU's emulator"):
        verb.check_exact("kvm", 1, 512)
    with pytest.raises(UserError, match="has one processor"):
        verb.check_exact(None, 2, 512)
    with pytest.raises(UserError, match="10 MB is less than a guest needs"):
        verb.check_exact(None, 1, 10)
    verb.check_exact("tcg", 1, 512)
