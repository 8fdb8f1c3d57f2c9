"""What the archive has, by lists of packages in miniature."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.errors import UserError
from harness.kernel.catalogue import Catalogue, images_of, sources_of
from harness.model import Version


def package(name: str, version: str, *, size: int = 30 << 20, depends: str = "libc6") -> str:
    return f"""Package: {name}
Version: {version}
Depends: {depends}
Filename: pool/main/l/{name}_{version}_amd64.deb
Size: {size}
SHA256: {name}-{version}

"""


def whole(version: str, abi: str, suffix: str = "") -> str:
    return package(f"linux-image-{abi}-cloud-amd64{suffix}", version)


def split(version: str, abi: str, *parts: str) -> str:
    """Since 6.19: an image without content and three parts, of which the archive has these."""
    names = [f"linux-{part}-{abi}-cloud-amd64" for part in ("base", "binary", "modules")]
    depends = ", ".join(["kmod", *(f"{name} (= {version})" for name in names)])
    text = package(f"linux-image-{abi}-cloud-amd64", version, size=2000, depends=depends)
    return text + "".join(package(f"linux-{part}-{abi}-cloud-amd64", version) for part in parts)


LISTS = [
    ("bullseye", whole("5.10.218-1", "5.10.0-30") + package("linux-libc-dev", "5.10.218-1")),
    (
        "trixie",
        whole("6.12.94-1", "6.12.94+deb13", "-unsigned")
        + whole("6.12.94-1", "6.12.94+deb13")
        + package("linux-image-6.12.94+deb13-amd64", "6.12.94-1")
        + package("linux-image-6.12.94+deb13-cloud-amd64-dbg", "6.12.94-1")
        # names the newest
        + package("linux-image-6.12-cloud-amd64", "6.12.117-1", size=1500, depends="linux-image-x (= 6.12.117-1)"),
    ),
    ("trixie-security", whole("6.12.94-1", "6.12.94+deb13") + whole("6.12.117-1", "6.12.117+deb13")),
    ("bookworm-backports", whole("6.12.94-1~bpo12+1", "6.12.94+deb12")),
    ("sid", split("7.2.13-1", "7.2.13+deb14", "base", "binary", "modules")),
    ("trixie-backports", split("7.1.3-1~bpo13+1", "7.1.3+deb13", "binary")),
]


class Lists:
    """An archive that counts how often its lists are read."""

    def __init__(self) -> None:
        self.read = 0

    def stamp(self, state: str) -> int:
        return self.read

    def lists(self, state: str, *, update: bool) -> Iterator[tuple[str, str]]:
        self.read += 1
        yield from LISTS


@pytest.fixture
def archive() -> Lists:
    return Lists()


@pytest.fixture
def catalogue(archive: Lists, tmp_path: Path) -> Catalogue:
    return Catalogue(archive, tmp_path)  # type: ignore[arg-type]


def test_images_newest_first_each_version_once() -> None:
    assert [(one.version, one.suites) for one in images_of(LISTS)] == [
        ("7.2.13-1", ("sid",)),
        ("7.1.3-1~bpo13+1", ("trixie-backports",)),
        ("6.12.117-1", ("trixie-security",)),
        ("6.12.94-1", ("trixie", "trixie-security")),
        ("6.12.94-1~bpo12+1", ("bookworm-backports",)),
        ("5.10.218-1", ("bullseye",)),
    ]


def test_the_signed_one_of_two() -> None:
    assert [one.package for one in images_of(LISTS) if one.version == "6.12.94-1"] == [
        "linux-image-6.12.94+deb13-cloud-amd64"
    ]


def test_a_kernel_in_parts_is_all_of_them() -> None:
    (newest, *_) = images_of(LISTS)
    assert [offer.package for offer in newest.files] == [
        "linux-base-7.2.13+deb14-cloud-amd64",
        "linux-binary-7.2.13+deb14-cloud-amd64",
        "linux-modules-7.2.13+deb14-cloud-amd64",
    ]
    assert newest.size == 90 << 20
    assert newest.release == Version(7, 2, 13)


@pytest.mark.parametrize(
    ("wanted", "version"),
    [("6.12", "6.12.117-1"), ("6.12.94", "6.12.94-1"), ("6.12.94-1~bpo12+1", "6.12.94-1~bpo12+1")],
)
def test_what_is_asked_for(catalogue: Catalogue, wanted: str, version: str) -> None:
    assert catalogue.image(wanted).version == version


def test_a_version_that_is_not_there_names_those_that_are(catalogue: Catalogue) -> None:
    with pytest.raises(UserError, match=r"of 6\.12 it has 6\.12\.94, 6\.12\.117; see kproof kernels available"):
        catalogue.image("6.12.8")
    with pytest.raises(UserError, match=r"it has none of 4\.19"):
        catalogue.image("4.19")


def test_a_kernel_whose_modules_are_gone_says_so(catalogue: Catalogue) -> None:
    with pytest.raises(UserError, match=r"in part: no linux-base-7.1.3.*, linux-modules-7.1.3") as caught:
        catalogue.image("7.1.3")
    assert "\n" not in str(caught.value)


def test_lists_are_read_once(catalogue: Catalogue, archive: Lists, tmp_path: Path) -> None:
    first = catalogue.images()
    assert Catalogue(archive, tmp_path).images() == first  # type: ignore[arg-type]
    assert archive.read == 1
    catalogue.images(update=True)
    assert archive.read == 2


def test_sources_are_the_pristine_tarballs() -> None:
    stanza = """Package: linux
Version: 6.12.8-1
Checksums-Sha256:
 aa 100 linux_6.12.8.orig.tar.xz
 bb 5 linux_6.12.8-1.debian.tar.xz

Package: linux-signed-amd64
Version: 6.12.8+1
Checksums-Sha256:
 cc 7 linux-signed-amd64_6.12.8+1.tar.xz
"""
    (listed,) = sources_of([("sid", stanza), ("forky", stanza)])
    assert (listed.version, listed.suites, listed.size) == ("6.12.8-1", ("sid", "forky"), 100)
