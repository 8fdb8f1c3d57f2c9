"""Parse what a kernel prints when it is in trouble: ``splats(log)`` gives every report in a console's log.

The log's lines may carry printk's level, time and caller, colours, ``\\r\\n``, or none of them (kernel/printk):

    <4>[   12.345678][  T42] WARNING: CPU: 0 PID: 42 at net/core/dev.c:1 netif_rx+0x1f/0x40

Once a line has shown a time or a caller, lines without are of user space and no part of any report. Lines with callers
(CONFIG_PRINTK_CALLER) are taken apart by caller, so that processors that print at once do not mix; the trace of a
processor that a report asked for is that report's. A report is

    [cut here]              lib/bug.c and kernel/panic.c, before a WARN, a BUG or UBSAN
    heading                 one line that a rule of splat_rules.py knows; an oops has several
    text, registers         "RIP: 0010:fn+0x1/0x2" on x86, "pc : fn+0x1/0x2" on arm64
    "Call Trace:" frames    arm64 writes "Call trace:"; the sanitizers of races and leaks print frames without it
    end                     where its rule has an end, else the first line after the trace

**Titles** are the same for the same trouble in every run: what the rule says, with processors, pids, addresses and
sizes left out as syzkaller does, and `` in FUNCTION`` where the report tells it ("KASAN: slab-use-after-free in
netkit_xmit", "WARNING in netif_rx"). The function is the heading's own, else that of the registers, else the innermost
frame, and never one that only reports (``dump_stack``, ``panic``) or waits and allocates for others (``schedule``,
``kmalloc``), unless the heading or the registers name no other. A panic's title is its line as printed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from harness.guest.splat_rules import HELPERS, RULES, VARYING, Rule
from harness.model import Frame, Splat, SplatKind

_COMPILED = tuple((rule, re.compile(rule.pattern)) for rule in RULES)
_ANY = re.compile("|".join(re.sub(r"\?P<\w+>", "?:", rule.pattern) for rule in RULES))

_SUFFIX = re.compile(r"(?:\.(?:isra|constprop|part|cold|llvm)(?:\.\d+)*)+$")
_LEVEL = re.compile(r"<\d{1,3}>")
_STAMP = re.compile(
    r"(?=\[)(?:\[ *\d+\.\d{1,9}\]|\[\w{3} \w{3} +\d+ [\d:]{8} \d{4}\])?(?:\[ *(?P<caller>[TC]\d+)\])?(?<=\]) ?"
)
_ANSI = re.compile(r"\x1b(?:\[[0-9;?]*[@-~]|[^\[])")
_CUT_HERE = "------------[ cut here ]------------"
_CALL_TRACE = re.compile(r"\s*Call [Tt]race:")
_AT = r"(?P<at>\+0x[0-9a-f]+/0x[0-9a-f]+(?: \[[\w-]+[^]]*\])?)"
_POSITION = re.compile(rf"(?:RIP: 0010:|EIP: |pc : )(?P<fn>[\w.$]+)(?:{_AT}|\+0x)")
_FRAME = re.compile(
    r"\s*(?:kmemleak:\s+)?(?:\[<[0-9a-f]+>\] )?(?P<guess>\? )?(?P<fn>[A-Za-z_][\w.$]*)"
    rf"(?:{_AT}| \([\w./-]+:\d+)"
)
_STACK = re.compile(r"\s*<(?P<end>/?)[A-Z#]\w*>")
_IN_TRACE = re.compile(
    r"\s*(?:</?[A-Z#]|(?:[RE](?:IP|SP|BP|[A-D]X|[SD]I)|R\d\d|[C-G]S|[CD]R\d|PKRU|Code|pc|lr|sp|x\d+|pstate) ?:)"
)
_ASKS = re.compile(r"Sending NMI from CPU \d+ to CPUs")
_ANSWERS = re.compile(r"NMI backtrace for cpu \d+")
_PROOF = re.compile(r"CPU: \d+ (?:UID: \d+ )?PID: \d+ ")

_LONGEST = 1000  # lines of a report; a real one is shorter
_PROOF_WITHIN = 40  # lines: a "BUG:" that nothing confirms is dropped after so many
_HEADING_WITHIN = 8  # lines after "cut here"
_WIDEST = 1024  # characters: printk has no longer lines


@dataclass(eq=False)
class _Report:
    """A report that is being read."""

    line: int
    rule: Rule | None = None
    heading: str = ""
    what: str = ""
    lines: list[str] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    """Functions that headings and registers name, most telling first."""
    at: Frame | None = None
    """Where the registers say that it happened."""
    frames: list[Frame] = field(default_factory=list)
    guesses: list[Frame] = field(default_factory=list)
    """Functions of the trace that were only found on the stack; all there is without an unwinder."""
    tracing: bool = False
    proven: bool = False
    traced: bool = False
    """The first trace is over."""
    open_stack: bool = False
    """Between ``<TASK>`` and ``</TASK>`` (x86)."""
    ended: bool = False

    def introduces(self) -> bool:
        """Whether another heading may still follow."""
        return self.rule is None or (self.rule.intro and not self.tracing)

    def joined_by(self, rule: Rule) -> bool:
        """Whether a heading is one more of this report instead of the first of another."""
        return self.introduces() and (self.rule is None or rule.continues)

    def head(self, rule: Rule, match: re.Match[str]) -> None:
        groups = match.groupdict()
        if function := groups.get("fn"):
            self.places.append(_SUFFIX.sub("", function))
            self.proven |= rule.kind is SplatKind.WARNING
        if self.rule is None:
            self.rule, self.heading = rule, match.string.strip()
            self.what = rule.title.format(**groups)
            self.tracing = rule.bare
        self.lines.append(match.string)

    def ended_by(self, line: str) -> bool:
        return bool(self.rule and self.rule.end and re.match(self.rule.end, line))

    def take(self, line: str) -> bool:
        """Add a line; False if the report is over, and the line is of it only if it is its end."""
        if self.ended_by(line):
            self.ended = True
        elif self._is_over(line):
            return False
        self.lines.append(line)
        return not self.ended

    def _is_over(self, line: str) -> bool:
        if self.rule is None:
            return len(self.lines) > _HEADING_WITHIN
        if len(self.lines) >= (_PROOF_WITHIN if self.rule.proof and not self.proven else _LONGEST):
            return True
        self._note(line)
        return self.traced and not self.rule.end and not _IN_TRACE.match(line)

    def _note(self, line: str) -> None:
        """Remember what a line says of the place and the trace."""
        if _CALL_TRACE.match(line):
            self.tracing = self.proven = True
        elif not self.frames and (position := _POSITION.match(line)):
            frame = _frame(position)
            self.places.append(frame.function)
            self.at = self.at or frame
            self.proven = True
        elif _PROOF.match(line):
            self.proven = True
        elif self.tracing and not self.traced:
            if stack := _STACK.match(line):
                self.open_stack = not stack["end"]
            if match := _FRAME.match(line):
                (self.guesses if match["guess"] else self.frames).append(_frame(match))
            elif self.frames or self.guesses:
                self.traced = not _IN_TRACE.match(line) or "</TASK>" in line

    def finish(self) -> Splat | None:
        """The splat; None if it was none after all."""
        rule = self.rule
        if rule is None or (rule.proof and not self.proven):
            return None
        frames = self.frames or self.guesses
        places = self.places + [frame.function for frame in frames]
        function = next((place for place in places if not HELPERS.fullmatch(place)), "".join(self.places[:1]))
        title = self.what
        if rule.kind is not SplatKind.PANIC:
            for pattern, replacement in VARYING:
                title = pattern.sub(replacement, title)
        if rule.located and function:
            title += f" in {function}"
        traced = frames and not self.open_stack
        complete = self.ended or rule.single or (traced and (not rule.end or rule.kind is SplatKind.PANIC))
        text = "\n".join(self.lines)
        cut = not complete
        return Splat(rule.kind, title.strip(), function, self.at, tuple(frames), text, self.heading, self.line, cut)


def splats(lines: Iterable[str] | str) -> list[Splat]:
    """Every report in a log, in the order in which they begin. Takes time in proportion to the log.

    >>> [splat.title for splat in splats("unregister_netdevice: waiting for veth0 to become free. Usage count = 2")]
    ['unregister_netdevice: waiting for veth0 to become free']
    """
    found: list[_Report] = []
    reading: dict[str, _Report] = {}
    asking = _Report(0)  # the last that had another processor print its trace (lib/nmi_backtrace.c)
    for number, caller, line in _kernel_lines(
        lines.removesuffix("\n").split("\n") if isinstance(lines, str) else lines
    ):
        if _ANSWERS.match(line) and caller not in reading and asking in reading.values():
            reading[caller] = asking
        report = reading.get(caller)
        heading = None if report and report.ended_by(line) else _heading(line)
        if heading and heading[0].single:
            found.append(_Report(number))
            found[-1].head(*heading)
        elif heading and report and report.joined_by(heading[0]):
            report.head(*heading)
        elif heading or (line == _CUT_HERE and not (report and report.introduces())):
            found.append(_Report(number))
            reading[caller] = found[-1]
            if heading:
                found[-1].head(*heading)
            else:
                found[-1].take(line)
        elif report and not report.take(line):
            reading = {each: other for each, other in reading.items() if other is not report}
        elif report and _ASKS.match(line):
            asking = report
    return [splat for report in found if (splat := report.finish())]


def _frame(match: re.Match[str]) -> Frame:
    """What a line of the registers or of the trace tells."""
    return Frame(_SUFFIX.sub("", match["fn"]), match["fn"] + match["at"] if match["at"] else "")


def _heading(line: str) -> tuple[Rule, re.Match[str]] | None:
    if not _ANY.match(line):
        return None
    return next((rule, match) for rule, pattern in _COMPILED if (match := pattern.match(line)))


def _kernel_lines(lines: Iterable[str]) -> Iterator[tuple[int, str, str]]:
    """``(number, caller, text)`` of each line that the kernel printed."""
    stamped = False
    for number, raw in enumerate(lines, 1):
        line = raw[:_WIDEST].rstrip("\r\n")
        if "\x1b" in line:
            line = _ANSI.sub("", line)
        if level := _LEVEL.match(line):
            line = line[level.end() :]
        if stamp := _STAMP.match(line):
            stamped = True
            yield number, stamp["caller"] or "", line[stamp.end() :]
        elif not stamped:
            yield number, "", line
