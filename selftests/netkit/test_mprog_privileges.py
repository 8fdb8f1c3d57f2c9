"""Who may look at a hook and take programs off it.

Source of the promises: bpf_net_capable() of include/linux/bpf.h in bpf_prog_query() and bpf_prog_detach(),
bpf_link_get_fd_by_id() of kernel/bpf/syscall.c.
"""

from __future__ import annotations

import errno

import pytest

from selftests.lib import bpf, expect, privileges
from selftests.lib.bpf import Flags, Verdict
from selftests.lib.privileges import Capability
from selftests.netkit.conftest import EVERY_HOOK, Hook, Load

NETWORK = (Capability.NET_ADMIN, Capability.SYS_ADMIN)
"""Either is enough."""


def detach_needs_a_capability(match: str) -> pytest.MarkDecorator:
    """The marker of ae23bc81ddf7 (CVE-2026-45932)."""
    stable = {"6.12": "6.12.114", "6.18": "6.18.14", "6.19": "6.19.4"}
    return pytest.mark.fixed_in("ae23bc81ddf7", mainline="7.0", stable=stable, match=match)


@pytest.mark.promise("detach-without-program-is-privileged")
@detach_needs_a_capability("expected EPERM .*, but it was allowed")
@pytest.mark.parametrize("flags", [0, Flags.BEFORE, Flags.AFTER], ids=["no-flag", "before", "after"])
def test_detach_without_a_program_is_refused_to_the_unprivileged(hook: Hook, load: Load, flags: int) -> None:
    """ae23bc81ddf7 "bpf: Fix tcx/netkit detach permissions when prog fd isn't given" (CVE-2026-45932)."""
    program = load()
    hook.attach(program)
    with hook.device.namespace.entered(), privileges.without(*NETWORK), expect.refusal(errno.EPERM, "detach by place"):
        bpf.detach(hook.device.index, 0, hook.type, flags=flags)
    assert hook.query().programs == (program.id,)


@pytest.mark.promise("query-is-privileged")
def test_query_is_refused_to_the_unprivileged(hook: Hook) -> None:
    """bpf_prog_query(): EPERM."""
    with hook.device.namespace.entered(), privileges.without(*NETWORK), expect.refusal(errno.EPERM, "a query"):
        bpf.query(hook.device.index, hook.type)


@pytest.mark.promise("either-capability")
@pytest.mark.parametrize("lacking", NETWORK, ids=lambda each: f"without-{each.name}")
def test_either_capability_is_enough(hook: Hook, load: Load, lacking: Capability) -> None:
    """bpf_net_capable(): CAP_NET_ADMIN or CAP_SYS_ADMIN."""
    hook.attach(load())
    with hook.device.namespace.entered(), privileges.without(lacking):
        assert bpf.query(hook.device.index, hook.type).count == 1
        bpf.detach(hook.device.index, 0, hook.type)
    assert hook.query().count == 0


@pytest.mark.promise("descriptor-is-the-right")
def test_who_has_the_programs_descriptor_may_attach_and_detach_it(hook: Hook, load: Load) -> None:
    """bpf_prog_attach(), bpf_prog_detach(): the right is in the descriptor, which only a capable caller could make."""
    program = load()
    with hook.device.namespace.entered(), privileges.without(*NETWORK, Capability.BPF):
        bpf.attach(hook.device.index, program.fd, hook.type)
        bpf.detach(hook.device.index, program.fd, hook.type)
    assert hook.query().revision == 1


@pytest.mark.promise("root-of-a-user-namespace")
@detach_needs_a_capability("errno of a detach by place, of a query")
@pytest.mark.parametrize("hook", EVERY_HOOK[:1], indirect=True)
def test_root_of_a_user_namespace_may_not(hook: Hook, load: Load) -> None:
    """bpf_net_capable() asks for the capability in the initial user namespace: all of them elsewhere are not it."""
    hook.attach(load())

    def attempt() -> tuple[int, int]:
        privileges.unshare(privileges.CLONE_NEWUSER)
        return (
            privileges.errno_of(lambda: bpf.detach(hook.device.index, 0, hook.type)),
            privileges.errno_of(lambda: bpf.query(hook.device.index, hook.type)),
        )

    with hook.device.namespace.entered():
        told = privileges.in_child(attempt)
    assert told == (errno.EPERM, errno.EPERM), "errno of a detach by place, of a query"
    assert hook.query().count == 1


@pytest.mark.promise("link-by-id-is-privileged")
@pytest.mark.parametrize("hook", EVERY_HOOK[:1], indirect=True)
def test_links_are_found_by_id_by_the_privileged_only(hook: Hook, load: Load) -> None:
    """bpf_link_get_fd_by_id(): CAP_SYS_ADMIN; CAP_NET_ADMIN is not enough."""
    with (
        hook.link(load(Verdict.NEXT)) as link,
        privileges.without(Capability.SYS_ADMIN),
        expect.refusal(errno.EPERM, "a link by its id"),
    ):
        bpf.link_by_id(link.id).close()
