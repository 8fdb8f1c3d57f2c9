"""What reports of trouble a kernel prints: one rule for each heading, with the files of the kernel that print it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from harness.model import SplatKind as K


@dataclass(frozen=True)
class Rule:
    """How one heading reads, and what kind of report it begins."""

    kind: K
    pattern: str
    """Matches at the start of a line. Its group ``fn`` is the function, if the heading names one."""
    title: str = "{what}"
    """Made of the pattern's groups."""
    end: str = ""
    """How the report's last line begins; empty: it ends with its trace."""
    single: bool = False
    """The heading is the whole report."""
    intro: bool = False
    """Said before the report's other headings ..."""
    continues: bool = False
    """... of which this is one. By itself it begins a report as well."""
    proof: bool = False
    """Too common a text: it counts only if the kernel's "CPU: 0 PID: 1" line or a trace follows."""
    bare: bool = False
    """Its frames stand without "Call Trace:"."""
    located: bool = True
    """The function belongs into the title."""


_TRACE_END = r"---\[ end trace "
_RULED_OFF = r"={20,}$"
_OOM_END = r"(?:Memory cgroup o|O)ut of memory: Killed process "
_PANIC_END = r"---\[ end Kernel panic|Rebooting in \d+ seconds|Kernel Offset: "
_LOCKDEP = (
    r"possible (?:circular locking|irq lock inversion) dependency detected|possible recursive locking detected|"
    r"inconsistent lock state|\w+-safe -> \w+-unsafe lock order detected|suspicious RCU usage|[Ii]nvalid wait context|"
    r"bad (?:unlock balance|contention) detected|held lock freed|lock held when returning to user space|"
    r"Nested lock was not taken|chain_key collision"
)
_AT = r"(?P<fn>[A-Za-z_][\w.$]*)"

RULES = (
    # mm/kasan/report.c, kernel/kcsan/report.c, mm/kmsan/report.c, mm/kfence/report.c, lib/ubsan.c
    Rule(K.KASAN, rf"BUG: (?P<what>KASAN: [\w -]{{1,60}}?)(?: in {_AT}| in 0x|$)", end=_RULED_OFF),
    Rule(
        K.KCSAN,
        rf"BUG: (?P<what>KCSAN: [\w: -]{{1,60}}? in {_AT}(?:\+\S+)?(?: / [\w.$]+)?)",
        end=_RULED_OFF,
        bare=True,
        located=False,
    ),
    Rule(K.KMSAN, rf"BUG: (?P<what>KMSAN: [\w -]{{1,60}}?) in {_AT}", end=_RULED_OFF, bare=True),
    Rule(K.KFENCE, rf"BUG: (?P<what>KFENCE: [\w -]{{1,60}}?) in {_AT}", end=_RULED_OFF, bare=True),
    Rule(K.UBSAN, r"(?P<what>UBSAN: [\w -]{1,60}?) in \S{1,200}:\d+(?::\d+)?$", end=_TRACE_END),
    # kernel/locking/lockdep.c; up to 4.x the headings stood in brackets
    Rule(K.LOCKDEP, rf"(?:WARNING: |\[ (?:BUG|INFO): )(?P<what>{_LOCKDEP})"),
    Rule(K.LOCKDEP, r"WARNING: .{1,16}/\d+ (?P<what>still has locks held)!"),
    Rule(K.LOCKDEP, r"INFO: (?P<what>trying to register non-static key)\."),
    Rule(K.LOCKDEP, r"BUG: (?P<what>MAX_LOCK\w+ too low)!"),
    # lib/refcount.c, lib/list_debug.c and, up to 6.5, net/sched/sch_generic.c: said between "cut here" and WARNING
    Rule(K.REFCOUNT, r"(?P<what>refcount_t: [^.]{1,80})\.", end=_TRACE_END, intro=True, proof=True),
    Rule(K.LIST, r"(?P<what>list_(?:add|del) (?:corruption|double add))[.,:]", end=_TRACE_END, intro=True, proof=True),
    Rule(
        K.NETDEV_WATCHDOG,
        r"(?P<what>NETDEV WATCHDOG: \S+) \(.{1,40}\): transmit queue \d+ timed out",
        title="{what}: transmit queue timed out",
        end=_TRACE_END,
        intro=True,
        located=False,
    ),
    Rule(
        K.NETDEV_WATCHDOG,
        r"(?:\S+ ){0,3}?(?P<dev>\S+): NETDEV WATCHDOG: CPU: \d+: transmit queue \d+ timed out",
        title="NETDEV WATCHDOG: {dev}: transmit queue timed out",
        single=True,
    ),
    # net/core/dev.c, mm/kmemleak.c, kernel/fork.c, kernel/workqueue.c: one line each
    Rule(K.NETDEV_REFERENCE, r"(?P<what>unregister_netdevice: waiting for \S+ to become free)\.", single=True),
    Rule(K.KMEMLEAK, r"(?P<what>kmemleak:) \d+ (?P<more>new suspected memory leaks)", "{what} {more}", single=True),
    Rule(K.BUG, r"(?P<what>BUG: Bad rss-counter state) mm:\S+ type:\w+", single=True),
    Rule(K.BUG, r"(?P<what>BUG: workqueue lockup) - pool", single=True),
    Rule(K.KMEMLEAK, r"(?:kmemleak: )?unreferenced object 0x[0-9a-f]+ \(size \d+\):", "memory leak", bare=True),
    # kernel/rcu/tree_stall.h, tree_exp.h and tasks.h
    Rule(
        K.RCU_STALL,
        r"(?:\w+: )?(?P<what>INFO: \w+ "
        r"(?:self-detected stall on CPU|detected (?:expedited )?stalls on (?:CPUs/)?tasks))",
    ),
    # kernel/hung_task.c, kernel/watchdog.c
    Rule(K.HUNG_TASK, r"INFO: task .{1,40}:\d+ blocked (?:in I/O wait )?for more than \d+ seconds", "INFO: task hung"),
    Rule(K.SOFT_LOCKUP, r"(?:(?:NMI )?watchdog: )?(?P<what>BUG: soft lockup) - CPU#\d+ stuck for"),
    Rule(K.HARD_LOCKUP, r"(?:(?:NMI )?watchdog: )?(?P<what>Watchdog detected hard LOCKUP) on cpu \d+"),
    # kernel/sched/core.c
    Rule(K.ATOMIC, r"(?P<what>BUG: scheduling while atomic): "),
    Rule(K.ATOMIC, r"(?P<what>BUG: sleeping function called from invalid context) at "),
    # mm/page_alloc.c, mm/vmalloc.c, mm/oom_kill.c; the first words are the task's name
    Rule(K.PAGE_ALLOCATION, r".{1,16}: (?P<what>page allocation failure|vmalloc error): .{1,80}, mode:0x"),
    Rule(K.OOM, r".{1,16} invoked oom-killer: gfp_mask=0x", "Out of memory", end=_OOM_END, located=False),
    Rule(K.OOM, _OOM_END, "Out of memory", single=True),
    # arch/x86/mm/fault.c, arch/x86/kernel/traps.c and dumpstack.c, mm/usercopy.c, kernel/cfi.c, lib/bug.c
    Rule(
        K.OOPS,
        r"(?P<what>BUG: (?:kernel NULL pointer dereference|unable to handle (?:page fault|kernel [a-zA-Z ]{1,40}?)))"
        r"(?:,| for| at|$)",
        end=_TRACE_END,
        intro=True,
    ),
    Rule(K.OOPS, r"BUG: (?:\w+ )?(?P<what>stack guard page was hit) at", "BUG: {what}", end=_TRACE_END, intro=True),
    Rule(K.BUG, r"(?P<what>usercopy: Kernel memory \w+ attempt detected) (?:to|from) ", end=_TRACE_END, intro=True),
    Rule(K.BUG, rf"(?P<what>CFI failure) at {_AT}\+0x", end=_TRACE_END, intro=True),
    Rule(K.BUG, r"(?P<what>kernel BUG) at \S{1,200}:\d+!", end=_TRACE_END, intro=True, continues=True),
    Rule(
        K.OOPS,
        r"(?:Oops: )?(?P<what>[a-zO][\w -]{1,60})(?:, [a-z -]{1,60}0x[0-9a-f]+)?: [0-9a-f]{4} \[#\d+\]",
        end=_TRACE_END,
        continues=True,
    ),
    # arch/arm64/mm/fault.c and arch/arm64/kernel/traps.c
    Rule(
        K.OOPS,
        r"(?P<what>Unable to handle kernel [a-zA-Z -]{1,60}?)(?: at (?:virtual )?address|$)",
        end=_TRACE_END,
        intro=True,
    ),
    Rule(K.OOPS, r"(?P<what>Internal error: [^\[]{1,60}?): [0-9a-f]{1,16} \[#\d+\]", end=_TRACE_END, continues=True),
    Rule(K.OOPS, r"(?P<what>Insufficient stack space to handle exception)!"),
    Rule(K.OOPS, r"(?P<what>SError Interrupt) on CPU\d+, code 0x"),
    # kernel/panic.c; since 6.19 the file comes first and the processor last
    Rule(K.PANIC, r"(?P<what>Kernel panic - not syncing: .{0,1000})", end=_PANIC_END, located=False),
    Rule(
        K.WARNING,
        rf"WARNING: (?:CPU: \d+ PID: \d+ at (?:\S{{1,200}}:\d+ )?|\S{{1,200}}:\d+ at )(?:{_AT}\+)?0x",
        title="WARNING",
        end=_TRACE_END,
        continues=True,
    ),
    # mm/slub.c, and all other headings with "BUG:"
    Rule(K.BUG, r"BUG (?P<what>\S+) \((?:Not t|T)ainted.{0,80}?\): (?P<more>.{1,80})", "BUG {what}: {more}"),
    Rule(K.BUG, r"(?P<what>BUG: \S.{0,200})", proof=True),
)

# What differs between two runs, for titles whose text no rule spells out.
VARYING = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\+0x[0-9a-f]+/0x[0-9a-f]+", ""),
        (r" \[[0-9a-f]{8,}\]", ""),
        (r"(?:[.,:@=]| at)? ?\b(?:0x[0-9a-f]+|[0-9a-f]{8,})\b", ""),
        (r" on CPU#?\d+|,? (?:CPU|cpu)[#: ]*\d+", ""),
        (r" in process .*|[,:] \S+(?:/\d+(?:/0x[0-9a-f]+)?|\[\d+\])$", ""),
    )
)

# Functions that report for others, wait for others or allocate for others: never where the trouble is.
HELPERS = re.compile(
    # report
    r"_*(?:dump_stack\w*|show_stack|dump_backtrace|dump_cpu_task|show_(?:regs|trace)\w*|v?panic|check_panic_on_warn|\w+_serror_panic|panic_bad_stack|nmi_\w+|die|warn(?:_\w+)?|"
    r"oops_\w+|print_\w+|(?:report|handle)_bug|(?:asm_)?exc_\w+|kasan_\w+|asan_\w+|hwasan_\w+|check_memory_region|kcsan_\w+|tsan_\w+|kmsan_\w+|"
    r"msan_\w+|ubsan_\w+|refcount_\w+|list_(?:add|del)\w*_valid\w*|might_(?:sleep|resched|fault)\w*|kmemleak_\w+|"
    r"debug_(?:print_object|object_\w+|check_no_\w+)|usercopy_abort|check_(?:object_size|heap_object)|spin_(?:dump|bug)|"
    r"rcu_(?:dump_cpu_stacks|check_callbacks|sched_clock_irq)|trigger_\w*backtrace|sched_show_task|check_preemption_\w+|"
    r"check_(?:noncircular|deadlock|irq_usage|prev_add|wait_context)|mark_(?:lock\w*|usage)|validate_chain|"
    r"register_lock_class|assign_lock_key|check_bytes_and_report|dump_header|oom_kill_process|out_of_memory|watchdog_\w+|bad_page\w*|free_page_is_bad\w*|object_err|slab_err|debug_smp_\w+|"
    # lock and wait
    r"lock_\w+|lockdep_\w+|(?:do_)?raw_(?:spin|read|write)_\w+|(?:native_)?queued_\w+_slowpath|mutex_\w+|rwsem_\w+|"
    r"rt_mutex_\w+|down(?:_(?:read|write|interruptible|killable|timeout|trylock)\w*)?|(?:io_|preempt_)?schedule\w*|"
    r"wait_for_c\w+|"
    # allocate and copy
    r"k[mz]alloc\w*|kvmalloc\w*|kv?free\w*|free_pages\w*|kmem_cache_alloc\w*|slab_\w+|alloc_pages\w*|alloc_frozen_pages\w*|folio_alloc\w*|"
    r"warn_alloc|vmalloc\w*|memcpy|memset|memmove|copy_(?:to|from)_user\w*)"
)
