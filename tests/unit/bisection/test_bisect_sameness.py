"""What is known of two commits' kernels without a build."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.bisect.sameness import Change, files_read, same_code, without_comments

CODE = b"""\
/* netkit */
#define TWICE(x) \\
\t((x) + (x)) // of x
int f(void)
{
\treturn TWICE(1); /* two
\t                    lines */
}
"""


def change(path: str, before: bytes = b"a", after: bytes = b"b", *, modified: bool = True) -> Change:
    return Change(path, modified, lambda: (before, after))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"/* netkit */\n", b""),
        (b"// of x", b""),
        (b"/* netkit */", b"/* another\n word, with \" and ' */"),
        (b"{\n", b"{\n\n\n"),
        (b"\treturn", b"        return"),
        (b"void)\n", b"void)   /* x */   \n"),
    ],
)
def test_comments_and_blanks_are_nothing(old: bytes, new: bytes) -> None:
    assert old in CODE
    assert without_comments(CODE) == without_comments(CODE.replace(old, new))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b'char *s = "/* a */";', b'char *s = "/* b */";'),
        (b'char *s = "a  b";', b'char *s = "a b";'),
        (b"#define F (x)", b"#define F(x)"),
        (b"#define A 1\nint b;", b"#define A 1 int b;"),
        (b"a /* */ b;", b"ab;"),
        (b"int c = '\"'; /* x */ int d;", b"int c = '\"'; /* x */ int e;"),
        (b"x = a /b; /* c */", b"x = a //b; /* c */"),
        (b'#error "a\n/* x */ b', b'#error "a\n/* x */ c'),
    ],
)
def test_all_else_is_something(one: bytes, other: bytes) -> None:
    assert without_comments(one) != without_comments(other)


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("Documentation/networking/netkit.rst", "differs only in documents"),
        ("MAINTAINERS", "differs only in documents"),
        ("arch/arm64/kernel/setup.c", "differs only in other architectures"),
        ("drivers/usb/core/hub.c", "differs only in files that are not built"),
    ],
)
def test_what_no_build_reads(path: str, why: str) -> None:
    assert same_code([change(path)], {"drivers/net/netkit.c"}) == why


@pytest.mark.parametrize(
    "one",
    [
        change("drivers/net/netkit.c"),
        change("Documentation/Kconfig"),
        change("arch/arm64/Kconfig.debug"),
        change("arch/Kconfig"),
        change("arch/x86/kernel/setup.c"),
        change("drivers/net/Makefile", b"a", b"a # b"),
        change("include/net/new.h", modified=False),
        change("scripts/mod/modpost.c"),
        change("tools/objtool/check.c", b"/* a */", b"/* b */"),
        change("arch/x86/entry/syscalls/syscall_64.tbl"),
    ],
)
def test_what_a_build_may_read(one: Change) -> None:
    read = {"drivers/net/netkit.c", "arch/x86/kernel/setup.c"}
    assert same_code([change("MAINTAINERS"), one], read) == ""


def test_a_comment_in_a_file_that_is_built() -> None:
    one = change("drivers/net/netkit.c", CODE, CODE.replace(b"netkit", b"another\n * line"))
    assert same_code([one], None) == same_code([one], {one.path}) == "differs only in comments"


def test_without_records_only_comments_are_harmless() -> None:
    assert same_code([change("drivers/usb/core/hub.c")], None) == ""


def test_the_same_files() -> None:
    assert same_code([], None) == "has the same files"


def test_a_large_difference_is_not_looked_at() -> None:
    assert same_code([change(f"Documentation/{number}.rst") for number in range(1000)], None) == ""


def test_the_records_of_kbuild(tmp_path: Path) -> None:
    (tmp_path / "drivers").mkdir()
    (tmp_path / "drivers" / ".netkit.o.cmd").write_text(
        "savedcmd_drivers/netkit.o := gcc -I../include -c -o drivers/netkit.o ../drivers/net/netkit.c\n\n"
        "source_drivers/netkit.o := ../drivers/net/netkit.c\n\n"
        "deps_drivers/netkit.o := \\\n"
        "    $(wildcard include/config/NETKIT) \\\n"
        "  ../include/linux/compiler-version.h \\\n"
        "  ../arch/x86/include/asm/../lib/inat.h \\\n"
        "  include/generated/autoconf.h \\\n"
    )
    assert files_read(tmp_path) == {
        "drivers/net/netkit.c",
        "include/linux/compiler-version.h",
        "arch/x86/include/lib/inat.h",
    }
