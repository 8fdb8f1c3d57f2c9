"""From a patched tree and requested settings to a kernel image.

The object directory is a folder *inside* the source tree: kbuild then names every source file relative to it
(``../net/core/dev.c``), so that nothing but the debug information knows where the cache folder is.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from harness import command
from harness.errors import InfraError, KproofError, UserError
from harness.events import Notice, Phase, Progress, Sink
from harness.kernel import fragments, kconfig
from harness.kernel.files import digest, full, read_json, write, write_json
from harness.kernel.store import Entry, Finished
from harness.kernel.toolchain import NEEDED
from harness.kernel.tree import Tree
from harness.model import Kernel, Recipe

CONFIG_LIMIT = 600.0
BUILD_LIMIT = 7200.0
USUAL_OBJECTS = 1319
"""Objects of base and all features, counted on 6.12.117: the estimate before anything was ever built."""
SHOWN_ERRORS = 3
OBJECTS = ".kproof-"
"""How the names of object directories begin."""
STRIP_LIMIT = 120.0
COMPRESSIONS = ("zstd", "zlib")
"""Of debug sections, in order of preference: zstd takes an eighth of the time, but not every binutils has it."""

IDENTICAL = {
    # the same recipe gives the same bytes whenever it is built, and, but for the debug information, wherever
    "KBUILD_BUILD_TIMESTAMP": "2020-01-01 00:00:00 UTC",
    "KBUILD_BUILD_USER": "kproof",
    "KBUILD_BUILD_HOST": "kproof",
    "KBUILD_BUILD_VERSION": "1",
    # set, though empty: uname -r is the tree's version without a "+"
    "LOCALVERSION": "",
    # nothing of the caller's environment changes a build
    "ARCH": "x86_64",
    "CROSS_COMPILE": "",
    "LLVM": "",
    "KCFLAGS": "",
    "KAFLAGS": "",
    "KCONFIG_CONFIG": ".config",
    # Kconfig writes the version of whatever rustc is in PATH into every configuration
    "RUSTC": "false",
    "BINDGEN": "false",
}

EVERY_LINK = (".tmp_vmlinux", "arch/x86/boot/")
"""Objects that every new vmlinux brings with it (its symbol table, the image around it): not counted."""

MACHINE_FAULTS = (
    (r"No space left on device|Disk quota exceeded", "disk"),
    (r"Killed signal terminated program|virtual memory exhausted|Cannot allocate memory", "memory"),
    (r"gelf\.h: No such file|libelf\.h: No such file|Cannot find libelf", "libelf-dev"),
    (r"openssl/\S+: No such file", "libssl-dev"),
    (r"flex: (command )?not found", "flex"),
    (r"bison: (command )?not found", "bison"),
    (r"\bbc: (command )?not found", "bc"),
    (r"pahole: (command )?not found|pahole.*is not available", "pahole"),
)
"""What in a build's output is not the kernel's fault: pattern to a Debian package, or ``disk``, ``memory``."""


PRODUCTS = {
    "bzImage": "arch/x86/boot/bzImage",
    "vmlinux": "vmlinux",
    "System.map": "System.map",
    "config": ".config",
}
"""Name in the store to path in the object directory."""


@dataclass
class Output:
    """Watches a build's output: counts objects, keeps the first errors."""

    events: Sink
    expected: int = 0
    objects: int = 0
    errors: list[str] = field(default_factory=list)
    last_words: str = ""
    fault: str = ""

    def line(self, line: str) -> None:
        if match := re.match(r"  (?:CC|AS) +(\S+)", line):
            if match[1].startswith(EVERY_LINK):
                return
            self.objects += 1
            self.events(Progress(self.objects, max(self.objects, self.expected), "objects"))
            return
        for pattern, fault in MACHINE_FAULTS:
            if not self.fault and re.search(pattern, line):
                self.fault = fault
        if match := re.match(r"(?:\.\./)?(\S+?):(\d+)(?::\d+)?: (?:fatal )?error: (.+)", line):
            self.errors.append(f"{match[1]}:{match[2]}: {match[3]}")
        elif re.search(r"undefined reference to|multiple definition of|: error: |^ERROR: ", line):
            self.errors.append(line.strip().removeprefix("../"))
        elif "***" in line and not self.last_words:
            self.last_words = line.strip()


def build(
    tree: Tree, recipe: Recipe, entry: Entry, *, named: frozenset[str], own: bool, ccache: Path, events: Sink
) -> Kernel:
    """Build ``recipe`` from ``tree``, which has its patches applied, into ``entry``, and serve it.

    ``named`` are the symbols that the user wrote. ``own``: the recipe has something of the user's, so that an error of
    the compiler is the user's. Raises UserError for that and for settings that Kconfig drops, InfraError otherwise.
    """
    started = time.monotonic()
    bench = Bench(tree, recipe, own=own, ccache=ccache, events=events)
    with entry.log.open("wb") as log:
        proof = bench.configure(log, named=named)
        bench.compile(log)
    debug = fragments.parse_config(_text(bench.objects / ".config")).get("DEBUG_INFO") == "y"
    for name, product in PRODUCTS.items():
        copy = compress_debug_information if debug and name == "vmlinux" else shutil.copyfile
        copy(bench.objects / product, entry.folder / name)
    return entry.finish(Finished(bench.release(), proof, time.monotonic() - started, bench.output.objects))


def compress_debug_information(vmlinux: Path, target: Path) -> None:
    """Copy it with what source lines need, compressed: it boots as fast. Raises InfraError when objcopy fails.

    A vmlinux of 53 MB becomes one of 33 MB; without debug information it had 20 MB (6.12.117).
    """
    for compression in COMPRESSIONS:
        words = ["objcopy", "--remove-section=.debug_frame", f"--compress-debug-sections={compression}"]
        last = compression == COMPRESSIONS[-1]
        done = command.run([*words, vmlinux, target], limit=STRIP_LIMIT, check=last)
        if done.status == 0:
            return


class Bench:
    """One object directory with a recipe on it. The caller holds the tree's lock."""

    def __init__(self, tree: Tree, recipe: Recipe, *, own: bool, ccache: Path, events: Sink) -> None:
        command.require(*NEEDED)
        self.tree = tree
        self.recipe = recipe
        self.own = own
        self.events = events
        self.objects = object_folder(tree, recipe)
        self.objects.mkdir(exist_ok=True)
        self.output = Output(events)
        self._note = self.objects / "kproof.json"
        note = read_json(self._note)
        self._last: dict[str, Any] = note if isinstance(note, dict) else {}
        self._make = _make(tree, self.objects, ccache, events)

    def configure(self, log: IO[bytes], *, named: frozenset[str] = frozenset()) -> tuple[tuple[str, str], ...]:
        """Settle ``.config`` and prove it: every requested symbol with its value.

        It is allnoconfig over the requested settings: what is neither requested nor needed by them is off.
        """
        self.events(Phase("config", f"{len(self.recipe.settings)} settings"))
        config = self.objects / ".config"
        before = fragments.parse_config(_text(config))
        wanted = self._configuration()
        # proven once, and still what was proven: a refused request leaves its own .config
        if self._last.get("configuration") != [wanted, digest(before)]:
            requested = self.objects / "requested.config"
            write(requested, fragments.render(self.recipe.settings).encode())
            extra = [f"KCONFIG_ALLCONFIG={requested}"]
            status = self._make.run("allnoconfig", log, self.output, limit=CONFIG_LIMIT, extra=extra)
            if status != 0:
                raise failure(self.output, own=self.own)
        after = fragments.parse_config(_text(config))
        proof = kconfig.prove(self.recipe.settings, after, self.tree.src, named=named)
        # what the objects were last made with, whatever has been in .config since
        made_with = fragments.parse_config(_text(self.objects / "include/config/auto.conf"))
        self.output.expected = self._expected(_differing(made_with, after))
        self._keep(configuration=[wanted, digest(after)])
        return proof

    def compile(self, log: IO[bytes]) -> None:
        """Make the image. Only objects whose sources, headers or settings changed are compiled."""
        self.events(Phase("build", self.recipe.source.label))
        self.events(Progress(0, self.output.expected, "objects"))
        started = time.time_ns()
        if self._make.run("bzImage", log, self.output, limit=BUILD_LIMIT) != 0:
            raise failure(self.output, own=self.own)
        self._keep(built_at=started, objects=max(int(self._last.get("objects", 0)), self.output.objects))

    def release(self) -> str:
        """What ``uname -r`` will print."""
        return (self.objects / "include/config/kernel.release").read_text().strip()

    def _keep(self, **facts: Any) -> None:
        self._last |= facts
        write_json(self._note, self._last)

    def _configuration(self) -> str:
        """What ``.config`` depends on: source, settings, and patches that touch a Kconfig file or a Makefile."""
        state = self.tree.state()
        rules = [path for path in state.touched if re.search(r"(^|/)(Kconfig|Makefile|Kbuild)[^/]*$", path)]
        return digest([self.recipe.source.identity, self.recipe.settings, state.patches if rules else []])

    def _expected(self, symbols: set[str]) -> int:
        """How many objects make will compile: those whose recorded dependencies changed since the last build."""
        state = self.tree.state()
        built_at = int(self._last.get("built_at", 0))
        if built_at < state.born or not built_at:
            usual = int(self._last.get("objects", 0)) or USUAL_OBJECTS
            # an interrupted build goes on where it was
            return max(0, usual - sum(1 for _ in _records(self.objects)))
        needles = [f"../{path} ".encode() for path, when in state.changed.items() if when > built_at]
        needles += [f"include/config/{symbol})".encode() for symbol in symbols]
        if not needles:
            return 0
        pattern = re.compile(b"|".join(map(re.escape, needles)))
        return sum(1 for path in _records(self.objects) if pattern.search(path.read_bytes()))


def object_folder(tree: Tree, recipe: Recipe) -> Path:
    """One per tree, toolchain and debug flavours (which change nearly every object)."""
    return tree.src / f"{OBJECTS}{digest([recipe.toolchain, recipe.arch, sorted(recipe.flavours)])}"


def failure(output: Output, *, own: bool) -> KproofError:
    """What a failed make means, and whose fault it is."""
    if output.fault == "disk":
        return full(Path("the kernel cache"))
    if output.fault == "memory":
        return InfraError("the compiler ran out of memory; free some, or build with fewer jobs")
    if output.fault:
        return InfraError(f"the build needs a package that is missing: apt install {output.fault}")
    errors = list(dict.fromkeys(output.errors))
    said = "\n".join(errors[:SHOWN_ERRORS]) or output.last_words or "make failed without a word"
    more = f"\n… and {len(errors) - SHOWN_ERRORS} more" if len(errors) > SHOWN_ERRORS else ""
    text = f"the kernel does not compile: {said}{more}"
    return UserError(text) if own else InfraError(text)


@dataclass(frozen=True)
class _Make:
    argv: tuple[str, ...]
    env: Mapping[str, str]

    def run(self, target: str, log: IO[bytes], output: Output, *, limit: float, extra: Sequence[str] = ()) -> int:
        argv = [*self.argv, *extra, target]
        log.write(f"$ {' '.join(argv)}\n".encode())
        log.flush()
        return command.follow(argv, limit=limit, on_line=output.line, log=log, env=self.env)


def _make(tree: Tree, objects: Path, ccache: Path, events: Sink) -> _Make:
    compiler = "gcc"
    env = {"GIT_CEILING_DIRECTORIES": str(tree.folder), "MAKEFLAGS": "", "MAKELEVEL": ""}
    if shutil.which("ccache"):
        compiler = "ccache gcc"
        env |= {
            "CCACHE_DIR": str(ccache),
            "CCACHE_BASEDIR": str(tree.src),
            "CCACHE_NOHASHDIR": "1",
            "CCACHE_COMPILERCHECK": "content",
            "CCACHE_MAXSIZE": "5G",
        }
    else:
        events(Notice("ccache is not installed; builds that were made before take as long as the first time"))
    # when kproof is killed outright, make gets a signal from the kernel
    guard = ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []
    variables = [f"{name}={value}" for name, value in {**IDENTICAL, "CC": compiler, "HOSTCC": "gcc"}.items()]
    jobs = os.cpu_count() or 1
    argv = [*guard, "make", "-C", str(tree.src), f"O={objects}", f"-j{jobs}", *variables]
    return _Make(tuple(argv), env)


def _differing(old: Mapping[str, str], new: Mapping[str, str]) -> set[str]:
    return {symbol for symbol in old.keys() | new.keys() if old.get(symbol) != new.get(symbol)}


def _records(objects: Path) -> Iterator[Path]:
    """The ``.NAME.o.cmd`` files in which kbuild records an object's dependencies."""
    for folder, _, names in os.walk(objects):
        below = f"{Path(folder).relative_to(objects)}/"
        if below.startswith(EVERY_LINK):
            continue
        for name in names:
            if name.endswith(".o.cmd"):
                yield Path(folder, name)


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""
