"""tcx beside classic tc: who runs first, who decides, and whose end takes what along.

Source of the promises: sch_handle_ingress(), sch_handle_egress(), tcx_run() of net/core/dev.c and kernel/bpf/tcx.c
(e420bed02507 "bpf: Add fd-based tcx multi-prog infra with link support"), net/sched/sch_ingress.c.
"""

from __future__ import annotations

import contextlib
import errno
from contextlib import ExitStack

import pytest

from selftests.lib import bpf, capture, expect, hooks, programs, qdisc, wait
from selftests.lib.bpf import AttachType, Verdict
from selftests.lib.netns import Namespace
from selftests.lib.rtnl import Link
from selftests.netkit.conftest import TCX_ONLY, Hook, Load, make_hook

pytestmark = [pytest.mark.feature("tcx"), pytest.mark.feature("clsact")]

CLASSIC, FENCE = 0, 7
"""Counter slots."""


def classic(hook: Hook, load: Load, counters: bpf.Counters) -> None:
    """clsact with a classifier that counts into slot CLASSIC."""
    rtnl = hook.device.namespace.rtnl
    rtnl.add_clsact(hook.device)
    rtnl.add_filter(hook.device, load(Verdict.PASS, counters, CLASSIC), ingress=hook.side == "ingress")


@pytest.mark.promise("tcx-before-classic")
@TCX_ONLY
def test_tcx_runs_before_classic_tc(hook: Hook, counters: bpf.Counters, cleanup: ExitStack) -> None:
    """tcx_run() comes before tc_run(), whichever was attached first."""
    rtnl = hook.device.namespace.rtnl
    stamped = [
        cleanup.enter_context(bpf.load_classifier(programs.stamp(counters.fd, slot), programs.ret(verdict)))
        for slot, verdict in ((1, Verdict.PASS), (2, Verdict.NEXT))
    ]
    rtnl.add_clsact(hook.device)
    rtnl.add_filter(hook.device, stamped[0], ingress=hook.side == "ingress")
    hook.attach(stamped[1])
    hook.run()
    wait.until(lambda: counters[1] and counters[2], "runs of both")
    assert (counters[2], counters[1]) == (1, 2), "turns of tcx, of classic tc"


@pytest.mark.promise("tcx-and-classic")
@TCX_ONLY
@pytest.mark.parametrize(
    ("verdict", "runs"),
    [
        pytest.param(Verdict.NEXT, 1, id="NEXT-goes-on-to-classic-tc"),
        pytest.param(5, 1, id="an-unknown-verdict-is-NEXT"),
        pytest.param(Verdict.PASS, 0, id="PASS-skips-classic-tc"),
        pytest.param(Verdict.DROP, 0, id="DROP-skips-classic-tc"),
    ],
)
def test_verdict_decides_whether_classic_tc_runs(
    hook: Hook, load: Load, counters: bpf.Counters, verdict: int, runs: int
) -> None:
    """tcx_action_code(): what is no verdict is NEXT, and NEXT of all programs leaves it to classic tc."""
    classic(hook, load, counters)
    program = load(verdict, counters, 1)
    hook.attach(program)
    with contextlib.suppress(OSError):  # at egress, DROP is told to the sender
        hook.run()
    wait.until(lambda: counters[1], "a run of the tcx program")
    hook.detach(program)
    hook.run()  # this one meets classic tc only, behind the first
    wait.until(lambda: counters[CLASSIC] > runs, "a run of the classic program without tcx")
    assert counters[CLASSIC] == runs + 1, f"runs of the classic program for verdict {verdict}, and one without tcx"


@pytest.mark.promise("tcx-drop")
@pytest.mark.parametrize("hook", [pytest.param(("tcx", "egress"), id="tcx-egress")], indirect=True)
def test_egress_drop_is_told_to_the_sender(hook: Hook, load: Load) -> None:
    """sch_handle_egress(): NET_XMIT_DROP, ENOBUFS at the socket."""
    hook.attach(load(Verdict.DROP))
    with expect.refusal(errno.ENOBUFS, "a packet that tcx drops at egress"):
        hook.run()


@pytest.mark.promise("tcx-first-verdict")
@TCX_ONLY
def test_first_verdict_ends_the_chain(hook: Hook, load: Load, counters: bpf.Counters) -> None:
    """tcx_run(): programs run in order until one says something else than NEXT."""
    for slot, verdict in enumerate((Verdict.NEXT, Verdict.PASS, Verdict.NEXT), start=1):
        hook.attach(load(verdict, counters, slot))
    for _ in range(2):
        hook.run()
    wait.until(lambda: counters[2] == 2, "two runs of the program that passes")
    assert counters.read()[1:4] == (2, 2, 0), "runs of the programs saying NEXT, PASS, NEXT"


@pytest.mark.promise("tcx-without-classic")
@TCX_ONLY
@pytest.mark.parametrize("first", ["qdisc", "program"])
@pytest.mark.parametrize("kind", ["clsact", "ingress"])
def test_qdisc_and_program_go_in_any_order(
    hook: Hook, load: Load, counters: bpf.Counters, kind: str, first: str
) -> None:
    """dc644b540a2d "tcx: Fix splat in ingress_destroy upon tcx_entry_free": one's end leaves the other working."""
    qdisc.add(hook.device, kind)
    hook.attach(load(Verdict.NEXT, counters, 1))
    if first == "qdisc":
        qdisc.delete(hook.device, kind)
        hook.run()
        wait.until(lambda: counters[1], "a run of the program after the qdisc went")
        hook.detach()
    else:
        hook.detach()
        qdisc.delete(hook.device, kind)
    hook.attach(load(Verdict.NEXT, counters, 2))
    hook.run()
    wait.until(lambda: counters[2], "a run of a program after both went")
    assert hook.query().revision == 2, "the hook did not begin anew"


@pytest.mark.promise("tcx-device-goes")
@TCX_ONLY
@pytest.mark.parametrize("held", ["link", "program"])
@pytest.mark.parametrize("beside", ["", "clsact", "ingress"], ids=["alone", "with-clsact", "with-ingress"])
def test_device_takes_its_programs_along(hook: Hook, load: Load, beside: str, held: str) -> None:
    """dev_tcx_uninstall(), 079082c60aff "tcx: Fix splat during dev unregister": links stay, off any device."""
    dummy = hook.device.namespace.rtnl.add_dummy("d0")
    if beside:
        qdisc.add(dummy, beside)
    if held == "link":
        with hooks.link(load(), dummy, hook.type) as link:
            dummy.delete()
            assert link.info.ifindex == 0
            with expect.refusal(errno.ENOLINK, "an update of a link whose device is gone"):
                link.update(load())
        return
    with bpf.classifier_returning(Verdict.NEXT) as program:
        number = program.id
        hooks.attach(program, dummy, hook.type)
    dummy.delete()
    wait.until(lambda: number not in bpf.ids(bpf.Cmd.PROG_GET_NEXT_ID), f"program {number} to go with its device")


@pytest.mark.promise("tcx-namespace-goes")
@pytest.mark.parametrize("side", ["ingress", "egress"])
def test_namespace_takes_its_programs_along(load: Load, side: str) -> None:
    """unregister_netdevice_many_notify(): the end of a namespace is the end of its devices."""
    with Namespace.create("short") as short:
        hook = make_hook(short, "tcx", side)
        link = hook.link(load())
    with link:
        wait.until(lambda: link.info.ifindex == 0, "the link's device to go")


BLOCK = 22


@pytest.mark.promise("tcx-shared-block")
def test_ingress_block_taken_over_by_clsact(namespace: Namespace, load: Load, counters: bpf.Counters) -> None:
    """1cb6f0bae504 "bpf: Fix too early release of tcx_entry" (CVE-2024-41010): the qdisc that goes is not the last."""
    hook = make_hook(namespace, "tcx", "ingress")
    qdisc.add(hook.device, "ingress", ingress_block=BLOCK)
    qdisc.add(hook.device, "clsact", ingress_block=BLOCK + 1, replace=True)
    qdisc.add_block_filter(namespace, BLOCK + 1, load(Verdict.PASS, counters, CLASSIC))
    hook.run()
    wait.until(lambda: counters[CLASSIC], "a run of the classifier in clsact's block")


@pytest.mark.promise("tcx-failed-clsact")
@pytest.mark.fixed_in(
    "a0671125d4f5",
    mainline="7.0",
    stable={"6.12": "6.12.78"},
    match="revision of an egress hook that was emptied after a failed clsact",
)
def test_clsact_that_fails_leaves_the_other_hook_alone(namespace: Namespace, load: Load) -> None:
    """a0671125d4f5 "clsact: Fix use-after-free in init/destroy rollback asymmetry": egress never was its own."""
    hook = make_hook(namespace, "tcx", "egress")
    hook.attach(load())
    qdisc.add(hook.device, "ingress", ingress_block=BLOCK)
    with expect.refusal(errno.EBUSY, "clsact with a block that has this device already"):
        qdisc.add(hook.device, "clsact", ingress_block=BLOCK, replace=True)
    hook.detach()
    assert hook.query().revision == 1, "revision of an egress hook that was emptied after a failed clsact"


@pytest.mark.promise("tcx-revision-with-qdisc")
@TCX_ONLY
def test_revision_goes_on_while_a_qdisc_is_there(hook: Hook, load: Load) -> None:
    """tcx_entry_is_active(): clsact keeps the entry, and with it the revision, which a query tells and attach takes."""
    hook.device.namespace.rtnl.add_clsact(hook.device)
    hook.attach(load())
    hook.detach()
    found = hook.query()
    assert (found.count, found.revision) == (0, 3)
    hook.attach(load(), revision=3)


@pytest.mark.promise("tcx-redirect")
@pytest.mark.parametrize("side", ["ingress", "egress"])
def test_tcx_redirects(namespace: Namespace, cleanup: ExitStack, side: str) -> None:
    """TCX_REDIRECT: a packet at lo's hook leaves through another device."""
    hook = make_hook(namespace, "tcx", side)
    target: Link = namespace.rtnl.add_dummy("d0")
    hook.attach(cleanup.enter_context(bpf.load_classifier(programs.redirect(target.index))))
    hook.run()
    wait.until(lambda: target.stats.tx_packets, "the packet at the other device")


@pytest.mark.promise("tcx-one-side")
@pytest.mark.feature("netkit")
@TCX_ONLY
def test_program_runs_for_its_own_direction_only(
    namespace: Namespace, hook: Hook, load: Load, counters: bpf.Counters
) -> None:
    """e420bed02507: BPF_TCX_INGRESS and BPF_TCX_EGRESS, on a pair where each packet passes one of them on each end."""
    first, second = namespace.rtnl.add_netkit("nk0", "nk1")
    hooks.attach(load(Verdict.NEXT, counters, 1), first, hook.type)
    hooks.attach(load(Verdict.NEXT, counters, 2), second, hook.type)
    fence = AttachType.TCX_INGRESS
    hooks.attach(load(Verdict.NEXT, counters, FENCE), second, fence)
    capture.send(first, capture.frame_to(second, first, b"one way"))
    wait.until(lambda: counters[FENCE], "the packet at the other end")
    expected = (1, 0) if hook.side == "egress" else (0, 1)
    assert counters.read()[1:3] == expected, f"{hook.side} runs on the sender, on the receiver"
