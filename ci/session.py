"""Inside a guest, for ci/docs.py: run the commands of a session one by one, and print what a terminal would show.

A session has one shell command on each line. Before it there is tap0, up, with two queues, whose other end (this
program) answers pings to any address, and says through which queue each came before it does so.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from selftests.lib import packet
from selftests.lib.netns import Namespace
from selftests.lib.tap import Tap

LIMIT = 120.0
"""Seconds that a command may take; without KVM, ping starts in a tenth of one."""


def say(text: str) -> None:
    """Print at once: children write to the same pipe."""
    os.write(1, text.encode())


def answer(tap: Tap) -> None:
    """Answer echo requests for ever."""
    poll = select.poll()
    for fd in tap.fds:
        poll.register(fd, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            frame = os.read(fd, 1 << 16)
            if reply := echo_reply(frame):
                queue = tap.fds.index(fd)
                say(f"tap0, queue {queue}: echo request\n")
                tap.write(queue, reply)


def echo_reply(frame: bytes) -> bytes | None:
    """The answer to an Ethernet frame with an ICMP echo request (RFC 792); None for any other frame."""
    if frame[12:14] != packet.ETH_P_IP.to_bytes(2, "big") or frame[23] != 1 or frame[34] != 8:
        return None
    message = b"\0\0\0\0" + frame[38:]
    value = packet.checksum(message).to_bytes(2, "big")
    addresses = frame[30:34] + frame[26:30]  # exchanged, which the header's checksum does not notice
    return frame[6:12] + frame[0:6] + frame[12:26] + addresses + b"\0\0" + value + message[4:]


def run(commands: Sequence[str]) -> None:
    """Run each, shown behind a prompt. Ends the program where one fails."""
    for command in commands:
        say(f"# {command}\n" if command else "\n")
        done = subprocess.run(["bash", "-o", "pipefail", "-c", command], stderr=1, timeout=LIMIT, check=False)
        if done.returncode:
            sys.exit(f"exit status {done.returncode}: {command}")


def main() -> None:
    with Namespace.current() as here, Tap(here, "tap0", 2) as tap:
        threading.Thread(target=answer, args=(tap,), daemon=True).start()
        run(Path(sys.argv[1]).read_text().splitlines())


if __name__ == "__main__":
    main()
