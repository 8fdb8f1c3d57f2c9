"""What an outcome depends on: the kernel's code, the guests' root and shape, and the test's own source and helpers."""

from __future__ import annotations

import ast
import hashlib
import tomllib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from harness.guest import machine
from harness.kernel.files import digest

COMMON = ("bpf/**/*", "pytest.ini", "known_issues.toml")
"""What every test rests on, as patterns from the project's folder; of pyproject.toml only what pytest reads of it."""


class Sources:
    """Hashes of what the tests of a project are made of, as it is now."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._common = self._hash_common()
        self._hash = cache(self._hash_of_file)
        self._imports = cache(self._imports_of_file)
        self.of = cache(self._of)

    def _of(self, file: str) -> str:
        """16 hex digits over a test file, the conftests above it, and all modules of the project that these import."""
        path = self._root / file
        own = [self._root / parent / "conftest.py" for parent in Path(file).parents]
        found: set[Path] = set()
        waiting = [path, *(conftest for conftest in own if conftest.is_file())]
        while waiting:
            module = waiting.pop()
            if module not in found:
                found.add(module)
                waiting += self._imports(module)
        return digest([self._common, sorted((str(one.relative_to(self._root)), self._hash(one)) for one in found)])

    def _hash_common(self) -> str:
        files = sorted({path for pattern in COMMON for path in self._root.glob(pattern) if path.is_file()})
        facts = [[str(path.relative_to(self._root)), self._hash_of_file(path)] for path in files]
        project = self._root / "pyproject.toml"
        settings = tomllib.loads(project.read_text()) if project.is_file() else {}
        return digest([facts, settings.get("tool", {}).get("pytest")])

    def _hash_of_file(self, path: Path) -> str:
        return hashlib.sha256(path.read_bytes()).hexdigest()

    def _imports_of_file(self, path: Path) -> list[Path]:
        """The project's files that a module imports, wherever in it, with the packages that they are in."""
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            return []  # pytest tells
        package = list(path.parent.relative_to(self._root).parts)
        return list(dict.fromkeys(file for name in _imported(tree, package) for file in self._files(name)))

    def _files(self, name: tuple[str, ...]) -> Iterator[Path]:
        """``selftests.lib.bpf``: each package on the way, and the module."""
        for length in range(1, len(name) + 1):
            place = self._root.joinpath(*name[:length])
            for file in (place / "__init__.py", place.with_suffix(".py")):
                if file.is_file():
                    yield file


def _imported(tree: ast.AST, package: list[str]) -> Iterator[tuple[str, ...]]:
    """The dotted names of all that is imported; what ``from a import b`` takes may be a module, too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = (*above, *(node.module.split(".") if node.module else ()))
            yield from ((*module, alias.name) for alias in node.names)


def place_of(code: str, root: str, shape: Iterable[str]) -> str:
    """16 hex digits over what a guest is: its kernel's code, its root image, the options that shape it, and what its
    kernel is told.
    """
    return digest([code, root, list(shape), machine.EMULATED, machine.grace_periods().kernel])
