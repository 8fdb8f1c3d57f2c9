"""What sockperf's ping-pong says, and the table that published figures of request and response have.

That table is percpu_netperf's (github.com/borkmann/netperf_scripts), as in the message of 9aa1206e8f48 "bpf: Add
redirect_peer helper": latencies are averages over the processors, rates are sums, and those of each processor follow.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, median
from typing import Any

from harness.errors import InfraError

PROGRAM = "sockperf"

_VALID = re.compile(r"\[Valid Duration\] RunTime=([\d.]+) sec; SentMessages=(\d+); ReceivedMessages=(\d+)")
_MEAN = re.compile(r"avg-rtt=([\d.]+) \(std-dev=([\d.]+)\)")
_QUANTILE = re.compile(r"percentile ([\d.]+) = +([\d.]+)")
_LEAST = re.compile(r"<MIN> observation = +([\d.]+)")
_LOST = re.compile(r"dropped messages = (\d+); # duplicated messages = (\d+); # out-of-order messages = (\d+)")

ROWS = {
    "RT_LATENCY": "round_trip",
    "MEAN_LATENCY": "mean",
    "STDDEV_LATENCY": "deviation",
    "MIN_LATENCY": "least",
    "P50_LATENCY": "p50",
    "P90_LATENCY": "p90",
    "P99_LATENCY": "p99",
    "TRANSACTION_RATE": "rate",
}


@dataclass(frozen=True)
class Latency:
    """Of round trips on one processor, or all; microseconds, and transactions in a second."""

    round_trip: float
    """From the rate: with the time between a response and the next request."""
    mean: float
    deviation: float
    least: float
    p50: float
    p90: float
    p99: float
    rate: float


def parse(text: str) -> Latency:
    """One client's output, of ``sockperf ping-pong --full-rtt``. Raises InfraError where it has no such figures.

    A message that was lost is no error of sockperf's, but a figure with such messages is none.
    """
    valid, mean, least, lost = (pattern.search(text) for pattern in (_VALID, _MEAN, _LEAST, _LOST))
    quantiles = {float(name): float(value) for name, value in _QUANTILE.findall(text)}
    if not (valid and mean and least and lost and {50.0, 90.0, 99.0} <= quantiles.keys() and float(valid[1])):
        said = [line for line in text.splitlines() if "ERROR" in line or "No valid" in line] or ["no figures"]
        raise InfraError(f"sockperf has measured nothing: {said[0].removeprefix('sockperf: ')}")
    if any(int(number) for number in lost.groups()):
        raise InfraError(f"sockperf: {lost[0]}")
    rate = int(valid[3]) / float(valid[1])
    return Latency(
        round_trip=1e6 / rate,
        mean=float(mean[1]),
        deviation=float(mean[2]),
        least=float(least[1]),
        p50=quantiles[50.0],
        p90=quantiles[90.0],
        p99=quantiles[99.0],
        rate=rate,
    )


@dataclass(frozen=True)
class Percpu:
    """A row of a benchmark: what each boot measured on each processor."""

    boots: Sequence[Sequence[Latency]]
    curve: Sequence[float]
    """Quantiles of all round trips, in nanoseconds, ascending."""

    def figure(self, name: str) -> tuple[float, list[float]]:
        """(in total, of each processor): the median over the boots of a field of Latency."""
        each = [median(getattr(boot[cpu], name) for boot in self.boots) for cpu in range(len(self.boots[0]))]
        total = sum if name == "rate" else fmean
        return median(total(getattr(one, name) for one in boot) for boot in self.boots), each

    def to_json(self) -> dict[str, Any]:
        return {"boots": [[asdict(one) for one in boot] for boot in self.boots], "curve": list(self.curve)}


def collected(told: Sequence[Sequence[Mapping[str, Any]]]) -> Percpu:
    """From the answers of selftests/bench/latency.py, one for each boot. Raises InfraError as ``parse``.

    All curves have as many points, so their union is the curve of all.
    """
    return Percpu(
        boots=[[parse(client["said"]) for client in boot] for boot in told],
        curve=sorted(value for boot in told for client in boot for value in client["curve"]),
    )


def percpu_text(row: Percpu) -> str:
    """The published layout: microseconds, and transactions in a second."""
    lines = []
    for title, name in ROWS.items():
        total, each = row.figure(name)
        lines.append(f"{title:>18}: {total:12.3f}   (per CPU: {' '.join(f'{value:12.3f}' for value in each)} )")
    return "\n".join(lines)
