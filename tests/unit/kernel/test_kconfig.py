"""Expressions, Kconfig files and the proof of a configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import UserError
from harness.kernel import fragments
from harness.kernel.kconfig import prove
from harness.kernel.kconfig_tree import parse_expr, read_tree
from harness.model import Version

from .conftest import write

CONFIG = {"A": "y", "M": "m", "NUM": "12", "TEXT": "gcc"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("A", 2),
        ("B", 0),
        ("M", 1),
        ("!A", 0),
        ("!M", 1),
        ("A && M", 1),
        ("A && B || M", 1),
        ("A && (B || M)", 1),
        ("B || A && M", 1),
        ("A = y", 2),
        ("A=n", 0),
        ("A != n && M", 1),
        ("B = n", 2),
        ("M = M", 2),
        ("NUM >= 12", 2),
        ("NUM > 100", 0),
        ('TEXT = "gcc"', 2),
        ("$(cc-option,-fx (y))", None),
        ("B && $(success,true)", 0),
        ("A || $(success,true)", 2),
        ("A && $(success,true)", None),
    ],
)
def test_expressions(text: str, value: int | None) -> None:
    assert parse_expr(text).value(CONFIG) == value


@pytest.mark.parametrize("text", ["A &&", "(A", "A B", "!", "A = ", "&& A", "$(x"])
def test_what_is_no_expression(text: str) -> None:
    with pytest.raises(ValueError):
        parse_expr(text)


KCONFIG = """
mainmenu "test"

config BASE
	bool "base"
	select CHOSEN if WISH
	help
		Text that says: depends on NOTHING

		and config FAKE in a help text.

config WISH
	def_bool y

config CHOSEN
	bool

menu "Things"
	depends on BASE
	visible if EXPERT

config PLAIN
	bool "plain"
	depends on (ONE || \\
		TWO) && !BASE # a comment
	depends on $(cc-option,-fplain)

if THREE
config INSIDE
	tristate "inside"
endif

endmenu

choice
	prompt "one of"
	depends on BASE

config CHOICE_A
	bool "a"
endchoice

config HARD
	bool "hard" if EXPERT
	default y

config LONE
	bool
	depends on $(success,true)

config TOOL
	bool "tool"
	depends on $(success,false)

config TWICE
	bool "twice"
	depends on ONE

config TWICE
	bool "twice"
	depends on TWO && ONE

source "sub/$(SRCARCH)/Kconfig"
source "missing/Kconfig"
"""


@pytest.fixture
def top(tmp_path: Path) -> Path:
    write(tmp_path / "Kconfig", KCONFIG)
    write(tmp_path / "sub/x86/Kconfig", 'config DEEP\n\tbool "deep"\n\tdepends on BASE\n')
    return tmp_path


@pytest.mark.parametrize(
    ("symbol", "value", "config", "reason"),
    [
        (
            "PLAIN",
            "y",
            {"BASE": "y"},
            "it needs 'ONE || TWO' (now ONE=n, TWO=n) and '!BASE' (now BASE=y) (Kconfig:22)",
        ),
        ("INSIDE", "m", {}, "it needs BASE, which is n and THREE, which is n (Kconfig:29)"),
        ("CHOICE_A", "y", {}, "it needs BASE, which is n (Kconfig:39)"),
        ("DEEP", "y", {}, "it needs BASE, which is n (sub/x86/Kconfig:1)"),
        ("CHOSEN", "n", {"BASE": "y", "WISH": "y", "CHOSEN": "y"}, "got y because it is selected by BASE"),
        ("CHOSEN", "y", {}, "it has no prompt, only BASE can select it (Kconfig:15)"),
        ("LONE", "y", {}, "it has no prompt, only its default sets it"),
        ("HARD", "n", {"HARD": "y"}, "it can be changed only with EXPERT, which is n (Kconfig:43)"),
        ("TOOL", "y", {}, "it needs $(success,false) of this toolchain"),
        ("TWICE", "y", {}, "it needs ONE, which is n (Kconfig:55)"),
        ("FAKE", "y", {}, "this tree has no symbol FAKE"),
        ("PLANE", "y", {}, "no symbol PLANE; did you mean PLAIN?"),
    ],
)
def test_a_dropped_symbol_is_explained(top: Path, symbol: str, value: str, config: dict[str, str], reason: str) -> None:
    with pytest.raises(UserError) as caught:
        prove([(symbol, value)], config, top)
    assert f"Kconfig: {symbol}={value} was requested" in str(caught.value)
    assert reason in str(caught.value)


def test_all_dropped_symbols_are_said_at_once(top: Path) -> None:
    with pytest.raises(UserError) as caught:
        prove([("DEEP", "y"), ("BASE", "y"), ("TOOL", "y")], {"BASE": "y"}, top)
    assert [line.split()[1] for line in str(caught.value).splitlines()] == ["DEEP=y", "TOOL=y"]


def test_the_proof_has_every_symbol(top: Path) -> None:
    config = {"BASE": "y", "NUM": "0x10"}
    assert prove([("BASE", "y"), ("NUM", "16"), ("DEEP", "n")], config, top) == (
        ("BASE", "y"),
        ("NUM", "0x10"),
        ("DEEP", "n"),
    )


def test_unknown_symbols_off_are_wrong_only_when_a_user_wrote_them(top: Path) -> None:
    assert prove([("OLDER", "n")], {}, top) == (("OLDER", "n"),)
    with pytest.raises(UserError, match="no symbol OLDER"):
        prove([("OLDER", "n")], {}, top, named={"OLDER"})


def test_prompts_know_their_menu(top: Path) -> None:
    (entry,) = read_tree(top).entries["PLAIN"]
    assert [str(part) for part in entry.prompts[0]] == ["EXPERT"]


# --- fragments ------------------------------------------------------------------------------------------------------


def test_a_fragment(tmp_path: Path) -> None:
    path = write(
        tmp_path / "f.config",
        """# a comment
CONFIG_A=y
# CONFIG_B is not set
# versions: >=6.13
CONFIG_LATER=y
# versions: <6.13
CONFIG_EARLIER=y
CONFIG_TEXT="a b"
""",
    )
    assert fragments.read(path, Version(6, 12)) == {"A": "y", "B": "n", "EARLIER": "y", "TEXT": "a b"}


@pytest.mark.parametrize("line", ["CONFIG_A", "A=y", "CONFIG_A = y", "# versions: 6.1"])
def test_a_fragments_error_has_its_line(tmp_path: Path, line: str) -> None:
    path = write(tmp_path / "f.config", f"# first\n{line}\n")
    with pytest.raises(UserError, match=r"f\.config:2: "):
        fragments.read(path, Version(6, 12))


def test_what_is_rendered_is_read_back(tmp_path: Path) -> None:
    settings = {"A": "y", "B": "n", "C": "m", "NUM": "12", "HEX": "0x1f", "TEXT": "a b"}
    path = write(tmp_path / "f.config", fragments.render(list(settings.items())))
    assert fragments.read(path, Version(6, 12)) == settings
    assert fragments.parse_config(path.read_text()) == {k: v for k, v in settings.items() if v != "n"}


def test_settings() -> None:
    assert fragments.setting("CONFIG_NET=y") == ("NET", "y")
    assert fragments.setting('NAME="x y"') == ("NAME", "x y")
    assert fragments.merge([{"A": "y", "B": "y"}, {"A": "n"}]) == {"A": "n", "B": "y"}
    for wrong in ("NET", "=y", "NET-X=y"):
        with pytest.raises(UserError, match="write SYMBOL=value"):
            fragments.setting(wrong)
