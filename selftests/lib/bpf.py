"""bpf(2) without a library: every attribute can be set, invalid ones too, and a refusal is an OSError with its errno.

Layouts and numbers: include/uapi/linux/bpf.h of Linux 6.12 (union bpf_attr). Little-endian machines only.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from selftests.lib import asm, programs
from selftests.lib.closing import Closing

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
SYSCALL_NUMBER = {"x86_64": 321, "aarch64": 280}
"""Of bpf(2), by machine: arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h."""


class Cmd(IntEnum):
    """enum bpf_cmd."""

    MAP_CREATE = 0
    MAP_LOOKUP_ELEM = 1
    MAP_UPDATE_ELEM = 2
    PROG_LOAD = 5
    OBJ_PIN = 6
    OBJ_GET = 7
    PROG_ATTACH = 8
    PROG_DETACH = 9
    PROG_TEST_RUN = 10
    PROG_GET_NEXT_ID = 11
    MAP_GET_NEXT_ID = 12
    PROG_GET_FD_BY_ID = 13
    OBJ_GET_INFO_BY_FD = 15
    PROG_QUERY = 16
    LINK_CREATE = 28
    LINK_UPDATE = 29
    LINK_GET_FD_BY_ID = 30
    LINK_GET_NEXT_ID = 31
    LINK_DETACH = 34


class ProgType(IntEnum):
    """enum bpf_prog_type."""

    SOCKET_FILTER = 1
    KPROBE = 2
    SCHED_CLS = 3
    SCHED_ACT = 4
    TRACEPOINT = 5
    XDP = 6
    PERF_EVENT = 7
    CGROUP_SKB = 8
    CGROUP_SOCK = 9
    LWT_IN = 10
    LWT_OUT = 11
    LWT_XMIT = 12
    SOCK_OPS = 13
    SK_SKB = 14
    CGROUP_DEVICE = 15
    SK_MSG = 16
    RAW_TRACEPOINT = 17
    CGROUP_SOCK_ADDR = 18
    LWT_SEG6LOCAL = 19
    SK_REUSEPORT = 21
    FLOW_DISSECTOR = 22
    CGROUP_SYSCTL = 23
    CGROUP_SOCKOPT = 25
    SK_LOOKUP = 30


class AttachType(IntEnum):
    """enum bpf_attach_type."""

    CGROUP_INET_INGRESS = 0
    CGROUP_INET_EGRESS = 1
    CGROUP_INET_SOCK_CREATE = 2
    CGROUP_SOCK_OPS = 3
    SK_MSG_VERDICT = 7
    CGROUP_INET4_BIND = 8
    CGROUP_INET6_BIND = 9
    CGROUP_INET4_CONNECT = 10
    CGROUP_INET6_CONNECT = 11
    CGROUP_INET4_POST_BIND = 12
    CGROUP_INET6_POST_BIND = 13
    CGROUP_UDP4_SENDMSG = 14
    CGROUP_UDP6_SENDMSG = 15
    CGROUP_UDP4_RECVMSG = 19
    CGROUP_UDP6_RECVMSG = 20
    CGROUP_GETSOCKOPT = 21
    CGROUP_SETSOCKOPT = 22
    CGROUP_INET4_GETPEERNAME = 29
    CGROUP_INET6_GETPEERNAME = 30
    CGROUP_INET4_GETSOCKNAME = 31
    CGROUP_INET6_GETSOCKNAME = 32
    CGROUP_INET_SOCK_RELEASE = 34
    SK_LOOKUP = 36
    XDP = 37
    TCX_INGRESS = 46
    TCX_EGRESS = 47
    CGROUP_UNIX_CONNECT = 49
    CGROUP_UNIX_SENDMSG = 50
    CGROUP_UNIX_RECVMSG = 51
    CGROUP_UNIX_GETPEERNAME = 52
    CGROUP_UNIX_GETSOCKNAME = 53
    NETKIT_PRIMARY = 54
    NETKIT_PEER = 55
    XPS = 62
    """BPF_XPS of patches/xps_bpf: the same number on every kernel."""


class Flags(IntEnum):
    """Attach flags (BPF_F_…)."""

    REPLACE = 1 << 2
    BEFORE = 1 << 3
    AFTER = 1 << 4
    ID = 1 << 5
    LINK = 1 << 13


class Verdict(IntEnum):
    """What tcx and netkit programs return: enum tcx_action_base, enum netkit_action, and TC_ACT_… for clsact."""

    NEXT = -1
    PASS = 0
    DROP = 2
    REDIRECT = 7


LINK_TYPE_TCX = 11
LINK_TYPE_NETKIT = 13
LINK_TYPE_XPS = 16
MAP_TYPE_ARRAY = 2
MAP_TYPE_SOCKMAP = 15

QUERY_HAS_LINKS = (6, 6)
"""053c8e1f235d; an older kernel refuses a pointer there with E2BIG."""

MAX_PROGRAMS = 64
"""BPF_MPROG_MAX: kernel/bpf/mprog.c, include/linux/bpf_mprog.h."""


def kernel_version() -> tuple[int, int]:
    """Major and minor number of the running kernel."""
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int(minor.partition("-")[0])


def bpf(command: int, attributes: bytes | bytearray) -> int:
    """One bpf(2) call with exactly these attributes; results that the kernel writes land in a bytearray.

    Raises OSError with the kernel's errno.
    """
    buffer = (ctypes.c_char * len(attributes)).from_buffer(
        attributes if isinstance(attributes, bytearray) else bytearray(attributes)
    )
    number = SYSCALL_NUMBER[platform.machine()]
    result: int = _libc.syscall(ctypes.c_long(number), ctypes.c_int(command), buffer, ctypes.c_uint(len(attributes)))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"bpf({_name(command)}): {os.strerror(code)}")
    return result


def _name(command: int) -> str:
    try:
        return Cmd(command).name
    except ValueError:
        return str(command)


class Handle(Closing):
    """A file descriptor of a BPF object; closing it twice is harmless."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Program(Handle):
    """A loaded program."""

    @property
    def id(self) -> int:
        return int.from_bytes(object_info(self.fd, 232)[4:8], "little")


@dataclass(frozen=True)
class LinkInfo:
    """struct bpf_link_info of a tcx, netkit or xps link."""

    type: int
    id: int
    prog_id: int
    ifindex: int
    """0 once the device is gone."""
    attach_type: int


class Link(Handle):
    """A BPF link; closing the last descriptor detaches it."""

    @property
    def info(self) -> LinkInfo:
        raw = object_info(self.fd, 64)
        kind, link_id, prog_id = struct.unpack_from("<III", raw, 0)
        ifindex, attach_type = struct.unpack_from("<II", raw, 16)
        return LinkInfo(kind, link_id, prog_id, ifindex, attach_type)

    @property
    def id(self) -> int:
        return self.info.id

    def update(self, program: Program, *, flags: int = 0, old: int = 0) -> None:
        """LINK_UPDATE: swap the program in place."""
        bpf(Cmd.LINK_UPDATE, struct.pack("<IIII", self.fd, program.fd, flags, old))

    def detach(self) -> None:
        """LINK_DETACH: off the hook, while the link lives on."""
        bpf(Cmd.LINK_DETACH, struct.pack("<I", self.fd))


class Counters(Handle):
    """An array map with one value, used as slots of unsigned 64 bits that start at 0."""

    def __init__(self, slots: int = 8) -> None:
        self.slots = slots
        super().__init__(create_map(MAP_TYPE_ARRAY, key_size=4, value_size=8 * slots, entries=1, name="counters"))

    def read(self) -> tuple[int, ...]:
        """All slots."""
        return struct.unpack(f"<{self.slots}Q", lookup(self.fd, bytes(4), 8 * self.slots))

    def __getitem__(self, slot: int) -> int:
        return self.read()[slot]

    def signed(self, slot: int) -> int:
        """A slot as a signed number."""
        value = self[slot]
        return value - (1 << 64) if value >> 63 else value


@dataclass(frozen=True)
class Query:
    """What PROG_QUERY wrote. Arrays have the length that was asked for; an entry not written is 0."""

    count: int
    revision: int
    prog_ids: tuple[int, ...]
    link_ids: tuple[int, ...]
    attach_flags: int
    errno: int = 0

    @property
    def programs(self) -> tuple[int, ...]:
        """Program ids in the order in which they run."""
        return self.prog_ids[: self.count]

    @property
    def links(self) -> tuple[int, ...]:
        """Link ids in the same order; 0 for a program attached without a link."""
        return self.link_ids[: self.count]


def _address(buffer: ctypes.Array[ctypes.c_char] | ctypes.Array[ctypes.c_uint32] | None) -> int:
    return ctypes.addressof(buffer) if buffer is not None else 0


def object_info(fd: int, size: int) -> bytes:
    """OBJ_GET_INFO_BY_FD: the first ``size`` bytes of the object's info structure."""
    info = (ctypes.c_char * size)()
    bpf(Cmd.OBJ_GET_INFO_BY_FD, struct.pack("<IIQ", fd, size, _address(info)))
    return bytes(info)


def create_map(map_type: int, *, key_size: int, value_size: int, entries: int, flags: int = 0, name: str = "") -> int:
    """MAP_CREATE: a file descriptor."""
    attributes = struct.pack("<IIIIIII16s", map_type, key_size, value_size, entries, flags, 0, 0, name.encode()[:15])
    return bpf(Cmd.MAP_CREATE, attributes)


def lookup(fd: int, key: bytes, value_size: int) -> bytes:
    """MAP_LOOKUP_ELEM: the value of ``key``; OSError ENOENT when there is none."""
    key_buffer = ctypes.create_string_buffer(key, len(key))
    value = (ctypes.c_char * value_size)()
    bpf(Cmd.MAP_LOOKUP_ELEM, struct.pack("<I4xQQQ", fd, _address(key_buffer), _address(value), 0))
    return bytes(value)


def update(fd: int, key: bytes, value: bytes) -> None:
    """MAP_UPDATE_ELEM with flag BPF_ANY."""
    key_buffer = ctypes.create_string_buffer(key, len(key))
    value_buffer = ctypes.create_string_buffer(value, len(value))
    bpf(Cmd.MAP_UPDATE_ELEM, struct.pack("<I4xQQQ", fd, _address(key_buffer), _address(value_buffer), 0))


def program_by_id(number: int) -> Program:
    """PROG_GET_FD_BY_ID: another descriptor of a loaded program."""
    return Program(bpf(Cmd.PROG_GET_FD_BY_ID, struct.pack("<III", number, 0, 0)))


def link_by_id(number: int) -> Link:
    """LINK_GET_FD_BY_ID: another descriptor of a link."""
    return Link(bpf(Cmd.LINK_GET_FD_BY_ID, struct.pack("<III", number, 0, 0)))


def load(
    kind: ProgType,
    instructions: Iterable[asm.Insn],
    *,
    expected_attach: int = 0,
    name: str = "kproof",
    licence: str = "GPL",
) -> Program:
    """PROG_LOAD. Raises OSError whose text carries the verifier's log."""
    code = asm.assemble(instructions)
    code_buffer = ctypes.create_string_buffer(code, len(code))
    licence_buffer = ctypes.create_string_buffer(licence.encode())

    def attempt(level: int, log: ctypes.Array[ctypes.c_char] | None) -> int:
        attributes = struct.pack(
            "<IIQQIIQII16sII",
            kind,
            len(code) // 8,
            _address(code_buffer),
            _address(licence_buffer),
            level,
            len(log) if log is not None else 0,
            _address(log),
            0,
            0,
            name.encode()[:15],
            0,
            expected_attach,
        )
        return bpf(Cmd.PROG_LOAD, attributes)

    try:
        return Program(attempt(0, None))
    except OSError as first:
        log = (ctypes.c_char * 65536)()
        try:
            return Program(attempt(1, log))
        except OSError:
            text = log.value.decode(errors="replace").strip()
            raise OSError(first.errno, f"{first.strerror}; the verifier says:\n{text}") from None


def load_classifier(*fragments: asm.Fragment, name: str = "kproof") -> Program:
    """Load a program for clsact, tcx and netkit from fragments (selftests.lib.programs)."""
    return load(ProgType.SCHED_CLS, asm.program(*fragments), name=name)


def classifier_returning(verdict: int, counters: Counters | None = None, slot: int = 0) -> Program:
    """A classifier that counts each packet into ``slot``, where counters are given, and returns ``verdict``."""
    counting = programs.count(counters.fd, slot) if counters else []
    return load_classifier(counting, programs.ret(verdict))


def filter_returning(value: int, counters: Counters | None = None, slot: int = 0) -> Program:
    """A socket filter that counts each packet into ``slot``, where counters are given, and returns ``value``."""
    counting = programs.count(counters.fd, slot) if counters else []
    return load_filter(counting, programs.ret(value))


def load_filter(*fragments: asm.Fragment, name: str = "kproof") -> Program:
    """Load a socket filter (also what chooses transmit queues) from fragments (selftests.lib.programs)."""
    return load(ProgType.SOCKET_FILTER, asm.program(*fragments), name=name)


def pin(fd: int, path: str) -> None:
    """OBJ_PIN: a program or link gets a name below a mounted bpffs, and lives as long as that."""
    name = ctypes.create_string_buffer(path.encode())
    bpf(Cmd.OBJ_PIN, struct.pack("<QII", _address(name), fd, 0))


def attach(
    target: int,
    program: int,
    attach_type: int,
    *,
    flags: int = 0,
    replace: int = 0,
    relative: int = 0,
    revision: int = 0,
) -> None:
    """PROG_ATTACH. ``target`` is an ifindex or a cgroup's descriptor, ``program`` a descriptor, ``relative`` a
    descriptor or, with Flags.ID, an id."""
    bpf(Cmd.PROG_ATTACH, struct.pack("<IIIIIIQ", target, program, attach_type, flags, replace, relative, revision))


def detach(
    target: int, program: int, attach_type: int, *, flags: int = 0, relative: int = 0, revision: int = 0
) -> None:
    """PROG_DETACH; ``program`` 0 detaches what ``flags`` points at."""
    bpf(Cmd.PROG_DETACH, struct.pack("<IIIIIIQ", target, program, attach_type, flags, 0, relative, revision))


def link_create(
    program: int, target: int, attach_type: int, *, flags: int = 0, relative: int = 0, revision: int = 0
) -> Link:
    """LINK_CREATE on a device (ifindex) or cgroup (descriptor)."""
    attributes = struct.pack("<IIIIIIQ", program, target, attach_type, flags, relative, 0, revision)
    return Link(bpf(Cmd.LINK_CREATE, attributes))


def cgroup_link(program: Program, cgroup: int, attach_type: int) -> Link:
    """LINK_CREATE on a cgroup, given by a descriptor of its folder."""
    return Link(bpf(Cmd.LINK_CREATE, struct.pack("<IIII", program.fd, cgroup, attach_type, 0)))


def query(
    target: int,
    attach_type: int,
    *,
    room: int | None = MAX_PROGRAMS,
    arrays: bool = True,
    query_flags: int = 0,
    attach_flags: int = 0,
) -> Query:
    """PROG_QUERY. ``room`` is the count that is passed in, ``arrays`` False passes NULL pointers.

    Before QUERY_HAS_LINKS, neither link ids nor a revision are told: both are 0.

    ENOSPC (the arrays were too short: the kernel fills what fits and still tells the full count) is returned in
    ``errno``; every other refusal is raised.
    """
    room = room or 0
    prog_ids = (ctypes.c_uint32 * max(room, 1))() if arrays else None
    link_ids = (ctypes.c_uint32 * max(room, 1))() if arrays and kernel_version() >= QUERY_HAS_LINKS else None
    attributes = bytearray(
        struct.pack(
            "<IIIIQI4xQQQQ",
            target,
            attach_type,
            query_flags,
            attach_flags,
            _address(prog_ids),
            room,
            0,
            _address(link_ids),
            0,
            0,
        )
    )
    code = 0
    try:
        bpf(Cmd.PROG_QUERY, attributes)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        code = errno.ENOSPC
    (returned_flags,) = struct.unpack_from("<I", attributes, 12)
    (count,) = struct.unpack_from("<I", attributes, 24)
    (revision,) = struct.unpack_from("<Q", attributes, 56)
    return Query(
        count=count,
        revision=revision,
        prog_ids=tuple(prog_ids or ()),
        link_ids=tuple(link_ids or [0] * len(prog_ids or ())),
        attach_flags=returned_flags,
        errno=code,
    )


def ids(command: Cmd) -> set[int]:
    """All ids that PROG_, MAP_ or LINK_GET_NEXT_ID walks over."""
    found: set[int] = set()
    last = 0
    while True:
        attributes = bytearray(struct.pack("<III", last, 0, 0))
        try:
            bpf(command, attributes)
        except OSError as error:
            if error.errno == errno.ENOENT:
                return found
            raise
        (last,) = struct.unpack_from("<I", attributes, 4)
        found.add(last)


def test_run(program: Program, packet: bytes) -> tuple[int, bytes]:
    """PROG_TEST_RUN with a packet: the program's return value and the packet as it left it."""
    data_in = ctypes.create_string_buffer(packet, len(packet))
    data_out = (ctypes.c_char * (len(packet) + 256))()
    # struct { prog_fd, retval, data_size_in, data_size_out, data_in, data_out, repeat, duration, … } test
    attributes = bytearray(
        struct.pack("<IIIIQQII", program.fd, 0, len(packet), len(data_out), _address(data_in), _address(data_out), 1, 0)
        + bytes(40)
    )
    bpf(Cmd.PROG_TEST_RUN, attributes)
    returned, _, out_size = struct.unpack_from("<III", attributes, 4)
    return returned, bytes(data_out)[:out_size]


test_run.__test__ = False  # type: ignore[attr-defined]  # a helper, though its name begins like a test's
