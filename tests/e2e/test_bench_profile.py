"""kproof bench --profile: a spin of fifty instructions is found, in its size, in the function that it was put into."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.conftest import Project

SPIN = Path(__file__).with_name("needless_spin.patch")
FEW_ROWS = """
from dataclasses import replace
from selftests.bench import egress

BENCHMARK = replace(egress.BENCHMARK, rows=(
    egress.BENCHMARK.rows[0],
    egress.nft("chain"),
    egress.tc(egress.OK),
    egress.tc(egress.OK, egress.ADDED),
    egress.BENCHMARK.rows[-1],
))
"""


def test_a_spin_is_found_sized_and_placed(project: Project) -> None:
    project.write("few.py", FEW_ROWS)
    status, output = project.call(
        *("bench", "few.py", "--profile", "--boots", "1", "--fail-if", "dearer", "--results", "r"),
        *("--base", f"kernel:{project.kernel.identity}", "--patched", f"patch={SPIN}"),
        limit=900,
    )
    assert status == 1, output
    told = json.loads((project.folder / "r" / "bench.json").read_text())
    verdicts = {change["row"]: (change["verdict"], change["difference"]) for change in told["changes"]}
    assert verdicts == {
        "none": ("no difference", 0),
        "chain": ("dearer", 50),
        "tc accept": ("no difference", 0),
    }
    profiles = json.loads((project.folder / "r" / "profile" / "functions.json").read_text())
    for one in profiles.values():
        assert one["sum"] == pytest.approx(one["clock"], abs=3)
    base, patched = (profiles[f"{kernel}: chain"]["functions"] for kernel in ("base", "patched"))
    assert patched["__dev_queue_xmit"] - base["__dev_queue_xmit"] == 50
    others = {name for name in base.keys() | patched.keys() if abs(patched.get(name, 0) - base.get(name, 0)) >= 1}
    assert others == {"__dev_queue_xmit"}
    assert "__dev_queue_xmit" in (project.folder / "r" / "profile" / "patched-chain.svg").read_text()
    (line,) = (line for line in output.splitlines() if "+50" in line and "__dev_queue_xmit" in line)
    assert line.split()[-1] == "+50"
