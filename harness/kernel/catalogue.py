"""What the archive has: kernel sources, and images that the distribution built, of every suite that is still there.

Read from apt's lists (``archive.py``) at most once a day, and kept as JSON between runs.

An image is one package (``linux-image-6.12.94+deb13-cloud-amd64``: kernel, configuration, modules) or, since 6.19, an
empty one that depends on three: ``linux-base-…`` (configuration), ``linux-binary-…`` (kernel) and ``linux-modules-…``.
Of superseded backports the archive keeps what is signed, which is the kernel without its modules.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cmp_to_key
from pathlib import Path
from typing import Any, Literal

from harness import command
from harness.errors import UserError
from harness.kernel.archive import Archive, Offer, answers, binary_offer, field, source_offer
from harness.kernel.files import read_json, write_json
from harness.model import Version

Kind = Literal["image", "source"]
STATES: dict[Kind, str] = {"image": "images", "source": "wide"}
FORMAT = 2
IMAGE = re.compile(r"linux-image-\d\S*-cloud-amd64(-unsigned)?$")
PART = re.compile(r"linux-(?:base|binary|modules)-\d\S*-cloud-amd64(?:-unsigned)?$")


@dataclass(frozen=True)
class Listed:
    """One version of a kernel in the archive."""

    kind: Kind
    package: str
    version: str
    """The Debian version: ``6.12.94-1``."""
    suites: tuple[str, ...]
    files: tuple[Offer, ...]
    """All that must be downloaded."""
    missing: tuple[str, ...] = ()
    """Packages that it consists of, and that have left the archive: it cannot be had."""

    @property
    def size(self) -> int:
        """Bytes of the download."""
        return sum(offer.size for offer in self.files)

    @property
    def release(self) -> Version:
        """The stable release that it is made from."""
        return Version.parse(self.version)

    def answers(self, wanted: str) -> bool:
        """Whether this is what ``6.12``, ``6.12.94`` or ``6.12.94-1`` asks for."""
        return answers(self.version, wanted)


class Catalogue:
    """The archive's kernels, newest first."""

    def __init__(self, archive: Archive, folder: Path) -> None:
        """``folder`` keeps what was read."""
        self._archive = archive
        self._folder = folder

    def images(self, *, update: bool = False) -> list[Listed]:
        """One for each Debian version. Raises InfraError when the archive cannot be read."""
        return self._kept("image", update)

    def sources(self, *, update: bool = False) -> list[Listed]:
        """The source packages ``linux``. Raises InfraError when the archive cannot be read."""
        return self._kept("source", update)

    def image(self, wanted: str, *, update: bool = False) -> Listed:
        """The newest image for a series (``6.12``), a release (``6.12.94``) or a Debian version (``6.12.94-1``).

        Raises UserError, which names what is near, when the archive has none.
        """
        images = self.images(update=update)
        answering = [listed for listed in images if listed.answers(wanted)]
        for listed in answering:
            if not listed.missing:
                return listed
        if answering:
            gone = ", ".join(answering[0].missing)
            raise UserError(f"image:debian:{wanted}: {answering[0].package} has left the archive in part: no {gone}")
        asked = Version.parse(wanted)
        series = f"{asked.major}.{asked.minor}"
        near = dict.fromkeys(str(one.release) for one in reversed(images) if one.answers(series) and not one.missing)
        have = f"of {series} it has {', '.join(near)}" if near else f"it has none of {series}"
        raise UserError(f"image:debian:{wanted}: the archive has no such image; {have}; see kproof kernels available")

    def _kept(self, kind: Kind, update: bool) -> list[Listed]:
        state = STATES[kind]
        path = self._folder / f"{kind}s.json"
        kept = read_json(path)
        key = [FORMAT, self._archive.stamp(state)]
        if not update and isinstance(kept, dict) and kept.get("key") == key and key[1]:
            return [_listed(one) for one in kept["listed"]]
        collect = images_of if kind == "image" else sources_of
        found = collect(self._archive.lists(state, update=update))
        write_json(path, {"key": [FORMAT, self._archive.stamp(state)], "listed": [asdict(one) for one in found]})
        return found


def images_of(lists: Iterable[tuple[str, str]]) -> list[Listed]:
    """The images in lists of binary packages, one for each Debian version: the signed one where there are both."""
    suites: dict[tuple[str, str], list[str]] = {}
    stanzas: dict[tuple[str, str], str] = {}
    for suite, text in lists:
        for name, stanza in _stanzas(text, "linux-"):
            if IMAGE.match(name) or PART.match(name):
                key = (name, field(stanza, "Version"))
                stanzas.setdefault(key, stanza)
                suites.setdefault(key, []).append(suite)
    found: dict[str, Listed] = {}
    # the signed one has the shorter name
    for (name, version), stanza in sorted(stanzas.items(), key=lambda item: len(item[0][0])):
        if not IMAGE.match(name) or version in found:
            continue
        whole = int(field(stanza, "Size")) > META_SIZE
        parts = re.findall(r"(\S+) \(= ([^)]+)\)", field(stanza, "Depends"))
        needed = [(name, version)] if whole else [part for part in parts if PART.match(part[0])]
        if not needed:  # it only names the newest
            continue
        offers = [binary_offer(stanzas[part], "images") for part in needed if part in stanzas]
        found[version] = Listed(
            kind="image",
            package=name,
            version=version,
            suites=tuple(dict.fromkeys(suites[name, version])),
            files=tuple(offer for offer in offers if offer),
            missing=tuple(part[0] for part in needed if part not in stanzas),
        )
    return newest_first(found.values())


META_SIZE = 1 << 20
"""Packages that only depend on others are smaller than this, and what holds a kernel is larger."""


def sources_of(lists: Iterable[tuple[str, str]]) -> list[Listed]:
    """The pristine tarballs of the source package ``linux`` in lists of sources."""
    suites: dict[str, list[str]] = {}
    offers: dict[str, Offer] = {}
    for suite, text in lists:
        for name, stanza in _stanzas(text, "linux"):
            if name == "linux" and (offer := source_offer(stanza, "wide")):
                offers.setdefault(offer.version, offer)
                suites.setdefault(offer.version, []).append(suite)
    found = [Listed("source", "linux", version, tuple(suites[version]), (offers[version],)) for version in offers]
    return newest_first(found)


def newest_first(listed: Iterable[Listed]) -> list[Listed]:
    """By Debian's order of versions."""
    return sorted(listed, key=cmp_to_key(_compare), reverse=True)


def _compare(one: Listed, other: Listed) -> int:
    if one.release != other.release:
        return 1 if one.release > other.release else -1
    argv = ["dpkg", "--compare-versions", one.version, "gt", other.version]
    return 1 if command.run(argv, limit=30, check=False).status == 0 else -1


def _stanzas(text: str, prefix: str) -> Iterator[tuple[str, str]]:
    """Name and stanza of the packages whose names begin so. The lists have a hundred thousand others."""
    for match in re.finditer(rf"^Package: ({re.escape(prefix)}\S*)\n", text, re.M):
        end = text.find("\n\n", match.start())
        yield match[1], text[match.start() : end if end >= 0 else len(text)]


def _listed(kept: dict[str, Any]) -> Listed:
    files: Sequence[dict[str, Any]] = kept["files"]
    texts = {name: tuple(kept[name]) for name in ("suites", "missing")}
    return Listed(**{**kept, **texts, "files": tuple(Offer(**one) for one in files)})
