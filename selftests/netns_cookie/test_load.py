"""Which programs may call bpf_get_netns_cookie(), on which kernel, with what, and under which licence.

Source of the promises: the helper's func_proto in net/core/filter.c and kernel/bpf/cgroup.c (``gpl_only`` false,
argument ARG_PTR_TO_CTX_OR_NULL), and the commits that gave it to each type of program.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass

import pytest

from selftests.lib import asm, bpf, expect, programs
from selftests.lib.bpf import AttachType, ProgType

pytestmark = pytest.mark.feature("netns_cookie")

NEVER = "99"


@dataclass(frozen=True)
class Kind:
    """A type of program, an attach type where it must have one to be loaded, and when it got the helper."""

    type: ProgType
    attach: int = 0
    since: str = NEVER
    commit: str = ""

    @property
    def title(self) -> str:
        return self.type.name.lower()

    def load(self, *call: asm.Insn, licence: str = "GPL") -> None:
        """A program of ``call`` that returns 1: every type here allows that."""
        code = asm.program(list(call), programs.ret(1))
        bpf.load(self.type, code, expected_attach=self.attach, licence=licence).close()


HAVE = (
    Kind(ProgType.CGROUP_SOCK, AttachType.CGROUP_INET_SOCK_CREATE, "5.7", "f318903c0bf4"),
    Kind(ProgType.CGROUP_SOCK_ADDR, AttachType.CGROUP_INET4_CONNECT, "5.7", "f318903c0bf4"),
    Kind(ProgType.CGROUP_SOCKOPT, AttachType.CGROUP_GETSOCKOPT, "5.12", "f1248dee954c"),
    Kind(ProgType.SOCK_OPS, 0, "5.15", "6cf1770d63dc"),
    Kind(ProgType.SK_MSG, AttachType.SK_MSG_VERDICT, "5.15", "fab60e29fcc6"),
    Kind(ProgType.SCHED_CLS, 0, "6.13", "eb62f49de7ec"),
    Kind(ProgType.SCHED_ACT, 0, "6.13", "eb62f49de7ec"),
    Kind(ProgType.CGROUP_SKB, AttachType.CGROUP_INET_INGRESS, "6.15", "c221d3744ad3"),
    # sk_filter_func_proto(), which programs on packets of a cgroup fall back on
    Kind(ProgType.SOCKET_FILTER, 0, "6.15", "c221d3744ad3"),
)
"""Types that have the helper, from a release on."""

HAVE_NOT = (
    Kind(ProgType.KPROBE),
    Kind(ProgType.TRACEPOINT),
    Kind(ProgType.XDP),
    Kind(ProgType.PERF_EVENT),
    Kind(ProgType.LWT_IN),
    Kind(ProgType.LWT_OUT),
    Kind(ProgType.LWT_XMIT),
    Kind(ProgType.SK_SKB),
    Kind(ProgType.CGROUP_DEVICE),
    Kind(ProgType.RAW_TRACEPOINT),
    Kind(ProgType.LWT_SEG6LOCAL),
    Kind(ProgType.SK_REUSEPORT),
    Kind(ProgType.FLOW_DISSECTOR),
    Kind(ProgType.CGROUP_SYSCTL),
    Kind(ProgType.SK_LOOKUP, AttachType.SK_LOOKUP),
)
"""Types that no release gave the helper."""

OF_CONTEXT = (asm.mov_reg(asm.R1, asm.R6), asm.call(programs.HELPER_GET_NETNS_COOKIE))
OF_NULL = (asm.mov_imm(asm.R1, 0), asm.call(programs.HELPER_GET_NETNS_COOKIE))
REFUSED = f"#{programs.HELPER_GET_NETNS_COOKIE}"
"""How the verifier names a helper that a type of program lacks."""


def is_there(kind: Kind) -> bool:
    major, minor = kind.since.partition(".")[::2]
    return bpf.kernel_version() >= (int(major), int(minor or 0))


def kinds_with_it() -> pytest.MarkDecorator:
    """One case for each type that has the helper, skipped on a kernel that is too old."""
    cases = [pytest.param(kind, id=kind.title, marks=pytest.mark.since(kind.since)) for kind in HAVE]
    return pytest.mark.parametrize("kind", cases)


@pytest.mark.promise("load-matrix")
@pytest.mark.parametrize(
    "kind", [pytest.param(kind, id=f"{kind.title}-since-{kind.since}") for kind in HAVE if kind.since != NEVER]
)
def test_program_type_has_it_since(kind: Kind) -> None:
    """The release that a commit names is the first whose programs of the type load; older ones refuse the helper."""
    kind.load()
    if is_there(kind):
        kind.load(*OF_CONTEXT)
        return
    with expect.refusal(errno.EINVAL, f"the helper in {kind.title}, before {kind.commit}", text=REFUSED):
        kind.load(*OF_CONTEXT)


TRACING = {"kprobe", "tracepoint", "perf_event", "raw_tracepoint"}
NEEDS_EVENTS = pytest.mark.feature("bpf_events")


@pytest.mark.promise("load-matrix")
@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, id=kind.title, marks=NEEDS_EVENTS if kind.title in TRACING else ()) for kind in HAVE_NOT],
)
def test_program_type_lacks_it(kind: Kind) -> None:
    """A type without the helper: the program loads, and with a call of the helper in it, it does not."""
    kind.load()
    with expect.refusal(errno.EINVAL, f"the helper in {kind.title}", text=REFUSED):
        kind.load(*OF_NULL)


@pytest.mark.promise("context-or-null")
@kinds_with_it()
def test_null_is_taken(kind: Kind) -> None:
    """ARG_PTR_TO_CTX_OR_NULL (f318903c0bf4): NULL is an argument, in each type of program."""
    kind.load(*OF_NULL)


@pytest.mark.promise("context-or-null")
@kinds_with_it()
@pytest.mark.parametrize(
    "argument",
    [
        pytest.param([asm.mov_imm(asm.R1, 1)], id="a-number"),
        pytest.param([asm.mov_reg(asm.R1, asm.R6), asm.add_imm(asm.R1, 8)], id="a-pointer-past-the-context"),
        pytest.param([asm.mov_reg(asm.R1, asm.R6), asm.add_imm(asm.R1, -8)], id="a-pointer-before-the-context"),
        pytest.param([asm.mov_reg(asm.R1, asm.R10)], id="the-frame-pointer"),
    ],
)
def test_nothing_else_is_taken(kind: Kind, argument: asm.Fragment) -> None:
    """ARG_PTR_TO_CTX_OR_NULL: what is neither is refused when the program is loaded, and the verifier names R1."""
    with pytest.raises(OSError) as caught:
        kind.load(*argument, asm.call(programs.HELPER_GET_NETNS_COOKIE))
    assert caught.value.errno in (errno.EACCES, errno.EINVAL), f"refused with {expect.name(caught.value.errno or 0)}"
    assert "R1" in str(caught.value), f"the verifier does not speak of the argument: {caught.value}"


@pytest.mark.promise("any-licence")
@kinds_with_it()
def test_licence_is_not_asked(kind: Kind) -> None:
    """``gpl_only`` is false: a proprietary program may call it."""
    kind.load(*OF_CONTEXT, licence="Proprietary")
