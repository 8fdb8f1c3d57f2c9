"""Patches of one series: the same source with the first few of them."""

from __future__ import annotations

import email
import mailbox
import re
from collections.abc import Sequence
from dataclasses import replace
from email.header import decode_header, make_header
from pathlib import Path

from harness.bisect.decide import History
from harness.bisect.ranges import CannotProve, Range, Revision
from harness.errors import UserError
from harness.kernel import patching
from harness.kernel.files import write
from harness.model import Patch, Request


class Patches(Range):
    """``base`` alone is the old end, all patches are the new one."""

    kind = "patch"

    def __init__(self, base: Request, series: Path, folder: Path) -> None:
        """``series`` is an mbox, or a folder of patches, taken by name; ``folder`` keeps one file for each patch.

        Raises UserError when there are none, and for a base to which nothing can be added.
        """
        if base.source.startswith(("kernel:", "image:")):
            raise UserError(f"{base.source} is a finished kernel; a series needs a source, such as {Request.source}")
        self._base = base
        self._patches = _load(series)
        self._files = []
        for number, patch in enumerate(self._patches, 1):
            file = folder / f"{number:04}-{patch.sha256[:12]}.patch"
            write(file, patch.text)
            self._files.append(str(file))
        self.history = History.line(len(self._patches))

    @property
    def key(self) -> list[str]:
        return [self.kind, str(self._base), *(patch.sha256 for patch in self._patches)]

    def revision(self, number: int) -> Revision:
        count = number + 1
        title = subject(self._patches[number]) if count else f"without any: {self._base}"
        return Revision(f"{count}/{len(self._patches)}", title, self._with(self._files[:count]))

    def proof(self, culprit: int, *, breaks: bool, folder: Path) -> Request:
        """All patches without the culprit; the base with nothing but the one that mends it."""
        if breaks:
            if len(self._patches) == 1:
                return self._with([])
            return self._with([file for number, file in enumerate(self._files) if number != culprit])
        if not culprit:
            raise CannotProve("the repair is the first patch: the base with it is what was judged")
        return self._with([self._files[culprit]])

    def _with(self, files: Sequence[str]) -> Request:
        return replace(self._base, patches=(*self._base.patches, *files))


def subject(patch: Patch) -> str:
    """What a patch calls itself, without ``[PATCH 3/5]``; its file where it says nothing."""
    text = patch.text
    if mail := re.fullmatch(r"(.*) \(mail (\d+) of \d+\)", patch.name):
        # of a mail in an mbox, only what it says is left
        text = list(mailbox.mbox(mail[1], create=False))[int(mail[2]) - 1].as_bytes()
    found = email.message_from_bytes(text)["Subject"]
    said = " ".join(str(make_header(decode_header(found))).split()) if found else ""
    return re.sub(r"^(\[[^\]]*\]\s*)+", "", said) or patch.name


def _load(series: Path) -> tuple[Patch, ...]:
    if not series.is_dir():
        return patching.load(series)
    files = sorted(file for file in series.iterdir() if file.suffix == ".patch" and file.is_file())
    if not files:
        raise UserError(f"series {series}: the folder has no *.patch")
    # a cover letter is a file without a diff
    found = [patch for file in files if patching.touched(file.read_bytes()) for patch in patching.load(file)]
    if not found:
        raise UserError(f"series {series}: no file in it holds a diff")
    return tuple(found)
