"""Whether two commits differ in anything that is built, told from their files: then the second needs no build.

Sound, not complete. Not built: documents, other architectures, and C files and headers that a build of the one commit
did not read; and what differs only in comments, blanks and blank lines, but for the line numbers that a kernel prints.
A file that is new or gone counts as a difference, for the build may find it in another way than by name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

ARCH = "x86"
NEVER = ("Documentation/", "LICENSES/", "samples/", "tools/testing/", "tools/perf/")
"""Folders that a kernel's build reads nothing of but their rules."""
DOCUMENTS = frozenset({"MAINTAINERS", "CREDITS", "README", "COPYING", ".mailmap", ".get_maintainer.ignore"})
RULES = ("Kconfig", "Makefile", "Kbuild")
TOOLS = ("scripts/", "tools/", "usr/", "certs/")
"""What is built and run on the way, with records of other shapes."""
CODE = (".c", ".h")
MOST_FILES = 200
"""Of a difference that is looked at."""

TOKENS = re.compile(
    rb"""(?P<text> "(?:\\.|[^"\\\n])*" | '(?:\\.|[^'\\\n])*' )
       | (?P<comment> /\*.*?\*/ | //(?:\\\n|[^\n])* )
       | (?P<blank> [ \t\f\v\r]+ )""",
    re.X | re.S,
)


@dataclass(frozen=True)
class Change:
    """A file that differs."""

    path: str
    modified: bool
    """Both commits have it, as an ordinary file of the same mode."""
    contents: Callable[[], tuple[bytes, bytes]]


def same_code(changes: Collection[Change], read: Collection[str] | None) -> str:
    """Why two commits with these differences build the same kernel, a few words; empty: they may not.

    ``read``: the source files that a build of one of them has read; None: that is not known.
    """
    if len(changes) > MOST_FILES:
        return ""
    reasons = set()
    for change in changes:
        reason = _harmless(change, read)
        if not reason:
            return ""
        reasons.add(reason)
    return "differs only in " + ", ".join(sorted(reasons)) if reasons else "has the same files"


def _harmless(change: Change, read: Collection[str] | None) -> str:
    path = PurePosixPath(change.path)
    if path.name.startswith(RULES):
        return ""
    other = path.parts[0] == "arch" and len(path.parts) > 2 and path.parts[1] != ARCH
    if other:
        return "other architectures"
    if change.path.startswith(NEVER) or change.path in DOCUMENTS:
        return "documents"
    if not change.modified or path.suffix not in CODE or change.path.startswith(TOOLS):
        return ""
    if read is not None and change.path not in read:
        return "files that are not built"
    before, after = change.contents()
    return "comments" if without_comments(before) == without_comments(after) else ""


def without_comments(text: bytes) -> bytes:
    """C as the compiler sees it: a comment is a blank, many blanks are one, and lines with nothing else are gone."""

    def plain(match: re.Match[bytes]) -> bytes:
        return match[0] if match["text"] else b" "

    # twice: a comment between two blanks has left three
    lines = TOKENS.sub(plain, TOKENS.sub(plain, text)).split(b"\n")
    return b"\n".join(stripped for line in lines if (stripped := line.strip(b" ")))


def files_read(objects: Path) -> frozenset[str]:
    """The source files that kbuild's records in an object directory name, from the tree's root."""
    found: set[str] = set()
    for folder, _, names in os.walk(objects):
        for name in names:
            if name.endswith(".cmd"):
                found |= _named(Path(folder, name).read_bytes())
    return frozenset(found)


def _named(record: bytes) -> set[str]:
    # the object directory is a folder in the tree: "../include/net/sock.h"
    paths = re.findall(rb"(?<![\w./-])\.\./([\w./+-]+\.[chS])\b", record)
    return {os.path.normpath(os.fsdecode(path)) for path in paths}
