"""sockperf's output, as recorded from its version 3.7, and the published table's layout."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.bench import sockperf
from harness.errors import InfraError

RECORDED = Path(__file__).parent / "sockperf"


def recorded(name: str) -> str:
    return (RECORDED / name).read_text()


def test_figures() -> None:
    found = sockperf.parse(recorded("tcp.txt"))
    assert (found.mean, found.deviation) == (15.157, 19.444)
    assert found.rate == pytest.approx(54711 / 0.832)
    assert found.round_trip == pytest.approx(0.832e6 / 54711)
    assert found.least < found.p50 < found.p90 < found.p99


@pytest.mark.parametrize(
    ("name", "says"),
    [("too-short.txt", "No valid observations found"), ("refused.txt", "Connection refused")],
)
def test_no_figures(name: str, says: str) -> None:
    """Its exit status is 0 in both cases."""
    with pytest.raises(InfraError, match=says):
        sockperf.parse(recorded(name))
    with pytest.raises(InfraError, match="no figures"):
        sockperf.parse("")


def test_lost_messages() -> None:
    text = recorded("tcp.txt").replace("dropped messages = 0", "dropped messages = 2")
    with pytest.raises(InfraError, match="dropped messages = 2"):
        sockperf.parse(text)


def client(mean: float, rate: float, curve: list[float]) -> dict[str, object]:
    """What a guest tells of one processor."""
    text = recorded("tcp.txt")
    text = text.replace("avg-rtt=15.157", f"avg-rtt={mean}")
    text = text.replace("RunTime=0.832 sec; SentMessages=54711; ReceivedMessages=54711",
                        f"RunTime=1.000 sec; SentMessages={rate}; ReceivedMessages={rate}")  # fmt: skip
    return {"said": text, "curve": curve}


def test_published_layout() -> None:
    """Latencies are averaged over the processors, rates added; of three boots the middle one counts."""
    boots = [
        [client(100, 8000, [3.0, 9.0]), client(110, 8100, [4.0, 8.0])],
        [client(120, 7000, [1.0, 2.0]), client(130, 7100, [1.0, 2.0])],
        [client(102, 7900, [5.0, 6.0]), client(112, 8000, [5.0, 6.0])],
    ]
    row = sockperf.collected(boots)
    assert row.figure("mean") == (107, [102, 112])
    assert row.figure("rate") == (15900, [7900, 8000])
    assert list(row.curve) == sorted(row.curve)
    assert len(row.curve) == 12
    lines = sockperf.percpu_text(row).splitlines()
    assert [line.split(":")[0].strip() for line in lines] == [
        *("RT_LATENCY", "MEAN_LATENCY", "STDDEV_LATENCY", "MIN_LATENCY"),
        *("P50_LATENCY", "P90_LATENCY", "P99_LATENCY", "TRANSACTION_RATE"),
    ]
    assert lines[1].split() == ["MEAN_LATENCY:", "107.000", "(per", "CPU:", "102.000", "112.000", ")"]
