"""The page in a real browser, without a display: what it shows, what a click opens; hostile text stays text."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.matrix.page import page

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

HOSTILE = (
    "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">{{7*7}}\x00\x1b"
)
POLICY = "selftests/netkit/test_policy.py::test_drop[primary]"
OTHER = "selftests/netkit/test_policy.py::test_pass"
EGRESS = "selftests/nf_egress/test_lists.py::test_list"
TESTS = [POLICY, OTHER, EGRESS]
PASSED = {"result": "passed", "expected": "passed", "seconds": 0.25}
SKIPPED = {"result": "skipped", "expected": "skipped", "message": "kernel lacks it", "why": "lacks it: Linux 5.16"}


def cell(version: str, kernel: str, outcomes: dict[str, Any], **facts: Any) -> dict[str, Any]:
    return {
        "id": kernel.replace(":", "-"),
        "recipe": kernel,
        "kernel": kernel,
        "flavour": "base",
        "series": "all",
        "selftests": "selftests",
        "state": "done",
        "broken": "",
        "identity": "abc",
        "release": version,
        "version": version,
        "code": "c",
        "root": "r",
        "same_code": False,
        "kernel_seconds": 3.0,
        "test_seconds": 9.0,
        "folder": "cells/x/run",
        "ran": len(outcomes),
        "reused": 0,
        "summary": {},
        "trouble": [],
        "outcomes": outcomes,
        **facts,
    }


@pytest.fixture
def data() -> dict[str, Any]:
    bad = {
        "result": "failed",
        "expected": "passed",
        "seconds": 0.5,
        "message": f"it broke {HOSTILE}",
        "detail": f"traceback {HOSTILE}",
        "kernel_log": f"log {HOSTILE}",
        "console": f"console {HOSTILE}",
        "repro": "kproof run --kernel image:debian:6.12.94",
        "surprise": "unexpected failure",
    }
    cells = [
        cell("6.12.94", "image:debian:6.12.94", {POLICY: bad, OTHER: PASSED, EGRESS: PASSED}),
        cell("5.10.262", "image:debian:5.10", {POLICY: PASSED, OTHER: PASSED, EGRESS: SKIPPED}, reused=2),
        cell("", "debian:6.19", {}, state="broken", broken=f"no such version {HOSTILE}"),
    ]
    return {
        "kproof": "0.1.0",
        "started": "2026-11-21T12:00:00+00:00",
        "seconds": 75.0,
        "exit_status": 1,
        "file": "ci/matrix.toml",
        "interrupted": False,
        "jobs": 1,
        "guests": 2,
        "tests": TESTS,
        "cells": cells,
        "surprises": [
            {
                "cell": "image-debian-6.12.94",
                "nodeid": POLICY,
                "kind": "unexpected failure",
                "text": f"it broke {HOSTILE}",
                "expected": "pass",
            },
            {
                "cell": "debian-6.19",
                "nodeid": "",
                "kind": "missing outcome",
                "text": "3 of 3 tests did not run",
                "expected": "",
            },
        ],
    }


def test_it_needs_no_network_and_runs_no_script_but_its_own(data: dict[str, Any]) -> None:
    text = page(data)
    assert not re.search(r"(src|href)\s*=\s*[\"']?https?:|@import|url\(", text)
    assert "default-src 'none'" in text
    assert text.count("<script") == 2
    assert HOSTILE not in text
    assert "49" not in re.sub(r"sha256-\S+", "", text).split("<style>")[0]


def test_it_is_the_same_for_the_same(data: dict[str, Any]) -> None:
    assert page(data) == page(data)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    selenium = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install selenium")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("no chromium: apt install chromium chromium-driver")
    options = selenium.ChromeOptions()
    options.binary_location = chromium
    flags = "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking"
    for flag in (*flags.split(), "disable-component-update", "disable-sync"):
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = selenium.Chrome(options=options, service=selenium.ChromeService(driver))
    yield chrome
    chrome.quit()


@pytest.fixture
def shown(browser: Chrome, data: dict[str, Any], tmp_path: Path) -> Iterator[Chrome]:
    """The page, loaded; whatever a test does, nothing of what it was given has run."""
    path = tmp_path / "matrix.html"
    path.write_text(page(data))
    browser.get(path.as_uri())
    yield browser
    assert browser.title == "2 surprises · kproof matrix"
    assert browser.get_log("browser") == []  # type: ignore[no-untyped-call]


def texts(browser: Chrome, selector: str) -> list[str]:
    script = "return [...document.querySelectorAll(arguments[0])].map(each => each.textContent.trim())"
    found: list[str] = browser.execute_script(script, selector)
    return found


def click(browser: Chrome, selector: str) -> None:
    browser.find_element("css selector", selector).click()


def test_surprises_are_on_top(shown: Chrome) -> None:
    assert texts(shown, "h1") == ["2 surprises"]
    assert texts(shown, ".card .name") == ["the whole cell", POLICY.removeprefix("selftests/")]
    click(shown, ".card:nth-of-type(2) summary")
    said = shown.find_element("css selector", ".card[open]").text
    assert "traceback </script><script>document.title='owned'</script>" in said
    assert "kproof run --kernel image:debian:6.12.94" in said


def test_the_grid_is_coloured_by_what_was_foretold(shown: Chrome) -> None:
    assert texts(shown, ".head b") == ["5.10.262", "6.12.94", "debian:6.19"]
    states = "return [...document.querySelectorAll('.feature .tile')].map(each => each.className.split(' ')[1])"
    assert shown.execute_script(states) == ["passed", "surprise", "surprise", "skipped", "passed", "surprise"]
    assert texts(shown, ".feature .tile") == ["2", "1", "2", "–", "1", "1"]


def test_a_click_on_a_tile_opens_the_evidence(shown: Chrome) -> None:
    click(shown, ".feature .tile.surprise")
    assert texts(shown, "#sheet-about") == ["6.12.94 ready-made · image:debian:6.12.94"]
    assert texts(shown, "#sheet .result") == ["failed", "passed"]
    assert texts(shown, "#sheet h4") == ["Assertion", "Kernel log of the test", "Console of its guest", "Repeat it"]
    assert texts(shown, "#sheet pre")[1].startswith("log </script><script>document.title='owned'")
    click(shown, "#close")
    assert not shown.find_element("id", "sheet").is_displayed()


def test_files_unfold(shown: Chrome) -> None:
    files = shown.find_elements("css selector", ".file")
    assert [row.is_displayed() for row in files] == [False, False]
    click(shown, ".fold")
    assert [row.is_displayed() for row in files] == [True, False]
    click(shown, "#expand")
    assert [row.is_displayed() for row in files] == [True, True]


def test_the_search_shows_tests(shown: Chrome) -> None:
    field = shown.find_element("id", "search")
    field.send_keys("POLICY drop")
    assert texts(shown, "#found th") == [POLICY.removeprefix("selftests/")]
    assert not shown.find_element("css selector", ".feature").is_displayed()
    click(shown, "#found .tile.surprise")
    assert texts(shown, "#sheet .result") == ["failed"]
    click(shown, "#close")
    field.send_keys("x")
    assert shown.find_element("id", "nothing").is_displayed()
    field.clear()
    field.send_keys(" ")
    assert shown.find_element("css selector", ".feature").is_displayed()


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_and_can_be_read(shown: Chrome, width: int, scheme: str) -> None:
    """On a phone and a desk: only the grid scrolls sideways, and text stands out from what is behind it."""
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    shown.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    shown.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    assert shown.execute_script("return document.documentElement.scrollWidth") <= width
    colours = shown.execute_script(
        "return ['body', '.tile.passed', '.tile.surprise', '.card', '.meta', '.tile.skipped'].map(name => {"
        " const style = getComputedStyle(document.querySelector('main ' + name) || document.querySelector(name));"
        " return [name, style.color, style.backgroundColor]; })"
    )
    page_behind = colours[0][2]
    assert (brightness(page_behind) < 0.2) is (scheme == "dark")
    for name, ink, behind in colours:
        behind = page_behind if behind == "rgba(0, 0, 0, 0)" else behind
        assert contrast(ink, behind) >= 2.9, f"{name} in {scheme}"


def brightness(colour: str) -> float:
    """Relative luminance (WCAG 2.2) of ``rgb(1, 2, 3)``."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((brightness(one), brightness(other)))
    return (high + 0.05) / (low + 0.05)
