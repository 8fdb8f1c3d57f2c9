"""The root of a guest that counts: an archive that is in its memory before it runs, so that no disk answers it.

It holds this Python, the modules that the benchmarks import, found by importing them, and the shared libraries of all
that; byte-code only, because there is nothing to write it to. Two archives one behind the other are one to the kernel
(Documentation/driver-api/early-userspace/buffer-format.rst): the first is cached, the second is the job.
"""

from __future__ import annotations

import hashlib
import json
import os
import py_compile
import stat
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from harness.bench.native import workload
from harness.errors import UserError
from harness.guest.image import SITE, shared_libraries
from harness.kernel.files import disk_errors, scratch, write
from harness.paths import cache_root, project_root

FORMAT = "1"  # raise when the layout below changes
KEPT = 4
FOLDERS = ("dev", "proc", "sys", "tmp", "run", "root", "kproof")

_INIT = "/init"
_DRIVER = "harness.bench.guest"
# What is imported by name, at run time.
_MORE = ("encodings.idna", "encodings.latin_1", "encodings.ascii")
_LIST = """
import importlib, json, pkgutil, sys
import selftests.lib
names = sys.argv[1:] + [f"selftests.lib.{module.name}" for module in pkgutil.iter_modules(selftests.lib.__path__)]
for name in names:
    importlib.import_module(name)
files = {module.__file__ for module in sys.modules.values() if getattr(module, "__file__", None)}
benchmark = sys.modules[names[0]].BENCHMARK
told = {"files": sorted(files), "path": sys.path, "symbols": benchmark.symbols, "count": sum(benchmark.sizes)}
print(json.dumps(told))
"""


@dataclass(frozen=True)
class Closure:
    """A benchmark's module with all that it imports."""

    files: dict[str, Path]
    """Path in the guest and file on the host; one whose name in the guest ends in ``.pyc`` is compiled for it."""
    symbols: tuple[str, ...]
    """Of the kernel, as the benchmark names them."""
    packets: int
    """How many packets (or what it counts) one round of a row's runs has."""


def initramfs(files: dict[str, Path]) -> Path:
    """The archive of a closure's files, from the cache or made now."""
    facts = [FORMAT, sys.executable, *(f"{name} {path} {_state(path)}" for name, path in sorted(files.items()))]
    identity = hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]
    folder = cache_root() / "roots"
    target = folder / f"{identity}.cpio"
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if target.exists():
            target.touch()
        else:
            write(target, _root(files, folder))
            for old in sorted(folder.glob("*.cpio"), key=lambda path: path.stat().st_mtime)[:-KEPT]:
                old.unlink(missing_ok=True)
    return target


def archive(entries: dict[str, tuple[int, bytes]]) -> bytes:
    """A cpio archive in format ``newc``: mode and content by absolute path, folders before what is in them.

    Owner 0, time 0. A character device's content are its two numbers.
    """
    out = bytearray()
    for number, (name, (mode, data)) in enumerate(entries.items(), 1):
        device = data if stat.S_ISCHR(mode) else b"\0\0"
        out += _entry(number, name.lstrip("/"), mode, b"" if stat.S_ISCHR(mode) else data, device[0], device[1])
    out += _entry(0, "TRAILER!!!", 0, b"", 0, 0)
    return bytes(out.ljust(len(out) + 511 & ~511, b"\0"))


def _entry(number: int, name: str, mode: int, data: bytes, major: int, minor: int) -> bytes:
    """Header of 110 hexadecimal digits, name, data, each filled up to 4 bytes."""
    encoded = name.encode() + b"\0"
    fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(encoded), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
    return head.ljust(len(head) + 3 & ~3, b"\0") + data.ljust(len(data) + 3 & ~3, b"\0")


def plain(content: bytes, *, executable: bool = False) -> tuple[int, bytes]:
    """An entry that is a file."""
    return stat.S_IFREG | (0o755 if executable else 0o644), content


def with_folders(entries: dict[str, tuple[int, bytes]]) -> dict[str, tuple[int, bytes]]:
    """The same, and the folders that they are in before them."""
    folders: dict[str, tuple[int, bytes]] = {}
    for name in entries:
        for parent in reversed(Path(name).parents):
            if str(parent) not in ("/", "."):
                folders[str(parent)] = (stat.S_IFDIR | 0o755, b"")
    return folders | entries


def _root(files: dict[str, Path], folder: Path) -> bytes:
    interpreter = os.path.realpath(sys.executable)
    driver = f"import sys\nsys.path.insert(0, {SITE!r})\nfrom harness.bench import guest\nguest.main()\n"
    entries = {f"/{name}/.keep": plain(b"") for name in FOLDERS}
    entries["/dev/console"] = (stat.S_IFCHR | 0o600, bytes((5, 1)))
    entries[_INIT] = plain(f"#!{interpreter} -sSBP\n{driver}".encode(), executable=True)
    with scratch(folder, "making-") as work:
        for name, path in files.items():
            content = path.read_bytes()
            if name.endswith(".pyc"):
                compiled = py_compile.compile(
                    str(path),
                    cfile=str(work / "module.pyc"),
                    dfile=name.removesuffix("c"),
                    doraise=True,
                    invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
                )
                content = Path(str(compiled)).read_bytes()
            entries[name] = plain(content, executable=os.access(path, os.X_OK))
    return archive(with_folders(entries))


def closure(benchmark: str, folder: Path) -> Closure:
    """Of a module below a folder, imported in a Python of its own. Raises UserError for one that is no benchmark."""
    done = subprocess.run(
        [sys.executable, "-c", _LIST, benchmark, _DRIVER, *_MORE],
        cwd=project_root(),
        env={**os.environ, "PYTHONPATH": f"{project_root()}:{folder}", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise UserError(f"the benchmark {benchmark} cannot be loaded: {done.stderr.strip().splitlines()[-1]}")
    told = json.loads(done.stdout)
    roots = [Path(root) for root in told["path"] if root]
    modules = [Path(path) for path in told["files"]]
    interpreter = Path(os.path.realpath(sys.executable))
    extensions = [path for path in modules if path.suffix != ".py"]
    files = {str(path): path for path in shared_libraries([interpreter, *extensions])}
    files[str(interpreter)] = interpreter
    files |= {f"{SITE}/{name}": path for name, path in workload(benchmark, folder).items()}
    for path in modules:
        place = _place(path, roots)
        files[f"{place}c" if path.suffix == ".py" else place] = path
    files |= {f"{SITE}/{name}": path for name, path in workload(benchmark, folder).items()}
    return Closure(files, tuple(told["symbols"]), told["count"])


def _place(path: Path, roots: list[Path]) -> str:
    """The standard library stays where it is, because the interpreter looks for it there; all else moves to SITE."""
    if path.is_relative_to(sysconfig.get_path("stdlib")) and "site-packages" not in path.parts:
        return str(path)
    root = max((root for root in roots if path.is_relative_to(root)), key=lambda root: len(root.parts))
    return f"{SITE}/{path.relative_to(root)}"


def _state(path: Path) -> str:
    info = path.stat()
    return f"{info.st_size} {info.st_mtime_ns}"
