"""Namespace cookies as keys of BPF maps: what tells pods apart that have the same addresses.

f318903c0bf4 "bpf: Add netns cookie and enable it for bpf cgroup hooks" names the use: a service's session affinity for
clients of one machine, whose addresses do not tell them apart. A program at connect(2) picks a backend for a namespace
the first time, and remembers it by the cookie.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from selftests.lib import asm, bpf, programs
from selftests.lib.asm import R0, R1, R2, R3, R4, R6, R7, R10, Fragment
from selftests.lib.bpf import AttachType, ProgType
from selftests.lib.netns import Namespace

pytestmark = pytest.mark.feature("netns_cookie")

_LOOKUP, _UPDATE = 1, 2
"""Helpers: include/uapi/linux/bpf.h, ___BPF_FUNC_MAPPER"""
_MAP_TYPE_HASH = 1
_USER_PORT = 24
"""Offset in struct bpf_sock_addr."""

CHOICE = 0
"""Slot of the counters: the backend's port for who is not known yet, in network order."""

FAMILIES = {
    "IPv4": (socket.AF_INET, "127.0.0.1", AttachType.CGROUP_INET4_CONNECT),
    "IPv6": (socket.AF_INET6, "::1", AttachType.CGROUP_INET6_CONNECT),
}
VERSIONS = pytest.mark.parametrize("version", list(FAMILIES))


def affinity(backends: int, counters: int) -> Fragment:
    """The port that the map has for the caller's namespace is connected to; without one the choice, which it keeps."""
    cookie, port = -8, -16
    known = [asm.load(8, R7, R0, 0)]
    new = [
        *asm.map_value(R1, counters, CHOICE * programs.SLOT_BYTES),
        asm.load(8, R7, R1, 0),
        asm.store(8, R10, R7, port),
        *_map(R1, backends),
        asm.mov_reg(R2, R10),
        asm.add_imm(R2, cookie),
        asm.mov_reg(R3, R10),
        asm.add_imm(R3, port),
        asm.mov_imm(R4, 0),
        asm.call(_UPDATE),
    ]
    return [
        asm.mov_reg(R1, R6),
        asm.call(programs.HELPER_GET_NETNS_COOKIE),
        asm.store(8, R10, R0, cookie),
        *_map(R1, backends),
        asm.mov_reg(R2, R10),
        asm.add_imm(R2, cookie),
        asm.call(_LOOKUP),
        asm.jump_if_not_imm(R0, 0, len(new) + 1),
        *new,
        asm.jump(len(known)),
        *known,
        asm.store(4, R6, R7, _USER_PORT),
    ]


def _map(register: int, fd: int) -> Fragment:
    """A map's address (BPF_PSEUDO_MAP_FD)."""
    return [asm.Insn(0x18, register, asm.PSEUDO_MAP_FD, imm=fd), asm.Insn(0)]


@dataclass(frozen=True)
class Service:
    """A service whose program is on every socket of the machine while the test runs."""

    version: str
    backends: bpf.Handle
    counters: bpf.Counters

    def choose(self, port: int) -> None:
        """The backend for namespaces that come for the first time."""
        values = list(self.counters.read())
        values[CHOICE] = socket.htons(port)
        bpf.update(self.counters.fd, bytes(4), struct.pack(f"<{len(values)}Q", *values))

    def port_for(self, namespace: Namespace) -> int:
        """The port that a client in ``namespace`` is led to."""
        family, address, _ = FAMILIES[self.version]
        with namespace.socket(family) as sock:
            sock.connect((address, 80))
            port: int = sock.getpeername()[1]
            return port

    def remembered(self, namespace: Namespace) -> int:
        """What the map has under the cookie that SO_NETNS_COOKIE tells; KeyError without it."""
        try:
            value = bpf.lookup(self.backends.fd, namespace.cookie.to_bytes(8, "little"), 8)
        except OSError as error:
            raise KeyError(f"no entry of {namespace} in the map") from error
        return socket.ntohs(int.from_bytes(value, "little"))


@pytest.fixture
def make_service(cleanup: ExitStack, counters: bpf.Counters) -> Iterator[Callable[[str], Service]]:
    """``make_service("IPv6")``."""
    root = os.open("/sys/fs/cgroup", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def make(version: str) -> Service:
        attach = FAMILIES[version][2]
        backends = cleanup.enter_context(
            bpf.Handle(bpf.create_map(_MAP_TYPE_HASH, key_size=8, value_size=8, entries=16, name="backends"))
        )
        code = asm.program(affinity(backends.fd, counters.fd), programs.ret(1))
        program = cleanup.enter_context(bpf.load(ProgType.CGROUP_SOCK_ADDR, code, expected_attach=attach))
        cleanup.enter_context(bpf.cgroup_link(program, root, attach))
        return Service(version, backends, counters)

    try:
        yield make
    finally:
        os.close(root)


@VERSIONS
@pytest.mark.promise("cookie-separates-pods")
def test_pods_with_one_address_have_backends_of_their_own(
    make_service: Callable[[str], Service], new_namespace: Callable[..., Namespace], version: str
) -> None:
    """Two namespaces connect from the same address: the second one's choice is not the first one's."""
    service = make_service(version)
    ports = []
    for name, port in (("first", 5001), ("second", 5002)):
        service.choose(port)
        ports.append(service.port_for(new_namespace(name, quiet=False)))
    assert ports == [5001, 5002], "ports that the first and the second namespace were led to"


@VERSIONS
@pytest.mark.promise("cookie-is-affine")
def test_pod_keeps_its_backend(
    make_service: Callable[[str], Service], new_namespace: Callable[..., Namespace], version: str
) -> None:
    """The cookie is the namespace's for life: each later socket of it finds the first one's entry."""
    service = make_service(version)
    first, second = (new_namespace(name, quiet=False) for name in ("first", "second"))
    for namespace, port in ((first, 5001), (second, 5002)):
        service.choose(port)
        service.port_for(namespace)
    service.choose(5003)
    again = [service.port_for(namespace) for namespace in (first, second, first)]
    assert again == [5001, 5002, 5001], "ports of the first, the second and the first namespace again"


@pytest.mark.since("5.14")  # e8b9eab99232
@pytest.mark.promise("cookie-is-the-sockets-option")
def test_entry_is_found_by_the_cookie_of_the_socket_option(
    make_service: Callable[[str], Service], new_namespace: Callable[..., Namespace]
) -> None:
    """What an agent reads by SO_NETNS_COOKIE (e8b9eab99232) is the key that the program wrote, all 64 bits."""
    service = make_service("IPv4")
    namespace = new_namespace("pod")
    service.choose(5001)
    service.port_for(namespace)
    assert service.remembered(namespace) == 5001


@pytest.mark.promise("cookie-is-affine")
def test_namespace_after_another_is_not_mistaken_for_it(
    make_service: Callable[[str], Service], new_namespace: Callable[..., Namespace]
) -> None:
    """A cookie is not given again: who comes after a namespace has ended does not get its backend."""
    service = make_service("IPv4")
    service.choose(5001)
    before = new_namespace("before")
    service.port_for(before)
    before.close()
    service.choose(5002)
    assert service.port_for(new_namespace("after")) == 5002
