"""``kproof-guest ADDRESS``: what execnet starts as a "Python"; its standard input and output are a guest's Python.

Everything behind ADDRESS (``-u -c BOOTSTRAP``) is execnet's way to start a Python; the agent in the guest does it.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading

CHUNK = 1 << 16


def main() -> None:
    # Ctrl-C reaches the whole foreground group; ending is the parent's decision, told by end of file.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as broker:
        try:
            broker.connect("\0" + sys.argv[1])
            _, fds, _, _ = socket.recv_fds(broker, 1, 1)
        except OSError:
            fds = []
    if not fds:  # the pool knows why, and says it
        sys.exit(3)
    channel = fds[0]
    threading.Thread(target=_copy, args=(0, channel), daemon=True).start()
    _copy(channel, 1)


def _copy(source: int, sink: int) -> None:
    """Copy until either end is gone, then end this process: a half-open worker is of no use to anybody."""
    try:
        while data := os.read(source, CHUNK):
            view = memoryview(data)
            while view:
                view = view[os.write(sink, view) :]
    except OSError:
        pass
    os._exit(0)


if __name__ == "__main__":
    main()
