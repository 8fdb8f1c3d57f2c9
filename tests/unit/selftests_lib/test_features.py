"""The feature marker: skip with the reason, fail where required, refuse what nobody knows. pytest is run for real."""

from __future__ import annotations

import pytest

from selftests.lib import features

pytest_plugins = ["pytester"]

CONFTEST = """
asked = []

def probe(name, reason):
    def run():
        asked.append(name)
        return reason
    return run

def pytest_kproof_features():
    return {"there": probe("there", None), "lacking": probe("lacking", "kernel lacks it: CONFIG_IT is n")}

def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line(f"probes: {asked}")
"""

TESTS = """
import pytest

@pytest.mark.feature("there")
def test_there(): pass

@pytest.mark.feature("lacking")
def test_one(): pass

@pytest.mark.feature("there")
@pytest.mark.feature("lacking")
def test_two(): pass
"""


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(TESTS)
    return pytester


def test_lacking_feature_is_a_visible_skip_and_probed_once(project: pytest.Pytester) -> None:
    result = project.runpytest_subprocess("-rs")
    result.assert_outcomes(passed=1, skipped=2)
    result.stdout.fnmatch_lines(["*kernel lacks it: CONFIG_IT is n*"])
    result.stdout.fnmatch_lines(["probes: ?'there', 'lacking'?"])


def test_required_feature_fails(project: pytest.Pytester) -> None:
    result = project.runpytest_subprocess("--require-feature", "lacking")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=1, errors=2)
    result.stdout.fnmatch_lines(["*feature lacking is required: kernel lacks it: CONFIG_IT is n*"])


def test_required_feature_that_is_there_passes(project: pytest.Pytester) -> None:
    result = project.runpytest_subprocess("--require-feature", "there")
    result.assert_outcomes(passed=1, skipped=2)


def test_unknown_required_feature_is_a_usage_error(project: pytest.Pytester) -> None:
    result = project.runpytest_subprocess("--require-feature", "typo")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*no feature is called 'typo'; known are: lacking, there*"])


@pytest.mark.parametrize(
    ("marker", "said"),
    [
        ('feature("typo")', "*no feature is called 'typo'; known are: lacking, there*"),
        ("feature", "*marker feature takes one name*"),
    ],
)
def test_wrong_marker_is_an_error(project: pytest.Pytester, marker: str, said: str) -> None:
    project.makepyfile(f"import pytest\n@pytest.mark.{marker}\ndef test_it(): pass")
    result = project.runpytest_subprocess()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines([said])


@pytest.mark.parametrize(
    ("config", "is_fresh"), [({}, True), ({"NET_XPS_BPF": "y"}, True), ({"NET": "y"}, False)], ids=["unknown", "y", "n"]
)
def test_only_a_kernel_that_is_known_to_lack_it_gives_a_fresh_test_no_guest(
    monkeypatch: pytest.MonkeyPatch, config: dict[str, str], is_fresh: bool
) -> None:
    monkeypatch.setattr(features, "kernel_config", lambda: config)

    @features.fresh_where_built("NET_XPS_BPF")
    def decorated() -> None: ...

    assert [mark.name for mark in getattr(decorated, "pytestmark", [])] == (["fresh"] if is_fresh else [])
