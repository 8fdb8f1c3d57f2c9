"""Proof that a configuration has what was requested, and the reason by name when it has not."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from harness.errors import UserError
from harness.kernel.kconfig_tree import Entry, Expr, KconfigTree, read_tree

Settings = Sequence[tuple[str, str]]

SHOWN = 5  # dropped symbols that a message tells: one symbol too few may drop dozens


class Dropped(UserError):
    """Kconfig did not take what was requested."""


def prove(
    settings: Settings, config: Mapping[str, str], top: Path, *, named: Collection[str] = ()
) -> tuple[tuple[str, str], ...]:
    """Every requested symbol with the value that ``config`` gives it.

    ``top`` is the kernel tree. ``named`` are the symbols that a user wrote: they must exist even when ``n`` is asked.
    Raises Dropped with one line for each of the first symbols that did not get their value.
    """
    dropped = [(symbol, wanted) for symbol, wanted in settings if not _same(wanted, config.get(symbol, "n"))]
    doubtful = [symbol for symbol, wanted in settings if wanted == "n" and symbol in named and symbol not in config]
    if dropped or doubtful:
        tree = read_tree(top)
        reasons = [explain(tree, symbol, wanted, config) for symbol, wanted in dropped]
        reasons += [unknown(tree, symbol, "n") for symbol in doubtful if symbol not in tree.entries]
        if reasons:
            # What the user wrote is the likely cause of all the others.
            reasons.sort(key=lambda reason: not any(f" {symbol}=" in reason for symbol in named))
            more = [f"… and {len(reasons) - SHOWN} more symbols"] if len(reasons) > SHOWN else []
            raise Dropped("\n".join(reasons[:SHOWN] + more))
    return tuple((symbol, config.get(symbol, "n")) for symbol, _ in settings)


def _same(wanted: str, got: str) -> bool:
    if wanted == got:
        return True
    try:
        return int(wanted, 0) == int(got, 0)
    except ValueError:
        return False


def unknown(tree: KconfigTree, symbol: str, wanted: str) -> str:
    import difflib

    near = difflib.get_close_matches(symbol, tree.entries, n=3, cutoff=0.75)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    return f"Kconfig: {symbol}={wanted} was requested, but this tree has no symbol {symbol}{hint}"


def explain(tree: KconfigTree, symbol: str, wanted: str, config: Mapping[str, str]) -> str:
    """One line: the symbol, what it got, and why."""
    entries = tree.entries.get(symbol)
    if not entries:
        return unknown(tree, symbol, wanted)
    got = config.get(symbol, "n")
    head = f"Kconfig: {symbol}={wanted} was requested, got {got}"
    if wanted == "n" or (wanted == "m" and got == "y"):
        if selectors := tree.selectors(symbol, config):
            return f"{head} because it is selected by {_some(selectors)}"
        if wanted == "m":
            return f"{head}: it cannot be a module, or MODULES is not set"
        return f"{head}: {_hidden(tree, symbol, entries, config)}"
    needed = 1 if wanted == "m" else 2
    # a symbol that is defined several times needs one of its definitions to be possible
    unmet = [_unmet(entry.depends, config, needed) for entry in entries]
    if all(unmet):
        best = min(zip(entries, unmet, strict=True), key=lambda pair: len(pair[1]))
        return f"{head}: it needs {_list(best[1], config)} ({best[0].place})"
    return f"{head}: {_hidden(tree, symbol, entries, config)}"


def _unmet(expressions: Iterable[Expr], config: Mapping[str, str], needed: int) -> list[Expr]:
    found = []
    for expression in expressions:
        for part in expression.conjuncts():
            value = part.value(config)
            if value is not None and value < needed and part not in found:
                found.append(part)
    return found


def _list(expressions: list[Expr], config: Mapping[str, str]) -> str:
    return " and ".join(_state(expression, config) for expression in expressions)


def _state(expression: Expr, config: Mapping[str, str]) -> str:
    names = list(dict.fromkeys(expression.names()))
    if expression.kind == "name":
        return f"{expression}, which is {config.get(expression.text, 'n')}"
    values = ", ".join(f"{name}={config.get(name, 'n')}" for name in names)
    return f"'{expression}' (now {values})" if values else f"'{expression}'"


def _hidden(tree: KconfigTree, symbol: str, entries: list[Entry], config: Mapping[str, str]) -> str:
    """Why a symbol whose dependencies hold does not take a value."""
    entry = entries[0]
    prompts = [(one, prompt) for one in entries for prompt in one.prompts]
    if not prompts:
        selectors = tree.possible_selectors(symbol)
        by = f"only {_some(selectors)} can select it" if selectors else "only its default sets it"
        return f"it has no prompt, {by} ({entry.place})"
    for one, prompt in prompts:
        if unmet := _unmet(prompt, config, 2):
            return f"it can be changed only with {_list(unmet, config)} ({one.place})"
    macros = [
        part for one in entries for expr in one.depends for part in expr.conjuncts() if part.value(config) is None
    ]
    if macros:
        return f"it needs {' and '.join(str(part) for part in macros)} of this toolchain ({entry.place})"
    return f"a choice or a range decides otherwise ({entry.place})"


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
