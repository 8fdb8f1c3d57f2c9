"""PYTEST_DONT_REWRITE: ``known_issues.toml``: what kernels complain of although no patch under test is to blame.

The file is in the project's root folder, and need not be there:

    [[issue]]
    regex = "WARNING in tcp_fastretrans_alert"   # searched in the titles of splats, as by @pytest.mark.expect_splat
    reason = "races with the timer since 6.10"
    link = "https://lore.kernel.org/…"
    expires = 2026-12-31                         # the last day on which it holds, by the host's clock
    versions = ">=6.10,<6.13"                    # optional: only these kernels

An entry excuses a complaint: in a test, which passes if it passed otherwise, and outside of any test. It never excuses
a crash or a hang: such a test did not come to its end. The guest judges, so it is told which expressions hold; what
they matched comes back with its reports.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.model import Version, VersionRange

FILE = "known_issues.toml"
REQUIRED = ("regex", "reason", "link", "expires")
KEYS = (*REQUIRED, "versions")


@dataclass(frozen=True)
class KnownIssue:
    """One entry."""

    number: int
    """Its place in the file, from 1."""
    regex: str
    reason: str
    link: str
    expires: date
    versions: str = ""

    def __str__(self) -> str:
        return f"{FILE}: entry {self.number} ({self.regex!r})"


@dataclass
class KnownIssues:
    """The entries, judged on one day for one kernel, and what they have matched."""

    issues: tuple[KnownIssue, ...] = ()
    today: date = field(default_factory=date.today)
    version: Version | None = None
    """None: every kernel."""
    matched: dict[str, dict[str, int]] = field(default_factory=dict)
    """How often by regex, then by title."""

    @property
    def expired(self) -> list[KnownIssue]:
        return [issue for issue in self.issues if issue.expires < self.today]

    @property
    def valid(self) -> list[KnownIssue]:
        """Those that hold today, for this kernel."""
        return [issue for issue in self.issues if issue.expires >= self.today and self._is_for(issue)]

    @property
    def unmatched(self) -> list[KnownIssue]:
        return [issue for issue in self.valid if issue.regex not in self.matched]

    @property
    def regexes(self) -> list[str]:
        """What guests are told."""
        return [issue.regex for issue in self.valid]

    def excuse(self, title: str) -> bool:
        """Whether a splat of this title, outside of any test, is excused. Takes note of it if so."""
        regex = first_match(self.regexes, title)
        if regex is None:
            return False
        self.note([(regex, title)])
        return True

    def note(self, matches: Iterable[tuple[str, str]]) -> None:
        """Take in what guests have excused: regexes and titles."""
        for regex, title in matches:
            titles = self.matched.setdefault(regex, {})
            titles[title] = titles.get(title, 0) + 1

    def remarks(self, *, whole: bool) -> list[str]:
        """What a person should know of the file after a run, a line each; ``whole``: every selected test ran."""
        lines = []
        for issue in self.valid:
            for title, count in self.matched.get(issue.regex, {}).items():
                lines.append(f"known issue, {count} x: {title} ({issue.reason}; {issue.link}; until {issue.expires})")
        lines += [f"{issue} expired on {issue.expires} and excuses nothing any more" for issue in self.expired]
        lines += [f"{issue} matched nothing in this run" for issue in self.unmatched if whole]
        return lines

    def to_json(self, *, whole: bool) -> dict[str, Any]:
        matched = [
            {"entry": issue.number, "regex": issue.regex, "reason": issue.reason, "link": issue.link,
             "expires": issue.expires.isoformat(), "titles": self.matched[issue.regex]}
            for issue in self.valid if issue.regex in self.matched
        ]  # fmt: skip
        return {
            "matched": matched,
            "expired": [issue.number for issue in self.expired],
            "never_matched": [issue.number for issue in self.unmatched] if whole else [],
        }

    def _is_for(self, issue: KnownIssue) -> bool:
        return self.version is None or self.version in VersionRange(issue.versions)


def first_match(regexes: Iterable[str], title: str) -> str | None:
    """The first of the expressions that is found in a splat's title."""
    return next((regex for regex in regexes if re.search(regex, title)), None)


def load(path: Path) -> tuple[KnownIssue, ...]:
    """The entries of a file; none if there is no file. Raises UserError that names file and entry."""
    import tomllib

    try:
        with open(path, "rb") as file:
            data = tomllib.load(file)
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not TOML: {error}") from None
    entries = data.pop("issue", [])
    if data or not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        wrong = f", not of {', '.join(map(repr, data))}" if data else ""
        raise UserError(f"{path} consists of [[issue]] entries{wrong}")
    issues: list[KnownIssue] = []
    for number, entry in enumerate(entries, 1):
        try:
            issues.append(_issue(number, entry))
        except ValueError as error:
            raise UserError(f"{path}: entry {number}: {error}") from None
    return tuple(issues)


def _issue(number: int, entry: dict[str, Any]) -> KnownIssue:
    """Raises ValueError that says what is wrong with the entry."""
    if unknown := [key for key in entry if key not in KEYS]:
        raise ValueError(f"{unknown[0]!r} is not understood; an entry has {', '.join(KEYS)}")
    if missing := [key for key in REQUIRED if key not in entry]:
        raise ValueError(f"{missing[0]!r} is missing; an entry needs {', '.join(REQUIRED)}")
    for key in KEYS:
        if key != "expires" and not (isinstance(value := entry.get(key, "any"), str) and value.strip()):
            raise ValueError(f"{key!r} must be a text that is not empty")
    expires = entry["expires"]
    if not isinstance(expires, date) or isinstance(expires, datetime):
        raise ValueError(f"'expires' must be a date without quotes and time, like 2026-12-31, not {str(expires)!r}")
    try:
        compiled = re.compile(entry["regex"])
    except re.error as error:
        raise ValueError(f"the regex {entry['regex']!r} is not valid: {error}") from None
    if compiled.search(""):
        raise ValueError(f"the regex {entry['regex']!r} matches every title")
    versions = entry.get("versions", "")
    try:
        for term in versions.split(","):  # one by one: a range stops at the first term that does not hold
            Version(0, 0) in VersionRange(term)  # noqa: B015
    except UserError as error:
        raise ValueError(f"'versions': {error}") from None
    return KnownIssue(number, entry["regex"], entry["reason"], entry["link"], expires, versions)
