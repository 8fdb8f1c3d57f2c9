"""Debian's archive, with an apt in miniature: which suites, which versions, what an interrupted download leaves."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.errors import InfraError, UserError
from harness.events import Event, Notice, Progress
from harness.kernel import archive
from harness.kernel.archive import Archive, Offer, Suite, configured_suites, wide_suites

from .conftest import write

DEB822 = """# the archive
Types: deb deb-src
# a comment inside
URIs: http://mirror.example/debian/
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/k.gpg

Types: deb
URIs: http://mirror.example/security
Suites: bookworm-security
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 xxxx

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main

Types: deb
URIs: http://tool.example/apt
Suites: tool-bookworm
Components: main
"""


@pytest.fixture
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "etc"
    write(folder / "sources.list.d/debian.sources", DEB822)
    write(
        folder / "sources.list",
        "# x\ndeb [arch=amd64 signed-by=/k.gpg] http://old.example/debian bookworm-backports main # y\n"
        "deb-src http://old.example/debian bookworm main\n",
    )
    release = write(tmp_path / "os-release", 'ID=debian\nVERSION_CODENAME="bookworm"\n')
    monkeypatch.setattr(archive, "configured_suites", lambda: configured_suites(folder, release))
    return folder


def suites(etc: Path) -> tuple[Suite, ...]:
    return configured_suites(etc, etc.parent / "os-release")


def test_suites_come_from_both_formats(etc: Path) -> None:
    assert suites(etc) == (
        Suite("http://old.example/debian", "bookworm-backports", ("main",), "/k.gpg"),
        Suite("http://mirror.example/debian", "bookworm", ("main", "contrib"), "/usr/share/keyrings/k.gpg"),
        Suite("http://mirror.example/debian", "bookworm-updates", ("main", "contrib"), "/usr/share/keyrings/k.gpg"),
        Suite("http://mirror.example/security", "bookworm-security", ("main",)),
    )


def test_other_suites_are_where_the_machine_has_its_own(etc: Path) -> None:
    wide = {suite.name: suite.uri for suite in wide_suites(suites(etc)[1:])}
    assert wide["sid"] == "http://mirror.example/debian"
    assert wide["trixie-security"] == "http://mirror.example/security"
    assert list(wide) == list(archive.WIDE_SUITES)


def test_a_machine_without_debian_suites(tmp_path: Path) -> None:
    write(tmp_path / "etc/sources.list.d/x.sources", DEB822.replace("bookworm", "jammy"))
    with pytest.raises(InfraError, match="no Debian suite"):
        configured_suites(tmp_path / "etc", write(tmp_path / "os-release", "VERSION_CODENAME=bookworm\n"))


@pytest.mark.parametrize(
    ("wanted", "yes"),
    [
        ("6.12", True),
        ("6.12.8", True),
        ("6.12.8-1~bpo12+1", True),
        ("6.12.8-1", False),
        ("6.12.80", False),
        ("6.1", False),
        ("6.13", False),
    ],
)
def test_what_an_offer_answers(wanted: str, yes: bool) -> None:
    assert Offer("linux", "6.12.8-1~bpo12+1", "f", "", 0, "wide").answers(wanted) is yes


CONTENT = b"a tarball, so to say"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def stanza(version: str) -> str:
    return f"""Package: linux-source-6.12
Version: {version}
Filename: pool/main/l_{version}_all.deb
Size: 20
SHA256: {SHA256}

"""


SOURCES = f"""Package: linux
Version: 6.12.8-1
Checksums-Sha256:
 {SHA256} 20 linux_6.12.8.orig.tar.xz
 00 5 linux_6.12.8-1.debian.tar.xz

"""

APT_CACHE = """#!/bin/sh
case "$*" in
*"show linux-source-6.12")
	[ -e "$STATE/new" ] && cat "$STATE/newest"
	cat "$STATE/binaries" ;;
*/sources/lists*showsrc*) [ -e "$STATE/no-sources" ] || cat "$STATE/sources" ;;
*showsrc*) cat "$STATE/sources" ;;
*) echo "N: Unable to locate package" >&2; exit 100 ;;
esac
"""

APT_GET = """#!/bin/sh
echo "$@" >> "$STATE/calls"
for word; do case "$word" in Dir::State::Lists=*) lists=${word#*=} ;; l*=*) name=$word ;; esac; done
case "$*" in
*" update")
	[ -e "$STATE/offline" ] && { echo "E: Could not resolve 'mirror.example'" >&2; exit 100; }
	touch "$lists/bookworm_InRelease"
	case "$lists" in *wide*)
	echo "E: The repository 'http://mirror.example/debian forky Release' does not have a Release file." >&2
	exit 100 ;; esac ;;
*download*)
	case "$name" in linux=*) file=linux_6.12.8.orig.tar.xz ;; *) file=l_${name#*=}_all.deb ;; esac
	[ -e "$STATE/gone" ] && case "$name" in *"$(cat "$STATE/gone")"*) echo "  404  Not Found"; exit 100 ;; esac
	echo "dlstatus:1:50.0:Retrieving file 1 of 1"
	case "$(cat "$STATE/order" 2>/dev/null)" in
	gone) echo "  404  Not Found"; echo "E: Failed to fetch"; exit 100 ;;
	cut) printf 'a tar' > "$file"; echo "E: Failed to fetch connection lost"; exit 100 ;;
	damaged) printf 'something else 12345' > "$file" ;;
	*) [ -e "$file" ] && echo resumed >> "$STATE/calls"; printf 'a tarball, so to say' > "$file" ;;
	esac ;;
esac
"""


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, etc: Path) -> Path:
    """A folder of orders to an apt in miniature, and of what it was asked."""
    import os

    state = tmp_path / "apt"
    for name, text in (("apt-get", APT_GET), ("apt-cache", APT_CACHE)):
        write(tmp_path / "bin" / name, text).chmod(0o755)
    write(state / "newest", stanza("6.12.120-1"))
    write(state / "binaries", stanza("6.12.9-1") + stanza("6.12.117-1"))
    write(state / "sources", SOURCES)
    monkeypatch.setenv("STATE", str(state))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return state


def open_archive(tmp_path: Path, events: list[Event]) -> Archive:
    return Archive(tmp_path / "cache/apt", tmp_path / "cache/downloads", tmp_path / "cache/locks", events.append)


def test_the_newest_of_a_series_is_by_version_not_by_text(tmp_path: Path, apt: Path, events: list[Event]) -> None:
    assert open_archive(tmp_path, events).find("6.12", update=False)[0].version == "6.12.117-1"
    assert open_archive(tmp_path, events).find("6.12.9", update=False)[0].version == "6.12.9-1"


def test_other_suites_have_the_pristine_tree(tmp_path: Path, apt: Path, events: list[Event]) -> None:
    source = open_archive(tmp_path, events)
    offer = source.find("6.12.8", update=False)[0]
    assert (offer.state, offer.filename) == ("wide", "linux_6.12.8.orig.tar.xz")
    assert events == [Notice("suite forky is not in the archive; going on without it")]
    assert source.fetch(offer).read_bytes() == CONTENT
    assert "source --download-only --tar-only linux=6.12.8-1" in (apt / "calls").read_text()


@pytest.mark.parametrize("state", ["sources", "wide"])
def test_a_source_package_is_the_machines_own_before_others(
    tmp_path: Path, apt: Path, events: list[Event], state: str
) -> None:
    if state == "wide":
        write(apt / "no-sources", "")
    source = open_archive(tmp_path, events)
    offer = source.find_source("linux", "6.12.8")
    assert (offer.package, offer.version, offer.state) == ("linux", "6.12.8-1", state)
    assert (apt / "calls").read_text().count(" update") == (1 if state == "sources" else 2)
    assert source.fetch(offer).read_bytes() == CONTENT
    assert "source --download-only --tar-only linux=6.12.8-1" in (apt / "calls").read_text()
    suites = (tmp_path / "cache/apt/sources/sources.list").read_text()
    assert "deb-src [signed-by=/usr/share/keyrings/k.gpg] http://mirror.example/debian bookworm main" in suites
    assert "sid" not in suites


def test_a_source_package_that_is_nowhere(tmp_path: Path, apt: Path, events: list[Event]) -> None:
    with pytest.raises(InfraError, match=r"no suite of the archive has the source package linux 6\.12\.9$"):
        open_archive(tmp_path, events).find_source("linux", "6.12.9")


def test_a_version_that_is_nowhere(tmp_path: Path, apt: Path, events: list[Event]) -> None:
    with pytest.raises(UserError, match=r"no such kernel; of 6\.12 it has 6\.12\.8, 6\.12\.9, 6\.12\.117$"):
        open_archive(tmp_path, events).find("6.12.10", update=False)[0]
    with pytest.raises(UserError, match=r"it has no 6\.99 at all"):
        open_archive(tmp_path, events).find("6.99", update=False)[0]


def test_no_network(tmp_path: Path, apt: Path, events: list[Event]) -> None:
    (apt / "offline").touch()
    with pytest.raises(InfraError, match="archive cannot be read: E: Could not resolve"):
        open_archive(tmp_path, events).find("6.12", update=False)[0]


def test_lists_are_not_read_onto_a_full_disk(
    tmp_path: Path, apt: Path, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise: one line at once. apt would hang: seen with 2.6.1 and a disk of 40 MB."""
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=40 << 20))
    with pytest.raises(InfraError, match=r"only 40 MB left for the archive's lists, .* on the disk of .*; free some"):
        open_archive(tmp_path, events).find("6.12", update=False)
    assert not (apt / "calls").exists()


def test_a_download_is_kept(tmp_path: Path, apt: Path, events: list[Event]) -> None:
    source = open_archive(tmp_path, events)
    offer = source.find("6.12", update=False)[0]
    path = source.fetch(offer)
    assert path.read_bytes() == CONTENT
    assert Progress(10, 20, "bytes") in events
    calls = (apt / "calls").read_text()
    assert source.fetch(offer) == path
    assert (apt / "calls").read_text() == calls
    assert sorted(child.name for child in path.parent.iterdir()) == [path.name]


def test_an_interrupted_download_is_not_used_and_resumes(tmp_path: Path, apt: Path, events: list[Event]) -> None:
    source = open_archive(tmp_path, events)
    offer = source.find("6.12", update=False)[0]
    write(apt / "order", "cut")
    with pytest.raises(InfraError, match=r"download of .* failed: E: Failed to fetch connection lost"):
        source.fetch(offer)
    assert not list((tmp_path / "cache/downloads").glob("*.deb"))
    (apt / "order").unlink()
    assert source.fetch(offer).read_bytes() == CONTENT
    assert "resumed" in (apt / "calls").read_text()


def test_a_damaged_download_is_thrown_away(tmp_path: Path, apt: Path, events: list[Event]) -> None:
    source = open_archive(tmp_path, events)
    offer = source.find("6.12", update=False)[0]
    write(apt / "order", "damaged")
    with pytest.raises(InfraError, match="arrived damaged"):
        source.fetch(offer)
    assert not list((tmp_path / "cache/downloads").rglob("*.deb"))


def test_a_kept_file_that_has_changed_is_not_used(tmp_path: Path, apt: Path, events: list[Event]) -> None:
    source = open_archive(tmp_path, events)
    offer = source.find("6.12", update=False)[0]
    source.fetch(offer).write_bytes(b"rotten")
    assert source.fetch(offer).read_bytes() == CONTENT
    assert any("downloading it again" in event.text for event in events if isinstance(event, Notice))


def test_a_version_that_left_the_pool(tmp_path: Path, apt: Path, events: list[Event]) -> None:
    source = open_archive(tmp_path, events)
    offer = source.find("6.12", update=False)[0]
    write(apt / "order", "gone")
    with pytest.raises(InfraError, match=r"lists linux-source-6\.12 6\.12\.117-1, but its file is gone from the pool"):
        source.fetch(offer)


def test_an_older_version_is_taken_when_the_newest_has_left_the_pool(
    tmp_path: Path, apt: Path, events: list[Event]
) -> None:
    write(apt / "gone", "6.12.117-1")
    offer = open_archive(tmp_path, events).newest("6.12", update=False)
    assert offer.version == "6.12.9-1"
    told = "the archive lists linux-source-6.12 6.12.117-1, but its file is gone; taking 6.12.9-1"
    assert Notice(told) in events
    write(apt / "gone", "6.12")
    (tmp_path / "cache/downloads" / offer.filename).unlink()
    with pytest.raises(InfraError, match=r"lists linux-source-6\.12 6\.12\.9-1, but its file is gone from the pool"):
        open_archive(tmp_path, events).newest("6.12", update=False)


@pytest.mark.usefixtures("apt")
def test_what_is_downloaded_is_preferred_until_update(
    cache: Path, apt: Path, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.kernel.layout import Layout
    from harness.kernel.source import locate

    def label(*, update: bool = False) -> str:
        return locate("debian:6.12", layout=Layout.default(), events=events.append, update=update).source.label

    assert label() == "debian 6.12.117-1"
    (apt / "new").touch()
    calls = (apt / "calls").read_text()
    assert label() == "debian 6.12.117-1"
    assert (apt / "calls").read_text() == calls
    assert label(update=True) == "debian 6.12.120-1"
    assert label() == "debian 6.12.120-1"
