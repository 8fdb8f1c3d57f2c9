"""What patches make of files: computed aside, so that a tree is either patched completely or not touched.

``git apply`` does the work in a scratch folder that holds only the files a patch names. It allows a hunk to have moved,
but no fuzz: a patch that applies is applied where its whole context matches.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from harness import command
from harness.errors import UserError
from harness.kernel.files import read_user_file, scratch
from harness.model import Patch

if TYPE_CHECKING:
    from unidiff.patch import Hunk, PatchedFile

LIMIT = 120.0
CONTEXT = 2
"""Lines of the tree shown before and after the place where a hunk was expected."""


@dataclass(frozen=True)
class Content:
    """A file as git sees it: its bytes (a symbolic link's target) and whether it is executable or a link."""

    data: bytes
    executable: bool = False
    link: bool = False


class Mismatch(UserError):
    """A patch does not apply to the files as they are."""


Reader = Callable[[str], Content | None]
"""Gives the content of a path below the tree's top; None when there is no such file."""


def read_content(path: Path) -> Content | None:
    try:
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            return Content(str(path.readlink()).encode(), link=True)
        if not stat.S_ISREG(mode):
            return None
        return Content(path.read_bytes(), executable=bool(mode & 0o111))
    except (FileNotFoundError, NotADirectoryError):
        return None


def write_content(path: Path, content: Content) -> None:
    """Write a file that does not exist yet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if content.link:
        path.symlink_to(content.data.decode())
    else:
        path.write_bytes(content.data)
        path.chmod(0o755 if content.executable else 0o644)


def load(path: Path) -> tuple[Patch, ...]:
    """The patches in a file: one for a plain diff, one for each mail of an mbox.

    Raises UserError when the file cannot be read or holds no diff.
    """
    text = read_user_file(path, "patch")
    mails = _mails(text)
    patches = [
        Patch(f"{path}" if len(mails) == 1 else f"{path} (mail {number} of {len(mails)})", mail)
        for number, mail in enumerate(mails, 1)
        # a cover letter is a mail without a diff
        if touched(mail)
    ]
    if not patches:
        what = "is empty" if not text.strip() else "holds no diff (no '---' and '+++' lines)"
        raise UserError(f"patch {path} {what}; make one with git diff or git format-patch")
    return tuple(patches)


def _mails(text: bytes) -> list[bytes]:
    """Cut an mbox at its ``From `` lines and undo the mails' transfer encoding; a plain diff comes back as it is."""
    starts = [match.start() for match in re.finditer(rb"^From \S+ .*\d{4}$", text, re.M)]
    if not starts:
        head = text[: text.find(b"\n\n") + 1]
        encoded = re.search(rb"^content-transfer-encoding:\s*(quoted-printable|base64)", head, re.M | re.I)
        return [_decoded(text)] if encoded else [text]
    return [_decoded(text[start:end]) for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]


def _decoded(mail: bytes) -> bytes:
    import email

    message = email.message_from_bytes(mail)
    bodies = [part.get_payload(decode=True) for part in message.walk() if not part.is_multipart()]
    return b"".join(body for body in bodies if isinstance(body, bytes))


def touched(text: bytes) -> tuple[str, ...]:
    """The paths that a diff reads or writes, sorted, without their ``a/`` and ``b/``."""
    found: set[str] = set()
    for line in text.splitlines():
        if match := re.match(rb"(?:---|\+\+\+) \"?[^/\s]+/([^\t\"]+)", line):
            found.add(match[1].decode(errors="surrogateescape").rstrip())
        elif match := re.match(rb"(?:rename|copy) (?:from|to) (.+)", line):
            found.add(match[1].decode(errors="surrogateescape"))
        elif match := re.match(rb"diff --git a/(.+) b/\1$", line):
            # without hunks: a mode change, an empty or a binary file
            found.add(match[1].decode(errors="surrogateescape"))
    return tuple(sorted(path for path in found if path != "dev/null" and path != "null"))


def patched(patches: Sequence[Patch], read: Reader, *, workspace: Path) -> dict[str, Content | None]:
    """What the files that ``patches`` touch contain after all of them; None: deleted.

    ``workspace`` is a folder for scratch folders. Raises Mismatch with a diagnosis of the first patch that fails,
    and UserError for one that is malformed.
    """
    with scratch(workspace, "patch") as folder:
        known: set[str] = set()
        for patch in patches:
            for path in touched(patch.text):
                if path in known:
                    continue
                parts = PurePosixPath(path).parts
                if path.startswith("/") or ".." in parts or ".git" in parts:
                    raise UserError(f"patch {patch.name} names {path!r}, which is outside the kernel tree")
                known.add(path)
                if (content := read(path)) is not None:
                    write_content(folder / path, content)
            if not known:
                raise UserError(f"patch {patch.name} holds no diff")
            if _git_apply(folder, patch, "--whitespace=nowarn").status != 0:
                raise Mismatch(diagnose(folder, patch))
        return {path: read_content(folder / path) for path in sorted(known)}


def applies(patches: Sequence[Patch], read: Reader, *, workspace: Path) -> str:
    """Empty when all ``patches`` apply, else the first line of the reason."""
    try:
        patched(patches, read, workspace=workspace)
    except Mismatch as error:
        return str(error).splitlines()[0]
    return ""


def _git_apply(folder: Path, patch: Patch, *options: str) -> command.Completed:
    # no repository around the scratch folder and no user's setting may change what a patch means
    env = {
        "GIT_CEILING_DIRECTORIES": str(folder.parent.resolve()),
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_CONFIG_NOSYSTEM": "1",
    }
    argv = ["git", "apply", "-p1", *options, "-"]
    return command.run(argv, cwd=folder, env=env, stdin=patch.text, limit=LIMIT, check=False)


def diagnose(folder: Path, patch: Patch) -> str:
    """Say why a patch does not apply to the files in ``folder``: which file, which hunk, and what is there instead.

    The first line stands alone; the lines after it compare what the hunk expects (``-``) with the tree (``+``).
    """
    if _git_apply(folder, patch, "--check", "--reverse").status == 0:
        return f"patch {patch.name} is already in the tree (undoing it would work); leave it out"
    said = _git_apply(folder, patch, "--check").err.decode(errors="replace")
    errors = [line.removeprefix("error: ") for line in said.splitlines() if line.startswith("error: ")]
    plain = f"patch {patch.name} does not apply: {errors[0] if errors else said.strip() or 'git apply refused it'}"
    try:
        files = _parse(patch.text)
    except ValueError as error:
        return f"{plain} ({error})"
    for file in files:
        target = folder / file.path
        if not file.is_added_file and not target.exists():
            return f"patch {patch.name} does not apply: the tree has no file {file.path}"
        if file.is_added_file and target.exists():
            return f"patch {patch.name} does not apply: it adds {file.path}, which the tree has already"
    for file in files:
        lines = _lines(folder / file.path)
        for number, hunk in enumerate(file, 1):
            expected = [line.value.rstrip("\n") for line in hunk.source_lines()]
            if not _contains(lines, expected):
                return _mismatch(patch, file, number, hunk, expected, lines)
    return plain


def _parse(text: bytes) -> list[PatchedFile]:
    """The files of a diff; ValueError says what is malformed."""
    from unidiff.errors import UnidiffParseError
    from unidiff.patch import PatchSet

    try:
        return list(PatchSet(text.decode(errors="replace")))
    except UnidiffParseError as error:
        raise ValueError(f"malformed diff: {error}") from error


def _lines(path: Path) -> list[str]:
    content = read_content(path)
    return content.data.decode(errors="replace").split("\n") if content else []


def _contains(lines: list[str], expected: list[str]) -> bool:
    if not expected:
        return True
    first = expected[0]
    return any(line == first and lines[at : at + len(expected)] == expected for at, line in enumerate(lines))


def _nearest(lines: list[str], expected: list[str], stated: int) -> int:
    """The index in ``lines`` where most of ``expected`` agrees: each equal line votes for its offset.

    Lines without a letter (braces, blanks) are everywhere and have no vote; the place stated by the hunk wins a draw.
    """
    from collections import Counter, defaultdict

    where: defaultdict[str, list[int]] = defaultdict(list)
    for at, line in enumerate(lines):
        where[line.strip()].append(at)
    votes: Counter[int] = Counter()
    for offset, line in enumerate(expected):
        if any(character.isalpha() for character in line):
            votes.update(at - offset for at in where[line.strip()])
    if not votes:
        return max(0, min(stated - 1, len(lines) - 1))
    return max(0, max(votes, key=lambda at: (votes[at], -abs(at - (stated - 1)))))


def _mismatch(patch: Patch, file: PatchedFile, number: int, hunk: Hunk, expected: list[str], lines: list[str]) -> str:
    import difflib

    at = _nearest(lines, expected, hunk.source_start)
    there = lines[max(0, at - CONTEXT) : at + len(expected) + CONTEXT]
    header = (
        f"@@ -{hunk.source_start},{hunk.source_length} +{hunk.target_start},{hunk.target_length} @@"
        f" {hunk.section_header}".rstrip()
    )
    text = [
        f"patch {patch.name} does not apply: {file.path}, hunk {number} of {len(file)}, {header}",
        f"nearest place in the tree: {file.path}:{max(0, at - CONTEXT) + 1} (- the patch expects, + the tree has)",
    ]
    text += ["  " + line for line in difflib.ndiff(expected, there) if not line.startswith("?")]
    return "\n".join(text)
