"""Kernels that somebody else has built: from their files to a kernel in the store, without a build.

    image:debian:6.12.94     the distribution's cloud image, of any suite that has it; image:debian:6.12 is the newest
                             of a series, image:debian:6.12.94-1 a Debian version
    image:PATH               a bzImage (/boot/vmlinuz-…) or vmlinux; its modules are those of /lib/modules, or in the
                             folder that ``modules=`` names

The configuration (``/boot/config-RELEASE``, or ``config`` among the modules) belongs to it: what the kernel lacks that
guests cannot do without is told before anything boots.
"""

from __future__ import annotations

import re
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from harness import command
from harness.errors import UserError
from harness.events import Phase, Sink
from harness.kernel import bzimage, floor, fragments, modules
from harness.kernel.archive import Archive, Offer
from harness.kernel.catalogue import Catalogue
from harness.kernel.files import digest, read_json, read_user_file, scratch, sha256, write_json
from harness.kernel.layout import Layout
from harness.kernel.store import READY_FILES, Finished, Store
from harness.model import IMAGE, Kernel, Recipe, Request, Source, Version

FORMAT = 1
"""Raise when what is made of the same files changes."""
ARCH = "x86_64"
LIMIT = 300.0
STUB = 1 << 12
"""Debian's System.map is one line that says where the real one is."""


@dataclass(frozen=True)
class Parts:
    """The files of a kernel, wherever they are."""

    image: Path
    config: Path
    modules: Path | None
    """The folder that has ``kernel/``; None: all is built in."""
    system_map: Path | None


@dataclass(frozen=True)
class Ready:
    """A ready-made kernel that is known."""

    source: Source
    files: tuple[Offer, ...] = ()
    """Packages that hold it."""
    parts: Parts | None = None
    """Where it is on this machine; None: in the packages."""

    @property
    def recipe(self) -> Recipe:
        """What gives it its identity: its files, and how we treat them."""
        return Recipe(self.source, (), (), (), (), toolchain="", arch=ARCH)


def locate(request: Request, *, layout: Layout, events: Sink, update: bool = False) -> Ready:
    """Identify a ready-made kernel. UserError for one that is not there, or that something shall be built into."""
    if request != Request(source=request.source, modules=request.modules):
        raise UserError(f"{request.source} is a finished kernel: series, patches and settings cannot be added to it")
    rest = request.source.removeprefix(IMAGE)
    if not rest.startswith("debian:"):
        return _on_this_machine(request.source, Path(rest).expanduser(), request.modules)
    if request.modules:
        raise UserError(f"{request.source} has modules of its own; leave modules={request.modules} out")
    return _in_the_archive(request.source, rest.removeprefix("debian:"), layout, events, update=update)


def catalogue(layout: Layout, events: Sink) -> Catalogue:
    """What the archive has."""
    return Catalogue(_archive(layout, events), layout.root / "sources")


def make(ready: Ready, request: Request, store: Store, layout: Layout, events: Sink) -> Kernel:
    """Download, unpack, index and store it. The caller holds the kernel's lock.

    Raises UserError for a kernel that cannot be a guest's, InfraError for a machine that fails.
    """
    started = time.monotonic()
    entry = store.begin(ready.recipe, request)
    try:
        with scratch(layout.root / "scratch", "image") as folder:
            parts = ready.parts or _unpacked(ready, folder / "unpacked", layout, events)
            events(Phase("image", f"{ready.source.label}: modules"))
            release, proof = _fill(parts, ready.source.label, entry.folder, folder)
        names = [str(path.relative_to(entry.folder)) for path in entry.folder.rglob("*") if path.is_file()]
        kept = [name for name in names if name in (*READY_FILES, "vmlinux") or name.startswith("floor/")]
        return entry.finish(Finished(release, proof, time.monotonic() - started, 0), kept)
    finally:
        entry.discard()


def _fill(parts: Parts, label: str, target: Path, folder: Path) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Put what a guest needs into ``target``; returns the kernel's release and the proof of its floor."""
    image = read_user_file(parts.image, "kernel image")
    release = bzimage.release(image, str(parts.image))
    config = fragments.parse_config(read_user_file(parts.config, "configuration").decode(errors="replace"))
    proof, needed = floor.check(config, label)
    if needed and parts.modules is None:
        raise UserError(
            f"{label} has {', '.join(needed)} as modules, and there are none; name their folder: modules=DIR"
        )
    with ThreadPoolExecutor(1) as pool:
        unpacking = pool.submit(bzimage.vmlinux, image)
        base = folder / "base"
        if parts.modules:
            modules.unpack_modules(parts.modules, release, base)
        tree = base / "lib" / "modules"
        (tree / release).mkdir(parents=True, exist_ok=True)
        # where distributions have it, too: a guest that has no /proc/config.gz looks here
        shutil.copyfile(parts.config, tree / release / "config")
        modules.pack(tree, target / "modules.erofs")
        (target / "floor").mkdir()
        for number, path in enumerate(modules.closure(needed, release, base)):
            shutil.copyfile(path, target / "floor" / f"{number:02}-{path.name}")
        shutil.copyfile(parts.image, target / "bzImage")
        shutil.copyfile(parts.config, target / "config")
        stub = parts.system_map is None or parts.system_map.stat().st_size < STUB
        (target / "System.map").write_bytes(b"" if stub or not parts.system_map else parts.system_map.read_bytes())
        elf = unpacking.result()
    if elf:
        (target / "vmlinux").write_bytes(elf)
    else:  # it is booted as it is
        proof = tuple((symbol, "n" if symbol == "PVH" else value) for symbol, value in proof)
    return release, proof


def _in_the_archive(spec: str, wanted: str, layout: Layout, events: Sink, *, update: bool) -> Ready:
    if not re.fullmatch(r"\d+\.\d+(\.\d+)?(-\S+)?", wanted):
        raise UserError(f"{spec}: write a series (image:debian:6.12), a release (6.12.94) or a version with -1")
    record = layout.root / "sources" / f"image-debian-{wanted}.json"
    kept = read_json(record)
    if not isinstance(kept, dict) or update:
        events(Phase("image", f"looking for {wanted} in the archive"))
        listed = catalogue(layout, events).image(wanted, update=update)
        kept = {"version": listed.version, "files": [asdict(offer) for offer in listed.files]}
        write_json(record, kept)
    files = tuple(Offer(**one) for one in kept["files"])
    identity = digest([FORMAT, sorted(offer.sha256 for offer in files)])
    version = kept["version"]
    return Ready(Source(spec, Version.parse(version), identity, f"debian {version}"), files)


def _unpacked(ready: Ready, folder: Path, layout: Layout, events: Sink) -> Parts:
    """Download the packages and unpack them into ``folder``."""
    command.require("dpkg-deb")
    archive = _archive(layout, events)
    for offer in ready.files:
        package = archive.fetch(offer)
        events(Phase("image", f"{ready.source.label}: unpacking"))
        command.run(["dpkg-deb", "-x", package, folder], limit=LIMIT)
    images = [*folder.glob("boot/vmlinuz-*"), *folder.glob("usr/lib/modules/*/vmlinuz")]
    if not images:
        raise UserError(f"{ready.source.label} has no kernel in its packages")
    release = bzimage.release(images[0].read_bytes(), ready.source.label)
    return _beside(images[0], release, modules.folder_of(release, folder), ready.source.label)


def _on_this_machine(spec: str, image: Path, named: str) -> Ready:
    data = read_user_file(image, "kernel image")
    release = bzimage.release(data, str(image))
    if named:
        folder: Path | None = modules.folder_of(release, Path(named).expanduser())
    else:
        usual = Path("/lib/modules", release)
        folder = usual if (usual / "kernel").is_dir() else None
    parts = _beside(image, release, folder, str(image))
    contents = [FORMAT, sha256(image), sha256(parts.config)]
    if folder:
        found = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
        contents += [[str(path.relative_to(folder)), sha256(path)] for path in found]
    version = Version.of_kernel(release, bzimage.banner(data, str(image)))
    source = Source(spec, version, digest(contents), f"{image.name} ({release})")
    return Ready(source, parts=parts)


def _beside(image: Path, release: str, folder: Path | None, label: str) -> Parts:
    """What belongs to an image: beside it, among its modules, or in the object directory that it was built in."""
    objects = image.parents[3] if len(image.parents) > 3 else image.parent  # arch/x86/boot/bzImage
    within = [folder] if folder else []

    def find(name: str, built: str) -> Path | None:
        candidates = [image.with_name(f"{name}-{release}"), *(path / name for path in within), objects / built]
        candidates += [path / "build" / built for path in within] + [image.with_name(built)]
        return next((path for path in candidates if path.is_file()), None)

    config = find("config", ".config")
    if config is None:
        raise UserError(
            f"{label} has no configuration beside it: put config-{release} there, or config into modules=DIR"
        )
    return Parts(image, config, folder, find("System.map", "System.map"))


def _archive(layout: Layout, events: Sink) -> Archive:
    return Archive(layout.apt, layout.downloads, layout.locks, events)
