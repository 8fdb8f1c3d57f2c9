"""Random sequences of requests against the model of bpf_mprog's rules: errno, order and revision after each step.

Source of the promises: selftests/netkit/mprog_model.py says which rules, and from where. hypothesis chooses the
sequences, the same ones in every run; what failed is told as the sequence that led to it, so nothing is shrunk.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from selftests.lib import bpf, expect, privileges
from selftests.lib.bpf import Flags, Verdict
from selftests.netkit.conftest import Hook
from selftests.netkit.mprog_model import ABSENT, NOTHING, Entry, Model

LETTERS = "ABCDEF"
NOWHERE = 0x7FFFFFFF
BEFORE, AFTER, REPLACE, ID, LINK = Flags.BEFORE, Flags.AFTER, Flags.REPLACE, Flags.ID, Flags.LINK


@dataclass(frozen=True)
class Step:
    """One request. What it names by ``relative`` and ``link`` is looked up when it is its turn."""

    what: str
    program: str
    flags: int = 0
    relative: str = ""
    """A letter: that program; ``0`` to ``9``: that one of the links there are; ``?``: nobody; empty: nothing said."""
    old: str = ""
    revision: str = ""
    """``right``, ``stale`` or not said."""
    link: int = 0

    def __str__(self) -> str:
        flags = " ".join(flag.name for flag in Flags if self.flags & flag)
        said = (self.what, self.program, flags, *(f"{key}={value}" for key, value in vars(self).items() if value))
        return " ".join(word for word in said[:3] if word) + " " + " ".join(said[5:])


def _step(what: str, program: str, place: int, relative: str, by_id: bool, old: str, revision: str, link: int) -> Step:
    """A request that makes sense more often than not: a relative link is said to be one, REPLACE says whom."""
    flags = place | (LINK if relative.isdigit() else 0) | (ID if by_id and relative else 0)
    return Step(what, program, flags, relative, old if place & REPLACE or what == "update" else "", revision, link)


WHATS = ("attach", "attach", "attach", "link", "link", "detach", "detach by place", "update", "release", "close")
PLACES = (0, 0, BEFORE, BEFORE, AFTER, AFTER, REPLACE, BEFORE | AFTER, REPLACE | BEFORE, REPLACE | AFTER)
STEPS = st.builds(
    _step,
    what=st.sampled_from(WHATS),
    program=st.sampled_from(LETTERS),
    place=st.sampled_from(PLACES),
    relative=st.sampled_from(("", "", "", *LETTERS, "0", "1", "2", "?")),
    by_id=st.booleans(),
    old=st.sampled_from(LETTERS),
    revision=st.sampled_from(("", "", "", "right", "stale")),
    link=st.sampled_from(range(4)),
)


@dataclass
class Kernel:
    """The same requests to a real hook."""

    hook: Hook
    programs: dict[str, bpf.Program]
    cleanup: ExitStack
    ids: dict[int, str]
    """Programs by id."""
    links: dict[int, bpf.Link] = field(default_factory=dict)
    holds: dict[int, str] = field(default_factory=dict)
    """The program of each link, also of one that is off its hook."""
    link_ids: dict[int, int] = field(default_factory=lambda: {0: 0})
    """Links by id, also those that are closed."""

    def number_of(self, relative: Entry, flags: int) -> int:
        if relative in (NOTHING, ABSENT):
            return NOWHERE if relative == ABSENT else 0
        thing = self.links[relative.link] if relative.link else self.programs[relative.program]
        return thing.id if flags & ID else thing.fd

    def order(self) -> tuple[list[Entry], int]:
        """Who is there, and the revision, by query."""
        found = self.hook.query()
        pairs = zip(found.programs, found.links, strict=True)
        return [Entry(self.ids[program], self.link_ids[link]) for program, link in pairs], found.revision


def carry_out(step: Step, model: Model, kernel: Kernel) -> tuple[int, int]:
    """The errno of the model and of the kernel."""
    links = sorted(kernel.links)
    chosen = links[step.link % len(links)] if links else 0
    relative = NOTHING
    if step.relative.isdigit() and links:
        number = links[int(step.relative) % len(links)]
        relative = Entry(kernel.holds[number], number)
    elif step.relative == "?":
        relative = ABSENT
    elif step.relative.isalpha():
        relative = Entry(step.relative)
    revision = {"": 0, "right": model.revision, "stale": model.revision + 1}[step.revision]
    program, fd = kernel.programs[step.program], kernel.number_of(relative, step.flags)
    common = {"flags": step.flags, "relative": fd, "revision": revision}

    if step.what == "attach":
        old = kernel.programs[step.old].fd if step.old else 0
        real = privileges.errno_of(lambda: kernel.hook.attach(program, replace=old, **common))
        return model.attach(Entry(step.program), step.flags, relative, step.old, revision), real
    if step.what == "link":
        number = len(kernel.link_ids)

        def make() -> None:
            link = kernel.cleanup.enter_context(kernel.hook.link(program, **common))
            kernel.links[number], kernel.holds[number] = link, step.program
            kernel.link_ids[link.id] = number

        real = privileges.errno_of(make)
        return model.attach(Entry(step.program, number), step.flags, relative, "", revision), real
    if step.what.startswith("detach"):
        named = "" if step.what == "detach by place" else step.program
        real = privileges.errno_of(lambda: kernel.hook.detach(program if named else None, **common))
        return model.detach(named, step.flags, relative, revision), real
    if not chosen:
        return 0, 0
    link = kernel.links[chosen]
    if step.what == "update":
        flags, old = (REPLACE, kernel.programs[step.old].fd) if step.revision else (0, 0)
        real = privileges.errno_of(lambda: link.update(program, flags=flags, old=old))
        code = model.update(chosen, step.program, step.old if flags else "")
        if not code:
            kernel.holds[chosen] = step.program
        return code, real
    if step.what == "release":
        return model.release(chosen), privileges.errno_of(link.detach)
    del kernel.links[chosen]
    link.close()
    return model.release(chosen), 0


@pytest.fixture
def only_our_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    """hypothesis must not read the source of every loaded module for constants to try.

    That takes half a minute in a guest, and the sequences would change with whatever else is loaded.
    """
    monkeypatch.setattr("hypothesis.internal.conjecture.providers.is_local_module_file", lambda _: False, raising=False)


@pytest.mark.promise("model")
@pytest.mark.usefixtures("only_our_choices")
def test_random_requests_do_as_the_model_says(hook: Hook, cleanup: ExitStack) -> None:
    """kernel/bpf/mprog.c, by 8 sequences of 25 requests: same errno, same order, same revision, after each."""
    programs = {letter: cleanup.enter_context(bpf.classifier_returning(Verdict.NEXT)) for letter in LETTERS}
    kernel = Kernel(hook, programs, cleanup, {program.id: letter for letter, program in programs.items()})
    model = Model(hook.keeps_revision)

    wrong: list[str] = []

    @settings(
        max_examples=8,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(STEPS, min_size=25, max_size=25))
    def run(steps: list[Step]) -> None:
        for number, step in enumerate(steps, start=1):
            if wrong:  # what hypothesis asks for after that would begin where this ended
                return
            expected, got = carry_out(step, model, kernel)
            if got != expected:
                wrong.append(f"expected {expect.name(expected)}, got {expect.name(got)}")
            elif (found := kernel.order()) != (wanted := (model.order, model.told)):
                wrong.append(f"expected {wanted}, got {found}")
            if wrong:
                wrong.extend(f"  {at}. {each}" for at, each in enumerate(steps[:number], start=1))
        for link in sorted(kernel.links):
            kernel.links.pop(link).close()
            model.release(link)
        while model.order:
            hook.detach()
            model.detach()

    run()
    assert not wrong, "\n".join(wrong)
