"""``kproof doctor``: what this machine has, what is missing, and the one command that mends it."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from harness.errors import InfraError, KproofError
from harness.paths import cache_root, project_root
from harness.tables import table

# What a first run leaves behind: source, tree, objects, ccache, one kernel; measured for debian:6.12, rounded up.
DISK_GB = 6
MEMORY_GB = 2


@dataclass(frozen=True)
class Finding:
    """One prerequisite: what it is, its version or value, and how it stands (``ok``, ``missing``, ``low``, …)."""

    name: str
    value: str
    state: str

    @property
    def good(self) -> bool:
        return self.state == "ok"


def examine() -> int:
    """Print all findings and the mending command; returns 0, or 3 when something is missing."""
    packages, python, programs = _packages(), _python(), _programs()
    findings = [*packages, *python, *programs, *_machine()]
    print(table(("STATE", "PREREQUISITE", "VERSION OR VALUE"), [(f.state, f.name, f.value) for f in findings]))
    absent = [finding.name for finding in packages if not finding.good]
    if absent:
        print(f"\nmissing packages; run: apt install {' '.join(absent)}")
    if any(not finding.good for finding in python):
        print("\nmissing Python packages; run: make setup")
    bad = [finding for finding in findings if not finding.good]
    if not bad:
        print("\nall is well; run: kproof run")
    return InfraError.exit_status if bad else 0


def _packages() -> list[Finding]:
    names = [
        line.split()[0]
        for line in (project_root() / "ci" / "packages.txt").read_text().splitlines()
        if line.strip() and not line.startswith("#")
    ]
    if not shutil.which("dpkg-query"):
        return [Finding(name, "no dpkg here to ask", "unknown") for name in names]
    asked = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status} ${Version}\n", *names],
        capture_output=True,
        text=True,
        check=False,  # it fails when one of them is unknown, and prints the others
    )
    installed = {}
    for line in asked.stdout.splitlines():
        name, status, *version = line.split()
        if status == "installed" and version:
            installed[name] = version[0]
    return [Finding(name, installed.get(name, "-"), "ok" if name in installed else "missing") for name in names]


def _programs() -> list[Finding]:
    """Installed is not enough: what is started must be found."""
    from harness.guest.image import PROGRAM_FOLDERS
    from harness.guest.machine import qemu_program

    path = os.pathsep.join([os.environ.get("PATH", ""), *PROGRAM_FOLDERS])
    findings = []
    for name, where in ((qemu_program(), None), ("clang", None), ("gcc", None), ("make", None), ("mkfs.erofs", path)):
        found = shutil.which(name, path=where)
        findings.append(Finding(name, found or "-", "ok" if found else "not in PATH"))
    return findings


def _python() -> list[Finding]:
    findings = [Finding("python", f"{platform.python_version()} {sys.executable}", "ok")]
    for name in ("pytest", "pytest-xdist", "execnet", "virtme-ng", "pyroute2", "paramiko", "junit-xml", "rich"):
        try:
            findings.append(Finding(name, metadata.version(name), "ok"))
        except metadata.PackageNotFoundError:
            findings.append(Finding(name, "-", "missing"))
    return findings


def _machine() -> list[Finding]:
    from harness.guest.accel import measured_host

    try:
        kernel = _newest_kernel()
        host = measured_host(kernel)
    except KproofError as error:
        return [Finding("accelerator", str(error), "broken"), *_sizes()]
    why = "" if host.accel == "kvm" else f" (no KVM: {host.reason})"
    return [
        Finding("accelerator", f"{host.accel}{why}", "ok"),
        Finding("speed factor", f"{host.speed} (limits are multiplied by it; 1.0 is two cores of 2.6 GHz)", "ok"),
        *_sizes(),
    ]


def _newest_kernel() -> Path | None:
    from harness.kernel.store import Store

    kernels = Store(cache_root() / "kernels").kernels()
    return kernels[0][0].boot_image if kernels else None


def _sizes() -> list[Finding]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    place = cache_root()
    while not place.exists():
        place = place.parent
    disk = shutil.disk_usage(place).free / 2**30
    return [
        Finding("cores", str(len(os.sched_getaffinity(0))), "ok"),
        Finding("memory", f"{memory:.0f} GB", "ok" if memory >= MEMORY_GB else f"low: {MEMORY_GB} GB are needed"),
        Finding("disk", f"{disk:.0f} GB free for {cache_root()}", "ok" if disk >= DISK_GB else f"low: {DISK_GB} GB"),
    ]
