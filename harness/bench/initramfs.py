"""The root of a guest that counts: an archive that is in its memory before it runs, so that no disk answers it.

It holds this Python, the modules that the benchmarks import, found by importing them, and the shared libraries of all
that; byte-code only, because there is nothing to write it to. Two archives one behind the other are one to the kernel
(Documentation/driver-api/early-userspace/buffer-format.rst): the first is cached, the second is the job.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import py_compile
import re
import subprocess
import sys
import sysconfig
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from virtme.cpiowriter import CpioWriter  # type: ignore[import-untyped]

from harness.bench.native import workload
from harness.errors import UserError
from harness.guest.image import SITE, shared_libraries
from harness.kernel.files import disk_errors, scratch, write
from harness.paths import cache_root, project_root

FORMAT = "2"  # raise when the layout below changes
KEPT = 4
FOLDERS = ("dev", "proc", "sys", "tmp", "run", "root", "kproof")

_INIT = "/init"
_DRIVER = "harness.bench.guest"
# What is imported by name, at run time.
_MORE = ("encodings.idna", "encodings.latin_1", "encodings.ascii")
_LINE = re.compile(r'^ +File "([^<"]+)", line (\d+)', re.M)
_LIST = """
import importlib, json, pkgutil, sys
import selftests.bench.benchmark, selftests.lib
names = sys.argv[1:] + [f"selftests.lib.{module.name}" for module in pkgutil.iter_modules(selftests.lib.__path__)]
for name in names:
    importlib.import_module(name)
files = {module.__file__ for module in sys.modules.values() if getattr(module, "__file__", None)}
benchmark = getattr(sys.modules[names[0]], "BENCHMARK", None)
if not isinstance(benchmark, sys.modules["selftests.bench.benchmark"].Benchmark):
    sys.exit("it has no BENCHMARK, a selftests.bench.benchmark.Benchmark")
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


def initramfs(files: Mapping[str, Path]) -> Path:
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


def archive(files: Mapping[str, bytes], *, programs: Collection[str] = (), console: bool = False) -> bytes:
    """A cpio archive of files by absolute path, and the folders that they are in; ``programs`` of them can be executed.

    ``console``: with the device that the kernel opens for process 1.
    """
    buffer = io.BytesIO()
    writer = CpioWriter(buffer)
    folders = dict.fromkeys(parent for name in files for parent in reversed(Path(name).parents))
    for folder in folders:
        if folder.name:
            writer.mkdir(_name(str(folder)), 0o755)
    if console:
        writer.mkchardev(b"dev/console", (5, 1), 0o600)
    for name, data in files.items():
        writer.write_file(_name(name), data, 0o755 if name in programs else 0o644)
    writer.write_trailer()
    return buffer.getvalue()


def _name(path: str) -> bytes:
    return path.lstrip("/").encode()


def _root(files: Mapping[str, Path], folder: Path) -> bytes:
    interpreter = os.path.realpath(sys.executable)
    driver = f"import sys\nsys.path.insert(0, {SITE!r})\nfrom harness.bench import guest\nguest.main()\n"
    contents = {f"/{name}/.keep": b"" for name in FOLDERS}
    contents[_INIT] = f"#!{interpreter} -sSBP\n{driver}".encode()
    with scratch(folder, "making-") as work:
        for name, path in files.items():
            contents[name] = _compiled(path, name, work) if name.endswith(".pyc") else path.read_bytes()
    programs = {_INIT, *(name for name, path in files.items() if os.access(path, os.X_OK))}
    return archive(contents, programs=programs, console=True)


def _compiled(path: Path, name: str, work: Path) -> bytes:
    """Byte-code that is valid whatever its source's time stamp: in the guest it has none."""
    target = work / "module.pyc"
    py_compile.compile(
        str(path),
        cfile=str(target),
        dfile=name.removesuffix("c"),
        doraise=True,
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )
    return target.read_bytes()


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
        raise UserError(f"the benchmark {benchmark} cannot be loaded: {_last(done.stderr)}")
    told = json.loads(done.stdout)
    roots = [Path(root) for root in told["path"] if root]
    modules = [Path(path) for path in told["files"]]
    interpreter = Path(os.path.realpath(sys.executable))
    extensions = [path for path in modules if path.suffix != ".py"]
    files = {str(path): path for path in shared_libraries([interpreter, *extensions])}
    files[str(interpreter)] = interpreter
    for path in modules:
        place = _place(path, roots)
        files[f"{place}c" if path.suffix == ".py" else place] = path
    files |= {f"{SITE}/{name}": path for name, path in workload(benchmark, folder).items()}
    return Closure(files, tuple(told["symbols"]), told["count"])


def _last(traceback: str) -> str:
    """What a Python that failed says last, and where: ``NameError: name 'x' is not defined (mine.py, line 7)``."""
    places = _LINE.findall(traceback)
    where = f" ({Path(places[-1][0]).name}, line {places[-1][1]})" if places else ""
    return (traceback.strip().splitlines() or ["it says nothing"])[-1] + where


def _place(path: Path, roots: list[Path]) -> str:
    """The standard library stays where it is, because the interpreter looks for it there; all else moves to SITE."""
    if path.is_relative_to(sysconfig.get_path("stdlib")) and "site-packages" not in path.parts:
        return str(path)
    root = max((root for root in roots if path.is_relative_to(root)), key=lambda root: len(root.parts))
    return f"{SITE}/{path.relative_to(root)}"


def _state(path: Path) -> str:
    info = path.stat()
    return f"{info.st_size} {info.st_mtime_ns}"
