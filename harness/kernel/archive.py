"""Sources in Debian's archive, through apt with a private state: no root, nothing of the machine's own changes.

Where the archive is comes from the machine's own apt sources (deb822 ``.sources`` and one-line ``.list``). Four
states: *configured* knows the machine's suites and offers the ``linux-source-X.Y`` packages; *wide* knows the source
package ``linux`` in other suites too, whose ``.orig.tar`` is the pristine stable tree; *sources* knows the source
packages of the machine's suites; *images* knows the binary packages of all suites of *wide*, for amd64. apt checks
signatures and hashes; the sha256 that the signed lists name is checked once more before a file is
used.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cmp_to_key
from itertools import pairwise
from pathlib import Path

from harness import command
from harness.errors import InfraError, UserError
from harness.events import Notice, Phase, Progress, Sink
from harness.kernel.files import full, sha256, write
from harness.kernel.locks import locked
from harness.model import Version

ETC = Path("/etc/apt")
OS_RELEASE = Path("/etc/os-release")

WIDE_SUITES = (
    "bullseye",
    "bullseye-security",
    "bookworm",
    "bookworm-security",
    "bookworm-backports",
    "trixie",
    "trixie-security",
    "trixie-backports",
    "forky",
    "sid",
    "experimental",
)
"""Suites with kernels; one that has left the archive is told and passed over."""

BINARY = ("configured", "images")
"""States that know binary packages."""
WIDE = ("wide", "images")
"""States that know the suites of ``WIDE_SUITES``."""
HELPER = "/usr/lib/apt/apt-helper"

LISTS_MB = 400
"""Free space that reading lists takes at most: those of the suites with images, and apt's index of them, are 327 MB."""
UPDATE_LIMIT = 600.0
DOWNLOAD_LIMIT = 3600.0
FRESH = 86400.0
"""Seconds for which lists answer "what is the newest" without being read again."""


class GoneError(InfraError):
    """A file that the lists name, and that the pool no longer has."""

    def __init__(self, listed: str) -> None:
        super().__init__(
            f"{listed}, but its file is gone from the pool;"
            " ask for another version, or use --update to read the lists again"
        )
        self.listed = listed


@dataclass(frozen=True)
class Suite:
    """One suite of one archive, as an apt source names it."""

    uri: str
    name: str
    components: tuple[str, ...]
    signed_by: str = ""

    def line(self, kind: str, arch: str = "") -> str:
        pairs = [("arch", arch), ("signed-by", self.signed_by)]
        options = " ".join(f"{name}={value}" for name, value in pairs if value)
        return f"{kind} {f'[{options}] ' if options else ''}{self.uri} {self.name} {' '.join(self.components)}"


@dataclass(frozen=True)
class Offer:
    """A file in the archive that holds a source: of a kernel, or of a program."""

    package: str
    version: str
    """The Debian version: ``6.12.117-1~deb12u1``."""
    filename: str
    sha256: str
    size: int
    state: str
    """The state that knows it: ``configured``, ``sources``, ``wide`` or ``images``."""

    @property
    def upstream(self) -> str:
        return _upstream(self.version)

    def answers(self, wanted: str) -> bool:
        """Whether this is what ``6.12`` (series), ``6.12.8`` (release) or ``6.12.8-1`` (Debian version) asks for."""
        return answers(self.version, wanted)


def answers(version: str, wanted: str) -> bool:
    """Whether a Debian version is what ``6.12``, ``6.12.8`` or ``6.12.8-1`` asks for."""
    if wanted in (version, _upstream(version)):
        return True
    return re.fullmatch(r"\d+\.\d+", wanted) is not None and _series(version) == wanted


def _upstream(version: str) -> str:
    return version.split(":")[-1].rsplit("-", 1)[0]


def _series(version: str) -> str:
    parsed = Version.parse(version)
    return f"{parsed.major}.{parsed.minor}"


def configured_suites(etc: Path = ETC, os_release: Path = OS_RELEASE) -> tuple[Suite, ...]:
    """The suites of the running release in the machine's apt sources. InfraError when there is none."""
    codename = _codename(os_release)
    found = [
        suite
        for suite in _read_sources(etc)
        if codename and (suite.name == codename or suite.name.startswith(f"{codename}-"))
    ]
    if not found:
        raise InfraError(
            f"no Debian suite ({codename or 'no VERSION_CODENAME in os-release'}) in this machine's apt sources;"
            " add one to /etc/apt/sources.list.d, or use a dir:, git: or tar: source"
        )
    return tuple(dict.fromkeys(found))


def _codename(os_release: Path) -> str:
    try:
        match = re.search(r"^VERSION_CODENAME=\"?([a-z]+)", os_release.read_text(), re.M)
    except OSError:
        return ""
    return match[1] if match else ""


def _read_sources(etc: Path) -> Iterator[Suite]:
    parts = etc / "sources.list.d"
    for path in sorted([etc / "sources.list", *parts.glob("*.list")]):
        if path.is_file():
            yield from _one_line(path.read_text(errors="replace"))
    for path in sorted(parts.glob("*.sources")):
        yield from _deb822(path.read_text(errors="replace"))


def _one_line(text: str) -> Iterator[Suite]:
    """``deb [signed-by=KEY arch=A] URI SUITE COMPONENT…``."""
    for line in text.splitlines():
        if match := re.match(r"deb\s+(?:\[([^]]*)\]\s+)?(\S+)\s+(\S+)\s+([^#]+)", line.strip()):
            key = re.search(r"signed-by=(\S+)", match[1] or "")
            yield Suite(match[2].rstrip("/"), match[3], tuple(match[4].split()), key[1] if key else "")


def _deb822(text: str) -> Iterator[Suite]:
    """Stanzas of ``Key: value`` with folded lines; comments may stand inside."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    for stanza in re.split(r"\n\s*\n", "\n".join(lines)):
        fields = {
            match[1].lower(): " ".join(match[2].split())
            for match in re.finditer(r"^(\S+):((?:.*\n?)(?:[ \t].*\n?)*)", stanza + "\n", re.M)
        }
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() in ("no", "false"):
            continue
        # a key may be given inline; only a path can be passed on, apt's trusted keys serve otherwise
        key = fields.get("signed-by", "")
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                components = tuple(fields.get("components", "").split())
                yield Suite(uri.rstrip("/"), suite, components, key if key.startswith("/") else "")


def wide_suites(configured: Iterable[Suite]) -> tuple[Suite, ...]:
    """The same archives' other suites: security suites live in an archive of their own."""
    plain = [suite for suite in configured if not suite.name.endswith("-security")]
    security = [suite for suite in configured if suite.name.endswith("-security")]
    return tuple(
        Suite(host.uri, name, ("main",), host.signed_by)
        for name in WIDE_SUITES
        for host in (security if name.endswith("-security") else plain)[:1]
    )


class Archive:
    """Debian's archive as seen through private apt states under ``root``; files land in ``downloads``."""

    def __init__(self, root: Path, downloads: Path, locks: Path, events: Sink) -> None:
        self._root = root
        self._downloads = downloads
        self._locks = locks
        self._events = events
        self._refreshed: set[str] = set()

    def newest(self, wanted: str, *, update: bool) -> Offer:
        """The newest offer for a series, a release or a Debian version that can be had; it is downloaded then.

        Lists name files for a while after they have left the pool; an older one is taken instead, and that is told.
        Raises as ``find`` and ``fetch`` do.
        """
        offers = self.find(wanted, update=update)
        for offer, older in pairwise(offers):
            try:
                self.fetch(offer)
            except GoneError as error:
                self._events(Notice(f"{error.listed}, but its file is gone; taking {older.version}"))
            else:
                return offer
        self.fetch(offers[-1])
        return offers[-1]

    def find(self, wanted: str, *, update: bool) -> list[Offer]:
        """The offers for a series, a release or a Debian version, newest first, of the first suites that have any.

        Configured suites come first. Raises UserError when no suite has one, InfraError when the lists cannot be read.
        """
        command.require("apt-get", "apt-cache", "dpkg")
        with locked(self._locks / "apt.lock", what="reads the archive's lists", events=self._events):
            seen: list[Offer] = []
            for state in ("configured", "wide"):
                self._prepare(state, update=update, newest=re.fullmatch(r"\d+\.\d+", wanted) is not None)
                offers = self._offers(state, wanted)
                if not any(offer.answers(wanted) for offer in offers) and self._refresh(state):
                    offers = self._offers(state, wanted)
                seen += offers
                if matching := [offer for offer in offers if offer.answers(wanted)]:
                    return sorted(matching, key=cmp_to_key(_compare), reverse=True)
        near = sorted(
            {offer.upstream for offer in seen if _series(offer.version) == _series(wanted)}, key=Version.parse
        )
        have = f"; of {_series(wanted)} it has {', '.join(near)}" if near else f"; it has no {_series(wanted)} at all"
        raise UserError(f"debian:{wanted}: the archive has no such kernel{have}")

    def find_source(self, package: str, upstream: str) -> Offer:
        """The pristine tarball of a source package's upstream version; the machine's own suites come first.

        Raises InfraError when no suite has it, or the archive cannot be read.
        """
        command.require("apt-get", "apt-cache", "dpkg")
        with locked(self._locks / "apt.lock", what="reads the archive's lists", events=self._events):
            for state in ("sources", "wide"):
                self._prepare(state, update=False, newest=False)
                offers = self._source_offers(state, package)
                if not any(offer.upstream == upstream for offer in offers) and self._refresh(state):
                    offers = self._source_offers(state, package)
                if matching := [offer for offer in offers if offer.upstream == upstream]:
                    return max(matching, key=cmp_to_key(_compare))
        raise InfraError(f"no suite of the archive has the source package {package} {upstream}")

    def lists(self, state: str, *, update: bool) -> Iterator[tuple[str, str]]:
        """Suite and text of each list of packages that a state has; the lists are read again when a day is over.

        Raises InfraError when the archive cannot be read.
        """
        command.require("apt-get", HELPER)
        kind = "Sources" if state in ("wide", "sources") else "Packages"
        with locked(self._locks / "apt.lock", what="reads the archive's lists", events=self._events):
            self._prepare(state, update=update, newest=True)
            words = ["indextargets", "--format", "$(RELEASE) $(FILENAME)", f"Created-By: {kind}"]
            done = command.run(["apt-get", *self._options(state), *words], limit=UPDATE_LIMIT)
            for line in done.text.splitlines():
                suite, _, path = line.partition(" ")
                # decompresses as apt itself does
                yield suite, command.run([HELPER, "cat-file", path], limit=UPDATE_LIMIT).text

    def stamp(self, state: str) -> int:
        """When the lists of a state were last read (ns since the epoch); 0: never, or longer than a day ago."""
        try:
            changed = (self._root / state / "updated").stat().st_mtime_ns
        except FileNotFoundError:
            return 0
        return changed if time.time_ns() - changed < FRESH * 1e9 else 0

    def fetch(self, offer: Offer) -> Path:
        """Download an offer (or find it downloaded) and check it; the path is complete and as the lists say."""
        path = self._downloads / offer.filename
        with locked(self._locks / f"{offer.filename}.lock", what=f"downloads {offer.filename}", events=self._events):
            if path.exists():
                if sha256(path) == offer.sha256:
                    return path
                self._events(Notice(f"{path.name} is not what the archive's list says; downloading it again"))
                path.unlink()
            # apt resumes what it finds here after an interruption
            incoming = self._downloads / f"incoming-{offer.sha256[:16]}"
            incoming.mkdir(parents=True, exist_ok=True)
            self._download(offer, incoming)
            arrived = incoming / offer.filename
            if not arrived.exists() or sha256(arrived) != offer.sha256:
                arrived.unlink(missing_ok=True)
                raise InfraError(f"{offer.filename} arrived damaged and was thrown away; try again")
            arrived.rename(path)
            _remove(incoming)
        return path

    def _download(self, offer: Offer, incoming: Path) -> None:
        self._events(Phase("source", f"downloading {offer.filename}"))
        errors: list[str] = []

        def on_line(line: str) -> None:
            if match := re.match(r"dlstatus:\d+:([\d.]+):", line):
                self._events(Progress(int(offer.size * float(match[1]) / 100), offer.size, "bytes"))
            elif line.startswith(("E: ", "Err:")) or " 404 " in line:
                errors.append(line.strip())

        name = f"{offer.package}={offer.version}"
        binary = offer.state in BINARY
        verb = ["download", name] if binary else ["source", "--download-only", "--tar-only", name]
        argv = ["apt-get", *self._options(offer.state), "-o", "APT::Status-Fd=1", *verb]
        status = command.follow(argv, cwd=incoming, limit=DOWNLOAD_LIMIT, on_line=on_line)
        if status == 0:
            return
        if any("404" in line for line in errors):
            raise GoneError(f"the archive lists {offer.package} {offer.version}")
        if any("space" in line for line in errors):
            raise InfraError(f"no space left on the disk of {incoming} for {offer.size >> 20} MiB of {offer.filename}")
        raise InfraError(f"download of {offer.filename} failed: {errors[0] if errors else f'apt-get exited {status}'}")

    def _options(self, state: str) -> list[str]:
        folder = self._root / state
        pairs = {
            "Dir::State::Lists": folder / "lists",
            "Dir::Cache": folder / "cache",
            "Dir::Etc::SourceList": folder / "sources.list",
            "Dir::Etc::SourceParts": "/dev/null",
            # without them, apt parses all lists for each question; a machine's apt.conf may leave them out
            "Dir::Cache::pkgcache": "pkgcache.bin",
            "Dir::Cache::srcpkgcache": "srcpkgcache.bin",
            "Acquire::Languages": "none",
            # the state belongs to whoever runs kproof, and apt's own user cannot enter a home folder
            "APT::Sandbox::User": "root",
        }
        return [word for name, value in pairs.items() for word in ("-o", f"{name}={value}")]

    def _prepare(self, state: str, *, update: bool, newest: bool) -> None:
        configured = configured_suites()
        kind = "deb" if state in BINARY else "deb-src"
        suites = wide_suites(configured) if state in WIDE else configured
        arch = "amd64" if state == "images" else ""
        folder = self._root / state
        text = "".join(suite.line(kind, arch) + "\n" for suite in suites).encode()
        sources = folder / "sources.list"
        stamp = folder / "updated"
        for needed in ("lists/partial", "cache/archives/partial"):
            (folder / needed).mkdir(parents=True, exist_ok=True)
        if not sources.exists() or sources.read_bytes() != text:
            stamp.unlink(missing_ok=True)
            write(sources, text)
        age = time.time() - stamp.stat().st_mtime if stamp.exists() else float("inf")
        if update or age == float("inf") or (newest and age > FRESH):
            self._refresh(state)

    def _refresh(self, state: str) -> bool:
        """Read the lists again; False when this object has done so already."""
        if state in self._refreshed:
            return False
        self._refreshed.add(state)
        folder = self._root / state
        if (free := shutil.disk_usage(folder).free >> 20) < LISTS_MB:  # apt 2.6 neither ends nor complains then
            raise full(folder, f"only {free} MB left for the archive's lists, which can take {LISTS_MB},")
        argv = ["apt-get", *self._options(state), "update"]
        done = command.run(argv, limit=UPDATE_LIMIT, check=False)
        complaints = [line for line in done.err.decode(errors="replace").splitlines() if line.startswith("E: ")]
        if not any((folder / "lists").glob("*Release")):
            raise InfraError(f"the Debian archive cannot be read: {complaints[0] if complaints else done.complaint}")
        for line in complaints:
            if match := re.search(r"repository '(\S+) (\S+) ", line):
                self._events(Notice(f"suite {match[2]} is not in the archive; going on without it"))
            else:
                self._events(Notice(f"apt: {line.removeprefix('E: ')}"))
        write(folder / "updated", b"")
        return True

    def _offers(self, state: str, wanted: str) -> list[Offer]:
        if state != "configured":
            return self._source_offers(state, "linux")
        stanzas = self._stanzas(state, "show", f"linux-source-{_series(wanted)}")
        return [offer for stanza in stanzas if (offer := binary_offer(stanza, state))]

    def _source_offers(self, state: str, package: str) -> list[Offer]:
        stanzas = self._stanzas(state, "showsrc", "--only-source", package)
        return [offer for stanza in stanzas if (offer := source_offer(stanza, state))]

    def _stanzas(self, state: str, *words: str) -> list[str]:
        done = command.run(["apt-cache", *self._options(state), *words], limit=UPDATE_LIMIT, check=False)
        # exit 100: no such package, which is an answer
        if done.status not in (0, 100):
            raise InfraError(f"apt-cache failed: {done.complaint}")
        return [stanza for stanza in done.text.split("\n\n") if stanza.strip()]


def field(stanza: str, name: str) -> str:
    match = re.search(rf"^{name}:[ \t]*(.*(?:\n[ \t].*)*)", stanza, re.M)
    return match[1].strip() if match else ""


def binary_offer(stanza: str, state: str) -> Offer | None:
    filename = Path(field(stanza, "Filename")).name
    # an installed package that no list knows has no file
    if not filename:
        return None
    return Offer(
        package=field(stanza, "Package"),
        version=field(stanza, "Version"),
        filename=filename,
        sha256=field(stanza, "SHA256"),
        size=int(field(stanza, "Size")),
        state=state,
    )


def source_offer(stanza: str, state: str) -> Offer | None:
    for line in field(stanza, "Checksums-Sha256").splitlines():
        checksum, size, name = line.split()
        if re.search(r"\.orig\.tar\.\w+$", name):
            return Offer(field(stanza, "Package"), field(stanza, "Version"), name, checksum, int(size), state)
    return None


def _compare(one: Offer, other: Offer) -> int:
    if one.version == other.version:
        return 0
    argv = ["dpkg", "--compare-versions", one.version, "gt", other.version]
    return 1 if command.run(argv, limit=30, check=False).status == 0 else -1


def _remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
