"""The nouns: versions, ranges, and requests that survive being written down."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import UserError
from harness.model import Request, Version, VersionRange


def test_versions_are_ordered_by_number_not_by_text() -> None:
    texts = ["7.0", "6.12.117-1~deb12u1", "6.2", "6.12", "6.12.8", "5.10.259"]
    assert [str(v) for v in sorted(map(Version.parse, texts))] == [
        "5.10.259",
        "6.2.0",
        "6.12.0",
        "6.12.8",
        "6.12.117",
        "7.0.0",
    ]


@pytest.mark.parametrize(
    ("release", "build", "version"),
    [
        ("6.1.0-57-cloud-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-3 (2026-11-01)", "6.1.192"),
        ("6.1.0-57-cloud-amd64", "6.1.0-57-cloud-amd64 (a@b) #1 SMP Debian 6.1.192-3 (2026-11-01)", "6.1.192"),
        ("6.12.94+deb13-cloud-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.12.94-1 (2026-06-01)", "6.12.94"),
        ("6.12.117", "#1 SMP Sat Nov 28 14:50:00 UTC 2026", "6.12.117"),
        ("6.8.0-31-generic", "#31-Ubuntu SMP PREEMPT_DYNAMIC", "6.8.0"),
    ],
)
def test_version_of_a_kernel_is_what_it_is_made_from(release: str, build: str, version: str) -> None:
    assert str(Version.of_kernel(release, build)) == version


@pytest.mark.parametrize("text", ["", "six", "6", "6.12.8.1", ".6.1"])
def test_what_is_no_version_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="not a kernel version"):
        Version.parse(text)


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        (">=6.1,<6.2", "6.1.192", "6.2"),
        (">=6.12.114", "6.12.117", "6.12.113"),
        ("", "5.10", None),
        ("==6.12.8", "6.12.8", "6.12.9"),
        ("<=6.1", "6.1", "6.1.1"),
        (">6.1", "6.1.1", "6.1"),
    ],
)
def test_a_range_holds_what_all_its_terms_hold(text: str, inside: str, outside: str | None) -> None:
    assert Version.parse(inside) in VersionRange(text)
    assert outside is None or Version.parse(outside) not in VersionRange(text)


def test_a_malformed_range_says_which_term() -> None:
    with pytest.raises(UserError, match=r"'~6\.1'"):
        _ = Version.parse("6.1") in VersionRange("~6.1")


paths = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)
names = st.from_regex(r"[a-z_]{1,12}", fullmatch=True).filter(lambda name: name != "none")


@given(
    source=st.sampled_from(["debian:6.12", "git:/a b@v6.1", "dir:/x", "tar:/y.tar.xz", "kernel:0123abcd"]),
    series=st.none() | st.lists(names, max_size=3).map(tuple),
    patches=st.lists(paths, max_size=2).map(tuple),
    flavours=st.lists(names, max_size=2).map(tuple),
    configs=st.lists(paths, max_size=2).map(tuple),
    settings=st.lists(st.sampled_from(["NETKIT=n", "NR_CPUS=8", 'LOCALVERSION="-a b"']), max_size=2).map(tuple),
    upstream=st.just("") | paths,
)
def test_a_request_reads_back_as_it_was_written(**fields: object) -> None:
    request = Request(**fields)  # type: ignore[arg-type]
    assert Request.parse(str(request)) == request


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("debian:6.12 git:/x@y", "has one source"),
        ("netkit", "'netkit' is not understood"),
        ("debian:6.12 'x", "No closing quotation"),
        ("NETKIT", "'NETKIT' is not understood"),
    ],
)
def test_a_word_that_is_no_recipe_is_named(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        Request.parse(text)
