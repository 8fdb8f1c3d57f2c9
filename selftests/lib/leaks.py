"""What a test may leave behind, as a snapshot that can be compared: descriptors, BPF objects, devices, nft tables."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from selftests.lib import bpf
from selftests.lib.bpf import Cmd

_KINDS = ("net:[", "socket:[", "anon_inode:bpf")
"""Descriptors that keep kernel objects of tests alive, by the beginning of their link in /proc/self/fd."""

Descriptor = tuple[int, int, int]
"""Its number, and device and inode of what it is open to."""

_NO_DEVICES = frozenset(("bonding_masters",))
"""What is among the devices in sysfs and is none."""


@dataclass(frozen=True)
class Snapshot:
    """Kernel objects that exist now, by kind."""

    namespace: str
    descriptors: frozenset[Descriptor]
    programs: frozenset[int]
    links: frozenset[int]
    maps: frozenset[int]
    devices: frozenset[str]
    named_namespaces: frozenset[str]

    @classmethod
    def take(cls) -> Snapshot:
        return cls(
            namespace=os.readlink("/proc/thread-self/ns/net"),
            descriptors=frozenset(_descriptors()),
            programs=frozenset(bpf.ids(Cmd.PROG_GET_NEXT_ID)),
            links=frozenset(bpf.ids(Cmd.LINK_GET_NEXT_ID)),
            maps=frozenset(bpf.ids(Cmd.MAP_GET_NEXT_ID)),
            devices=frozenset(os.listdir("/sys/class/net")),
            named_namespaces=frozenset(_named_namespaces()),
        )

    def left_behind(self, before: Snapshot) -> list[str]:
        """One line for each thing that is here now and was not ``before``."""
        lines = [] if self.namespace == before.namespace else [f"the thread is still in namespace {self.namespace}"]
        for left, title in (
            (_kept_objects(self.descriptors - before.descriptors), "open descriptors"),
            (self.programs - before.programs, "BPF programs, by id"),
            (self.links - before.links, "BPF links, by id"),
            (self.maps - before.maps, "BPF maps, by id"),
            (self.devices - before.devices - _NO_DEVICES, "devices in the initial namespace"),
            (self.named_namespaces - before.named_namespaces, "named namespaces"),
        ):
            if left:
                lines.append(f"{title}: {', '.join(str(item) for item in sorted(left))}")
        return lines


def _named_namespaces() -> list[str]:
    try:
        return os.listdir("/run/netns")
    except FileNotFoundError:  # nobody has ever made one
        return []


def _descriptors() -> frozenset[Descriptor]:
    """What is open. To ask what each is open to takes twenty times as long: only of those that are new, one does."""
    found = set()
    for entry in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # it may be gone before it is looked at, as that of the folder is
            status = os.fstat(int(entry))
            found.add((int(entry), status.st_dev, status.st_ino))
    return frozenset(found)


def _kept_objects(descriptors: Iterable[Descriptor]) -> set[str]:
    """Those that are of _KINDS, with their links."""
    found = set()
    for number, _, _ in descriptors:
        with suppress(FileNotFoundError):
            link = os.readlink(f"/proc/self/fd/{number}")
            if link.startswith(_KINDS):
                found.add(f"{number} -> {link}")
    return found
