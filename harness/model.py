"""The nouns: frozen values without behaviour that touches the disk."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from harness.errors import UserError


@dataclass(frozen=True, order=True)
class Version:
    """A kernel version, ``major.minor.patch``. Ordered; ``6.12`` equals ``6.12.0``, a ``-rc`` suffix is dropped."""

    major: int
    minor: int
    patch: int = 0

    @classmethod
    def parse(cls, text: str) -> Version:
        """Parse ``6.12``, ``6.12.8`` or ``6.12.8-1~deb12u1``; raises UserError for anything else."""
        match = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?(?![\d.])", text)
        if not match:
            raise UserError(f"{text!r} is not a kernel version; write it like 6.12 or 6.12.8")
        return cls(int(match[1]), int(match[2]), int(match[3] or 0))

    @classmethod
    def of_kernel(cls, release: str, build: str) -> Version:
        """Of uname(2)'s ``release`` and ``version``.

        The release of Debian's kernels before 6.12 is the name of an interface, 6.1.0-57-amd64; what they are made from
        stands in the other: ``#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-3``.
        """
        told = re.search(r"\bDebian (\d+\.\d+\.\d+)", build)
        return cls.parse(told[1] if told else release)

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"


@dataclass(frozen=True)
class VersionRange:
    """Comparisons that must all hold, written ``>=6.1,<6.2``. An empty text is every version."""

    text: str

    def __contains__(self, version: Version) -> bool:
        return all(self._holds(term.strip(), version) for term in self.text.split(",") if term.strip())

    @staticmethod
    def _holds(term: str, version: Version) -> bool:
        match = re.fullmatch(r"(>=|<=|<|>|==)\s*([\d.]+)", term)
        if not match:
            raise UserError(f"{term!r} is not a version range term; write it like >=6.1 or <6.2")
        bound = Version.parse(match[2])
        match match[1]:
            case ">=":
                return version >= bound
            case "<=":
                return version <= bound
            case "<":
                return version < bound
            case ">":
                return version > bound
            case _:
                return version == bound


IMAGE = "image:"
"""How the source of a kernel begins that is not built."""
KEYED = ("patch", "config", "flavour", "upstream", "modules")
"""What stands before the ``=`` in words of a recipe that are no settings."""


@dataclass(frozen=True)
class Request:
    """What a user asked for, before anything is looked up: the recipe's recipe.

    Written on a command line as options, or as one text (``--kernel``), parsed by ``Request.parse``.
    """

    source: str = "debian:6.12"
    series: tuple[str, ...] | None = None
    """Names under patches/; None is "all that apply"; an empty tuple is none."""
    patches: tuple[str, ...] = ()
    """Paths of plain patch or mbox files, applied after the series, in this order."""
    flavours: tuple[str, ...] = ()
    """Debug flavours: names of fragments in kconfigs/ (kasan, lockdep, kmemleak)."""
    configs: tuple[str, ...] = ()
    """Paths of further Kconfig fragments."""
    settings: tuple[str, ...] = ()
    """``SYMBOL=value``, the last word on a symbol."""
    upstream: str = ""
    """A git clone from which the upstream commits of absent series are taken; empty: none."""
    modules: str = ""
    """The folder of modules that belongs to an ``image:`` file; empty: the one beside it."""

    @property
    def ready_made(self) -> bool:
        """Whether it asks for a kernel that somebody else has built."""
        return self.source.startswith(IMAGE)

    @classmethod
    def parse(cls, text: str) -> Request:
        """Parse a recipe text: words separated by blanks, quoted as in a shell, each one of

            SCHEME:REST   the source (debian:6.12, git:PATH@REF, dir:PATH, tar:PATH, kernel:IDENTITY), or a kernel
                          that is not built (image:debian:6.12.94, image:PATH)
            +NAME         this series (without any: all that apply); +none for no series at all
            SYMBOL=VALUE  a Kconfig setting
            patch=PATH, config=PATH, flavour=NAME, upstream=GITDIR
            modules=DIR   the modules of an image:PATH

        Raises UserError that names the word which is none of these.
        """
        import shlex

        try:
            words = shlex.split(text)
        except ValueError as error:
            raise UserError(f"recipe {text!r}: {error}") from None
        source: list[str] = []
        series: list[str] = []
        keyed: dict[str, list[str]] = {key: [] for key in (*KEYED, "set")}
        for word in words:
            key, equals, value = word.partition("=")
            if word.startswith("+") and len(word) > 1:
                series.append(word[1:])
            elif equals and key in KEYED:
                keyed[key].append(value)
            elif equals and re.fullmatch(r"(CONFIG_)?[A-Z0-9_]+", key):
                keyed["set"].append(word)
            elif re.match(r"[a-z]+:.", word):
                source.append(word)
            else:
                raise UserError(
                    f"recipe word {word!r} is not understood; a recipe reads like"
                    " 'debian:6.12 +netkit NETKIT=y patch=fix.patch flavour=kasan'"
                )
        if len(source) > 1:
            raise UserError(f"a recipe has one source, this one has {len(source)}: {' '.join(source)}")
        return cls(
            source=source[0] if source else cls.source,
            series=None if not series else () if series == ["none"] else tuple(series),
            patches=tuple(keyed["patch"]),
            flavours=tuple(keyed["flavour"]),
            configs=tuple(keyed["config"]),
            settings=tuple(keyed["set"]),
            upstream=keyed["upstream"][-1] if keyed["upstream"] else "",
            modules=keyed["modules"][-1] if keyed["modules"] else "",
        )

    def anchored(self, folder: Path) -> Request:
        """The same with paths that do not depend on where one is: relative ones are meant from ``folder``."""

        def whole(path: str) -> str:
            return path if path.startswith("~") else str(folder / path)

        scheme, _, rest = self.source.partition(":")
        has_path = scheme in ("git", "dir", "tar") or (scheme == "image" and not rest.startswith("debian:"))
        return replace(
            self,
            source=f"{scheme}:{whole(rest)}" if has_path else self.source,
            patches=tuple(map(whole, self.patches)),
            configs=tuple(map(whole, self.configs)),
            upstream=whole(self.upstream) if self.upstream else "",
            modules=whole(self.modules) if self.modules else "",
        )

    def __str__(self) -> str:
        """The text that ``parse`` reads back to an equal request."""
        import shlex

        words = [self.source]
        words += ["+none"] if self.series == () else [f"+{name}" for name in self.series or ()]
        words += [f"flavour={name}" for name in self.flavours]
        words += [f"config={path}" for path in self.configs]
        words += [f"upstream={self.upstream}"] if self.upstream else []
        words += [f"modules={self.modules}"] if self.modules else []
        words += [f"patch={path}" for path in self.patches]
        return shlex.join(words + list(self.settings))


@dataclass(frozen=True)
class Source:
    """An identified, pristine kernel tree."""

    spec: str
    """As asked for: ``debian:6.12``."""
    version: Version
    """Read from the tree's Makefile."""
    identity: str
    """Hash of what is in it: of the tarball, the git tree, or the files' content."""
    label: str
    """What a person calls it: ``debian 6.12.117-1``, ``git v6.12-3-gabc``."""


@dataclass(frozen=True)
class Patch:
    """One unified diff to be applied with ``-p1``."""

    name: str
    """Where it comes from, for messages: ``patches/xps_bpf/6.12/0001-….patch``, a user's path, an upstream commit."""
    text: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text).hexdigest()


class SeriesState(StrEnum):
    """What a series is to a tree."""

    PRESENT = "present"
    APPLIES = "applies"
    ABSENT = "absent"


@dataclass(frozen=True)
class SeriesStatus:
    name: str
    state: SeriesState
    reason: str
    """Where the tree shows it (file:line), which patches apply, or why it is absent and since when it exists."""


@dataclass(frozen=True)
class Recipe:
    """Everything that can change the kernel, resolved and hashed."""

    source: Source
    series: tuple[SeriesStatus, ...]
    patches: tuple[Patch, ...]
    """All of them in order: of the series that apply first, then the user's."""
    settings: tuple[tuple[str, str], ...]
    """``(SYMBOL, value)`` as requested of Kconfig, merged, without ``CONFIG_``; ``n`` for "not set"."""
    flavours: tuple[str, ...]
    toolchain: str
    """Compiler and binutils with their versions."""
    arch: str = "x86_64"

    @property
    def identity(self) -> str:
        """16 hex digits over source, patches, configuration, toolchain and architecture."""
        facts = {
            "source": self.source.identity,
            "patches": [patch.sha256 for patch in self.patches],
            "settings": sorted(self.settings),
            "toolchain": self.toolchain,
            "arch": self.arch,
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Kernel:
    """A kernel in the store: built, or ready-made."""

    identity: str
    folder: Path
    version: Version
    release: str
    """What ``uname -r`` prints in it."""
    request: str
    """The request it was built for, as text."""
    series: tuple[SeriesStatus, ...]
    config_proof: tuple[tuple[str, str], ...]
    """Every requested symbol with the value that it has; of a ready-made kernel, those that guests need."""
    seconds: float
    """What the build took when it was made."""
    ready_made: bool = False
    """Built by somebody else: parts of it are modules."""

    @property
    def image(self) -> Path:
        return self.folder / "bzImage"

    @property
    def boot_image(self) -> Path:
        """What guests boot: vmlinux where it has a PVH entry, because nothing need be decompressed then."""
        return self.vmlinux if ("PVH", "y") in self.config_proof else self.image

    @property
    def vmlinux(self) -> Path:
        return self.folder / "vmlinux"

    @property
    def system_map(self) -> Path:
        return self.folder / "System.map"

    @property
    def config(self) -> Path:
        return self.folder / "config"

    @property
    def floor(self) -> Path:
        """Of a ready-made kernel: the modules without which no guest gets on, named in the order of loading."""
        return self.folder / "floor"

    @property
    def modules(self) -> Path:
        """Of a ready-made kernel: an erofs image of /lib/modules."""
        return self.folder / "modules.erofs"

    @property
    def build_log(self) -> Path:
        return self.folder / "build.log"

    @property
    def manifest(self) -> Path:
        return self.folder / "manifest.json"


@dataclass(frozen=True)
class RootImage:
    """A frozen root for guests: an erofs image, named by its content."""

    identity: str
    path: Path


Accelerator = Literal["kvm", "tcg"]


@dataclass(frozen=True)
class GuestSpec:
    """All that a guest is made of."""

    launcher: Literal["image", "virtme"]
    kernel: str
    """Path of the kernel image that QEMU loads."""
    root: str
    """Path of the erofs image; empty for virtme."""
    project: str
    """Host folder that the guest sees read-only, under the same path."""
    accel: Accelerator
    folder: str
    """Where this guest's console and notes go: results/RUN/guests/NAME."""
    speed: float = 1.0
    """Measured slowness of this host; every limit is multiplied by it."""
    memory_mb: int = 512
    cpus: int = 1
    env: dict[str, str] = field(default_factory=dict)
    """Environment for the guest's Python."""
    kernel_identity: str = ""
    """The stored kernel's identity: what a snapshot belongs to."""
    snapshot: str = ""
    """Path of a snapshot to restore; empty for a cold boot."""
    initramfs: str = ""
    """Path of an initramfs; empty for a kernel that mounts its root by itself."""
    modules: str = ""
    """Path of an erofs image of /lib/modules; empty for a kernel without modules."""
    shares: Literal["9p", "disk"] = "9p"
    """How the guest sees the project: as it is now, over 9p; or as it was at the guest's start, on a disk."""


class Result(StrEnum):
    """The one true result of a selected test."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"
    XFAILED = "xfailed"
    """It failed, or its guest died, and a marker says so: ``xfail``, ``fixed_in``, ``known_bug``."""
    CRASHED = "crashed"
    HUNG = "hung"
    ERROR = "error"
    NOT_RUN = "not run"


BAD = frozenset({Result.FAILED, Result.CRASHED, Result.HUNG, Result.ERROR})
"""What makes a run red."""


@dataclass(frozen=True)
class Outcome:
    """What became of one selected test."""

    nodeid: str
    result: Result
    seconds: float = 0.0
    message: str = ""
    """One line: the assertion, the reason of the skip, the panic's title."""
    detail: str = ""
    """The whole report: traceback, captured output, console tail."""
    guest: str = ""
    kernel_log: str = ""
    """What the kernel said during the test."""
    taint: tuple[int, int] | None = None
    """The kernel's taint flags before and after; None when the guest did not live to tell."""
    phases: dict[str, float] = field(default_factory=dict)
    """Seconds of set-up, call and teardown, as far as they are known."""
    known: tuple[tuple[str, str], ...] = ()
    """Complaints of the kernel that known_issues.toml excuses: regex and title."""
    splats: tuple[Splat, ...] = ()
    """What the kernel complained of during the test, also if that was expected."""

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "splats": [splat.to_json() for splat in self.splats]}


class SplatKind(StrEnum):
    """What sort of trouble a kernel reports."""

    BUG = "bug"
    WARNING = "warning"
    OOPS = "oops"
    PANIC = "panic"
    KASAN = "kasan"
    KCSAN = "kcsan"
    KFENCE = "kfence"
    KMSAN = "kmsan"
    UBSAN = "ubsan"
    LOCKDEP = "lockdep"
    RCU_STALL = "rcu stall"
    HUNG_TASK = "hung task"
    SOFT_LOCKUP = "soft lockup"
    HARD_LOCKUP = "hard lockup"
    REFCOUNT = "refcount"
    LIST = "list"
    ATOMIC = "atomic"
    KMEMLEAK = "kmemleak"
    PAGE_ALLOCATION = "page allocation"
    OOM = "oom"
    NETDEV_WATCHDOG = "netdev watchdog"
    NETDEV_REFERENCE = "netdev reference"


@dataclass(frozen=True)
class Frame:
    """One function of a stack trace."""

    function: str
    """Without the suffixes that the compiler gives to parts and copies of a function."""
    address: str = ""
    """As printed: ``netif_rx+0x1f/0x40``, or ``nk_xmit+0x1/0x2 [netkit]`` in a module; empty: the trace has none."""
    file: str = ""
    """Where the kernel's source has it, as from the tree's root; empty if that is not known."""
    line: int = 0
    inlined: bool = False
    """The compiler put it into the next frame's function; the trace itself has it not."""

    def to_json(self) -> dict[str, Any]:
        return {"function": self.function, "file": self.file, "line": self.line, "inlined": self.inlined}


@dataclass(frozen=True)
class Splat:
    """One report of trouble that a kernel printed."""

    kind: SplatKind
    title: str
    """The same for the same trouble in another run: no addresses, numbers or processors in it."""
    function: str
    """Where it happened, without offset; empty if the report does not say."""
    at: Frame | None
    """What the instruction pointer says; None if no registers were printed."""
    frames: tuple[Frame, ...]
    """The functions of its first stack trace, innermost first; guessed ones if there are no others."""
    text: str
    """Its lines without timestamps, callers and colours."""
    heading: str
    """Of these lines the one that names the trouble, as it was printed."""
    line: int
    """Where it begins in the log; the first line is 1."""
    cut: bool
    """Its end was never printed: the log, or another report, came first."""

    def to_json(self) -> dict[str, Any]:
        """Without its text, which is part of a kernel's log."""
        return {
            "kind": str(self.kind),
            "title": self.title,
            "function": self.function,
            "at": self.at.to_json() if self.at else None,
            "frames": [frame.to_json() for frame in self.frames],
            "cut": self.cut,
        }
