"""What is read of a console's log: one text file per case, whose header says what it must be read as.

    # from: a guest         how the log was made, if not written by hand after the kernel's source
    # escapes               "\\r" and "\\e" in the log are those characters
    # kind: kasan           begins a splat; one that is not named must not be found
    # title: KASAN: …
    # function: fn
    # frames: a b c         left out: not compared
    # last: …               how its text ends; left out: not compared
    # cut                   its end was never printed
    # none                  no splat at all

An empty line ends the header.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.guest import splats as parser
from harness.guest.console import death_title
from harness.guest.splat_rules import RULES
from harness.guest.splats import splats
from harness.model import Splat, SplatKind

CASES = sorted(Path(__file__).with_name("splats").glob("*.txt"))
# Those whose logs have no stamps, colours or returns of their own.
PLAIN = [path for path in CASES if not re.search(r"^(<\d>)?\[ |\\[er]", path.read_text(), re.M)]

HELPERS = re.findall(
    r"\w+",
    """
    __asan_load8 __hwasan_tag_memory __kasan_slab_free __tsan_read4 __msan_warning kmsan_report kcsan_report die
    show_regs oops_begin kmemleak_alloc spin_dump rcu_dump_cpu_stacks trigger_single_cpu_backtrace object_err slab_err
    native_queued_spin_lock_slowpath rwsem_down_write_slowpath rt_mutex_slowlock down down_read_killable
    wait_for_completion kvmalloc_node_noprof kfree kvfree __kmem_cache_alloc_node slab_post_alloc_hook
    __alloc_frozen_pages_noprof memset memmove _copy_from_user debug_smp_processor_id sched_show_task
    """,
)


@dataclass
class Expected:
    kind: str
    title: str = ""
    function: str = ""
    frames: str | None = None
    last: str | None = None
    cut: bool = False


def read_case(path: Path) -> tuple[list[Expected], str]:
    """What a case's header expects, and its log."""
    header, _, log = path.read_text().partition("\n\n")
    expected: list[Expected] = []
    none = False
    for line in header.splitlines():
        key, _, value = line.removeprefix("# ").partition(":")
        match key:
            case "kind":
                expected.append(Expected(value.strip()))
            case "title" | "function" | "frames" | "last":
                setattr(expected[-1], key, value.strip())
            case "cut":
                expected[-1].cut = True
            case "none":
                none = True
            case "escapes":
                log = log.replace("\\r", "\r").replace("\\e", "\x1b")
            case "from":
                pass
            case _:
                raise ValueError(f"{path.name}: {line!r} is no header")
    assert none != bool(expected), f"{path.name} expects both none and some, or nothing"
    return expected, log


def summary(splat: Splat, like: Expected) -> Expected:
    """A splat as a header would tell it, with what another tells."""
    frames = None if like.frames is None else " ".join(frame.function for frame in splat.frames)
    last = None if like.last is None else splat.text.split("\n")[-1].strip()
    return Expected(splat.kind, splat.title, splat.function, frames, last, splat.cut)


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_a_log_is_read_as_its_header_says(path: Path) -> None:
    expected, log = read_case(path)
    found = splats(log)
    likes = expected + [Expected("")] * len(found)
    assert [summary(splat, like) for splat, like in zip(found, likes, strict=False)] == expected
    assert splats(log.splitlines(keepends=True)) == found


@pytest.mark.parametrize("path", PLAIN, ids=lambda path: path.stem)
def test_stamps_callers_colours_and_line_ends_change_nothing(path: Path) -> None:
    log = read_case(path)[1]
    found = splats(log)
    for stamp in ("[   12.345678] ", "<4>[    1.000001][   T42] ", "[   C0] ", "[Fri Nov 20 10:33:47 2026] "):
        assert splats("\n".join(stamp + line for line in log.rstrip("\n").split("\n"))) == found
    assert splats(log.replace("\n", "\x1b[0m\r\n")) == found


def test_every_kind_and_every_rule_has_a_case() -> None:
    cases = [read_case(path) for path in CASES]
    assert {each.kind for expected, _ in cases for each in expected} == set(SplatKind)
    headings = {splat.heading for _, log in cases for splat in splats(log)}
    lines = headings | {line for _, log in cases for splat in splats(log) for line in splat.text.split("\n")}
    first = {next((rule for rule in RULES if re.match(rule.pattern, line)), None) for line in lines}
    assert [rule.pattern for rule in RULES if rule not in first] == []


@pytest.mark.parametrize(
    "function",
    HELPERS,
)
def test_who_reports_waits_or_allocates_is_not_where_the_trouble_is(function: str) -> None:
    log = f"BUG: KASAN: use-after-free in {function}+0x1/0x2\nCall Trace:\n {function}+0x1/0x2\n nk_xmit+0x1/0x2\n===="
    assert splats(log)[0].function == "nk_xmit"


@pytest.mark.parametrize("function", ["download_firmware", "diet_free", "panicky", "memcpy_toio_fn", "nk_schedule"])
def test_names_that_only_begin_alike_are(function: str) -> None:
    assert splats(f"BUG: KASAN: use-after-free in {function}+0x1/0x2\n")[0].title.endswith(f" in {function}")


def test_a_splat_tells_its_lines_and_where_it_began() -> None:
    log = (
        "boot\n" * 4
        + "[    1.5] BUG: scheduling while atomic: sh/1/0x2\n[    1.5] Call Trace:\n[    1.5]  f+0x1/0x2\nend"
    )
    (splat,) = splats(log)
    assert splat.text == "BUG: scheduling while atomic: sh/1/0x2\nCall Trace:\n f+0x1/0x2"
    assert splat.heading == "BUG: scheduling while atomic: sh/1/0x2"
    assert splat.line == 5


@pytest.mark.parametrize(
    ("log", "title"),
    [
        (
            "Oops: divide error: 0000 [#1]\nRIP: 0010:nk_xmit+0x1/0x2\n---[ end trace 0000000000000000 ]---\n"
            "unregister_netdevice: waiting for nk0 to become free. Usage count = 2\n"
            "Kernel panic - not syncing: Fatal exception\n",
            "Kernel panic - not syncing: Fatal exception (Oops: divide error: 0000 [#1] in nk_xmit)",
        ),
        (
            "watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [sh:1]\n"
            "Kernel panic - not syncing: softlockup: hung tasks\n",
            "Kernel panic - not syncing: softlockup: hung tasks"
            " (watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [sh:1])",
        ),
        (
            "WARNING: CPU: 0 PID: 1 at a.c:1 f+0x1/0x2\n---[ end trace 0000000000000000 ]---\n"
            "Kernel panic - not syncing: sysrq triggered crash\n",
            "Kernel panic - not syncing: sysrq triggered crash",
        ),
        ("WARNING: CPU: 0 PID: 1 at a.c:1 f+0x1/0x2\nreboot: Power down\n", "the guest ended itself: Power down"),
    ],
)
def test_only_a_panic_that_follows_from_a_report_names_it(log: str, title: str) -> None:
    assert death_title(log) == title


def test_a_long_log_is_read_once_and_little_of_it_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """20 MB: each line is looked at once, whatever a report without end or a line without end holds."""
    looked: list[int] = []
    heading = parser._heading

    def counting(line: str) -> object:
        looked.append(len(line))
        return heading(line)

    monkeypatch.setattr(parser, "_heading", counting)
    chatter = "a driver: warning: BUG: " + "x " * 40
    log = [
        "WARNING: CPU: 0 PID: 1 at a.c:1 f+0x1/0x2",
        *[chatter] * 180_000,
        "BUG: " + "y" * 1_000_000,
        " +0x" * 250_000,
    ]
    found = splats(log)
    assert len(looked) == len(log)
    assert max(looked) <= 1024
    assert [splat.kind for splat in found] == [SplatKind.WARNING]
    assert found[0].text.count("\n") < 1000
