"""Where a guest that does not go on is stuck, in a few words, from what its console shows."""

from __future__ import annotations

import re

from harness.guest.splat_rules import HELPERS
from harness.guest.splats import splats
from harness.model import SplatKind

# A processor that is stuck is the cause of what RCU and tasks then wait for; who speaks first is chance.
_CAUSES = {SplatKind.SOFT_LOCKUP, SplatKind.HARD_LOCKUP}
_LOCKUPS = {*_CAUSES, SplatKind.HUNG_TASK, SplatKind.RCU_STALL}
_IDLE = re.compile(r"\w*(?:idle|halt|mwait)\w*|cpu_startup_entry")
# kernel/sched/core.c, sched_show_task(), for sysrq-w
_BLOCKED = re.compile(r"task:(?P<task>.{1,16}?) +state:D (?P<trace>.*?)(?=task:|sysrq: |\Z)", re.S)
# a frame, or where registers say that the processor was; "? " marks a guess
_PLACE = re.compile(r"^(?:\[ *[\d.]+\])?(?:\[ *\w+\])? *(?:RIP: 0010:|pc : )?(?P<fn>[A-Za-z_]\w*)[\w.]*\+0x", re.M)
_NMI = re.compile(r"Kernel panic - not syncing: NMI.*?\n(?P<trace>.*)", re.S)
_ANOTHER = re.compile(r"NMI backtrace for cpu \d+")  # lib/nmi_backtrace.c: of the processors that did not get the NMI
_NMI_ENTRY = re.compile(r"(?:default_do|exc|end_repeat|asm_exc)_nmi")


def where_stuck(during: str, asked: str) -> str:
    """What the kernel said ``during`` a test that hangs names the cause, or else the answers to what it was ``asked``.

    First comes what its own detectors found, a stuck processor before all; then any other trouble that it told; then a
    task that sleeps uninterruptibly (sysrq-w); then the function in which an NMI found a processor at work. Empty: no
    word of it.

    >>> where_stuck("watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [python:1]\\nRIP: 0010:netkit_xmit+0x2/0x10", "")
    'BUG: soft lockup in netkit_xmit'
    """
    found = splats(during)
    for kinds in (_CAUSES, _LOCKUPS):
        if chosen := [splat for splat in found if splat.kind in kinds]:
            return chosen[0].title
    if found:
        return found[0].title
    for task in _BLOCKED.finditer(asked):
        if place := _place(task["trace"]):
            return f"task {task['task']} blocked in {place}"
    nmi = _NMI.search(asked)
    for trace in _ANOTHER.split(nmi["trace"]) if nmi else ():
        if (place := _place(trace)) and not _IDLE.fullmatch(place):
            return f"in {place}"
    return ""


def _place(trace: str) -> str:
    """The innermost function that neither waits, locks nor reports for others."""
    functions = (place["fn"] for place in _PLACE.finditer(trace))
    return next((fn for fn in functions if not HELPERS.fullmatch(fn) and not _NMI_ENTRY.fullmatch(fn)), "")
