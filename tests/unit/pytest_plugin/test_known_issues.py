"""known_issues.toml: what an entry must say, when it holds, and what is told of it."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from harness.errors import UserError
from harness.model import Version
from harness.pytest_plugin.known_issues import FILE, KnownIssues, load

GOOD = """
[[issue]]
regex = "WARNING in (foo|bar)"
reason = "races with the timer"
link = "https://example.org/1"
expires = 2026-11-20

[[issue]]
regex = "KASAN"
reason = "fixed in 6.13"
link = "https://example.org/2"
expires = 2026-12-31
versions = ">=6.10,<6.13"
"""


def issues(tmp_path: Path, today: date, version: str, text: str = GOOD) -> KnownIssues:
    (tmp_path / FILE).write_text(text)
    return KnownIssues(load(tmp_path / FILE), today, Version.parse(version))


def test_no_file_is_no_entry(tmp_path: Path) -> None:
    assert load(tmp_path / FILE) == ()


def test_an_entry_holds_on_its_last_day_and_not_on_the_next(tmp_path: Path) -> None:
    last = issues(tmp_path, date(2026, 11, 20), "6.12.1")
    assert last.regexes == ["WARNING in (foo|bar)", "KASAN"]
    assert last.excuse("WARNING in bar")
    assert last.expired == []
    after = issues(tmp_path, date(2026, 11, 21), "6.12.1")
    assert after.regexes == ["KASAN"]
    assert not after.excuse("WARNING in bar")
    assert [issue.number for issue in after.expired] == [1]


@pytest.mark.parametrize(("version", "holds"), [("6.9.9", False), ("6.10", True), ("6.12.117", True), ("6.13", False)])
def test_an_entry_holds_for_its_versions_only(tmp_path: Path, version: str, holds: bool) -> None:
    known = issues(tmp_path, date(2026, 1, 1), version)
    assert known.excuse("KASAN: use-after-free in x") == holds
    assert ("KASAN" in known.regexes) == holds


def test_what_matched_expired_and_never_matched_is_told(tmp_path: Path) -> None:
    known = issues(tmp_path, date(2026, 11, 20), "6.12.1")
    known.note([("WARNING in (foo|bar)", "WARNING in foo"), ("WARNING in (foo|bar)", "WARNING in foo")])
    assert known.remarks(whole=True) == [
        "known issue, 2 x: WARNING in foo (races with the timer; https://example.org/1; until 2026-11-20)",
        "known_issues.toml: entry 2 ('KASAN') matched nothing in this run",
    ]
    told = known.to_json(whole=True)
    assert told["never_matched"] == [2]
    assert told["matched"][0]["titles"] == {"WARNING in foo": 2}
    assert known.to_json(whole=False)["never_matched"] == [], "a run that was cut short does not know"
    late = issues(tmp_path, date(2027, 1, 1), "6.12.1")
    assert late.remarks(whole=True) == [
        "known_issues.toml: entry 1 ('WARNING in (foo|bar)') expired on 2026-11-20 and excuses nothing any more",
        "known_issues.toml: entry 2 ('KASAN') expired on 2026-12-31 and excuses nothing any more",
    ]


def test_an_entry_for_other_kernels_is_not_called_useless(tmp_path: Path) -> None:
    assert [issue.number for issue in issues(tmp_path, date(2026, 1, 1), "6.1").unmatched] == [1]


ENTRY = 'regex = "x"\nreason = "r"\nlink = "l"\nexpires = 2026-11-20\n'


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[[issue", "is not TOML"),
        ('issues = "x"', "consists of [[issue]] entries, not of 'issues'"),
        ("issue = 1", "consists of [[issue]] entries"),
        (f"[[issue]]\n{ENTRY}[[issue]]\n" + ENTRY.replace('link = "l"\n', ""), "entry 2: 'link' is missing"),
        ("[[issue]]\n" + ENTRY.replace("expires = 2026-11-20", ""), "entry 1: 'expires' is missing"),
        ("[[issue]]\n" + ENTRY.replace('"r"', '" "'), "entry 1: 'reason' must be a text that is not empty"),
        ("[[issue]]\n" + ENTRY.replace("2026-11-20", '"2026-11-20"'), "entry 1: 'expires' must be a date"),
        ("[[issue]]\n" + ENTRY.replace("2026-11-20", "2026-11-20T10:00:00"), "entry 1: 'expires' must be a date"),
        ("[[issue]]\n" + ENTRY.replace('"x"', '"x("'), "entry 1: the regex 'x(' is not valid"),
        ("[[issue]]\n" + ENTRY.replace('"x"', '".*"'), "entry 1: the regex '.*' matches every title"),
        ("[[issue]]\n" + ENTRY + 'version = "6.12"', "entry 1: 'version' is not understood"),
        ("[[issue]]\n" + ENTRY + 'versions = ">=6.1,6.2"', "entry 1: 'versions': '6.2' is not a version range term"),
    ],
)
def test_a_bad_file_is_the_users_error_with_file_and_entry(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(UserError) as raised:
        load(tmp_path / FILE)
    assert str(tmp_path / FILE) in str(raised.value)
    assert complaint in str(raised.value)
    assert "\n" not in str(raised.value)


def test_bytes_that_are_no_text_are_the_users_error(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b'[[issue]]\nregex = "\xff"\n')
    with pytest.raises(UserError, match="is not TOML"):
        load(tmp_path / FILE)
