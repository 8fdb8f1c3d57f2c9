"""What a test may leave behind, as a snapshot that can be compared: descriptors, BPF objects, devices, nft tables."""

from __future__ import annotations

import os
from dataclasses import dataclass

from selftests.lib import bpf
from selftests.lib.bpf import Cmd

_KINDS = ("net:[", "socket:[", "anon_inode:bpf")
"""Descriptors that keep kernel objects of tests alive, by the beginning of their link in /proc/self/fd."""


@dataclass(frozen=True)
class Snapshot:
    """Kernel objects that exist now, by kind."""

    namespace: str
    descriptors: frozenset[str]
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
            devices=frozenset(line.split(":")[0].strip() for line in _net("dev").splitlines()[2:]),
            named_namespaces=frozenset(_named_namespaces()),
        )

    def left_behind(self, before: Snapshot) -> list[str]:
        """One line for each thing that is here now and was not ``before``."""
        lines = [] if self.namespace == before.namespace else [f"the thread is still in namespace {self.namespace}"]
        for name, title in (
            ("descriptors", "open descriptors"),
            ("programs", "BPF programs, by id"),
            ("links", "BPF links, by id"),
            ("maps", "BPF maps, by id"),
            ("devices", "devices in the initial namespace"),
            ("named_namespaces", "named namespaces"),
        ):
            if left := getattr(self, name) - getattr(before, name):
                lines.append(f"{title}: {', '.join(str(item) for item in sorted(left))}")
        return lines


def _net(name: str) -> str:
    with open(f"/proc/thread-self/net/{name}") as file:
        return file.read()


def _named_namespaces() -> list[str]:
    try:
        return os.listdir("/run/netns")
    except FileNotFoundError:  # nobody has ever made one
        return []


def _descriptors() -> set[str]:
    found = set()
    for entry in os.listdir("/proc/self/fd"):  # a descriptor may be gone before it is looked at
        try:
            link = os.readlink(f"/proc/self/fd/{entry}")
        except FileNotFoundError:
            continue
        if link.startswith(_KINDS):
            found.add(f"{entry} -> {link}")
    return found
