"""What a guest tells of a test: all together, in order, and never in the way of what another thread has to say."""

from __future__ import annotations

import threading

from harness.pytest_plugin.outbox import Outbox


class Port:
    """Remembers each write."""

    closed = False

    def __init__(self) -> None:
        self.writes: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.writes.append(data)


def test_held_messages_go_with_the_next_one() -> None:
    """Promise: one write for the events of a test that has ended, in the order in which they came."""
    port = Port()
    outbox = Outbox(port)
    outbox.write(b"begin")
    outbox.hold = True
    outbox.write(b"setup,")
    outbox.write(b"call,")
    assert port.writes == [b"begin"]
    outbox.hold = False
    outbox.write(b"end")
    assert port.writes == [b"begin", b"setup,call,end"]


def test_another_thread_does_not_wait() -> None:
    """Promise: execnet's own messages go at once, behind what was written before them."""
    port = Port()
    outbox = Outbox(port)
    outbox.hold = True
    outbox.write(b"setup,")
    other = threading.Thread(target=outbox.write, args=(b"close",))
    other.start()
    other.join()
    assert port.writes == [b"setup,close"]


def test_all_else_is_the_ports() -> None:
    """Promise: execnet finds what it looks for behind it."""
    assert Outbox(Port()).closed is False
