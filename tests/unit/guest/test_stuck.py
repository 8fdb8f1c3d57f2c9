"""Where a hung guest is stuck, as its console tells."""

from __future__ import annotations

import pytest

from harness.guest.stuck import where_stuck

SOFT_LOCKUP = """
watchdog: BUG: soft lockup - CPU#0 stuck for 4s! [init:38]
CPU: 0 UID: 0 PID: 38 Comm: init Not tainted 6.12.117 #1
RIP: 0010:netkit_xmit+0x2/0x10
Call Trace:
 <TASK>
 dev_hard_start_xmit+0x10/0x20
 </TASK>
"""
WARNING = """
WARNING: CPU: 0 PID: 38 at net/core/dev.c:1 netif_rx+0x1/0x2
Call Trace:
 <TASK>
 netif_rx+0x1/0x2
 </TASK>
---[ end trace 0000000000000000 ]---
"""
STALL = """
rcu: INFO: rcu_sched self-detected stall on CPU
rcu: \t0-....: (5249 ticks this GP) idle=e0d4/1/0x4000000000000000 softirq=1158/1158 fqs=1270
CPU: 0 UID: 0 PID: 38 Comm: init Not tainted 6.12.117 #1
RIP: 0010:netkit_link_attach+0x3/0x10
Call Trace:
 <TASK>
 ksys_write+0x56/0xd0
 </TASK>
"""
BLOCKED = """
sysrq: Show Blocked State
task:init            state:D stack:13168 pid:38    tgid:38    ppid:1      flags:0x00004002
Call Trace:
 <TASK>
 __schedule+0x2b1/0x8a0
 schedule+0x22/0xa0
 schedule_preempt_disabled+0x10/0x20
 __mutex_lock.constprop.0+0x31/0x40
 netkit_release_all+0x12/0x40
 ksys_write+0x56/0xd0
 </TASK>
sysrq: Show State
task:init            state:S stack:12944 pid:1     tgid:1     ppid:0      flags:0x00000002
Call Trace:
 do_wait+0x56/0x100
"""
NMI = """
Uhhuh. NMI received for unknown reason 21 on CPU 0.
Kernel panic - not syncing: NMI: Not continuing
CPU: 0 UID: 0 PID: 38 Comm: init Tainted: G             L     6.12.117 #1
Call Trace:
 <NMI>
 panic+0x2e3/0x300
 nmi_panic+0x22/0x30
 default_do_nmi+0x19d/0x260
 exc_nmi+0xdb/0x100
 end_repeat_nmi+0xf/0x18
RIP: {rip}
Code: 00 00 00 c3 0f 1f 40 00 c7
RSP: 0018:ffff888000af7e28 EFLAGS: 00000282
 ? netkit_old+0x10/0x10
 </NMI>
 <TASK>
 _raw_spin_lock+0x2c/0x40
 netkit_link_attach+0x10/0x20
 </TASK>
"""
ANOTHER = """
Sending NMI from CPU 0 to CPUs 1:
NMI backtrace for cpu 1
CPU: 1 UID: 0 PID: 81 Comm: init Not tainted 6.12.117 #1
RIP: 0010:netkit_forever+0x3/0x10
"""


@pytest.mark.parametrize(
    ("during", "asked", "where"),
    [
        ("", "", ""),
        ("a test says: BUG\n", "sysrq: Show State\n", ""),
        (SOFT_LOCKUP, NMI.format(rip="0010:other+0x1/0x2"), "BUG: soft lockup in netkit_xmit"),
        (WARNING + SOFT_LOCKUP, "", "BUG: soft lockup in netkit_xmit"),
        (STALL, "", "INFO: rcu_sched self-detected stall on CPU in netkit_link_attach"),
        (STALL + SOFT_LOCKUP, "", "BUG: soft lockup in netkit_xmit"),
        (WARNING, BLOCKED, "WARNING in netif_rx"),
        ("", NMI.format(rip="0010:default_idle+0xf/0x20") + ANOTHER, "in netkit_forever"),
        ("", BLOCKED + NMI.format(rip="0010:default_idle+0xf/0x20"), "task init blocked in netkit_release_all"),
        ("", BLOCKED.replace("\ntask", "\n[   12.345678][  T42] task"), "task init blocked in netkit_release_all"),
        ("", NMI.format(rip="0010:netkit_loop+0x2/0x10"), "in netkit_loop"),
        ("", NMI.format(rip="0010:native_queued_spin_lock_slowpath+0x63/0x2a0"), "in netkit_link_attach"),
        ("", NMI.format(rip="0010:default_idle+0xf/0x20"), ""),
        ("", NMI.format(rip="0010:pv_native_safe_halt+0xf/0x20"), ""),
    ],
)
def test_the_most_telling_place_is_named(during: str, asked: str, where: str) -> None:
    assert where_stuck(during, asked) == where
