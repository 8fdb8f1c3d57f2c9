"""What a test leaves behind: descriptors of kernel objects are found, others are not."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from selftests.lib import leaks


def opened(path: str) -> Callable[[ExitStack], int]:
    def make(stack: ExitStack) -> int:
        fd = os.open(path, os.O_RDONLY)
        stack.callback(os.close, fd)
        return fd

    return make


def a_socket(stack: ExitStack) -> int:
    return stack.enter_context(socket.socket()).fileno()


def left(before: frozenset[leaks.Descriptor]) -> set[str]:
    return leaks._kept_objects(leaks._descriptors() - before)


@pytest.mark.parametrize(
    ("make", "link"), [(a_socket, "socket:["), (opened("/proc/self/ns/net"), "net:["), (opened("/dev/null"), "")]
)
def test_only_descriptors_of_kernel_objects_count(make: Callable[[ExitStack], int], link: str) -> None:
    """Promise: a socket or a namespace that a test holds on to is told with its number; a file is not."""
    before = leaks._descriptors()
    with ExitStack() as stack:
        number = make(stack)
        found = left(before)
        assert [text.startswith(f"{number} -> {link}") for text in found] == ([True] if link else [])
    assert left(before) == set()


def test_a_descriptor_in_the_place_of_another_is_found() -> None:
    """Promise: the same number is not the same descriptor."""
    with ExitStack() as stack:
        number = opened("/dev/null")(stack)
        before = leaks._descriptors()
        os.dup2(opened("/proc/self/ns/net")(stack), number)
        assert any(text.startswith(f"{number} -> net:[") for text in left(before))
