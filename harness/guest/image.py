"""The frozen root: an erofs image with this Python, pytest, our plugin and the programs that selftests run.

Everything keeps the absolute path it has on the host, so that a traceback, a ``#!`` line and ``sys.prefix`` mean
the same on both sides. Only site-packages move, to ``SITE``: the project's own folder is mounted from the host.
Made without root rights and without network; named by what is in it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import struct
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path

from harness import command
from harness.errors import InfraError
from harness.guest.agent import BYTECODE
from harness.kernel.files import disk_errors
from harness.model import RootImage
from harness.paths import PACKAGE, cache_root

SITE = "/usr/lib/kproof/site-packages"  # by this name tools know what is not the project's own
INIT = "/usr/lib/kproof/init"

COREUTILS = (
    *("cat", "chmod", "cp", "cut", "date", "dd", "echo", "env", "false", "head", "id", "ln", "ls", "mkdir", "mv"),
    *("printf", "readlink", "realpath", "rm", "rmdir", "seq", "sleep", "sort", "stat", "stty", "tail"),
    *("tee", "test", "timeout", "touch", "tr", "true", "tty", "uname", "uniq", "wc"),
)

# What selftests and `kproof exec` call, with the Debian package that brings it.
PROGRAMS = {
    "bash": "bash",
    "sh": "dash",
    "bpftool": "bpftool",
    "dropbear": "dropbear-bin",
    "dropbearkey": "dropbear-bin",
    "ethtool": "ethtool",
    "ip": "iproute2",
    "ss": "iproute2",
    "tc": "iproute2",
    "nft": "nftables",
    "ping": "iputils-ping",
    "sysctl": "procps",
    "ps": "procps",
    "dmesg": "util-linux",
    "modprobe": "kmod",
    "lsmod": "kmod",
    "rmmod": "kmod",
    "mount": "mount",
    "umount": "mount",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "setpriv": "util-linux",
    "taskset": "util-linux",
    "grep": "grep",
    "sed": "sed",
    "find": "findutils",
    **dict.fromkeys(COREUTILS, "coreutils"),
}

# Opened by name at run time (ctypes, nss), so no ELF header asks for them.
LIBRARIES = {"libbpf.so.1": "libbpf1", "libnftables.so.1": "libnftables1", "libgcc_s.so.1": "libgcc-s1"}

# The parts of our own package that run in a guest.
OWN = (
    *("__init__.py", "errors.py", "events.py", "model.py", "paths.py"),
    *("guest/__init__.py", "guest/agent.py", "guest/ssh_server.py", "guest/splats.py", "guest/splat_rules.py"),
)
OWN_FOLDERS = ("pytest_plugin",)

# Folders of the standard library that no guest imports.
STDLIB_LEFT_OUT = {"test", "tests", "idlelib", "tkinter", "turtledemo", "lib2to3", "ensurepip", "site-packages",
                   "dist-packages", "__pycache__", "pydoc_data"}  # fmt: skip

# Where programs live; first match wins. A user's PATH often lacks the sbin folders.
PROGRAM_FOLDERS = ("/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/sbin", "/usr/local/bin")

COMPILE_LIMIT = 300.0  # seconds

KEPT = 4  # images; every edit of the plugin makes a new one

FORMAT = "3"  # raise when the layout below changes


def frozen_root(ours: Mapping[str, Path] | None = None) -> RootImage:
    """The image for this host, from the cache or made now (a few seconds).

    ``ours`` are programs, by name, that come in place of the host's. Raises InfraError when a program that belongs in
    it is missing on the host, or mkfs.erofs fails.
    """
    files = dict(_files(ours or {}))
    with disk_errors(cache_root()):
        identity = _identity(files)
        path = cache_root() / "roots" / f"{identity}.erofs"
        if _is_whole(path):
            path.touch()
        else:
            _make(files, path)
            _forget_old(path.parent)
    return RootImage(identity=identity, path=path)


def _is_whole(image: Path) -> bool:
    """Whether an image is there and as long as its superblock says (fs/erofs/erofs_fs.h)."""
    try:
        with open(image, "rb") as file:
            file.seek(1024)
            # magic, checksum, features, log2 of the block's size; root, inodes, time; count of blocks
            magic, bits, blocks = struct.unpack("<I8xB23xI", file.read(40))
    except (FileNotFoundError, struct.error):
        return False
    return bool(magic == 0xE0F5E1E2 and image.stat().st_size >= blocks << bits)


def _forget_old(folder: Path) -> None:
    """Keep the images used last. A QEMU that runs from one that is removed still has it open.

    What runs left that were killed while they made one goes, too: that takes seconds, not an hour.
    """
    for left in folder.glob("making-*"):
        if time.time() - left.stat().st_mtime > 3600:
            shutil.rmtree(left, ignore_errors=True)
    images = sorted(folder.glob("*.erofs"), key=lambda image: image.stat().st_mtime)
    for image in images[:-KEPT]:
        image.unlink(missing_ok=True)


def _files(ours: Mapping[str, Path]) -> Iterator[tuple[str, Path]]:
    """Pairs of the path in the guest and the file on the host."""
    programs = {name: _program(name, package) for name, package in PROGRAMS.items() if name not in ours}
    interpreter = Path(os.path.realpath(sys.executable))
    stdlib = Path(sysconfig.get_path("stdlib"))
    extensions = list((stdlib / "lib-dynload").glob("*.so"))
    site = dict(_site_packages())
    shared = [path for path in site.values() if ".so" in path.name]
    for path in [*programs.values(), interpreter]:
        yield str(path), path
    for name, path in ours.items():
        yield f"{PROGRAM_FOLDERS[0]}/{name}", path
    for library in shared_libraries([*programs.values(), *ours.values(), interpreter, *extensions, *shared]):
        yield str(library), library
    for path in _walk(stdlib):
        yield str(path), path
    for name, path in site.items():
        yield f"{SITE}/{name}", path
    for part in OWN:
        yield f"{SITE}/harness/{part}", PACKAGE / part
    for folder in OWN_FOLDERS:
        for path in sorted((PACKAGE / folder).glob("*.py")):
            yield f"{SITE}/harness/{folder}/{path.name}", path
    for etc in ("protocols", "services", "iproute2/rt_protos", "iproute2/rt_tables", "iproute2/rt_scopes"):
        if (path := Path("/etc", etc)).exists():
            yield str(path), path


def _program(name: str, package: str) -> Path:
    for folder in PROGRAM_FOLDERS:
        path = Path(folder, name)
        if os.access(path, os.X_OK):
            return path
    raise InfraError(f"the program {name!r} for the guests' root is missing; run: apt install {package}")


def _walk(folder: Path) -> Iterator[Path]:
    for here, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in STDLIB_LEFT_OUT and not name.startswith("config-"))
        yield from (Path(here, name) for name in sorted(names) if not name.endswith((".a", ".pyc", ".exe")))


def _site_packages() -> Iterator[tuple[str, Path]]:
    """The distributions that pyproject's extra "guest" names, with all that they require."""
    from packaging.requirements import Requirement

    def required(lines: Iterable[str], extra: str) -> list[str]:
        parsed = [Requirement(line) for line in lines]
        return [item.name for item in parsed if item.marker is None or item.marker.evaluate({"extra": extra})]

    seen: set[str] = set()
    ours = metadata.requires("kproof") or ()
    queue = required([line for line in ours if "extra" in line], "guest")
    while queue:
        name = re.sub(r"[-_.]+", "-", queue.pop()).lower()
        if name in seen:
            continue
        seen.add(name)
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            raise InfraError(f"the Python package {name!r} for the guests' root is missing; run: make setup") from None
        queue += required(distribution.requires or (), "")
        for file in distribution.files or ():
            path = Path(str(file.locate()))
            if not file.parts[0].startswith("..") and "__pycache__" not in file.parts and path.is_file():
                yield str(file), path


def shared_libraries(binaries: Iterable[Path]) -> list[Path]:
    """The closure of shared libraries, as ``ldd`` resolves it, with the loader itself and LIBRARIES."""
    output = subprocess.run(
        ["ldd", *map(str, binaries)], capture_output=True, text=True, check=False, env={"LC_ALL": "C", **os.environ}
    ).stdout
    missing = sorted(set(re.findall(r"^\s+(\S+) => not found", output, re.M)))
    if missing:
        raise InfraError(f"shared libraries of the guests' programs are missing: {', '.join(missing)}")
    found = {Path(path) for path in re.findall(r"^\s+(?:\S+ => )?(/\S+) \(0x", output, re.M)}
    folder = Path("/usr/lib", sysconfig.get_config_var("MULTIARCH") or f"{os.uname().machine}-linux-gnu")
    for name, package in LIBRARIES.items():
        candidates = [path for path in (folder / name, Path("/lib64", name), Path("/usr/lib64", name)) if path.exists()]
        if not candidates:
            raise InfraError(f"the library {name} for the guests' root is missing; run: apt install {package}")
        found.add(candidates[0])
    wanted = [path for path in found if path.name in LIBRARIES]
    if wanted:
        output = subprocess.run(["ldd", *map(str, wanted)], capture_output=True, text=True, check=False).stdout
        found |= {Path(path) for path in re.findall(r"^\s+(?:\S+ => )?(/\S+) \(0x", output, re.M)}
    return sorted(found)


def _identity(files: dict[str, Path]) -> str:
    """Content hash of the files. A file's own hash is remembered by its size and mtime, so this reads little."""
    memory = cache_root() / "roots" / "hashes.json"
    try:
        known: dict[str, str] = json.loads(memory.read_text())
    except (OSError, ValueError):
        known = {}
    used: dict[str, str] = {}
    total = hashlib.sha256(f"{FORMAT} {_init_script()}".encode())
    for name in sorted(files):
        path = files[name]
        info = path.stat()
        key = f"{path} {info.st_size} {info.st_mtime_ns} {info.st_ino}"
        used[key] = known.get(key) or hashlib.sha256(path.read_bytes()).hexdigest()
        total.update(f"{name} {stat.S_IMODE(info.st_mode):o} {used[key]}\n".encode())
    if used.keys() != known.keys():
        memory.parent.mkdir(parents=True, exist_ok=True)
        scratch = memory.with_suffix(f".{os.getpid()}")
        scratch.write_text(json.dumps(used))
        scratch.replace(memory)
    return total.hexdigest()[:16]


def _init_script() -> str:
    return f"#!{os.path.realpath(sys.executable)} -ISBXpycache_prefix={BYTECODE}\n"


def _make(files: dict[str, Path], target: Path) -> None:
    mkfs = shutil.which("mkfs.erofs", path=os.pathsep.join(PROGRAM_FOLDERS))
    if not mkfs:
        raise InfraError("mkfs.erofs is missing; run: apt install erofs-utils")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="making-", dir=target.parent) as scratch:
        tree = Path(scratch, "tree")
        _lay_out(files, tree)
        _compile(tree, Path(scratch, "bytecode"))
        image = Path(scratch, "image")
        done = subprocess.run(
            [mkfs, "-zlz4", "--all-root", "-T0", "-U00000000-0000-0000-0000-000000000000", str(image), str(tree)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise InfraError(f"mkfs.erofs failed: {(done.stderr or done.stdout).strip().splitlines()[-1]}")
        image.chmod(0o444)
        image.replace(target)


def _lay_out(files: dict[str, Path], tree: Path) -> None:
    tree.mkdir(parents=True)
    # A merged /usr, as every current distribution has it: /bin/sh and /usr/bin/sh are the same file.
    for name in ("bin", "sbin", "lib", "lib64"):
        (tree / "usr" / name).mkdir(parents=True, exist_ok=True)
        (tree / name).symlink_to(f"usr/{name}")
    for folder in ("dev", "proc", "sys", "tmp", "run", "root", "var/tmp", "etc", "mnt", "newroot"):
        (tree / folder).mkdir(parents=True, exist_ok=True)
    made: set[Path] = set()
    for name, path in files.items():
        place = tree / name.lstrip("/")
        if place.parent not in made:
            place.parent.mkdir(parents=True, exist_ok=True)
            made.add(place.parent)
        if not place.exists():
            shutil.copyfile(path, place)
            place.chmod(0o755 if os.access(path, os.X_OK) else 0o644)
    (tree / "etc" / "passwd").write_text(
        "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
    )
    (tree / "etc" / "group").write_text("root:x:0:\nnogroup:x:65534:\n")
    (tree / "etc" / "hosts").write_text("127.0.0.1 localhost\n::1 localhost\n")
    init = tree / INIT.lstrip("/")
    init.write_text(_init_script() + f"import sys\nsys.path.insert(0, {SITE!r})\nfrom harness.guest import agent\n"
                    "agent.init()\n")  # fmt: skip
    init.chmod(0o755)


def _compile(tree: Path, scratch: Path) -> None:
    """Byte code for every module, valid whatever its source's time stamp: nothing can be written at run time."""
    done = command.run(
        [
            *(sys.executable, "-m", "compileall", "-qq", "-j0", "-r30", "--invalidation-mode=unchecked-hash"),
            *("-x", r"/(bad|badsyntax)_|lib2to3/tests", "-s", tree, "-p", "/", tree),
        ],
        limit=COMPILE_LIMIT,
        env={"PYTHONPYCACHEPREFIX": str(scratch), "PYTHONDONTWRITEBYTECODE": ""},
        check=False,
    )
    if done.status != 0:
        raise InfraError("byte-compiling the guests' root failed; is the disk full?")
    (scratch / str(tree).lstrip("/")).rename(tree / BYTECODE.lstrip("/"))
