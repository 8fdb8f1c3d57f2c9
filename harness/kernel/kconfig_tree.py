"""A tree's Kconfig files, read to explain why a symbol has the value it has.

Only what an explanation needs is read: where a symbol is defined, what it depends on (its own lines and every ``if``,
``menu`` and ``choice`` around it), whether it has a prompt and when, and what selects it. ``$(…)`` macros ask the
toolchain; they are kept as text and never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

TRISTATE = {"n": 0, "m": 1, "y": 2}


@dataclass(frozen=True)
class Expr:
    """An expression. ``kind``: ``name``, ``text``, ``macro``, ``!``, ``&&``, ``||`` or a comparison."""

    kind: str
    text: str = ""
    parts: tuple[Expr, ...] = ()

    def value(self, config: Mapping[str, str]) -> int | None:
        """0 (n), 1 (m), 2 (y); None when it hangs on a macro."""
        if self.kind == "macro":
            return None
        if self.kind in ("name", "text"):
            return TRISTATE.get(self.string(config), 0)
        if self.kind not in ("!", "&&", "||"):
            return self._compare(config)
        values = [part.value(config) for part in self.parts]
        if self.kind == "!":
            return None if values[0] is None else 2 - values[0]
        known = [value for value in values if value is not None]
        if self.kind == "&&":
            return 0 if 0 in known else None if len(known) < len(values) else min(known)
        return 2 if 2 in known else None if len(known) < len(values) else max(known)

    def _compare(self, config: Mapping[str, str]) -> int | None:
        if any(part.kind == "macro" for part in self.parts):
            return None
        left, right = (part.string(config) for part in self.parts)
        try:
            one, other = int(left, 0), int(right, 0)
        except ValueError:
            order = (left > right) - (left < right)
        else:
            order = (one > other) - (one < other)
        holds = {
            "=": order == 0,
            "!=": order != 0,
            "<": order < 0,
            ">": order > 0,
            "<=": order <= 0,
            ">=": order >= 0,
        }
        return 2 if holds[self.kind] else 0

    def string(self, config: Mapping[str, str]) -> str:
        if self.kind == "name" and self.text not in TRISTATE:
            return config.get(self.text, self.text if re.fullmatch(r"-?\d+|0[xX][0-9a-fA-F]+", self.text) else "n")
        return self.text

    def names(self) -> Iterator[str]:
        if self.kind == "name" and self.text not in TRISTATE and re.search(r"[A-Z]", self.text):
            yield self.text
        for part in self.parts:
            yield from part.names()

    def conjuncts(self) -> Iterator[Expr]:
        if self.kind == "&&":
            for part in self.parts:
                yield from part.conjuncts()
        else:
            yield self

    def __str__(self) -> str:
        if self.kind in ("name", "macro"):
            return self.text
        if self.kind == "text":
            return f'"{self.text}"'
        inner = [f"({part})" if part.kind in ("&&", "||") else str(part) for part in self.parts]
        return f"!{inner[0]}" if self.kind == "!" else f" {self.kind} ".join(inner)


def parse_expr(text: str) -> Expr:
    """Parse a Kconfig expression. ValueError when it is none."""
    tokens = _tokens(text)
    position = 0

    def peek() -> str:
        return tokens[position] if position < len(tokens) else ""

    def take() -> str:
        nonlocal position
        position += 1
        return tokens[position - 1]

    def either(kind: str) -> Expr:
        inner = "&&" if kind == "||" else ""
        parts = [either(inner) if inner else term()]
        while peek() == kind:
            take()
            parts.append(either(inner) if inner else term())
        return parts[0] if len(parts) == 1 else Expr(kind, parts=tuple(parts))

    def term() -> Expr:
        if not peek():
            raise ValueError(f"incomplete expression {text!r}")
        if peek() == "!":
            take()
            return Expr("!", parts=(term(),))
        if peek() == "(":
            take()
            inner = either("||")
            if peek() != ")":
                raise ValueError(f"missing ) in {text!r}")
            take()
            return inner
        left = atom(take())
        if peek() in ("=", "!=", "<", ">", "<=", ">="):
            operator = take()
            if not peek():
                raise ValueError(f"incomplete expression {text!r}")
            return Expr(operator, parts=(left, atom(take())))
        return left

    def atom(token: str) -> Expr:
        if token.startswith("$("):
            return Expr("macro", token)
        if token[0] in "\"'":
            return Expr("macro" if "$(" in token else "text", token[1:-1])
        return Expr("name", token)

    result = either("||")
    if position != len(tokens):
        raise ValueError(f"unexpected {peek()!r} in {text!r}")
    return result


def _tokens(text: str) -> list[str]:
    tokens = []
    position = 0
    while position < len(text):
        if text[position].isspace():
            position += 1
        elif text.startswith("$(", position):
            end = _closing(text, position + 1)
            tokens.append(text[position:end])
            position = end
        else:
            match = re.compile(r"&&|\|\||!=|<=|>=|[!()=<>]|\"[^\"]*\"|'[^']*'|[\w./$-]+").match(text, position)
            if not match:
                raise ValueError(f"unexpected {text[position]!r} in {text!r}")
            tokens.append(match[0])
            position = match.end()
    return tokens


def _closing(text: str, opening: int) -> int:
    depth = 0
    for position in range(opening, len(text)):
        depth += {"(": 1, ")": -1}.get(text[position], 0)
        if depth == 0:
            return position + 1
    raise ValueError(f"missing ) in {text!r}")


@dataclass
class Entry:
    """One ``config`` or ``menuconfig``; a symbol can have several."""

    symbol: str
    place: str
    """``file:line``."""
    depends: list[Expr] = field(default_factory=list)
    prompts: list[list[Expr]] = field(default_factory=list)
    """For each prompt the conditions under which it is shown, besides ``depends``."""
    selects: list[tuple[str, Expr | None]] = field(default_factory=list)


@dataclass
class KconfigTree:
    entries: dict[str, list[Entry]] = field(default_factory=dict)

    def selectors(self, symbol: str, config: Mapping[str, str]) -> list[str]:
        """The symbols that are set and select ``symbol`` now."""
        return sorted(self._selecting(symbol, config))

    def possible_selectors(self, symbol: str) -> list[str]:
        return sorted(self._selecting(symbol, None))

    def _selecting(self, symbol: str, config: Mapping[str, str] | None) -> set[str]:
        found = set()
        for name, entries in self.entries.items():
            for entry in entries:
                for target, condition in entry.selects:
                    if target != symbol:
                        continue
                    if config is None or (
                        config.get(name, "n") in ("y", "m") and (condition is None or condition.value(config) != 0)
                    ):
                        found.add(name)
        return found


def read_tree(top: Path, srcarch: str = "x86") -> KconfigTree:
    """Read the Kconfig files of a tree from its top. Lines that are not understood have no part in an explanation."""
    tree = KconfigTree()
    _File(tree, top, srcarch, []).read("Kconfig", [], [])
    return tree


@dataclass
class _Block:
    """An ``if``, ``menu`` or ``choice`` around entries."""

    kind: str
    depends: list[Expr]
    visible: list[Expr]


class _File:
    def __init__(self, tree: KconfigTree, top: Path, srcarch: str, open_files: list[str]) -> None:
        self.tree = tree
        self.top = top
        self.srcarch = srcarch
        self.open_files = open_files

    def read(self, name: str, depends: list[Expr], visible: list[Expr]) -> None:
        try:
            text = (self.top / name).read_text(errors="replace")
        except OSError:
            # an optional part that this tree lacks
            return
        if name in self.open_files:
            return
        blocks = [_Block("file", depends, visible)]
        entry: Entry | None = None
        for number, line in _logical_lines(text):
            word, _, rest = line.partition(" ")
            rest = rest.strip()
            match word:
                case "config" | "menuconfig":
                    entry = Entry(rest, f"{name}:{number}", [e for b in blocks for e in b.depends])
                    self.tree.entries.setdefault(rest, []).append(entry)
                case "if" | "menu" | "choice":
                    condition = [expr] if word == "if" and (expr := _expr(rest)) else []
                    blocks.append(_Block(word, condition, []))
                    entry = None
                case "endif" | "endmenu" | "endchoice":
                    if len(blocks) > 1:
                        blocks.pop()
                    entry = None
                case "comment":
                    # its "depends on" is nobody's: it goes to an entry that is not kept
                    entry = Entry("", "")
                case "source" | "orsource":
                    path = rest.strip("\"'").replace("$(SRCARCH)", self.srcarch).replace("$SRCARCH", self.srcarch)
                    inner = _File(self.tree, self.top, self.srcarch, [*self.open_files, name])
                    inner.read(
                        path.removeprefix("$(srctree)/"),
                        [e for b in blocks for e in b.depends],
                        [e for b in blocks for e in b.visible],
                    )
                    entry = None
                case _:
                    self._property(line, word, rest, entry, blocks)

    def _property(self, line: str, word: str, rest: str, entry: Entry | None, blocks: list[_Block]) -> None:
        if match := re.match(r"depends on\s+(.+)", line):
            if expr := _expr(match[1]):
                (entry.depends if entry else blocks[-1].depends).append(expr)
        elif match := re.match(r"visible if\s+(.+)", line):
            if expr := _expr(match[1]):
                blocks[-1].visible.append(expr)
        elif entry is None:
            return
        elif word in ("bool", "tristate", "int", "hex", "string", "prompt") and rest:
            condition = re.search(r"[\"']\s*if\s+(.+)$", rest)
            conditions = [expr] if condition and (expr := _expr(condition[1])) else []
            entry.prompts.append([*(e for b in blocks for e in b.visible), *conditions])
        elif word == "select":
            symbol, _, condition_text = rest.partition(" if ")
            entry.selects.append((symbol.strip(), _expr(condition_text) if condition_text else None))


def _expr(text: str) -> Expr | None:
    try:
        return parse_expr(text)
    except ValueError:
        return None


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Stripped lines with their numbers: help texts and comments left out, continued lines joined."""
    help_indent: int | None = None
    in_help = False
    joined = ""
    start = 0
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.expandtabs()
        stripped = line.strip()
        if in_help:
            indent = len(line) - len(line.lstrip())
            if not stripped:
                continue
            if help_indent is None and indent > 0:
                help_indent = indent
            if help_indent is not None and indent >= help_indent:
                continue
            in_help = False
        if stripped in ("help", "---help---"):
            in_help, help_indent = True, None
            continue
        if not joined:
            start = number
        if "#" in stripped:
            # a # inside quotes is text
            stripped = re.sub(r"((?:[^\"'#]|\"[^\"]*\"|'[^']*')*)#.*", r"\1", stripped).strip()
        if stripped.endswith("\\"):
            joined += stripped[:-1] + " "
            continue
        whole = " ".join((joined + stripped).split())
        joined = ""
        if whole:
            yield start, whole
