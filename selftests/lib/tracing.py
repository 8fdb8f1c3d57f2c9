"""Tracepoints and bpf_trace_printk(), through tracefs: Documentation/trace/ftrace.rst."""

from __future__ import annotations

import ctypes
import os
import re
from pathlib import Path

from selftests.lib import wait
from selftests.lib.closing import Closing

_ROOT = Path("/sys/kernel/tracing")
_libc = ctypes.CDLL(None, use_errno=True)


def root() -> Path:
    """Where tracefs is, mounted now where it was not. Raises OSError on a kernel without it."""
    if not (_ROOT / "trace").exists() and _libc.mount(b"tracefs", bytes(_ROOT), b"tracefs", 0, None):
        raise OSError(ctypes.get_errno(), f"mount tracefs: {os.strerror(ctypes.get_errno())}")
    return _ROOT


class Events(Closing):
    """One tracepoint's events from now on, in a trace buffer of their own."""

    def __init__(self, event: str) -> None:
        """``event`` is ``SYSTEM/NAME``. Raises FileNotFoundError where the kernel does not have it."""
        self._instance = root() / "instances" / "kproof"
        self._name = event.partition("/")[2]
        self._instance.mkdir()
        try:
            (self._instance / "events" / event / "enable").write_text("1")
        except OSError:
            self._instance.rmdir()
            raise

    def read(self) -> list[dict[str, str]]:
        """Fields of each event so far, oldest first, as its format prints them: ``name=value``."""
        lines = (self._instance / "trace").read_text().splitlines()
        texts = (line.partition(f": {self._name}: ")[2] for line in lines if not line.startswith("#"))
        return [dict(re.findall(r"(\w+)=(\S+)", text)) for text in texts if text]

    def close(self) -> None:
        self._instance.rmdir()


class TracePipe(Closing):
    """/sys/kernel/tracing/trace_pipe: lines that are read are gone from it.

    For programs that are loaded already: bpf_trace_printk() is silent until its event is enabled, which kernels of 2025
    and later leave to a workqueue when they load a program (bpf_get_trace_printk_proto(), kernel/trace/bpf_trace.c).
    """

    def __init__(self) -> None:
        enabled = root() / "events" / "bpf_trace" / "bpf_trace_printk" / "enable"
        wait.until(lambda: enabled.read_text().startswith("1"), "the event of bpf_trace_printk() to be enabled")
        self._fd = os.open(root() / "trace_pipe", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self._rest = ""
        self._drain()
        self._rest = ""

    def _drain(self) -> None:
        while True:
            try:
                part = os.read(self._fd, 1 << 16)
            except BlockingIOError:
                return
            if not part:
                return
            self._rest += part.decode()

    def line_with(self, text: str, seconds: float = 5.0) -> str:
        """The next line that contains ``text``; those before it are dropped. Raises TimeoutError."""

        def look() -> str | None:
            self._drain()
            while "\n" in self._rest:
                line, _, self._rest = self._rest.partition("\n")
                if text in line:
                    return line
            return None

        return wait.until(look, f"a line with {text!r} in trace_pipe", seconds)

    def close(self) -> None:
        os.close(self._fd)
