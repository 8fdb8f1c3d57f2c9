"""The model of bpf_mprog that netkit's and tcx's selftests compare the kernel with: its own rules, by example."""

from __future__ import annotations

import errno

import pytest

from selftests.lib.bpf import Flags
from selftests.netkit.mprog_model import ABSENT, MOST, NOTHING, Entry, Model

BEFORE, AFTER, REPLACE, ID, LINK = Flags.BEFORE, Flags.AFTER, Flags.REPLACE, Flags.ID, Flags.LINK


def model_with(text: str, *, keeps_revision: bool = True) -> Model:
    """``"AbC"``: programs A and C attached, b by a link whose number is its place."""
    model = Model(keeps_revision)
    for at, letter in enumerate(text, start=1):
        assert model.attach(Entry(letter.upper(), at if letter.islower() else 0)) == 0
    return model


def order(model: Model) -> str:
    return "".join(each.program for each in model.order)


@pytest.mark.parametrize(
    ("flags", "relative", "expected"),
    [
        pytest.param(0, NOTHING, "ABCN", id="no flag: last"),
        pytest.param(BEFORE, NOTHING, "NABC", id="before nothing: first"),
        pytest.param(AFTER, NOTHING, "ABCN", id="after nothing: last"),
        pytest.param(BEFORE, Entry("A"), "NABC", id="before the first"),
        pytest.param(BEFORE, Entry("C"), "ABNC", id="before the last"),
        pytest.param(AFTER, Entry("A"), "ANBC", id="after the first"),
        pytest.param(AFTER, Entry("C"), "ABCN", id="after the last"),
        pytest.param(BEFORE, Entry("B"), "ANBC", id="a link's program is found by the program"),
        pytest.param(BEFORE | LINK, Entry("B", 2), "ANBC", id="a link is found"),
        pytest.param(AFTER | LINK | ID, Entry("B", 2), "ABNC", id="a link is found by id"),
    ],
)
def test_attach_puts_it_there(flags: int, relative: Entry, expected: str) -> None:
    model = model_with("AbC")
    assert model.attach(Entry("N"), flags, relative) == 0
    assert (order(model), model.revision) == (expected, 5)


@pytest.mark.parametrize(
    ("flags", "relative", "code"),
    [
        pytest.param(BEFORE | AFTER, NOTHING, errno.ERANGE, id="before and after"),
        pytest.param(ID, NOTHING, errno.ENOENT, id="id 0"),
        pytest.param(BEFORE | ID, ABSENT, errno.ENOENT, id="an id of nothing"),
        pytest.param(BEFORE, ABSENT, errno.EBADF, id="a descriptor of nothing"),
        pytest.param(LINK, NOTHING, errno.EINVAL, id="link 0"),
        pytest.param(LINK | ID, NOTHING, errno.ENOENT, id="link id 0"),
        pytest.param(BEFORE | LINK, Entry("A"), errno.EINVAL, id="a program where a link is said"),
        pytest.param(BEFORE, Entry("B", 2), errno.EINVAL, id="a link where a program is meant"),
        pytest.param(0, Entry("A"), errno.EINVAL, id="relative without direction"),
        pytest.param(BEFORE, Entry("Z"), errno.ENOENT, id="relative to one that is not there"),
        pytest.param(BEFORE | LINK, Entry("B", 9), errno.ENOENT, id="relative to another link of the program"),
    ],
)
def test_attach_refuses(flags: int, relative: Entry, code: int) -> None:
    model = model_with("AbC")
    assert model.attach(Entry("N"), flags, relative) == code
    assert (order(model), model.revision) == ("ABC", 4)


def test_a_program_is_there_once_and_revision_comes_first() -> None:
    model = model_with("AbC")
    assert model.attach(Entry("A")) == errno.EEXIST
    assert model.attach(Entry("A"), revision=3) == errno.ESTALE
    assert model.attach(Entry("N"), revision=4) == 0


@pytest.mark.parametrize(
    ("flags", "relative", "replace", "code", "expected"),
    [
        pytest.param(REPLACE, NOTHING, "C", 0, "ABN", id="in place"),
        pytest.param(REPLACE | BEFORE, Entry("B"), "A", 0, "NBC", id="and it is before that"),
        pytest.param(REPLACE | AFTER, Entry("B"), "A", errno.ERANGE, "ABC", id="and it is not after that"),
        pytest.param(REPLACE, NOTHING, "B", errno.EBUSY, "ABC", id="a link's"),
        pytest.param(REPLACE, NOTHING, "Z", errno.ENOENT, "ABC", id="one that is not there"),
    ],
)
def test_replace(flags: int, relative: Entry, replace: str, code: int, expected: str) -> None:
    model = model_with("AbC")
    assert model.attach(Entry("N"), flags, relative, replace) == code
    assert order(model) == expected


def test_a_link_cannot_replace() -> None:
    model = model_with("A")
    assert model.attach(Entry("N", 7), REPLACE) == errno.ENOENT


@pytest.mark.parametrize(
    ("program", "flags", "relative", "code", "expected"),
    [
        pytest.param("C", 0, NOTHING, 0, "ABD", id="by program"),
        pytest.param("", 0, NOTHING, 0, "ABC", id="no program: the last"),
        pytest.param("", BEFORE, NOTHING, 0, "BCD", id="before nothing: the first"),
        pytest.param("", AFTER, NOTHING, 0, "ABC", id="after nothing: the last"),
        pytest.param("", BEFORE, Entry("D"), 0, "ABD", id="before that one"),
        pytest.param("", AFTER, Entry("B"), 0, "ABD", id="after that one"),
        pytest.param("", BEFORE, Entry("A"), 0, "BCD", id="before the first: the first"),
        pytest.param("", AFTER, Entry("D"), 0, "ABC", id="after the last: the last"),
        pytest.param("", AFTER, Entry("A"), errno.EBUSY, "ABCD", id="a link is there"),
        pytest.param("B", 0, NOTHING, errno.EBUSY, "ABCD", id="a link's program"),
        pytest.param("C", BEFORE, Entry("D"), 0, "ABD", id="it is before that one"),
        pytest.param("C", BEFORE, Entry("B"), errno.ERANGE, "ABCD", id="it is not before that one"),
        pytest.param("Z", 0, NOTHING, errno.ENOENT, "ABCD", id="one that is not there"),
        pytest.param("C", REPLACE, NOTHING, errno.EINVAL, "ABCD", id="replace"),
        pytest.param("", LINK | ID, NOTHING, errno.ENOENT, "ABCD", id="link id 0"),
    ],
)
def test_detach(program: str, flags: int, relative: Entry, code: int, expected: str) -> None:
    model = model_with("AbCD")
    assert model.detach(program, flags, relative) == code
    assert order(model) == expected


@pytest.mark.parametrize(
    ("keeps", "after"), [pytest.param(True, 4, id="netkit goes on"), pytest.param(False, 2, id="tcx begins anew")]
)
def test_revision_of_a_hook_that_was_emptied(keeps: bool, after: int) -> None:
    model = model_with("A", keeps_revision=keeps)
    assert model.detach() == 0
    assert (model.told, model.detach()) == (1, errno.ENOENT)
    assert model.attach(Entry("A")) == 0
    assert model.told == after


def test_link_update() -> None:
    model = model_with("AbC")
    assert model.update(2, "A") == errno.EEXIST
    assert model.update(2, "N", old="C") == errno.EPERM
    assert (model.update(2, "B"), model.revision) == (0, 4)
    assert (model.update(2, "N", old="B"), order(model), model.revision) == (0, "ANC", 5)
    assert (model.release(2), order(model), model.revision) == (0, "AC", 6)
    assert model.update(2, "B") == errno.ENOLINK
    assert (model.release(2), model.revision) == (0, 6)


def test_63_fit() -> None:
    model = Model(keeps_revision=True)
    assert [model.attach(Entry(str(number))) for number in range(MOST)] == [0] * MOST
    assert model.attach(Entry("N")) == errno.ERANGE
    assert model.attach(Entry("N"), BEFORE, Entry("1")) == errno.ERANGE
    assert model.attach(Entry("N"), REPLACE, replace="62") == 0
