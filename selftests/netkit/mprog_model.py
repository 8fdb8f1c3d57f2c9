"""What a hook under bpf_mprog must do, as a model: who runs in which order, the revision, and every refusal's errno.

The rules are those of kernel/bpf/mprog.c (053c8e1f235d, Linux 6.6) and of drivers/net/netkit.c and kernel/bpf/tcx.c
around it. Programs are letters, links are numbers; nothing in here asks a kernel.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from selftests.lib.bpf import Flags

MOST: Final = 63
"""bpf_mprog_max(): the last of 64 slots ends the array."""


class Entry(NamedTuple):
    """A program at a hook, and the link that holds it there; 0: none."""

    program: str
    link: int = 0


NOTHING: Final = Entry("")
"""relative_fd 0."""
ABSENT: Final = Entry("?")
"""A descriptor or id of nothing."""


class Refused(Exception):
    """A rule says no, with an errno."""

    def __init__(self, code: int) -> None:
        self.code = code


@dataclass
class Model:
    """One hook. Operations return an errno, 0 for done."""

    keeps_revision: bool
    """Whether the revision goes on once the hook is empty (netkit), or begins anew (tcx without a qdisc)."""
    order: list[Entry] = field(default_factory=list)
    revision: int = 1

    @property
    def told(self) -> int:
        """The revision by query: of a hook without programs it is 1 (bpf_mprog_query() without an entry)."""
        return self.revision if self.order else 1

    def attach(
        self, new: Entry, flags: int = 0, relative: Entry = NOTHING, replace: str = "", revision: int = 0
    ) -> int:
        """PROG_ATTACH, or LINK_CREATE where ``new`` has a link."""
        try:
            self._expect(revision)
            if any(new.program == each.program for each in self.order):
                raise Refused(errno.EEXIST)
            anchor = _named(flags & ~Flags.REPLACE, relative)
            at = None
            if flags & Flags.REPLACE:
                at = self._exactly(Entry(replace, new.link))
            elif len(self.order) == MOST:
                raise Refused(errno.ERANGE)
            at = self._place(at, flags, anchor)
        except Refused as refused:
            return refused.code
        if flags & Flags.REPLACE:
            self.order[at] = new
        else:
            self.order.insert(at + 1 if flags & Flags.BEFORE else at, new)
        self.revision += 1
        return 0

    def detach(self, program: str = "", flags: int = 0, relative: Entry = NOTHING, revision: int = 0) -> int:
        """PROG_DETACH; no program: what the flags point at."""
        try:
            if not self.order:
                raise Refused(errno.ENOENT)
            if flags & Flags.REPLACE:
                raise Refused(errno.EINVAL)
            self._expect(revision)
            anchor = _named(flags, relative)
            at = self._exactly(Entry(program)) if program else None
            at = min(max(self._place(at, flags, anchor), 0), len(self.order) - 1)
            if self.order[at].link:
                raise Refused(errno.EBUSY)
        except Refused as refused:
            return refused.code
        self._remove(at)
        return 0

    def update(self, link: int, program: str, old: str = "") -> int:
        """LINK_UPDATE; ``old`` is what BPF_F_REPLACE expects."""
        at = self._of(link)
        if at is None:
            return errno.ENOLINK
        if old and old != self.order[at].program:
            return errno.EPERM
        if program == self.order[at].program:
            return 0
        if any(program == each.program for each in self.order):
            return errno.EEXIST
        self.order[at] = Entry(program, link)
        self.revision += 1
        return 0

    def release(self, link: int) -> int:
        """LINK_DETACH, or the end of the last descriptor: never refused, and done once."""
        at = self._of(link)
        if at is not None:
            self._remove(at)
        return 0

    def _expect(self, revision: int) -> None:
        if revision not in (0, self.revision):
            raise Refused(errno.ESTALE)

    def _exactly(self, entry: Entry) -> int:
        """bpf_mprog_pos_exact()."""
        for at, each in enumerate(self.order):
            if each.program == entry.program:
                if each.link != entry.link:
                    raise Refused(errno.EBUSY)
                return at
        raise Refused(errno.ENOENT)

    def _near(self, anchor: Entry, step: int, end: int) -> int:
        """bpf_mprog_pos_before(), bpf_mprog_pos_after(): one ``step`` from the anchor, without one the ``end``."""
        if anchor == NOTHING:
            return end
        for at, each in enumerate(self.order):
            if each.program == anchor.program and anchor.link in (0, each.link):
                return at + step
        raise Refused(errno.ENOENT)

    def _place(self, at: int | None, flags: int, anchor: Entry) -> int:
        """The place that all rules agree on, from -1 (before all) to the count (behind all)."""
        for flag, step, end in ((Flags.BEFORE, -1, -1), (Flags.AFTER, 1, len(self.order))):
            if flags & flag:
                found = self._near(anchor, step, end)
                if at is not None and at != found:
                    raise Refused(errno.ERANGE)
                at = found
        if at is not None:
            return at
        if anchor != NOTHING or flags:
            raise Refused(errno.EINVAL)
        return len(self.order)

    def _of(self, link: int) -> int | None:
        return next((at for at, each in enumerate(self.order) if each.link == link), None)

    def _remove(self, at: int) -> None:
        del self.order[at]
        self.revision = self.revision + 1 if self.order or self.keeps_revision else 1


def _named(flags: int, relative: Entry) -> Entry:
    """bpf_mprog_tuple_relative(): what relative_fd or relative_id names."""
    by_id, of_link = bool(flags & Flags.ID), bool(flags & Flags.LINK)
    if relative == ABSENT or (relative == NOTHING and by_id):
        raise Refused(errno.ENOENT if by_id else errno.EBADF)
    if of_link != bool(relative.link) and (of_link or relative != NOTHING):
        raise Refused(errno.EINVAL)
    return relative
