"""A cookie names one namespace, once and for all: as long as the machine runs, no other one has it.

Source of the promises: f318903c0bf4 ("globally unique"), 3d368ab87cf6 "net: initialize net->net_cookie at netns setup"
(5.12), 92acdc58ab11 (a generator for each processor, 5.10); include/linux/cookie.h, setup_net() of
net/core/net_namespace.c.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

import pytest

from selftests.lib import txqueues
from selftests.lib.netns import Namespace
from selftests.netns_cookie import churn

pytestmark = [pytest.mark.feature("netns_cookie"), pytest.mark.since("5.14")]  # SO_NETNS_COOKIE, e8b9eab99232

BATCH = 4096
"""COOKIE_LOCAL_BATCH of include/linux/cookie.h: how many cookies a processor takes at once."""


def assert_all_differ(cookies: Iterable[int]) -> None:
    """No cookie is 0, none is there twice."""
    counted = Counter(cookies)
    twice = {cookie: times for cookie, times in counted.items() if times > 1}
    assert not twice, f"{len(twice)} cookies of {counted.total()} came more than once, by cookie: {twice}"
    assert 0 not in counted, "a namespace has the cookie 0"


@pytest.mark.promise("never-again")
def test_is_not_used_again(namespace: Namespace) -> None:
    """A namespace that is gone does not pass its cookie on: sixty in a row, and two that live, differ."""
    with Namespace.current() as initial:
        living = [initial.cookie, namespace.cookie]
    (made,) = churn.cookies(60)
    assert_all_differ(living + made)


@pytest.mark.slow
@pytest.mark.timeout_s(600)
@pytest.mark.promise("never-again")
def test_ten_thousand_are_not_used_again(namespace: Namespace) -> None:
    """Ten thousand namespaces made and let go, on all processors at once: more than each takes from its generator."""
    with Namespace.current() as initial:
        living = [initial.cookie, namespace.cookie]
    processors = txqueues.processors()
    made = churn.cookies(10_000, processors=processors)
    if 10_000 // processors > BATCH:
        assert all(max(own) // BATCH > min(own) // BATCH for own in made), "a processor stayed within its batch"
    assert_all_differ(living + [cookie for own in made for cookie in own])


@pytest.mark.feature("two_processors")
@pytest.mark.promise("unique")
def test_made_on_two_processors_at_once() -> None:
    """92acdc58ab11: processors that make namespaces at the same time do not give the same cookies."""
    one, two = churn.cookies(60, processors=2)
    assert (len(one), len(two)) == (30, 30), "namespaces made by each processor"
    assert_all_differ(one + two)


@pytest.mark.feature("two_processors")
@pytest.mark.promise("stable")
def test_stays_while_others_are_made_on_two_processors(new_namespace: Callable[..., Namespace]) -> None:
    """3d368ab87cf6: written once, when the namespace is set up; two processors that make others do not change it."""
    living = [new_namespace(name) for name in ("one", "two")]
    before = [namespace.cookie for namespace in living]
    made = churn.cookies(40, processors=2)
    assert [namespace.cookie for namespace in living] == before, "cookies of those that lived all the while"
    assert not set(before) & {cookie for own in made for cookie in own}, "a newer one has the cookie of one that lives"


@pytest.mark.promise("set-when-made")
def test_is_there_before_anybody_asks(new_namespace: Callable[..., Namespace]) -> None:
    """3d368ab87cf6: the cookie is given when the namespace is made, not when it is first asked for.

    Of two namespaces made on one processor the first has the smaller cookie, although the second was asked first.
    """
    with txqueues.pinned(0):
        first, second = new_namespace("first"), new_namespace("second")
    asked_first = second.cookie
    assert first.cookie < asked_first, f"the first has {first.cookie}, the second, which was asked first, {asked_first}"
