"""Versions: the ready-made images that the archive has between two of them. Nothing is built."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.bisect.decide import OLD_END, History
from harness.bisect.ranges import CannotProve, Range, Revision
from harness.errors import UserError
from harness.model import Request, Version

SCHEME = "image:debian:"


@dataclass(frozen=True)
class Image:
    """What the archive offers, oldest first."""

    version: str
    """As in ``image:debian:VERSION``."""
    release: Version
    suites: tuple[str, ...] = ()


class Versions(Range):
    kind = "version"

    def __init__(self, images: Sequence[Image], old: str, new: str, *, breaks: bool) -> None:
        """``images`` are all there are, the oldest first.

        Raises UserError for an end that is none of them, ends in the wrong order, and nothing between them.
        """
        first, last = _find(images, old, newest=False), _find(images, new, newest=True)
        if first >= last:
            hint = "what mended the test is looked for with --find fixed" if breaks else "leave --find fixed out"
            raise UserError(f"{old} is not older than {new}: {hint}")
        self._images = images[first : last + 1]
        if len(self._images) == 2:
            raise UserError(
                f"the archive has no image between {self._images[0].version} and {self._images[1].version}:"
                " bisect git refs of a clone instead, git:PATH@REF"
            )
        self.history = History.line(len(self._images) - 1)

    @property
    def key(self) -> list[str]:
        return [self.kind, *(image.version for image in self._images)]

    def revision(self, number: int) -> Revision:
        image = self._images[number - OLD_END]
        return Revision(image.version, ", ".join(image.suites), Request(source=f"{SCHEME}{image.version}"))

    def proof(self, culprit: int, *, breaks: bool, folder: Path) -> Request:
        raise CannotProve("an image is ready-made: nothing can be taken out of it; bisect a git clone for the commit")


def _find(images: Sequence[Image], wanted: str, *, newest: bool) -> int:
    """The place of the image that a version names: the oldest or newest of a release."""
    text = wanted.removeprefix(SCHEME)
    release = Version.parse(text)
    whole = "-" in text
    series = text.count(".") == 1
    places = [
        place
        for place, image in enumerate(images)
        if (
            image.version == text
            if whole
            else (image.release.major, image.release.minor) == (release.major, release.minor)
            if series
            else image.release == release
        )
    ]
    if places:
        return places[-1 if newest else 0]
    near = sorted({image.release for image in images}, key=lambda one: _distance(one, release))[:4]
    there = ", ".join(map(str, sorted(near))) or "none at all"
    raise UserError(f"the archive has no image of {text}; the nearest are {there} (kproof kernels available)")


def _distance(one: Version, other: Version) -> tuple[int, int, int]:
    return abs(one.major - other.major), abs(one.minor - other.minor), abs(one.patch - other.patch)
