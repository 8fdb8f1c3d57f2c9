"""Kconfig fragments: what is requested of a configuration, before make sees it.

A fragment has the lines of a ``.config``: ``CONFIG_X=value``, ``# CONFIG_X is not set``, comments. A comment
``# versions: >=6.6,<6.13`` limits the one setting after it to trees of those versions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from harness.errors import UserError
from harness.kernel.files import read_user_file
from harness.model import Version, VersionRange

Settings = dict[str, str]
"""Symbol without ``CONFIG_`` to value; ``n`` for "not set"; a text without its quotes."""


def read(path: Path, version: Version) -> Settings:
    """The settings of a fragment for a tree of ``version``. UserError with file and line for a line that is none."""
    settings: Settings = {}
    condition: VersionRange | None = None
    for number, line in enumerate(read_user_file(path, "config").decode(errors="replace").splitlines(), 1):
        try:
            if match := re.fullmatch(r"#\s*versions:\s*(.+?)\s*", line):
                condition = VersionRange(match[1])
                _ = version in condition
                continue
            if (setting := _line(line)) is None:
                continue
            if condition is None or version in condition:
                settings[setting[0]] = setting[1]
            condition = None
        except UserError as error:
            raise UserError(f"{path}:{number}: {error}") from None
    return settings


def _line(line: str) -> tuple[str, str] | None:
    line = line.strip()
    if match := re.fullmatch(r"#\s*CONFIG_(\w+) is not set", line):
        return match[1], "n"
    if not line or line.startswith("#"):
        return None
    if match := re.fullmatch(r"CONFIG_(\w+)=(.+)", line):
        return match[1], _value(match[2])
    raise UserError(f"{line!r} is no setting; write CONFIG_X=value or # CONFIG_X is not set")


def _value(text: str) -> str:
    text = text.strip()
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text


def setting(text: str) -> tuple[str, str]:
    """Parse ``SYMBOL=value`` (with or without ``CONFIG_``). UserError when it is not that."""
    match = re.fullmatch(r"(?:CONFIG_)?([A-Za-z0-9_]+)=(.*)", text.strip())
    if not match:
        raise UserError(f"--set {text}: write SYMBOL=value, for example --set NETKIT=y")
    return match[1], _value(match[2]) or "n"


def merge(layers: Iterable[Mapping[str, str]]) -> Settings:
    """One request out of several; later ones win."""
    merged: Settings = {}
    for layer in layers:
        merged |= layer
    return merged


def render(settings: Sequence[tuple[str, str]]) -> str:
    """The text that KCONFIG_ALLCONFIG reads."""
    lines = []
    for symbol, value in settings:
        if value == "n":
            lines.append(f"# CONFIG_{symbol} is not set")
        elif value in ("y", "m") or re.fullmatch(r"-?\d+|0[xX][0-9a-fA-F]+", value):
            lines.append(f"CONFIG_{symbol}={value}")
        else:
            lines.append(f'CONFIG_{symbol}="{value}"')
    return "\n".join(lines) + "\n"


def parse_config(text: str) -> Settings:
    """A ``.config`` that make has written; symbols that are not set are left out."""
    return {match[1]: _value(match[2]) for match in re.finditer(r"^CONFIG_(\w+)=(.*)$", text, re.M)}
