"""The plugin, compiled with a QEMU that executes what a test says: who called whom, and no instruction is lost."""

from __future__ import annotations

import ctypes
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import command
from harness.bench import mark, native, windows
from harness.bench.windows import Window

KERNEL = 1 << 63
STACK, OTHER_STACK, IRQ_STACK = (KERNEL + 0x4000 * (number + 1) for number in (1, 2, 3))
"""Where stacks begin; they grow downwards."""
ENTRY, SEND, XMIT, POLL, SWITCH, TASK = (KERNEL + 0x10000000 * number for number in range(1, 7))
USER = 0x400000

NOP = b"\x90"
CALL = b"\xe8\0\0\0\0"
CALL_MEMORY = b"\xff\x50\x10"  # call *0x10(%rax)
CALL_SEGMENT = b"\x65\x48\xff\x14\x25\0\0\0\0"  # call *%gs:0, with prefixes
JUMP_MEMORY = b"\xff\x60\x10"  # jmp *0x10(%rax)
RETURN = b"\xc3"


class Machine:
    """A QEMU with the plugin."""

    def __init__(self, library: Path, out: Path) -> None:
        self.library = ctypes.CDLL(str(library))
        self.library.translate.restype = ctypes.c_void_p
        self.library.translate.argtypes = [ctypes.c_uint64, ctypes.c_size_t, ctypes.c_char_p]
        self.library.execute.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint64, ctypes.c_uint64]
        self.library.access_late.argtypes = [ctypes.c_void_p, ctypes.c_uint64]
        self.out = out
        assert self.library.start(f"out={out}".encode(), 1) == 0
        self.blocks: dict[tuple[int, tuple[bytes, ...]], int] = {}

    def run(self, address: int, *code: bytes, load: int = 0, store: int = 0, upto: int | None = None) -> int:
        """Execute a block; what was translated before is used again."""
        if (address, code) not in self.blocks:
            packed = b"".join(bytes([len(one)]) + one for one in code)
            self.blocks[address, code] = self.library.translate(address, len(code), packed)
        block = self.blocks[address, code]
        self.library.execute(block, len(code) if upto is None else upto, load, store)
        return block

    def call(self, address: int, slot: int, how: bytes = CALL) -> int:
        return self.run(address, NOP, how, store=slot)

    def leave(self, address: int, slot: int) -> None:
        self.run(address, RETURN, load=slot)

    def mark(self, number: int) -> None:
        self.run(USER + number, mark._NOP % number, RETURN)

    def window(self) -> Window:
        (window,) = windows.read(self.out)
        return window


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("plugin") / "fake.so"
    source = Path(__file__).with_name("fake_qemu.c")
    command.run(["gcc", *native.FLAGS, f"-I{windows.PLUGIN.parent}", "-o", target, source], limit=60)
    return target


@pytest.fixture
def machine(library: Path, tmp_path: Path) -> Machine:
    """With a copy of the library, because it keeps all it knows in variables."""
    return Machine(Path(shutil.copy(library, tmp_path)), tmp_path / "windows")


def paths(window: Window) -> dict[tuple[int, ...], int]:
    """Instructions by addresses, the outermost first; those of user space left out."""
    found: list[tuple[int, ...]] = []
    for caller, address, _ in window.nodes:
        found.append((*(found[caller] if caller >= 0 else ()), address))
    return {path: count for path, (*_, count) in zip(found, window.nodes, strict=True) if path != (windows.USER,)}


def test_calls_and_returns(machine: Machine) -> None:
    machine.mark(1)
    machine.call(ENTRY, STACK - 8)
    machine.call(SEND, STACK - 40)
    machine.leave(XMIT, STACK - 40)
    machine.call(SEND + 2, STACK - 40)
    machine.leave(XMIT, STACK - 40)
    machine.leave(SEND + 4, STACK - 8)
    machine.run(ENTRY + 6, NOP, NOP, NOP)
    machine.mark(2)
    assert paths(machine.window()) == {
        (ENTRY,): 2,
        (ENTRY, SEND): 2,
        (ENTRY, SEND, XMIT): 1,
        (ENTRY, SEND + 2): 2,
        (ENTRY, SEND + 2, XMIT): 1,
        (ENTRY, SEND + 4): 1,
        (ENTRY + 6,): 3,
    }


@pytest.mark.parametrize("how", [CALL_MEMORY, CALL_SEGMENT])
def test_call_through_memory_loads_before_it_stores(machine: Machine, how: bytes) -> None:
    machine.mark(1)
    machine.run(ENTRY, how, load=OTHER_STACK - 8, store=STACK - 8)
    machine.leave(SEND, STACK - 8)
    machine.run(XMIT, NOP)
    machine.mark(2)
    assert paths(machine.window()) == {(ENTRY,): 1, (ENTRY, SEND): 1, (XMIT,): 1}


def test_jump_is_no_call(machine: Machine) -> None:
    """What is jumped to at a function's end takes its place, and returns to its caller."""
    machine.mark(1)
    machine.call(ENTRY, STACK - 8)
    machine.run(SEND, JUMP_MEMORY, load=OTHER_STACK)
    machine.leave(XMIT, STACK - 8)
    machine.run(ENTRY + 7, NOP)
    machine.mark(2)
    assert paths(machine.window()) == {(ENTRY,): 2, (ENTRY, SEND): 1, (ENTRY, XMIT): 1, (ENTRY + 7,): 1}


def test_frames_that_are_skipped_end(machine: Machine) -> None:
    """A return from above ends what was called below, as does another call from there."""
    machine.mark(1)
    machine.call(ENTRY, STACK - 8)
    machine.call(SEND, STACK - 40)
    machine.call(XMIT, STACK - 80)
    machine.leave(POLL, STACK - 8)
    machine.run(ENTRY + 7, NOP)
    machine.mark(2)
    found = paths(machine.window())
    assert found[ENTRY, SEND, XMIT, POLL] == 1
    assert found[ENTRY + 7,] == 1


def test_stack_of_interrupts_is_called_to(machine: Machine) -> None:
    machine.mark(1)
    machine.call(ENTRY, STACK - 8)
    machine.call(SEND, IRQ_STACK - 8)
    machine.call(POLL, IRQ_STACK - 40)
    machine.leave(XMIT, IRQ_STACK - 40)
    machine.leave(POLL + 2, IRQ_STACK - 8)
    machine.leave(SEND + 2, STACK - 8)
    machine.run(ENTRY + 7, NOP)
    machine.mark(2)
    found = paths(machine.window())
    assert found[ENTRY, SEND, POLL, XMIT] == 1
    assert found[ENTRY, SEND + 2] == 1
    assert found[ENTRY + 7,] == 1


def test_other_task_has_its_own_calls(machine: Machine) -> None:
    """A switch of tasks is a return into the other's stack; the first one's calls go on when it is back."""
    machine.mark(1)
    machine.call(ENTRY, STACK - 8)
    machine.call(SEND, STACK - 40)
    machine.leave(SWITCH, OTHER_STACK - 8)
    machine.call(TASK, OTHER_STACK - 8)
    machine.leave(SWITCH, STACK - 40)
    machine.run(SEND + 9, NOP)
    machine.mark(2)
    found = paths(machine.window())
    assert found[TASK,] == 2
    assert found[ENTRY, SEND, SWITCH] == 1
    assert found[TASK, SWITCH] == 1
    assert found[ENTRY, SEND + 9] == 1


def test_system_call_begins_anew(machine: Machine) -> None:
    machine.mark(1)
    machine.call(ENTRY, STACK - 8)
    machine.run(SEND, NOP)
    machine.run(USER, NOP)
    machine.call(ENTRY, STACK - 8)
    machine.run(SEND, NOP)
    machine.mark(2)
    assert paths(machine.window()) == {(ENTRY,): 4, (ENTRY, SEND): 2}


def test_block_that_is_left_in_its_middle(machine: Machine) -> None:
    machine.mark(1)
    machine.run(ENTRY, NOP, NOP, NOP, NOP, upto=1)
    machine.run(SEND, NOP)
    machine.mark(2)
    assert paths(machine.window()) == {(ENTRY,): 1, (SEND,): 1}


def test_callback_that_comes_too_late_is_none(machine: Machine) -> None:
    machine.mark(1)
    block = machine.call(ENTRY, STACK - 8)
    machine.run(SEND, NOP)
    machine.library.access_late(block, STACK - 80)
    machine.run(XMIT, NOP)
    machine.mark(2)
    assert paths(machine.window()) == {(ENTRY,): 2, (ENTRY, SEND): 1, (ENTRY, XMIT): 1}


def test_only_what_is_between_the_marks(machine: Machine) -> None:
    """A start in an open window begins it anew; a stop outside of one means nothing; windows know nothing of before."""
    machine.mark(2)
    machine.run(ENTRY, NOP)
    machine.mark(1)
    machine.call(SEND, STACK - 8)
    machine.mark(1)
    machine.run(XMIT, NOP, NOP)
    machine.mark(2)
    machine.run(ENTRY, NOP)
    machine.mark(2)
    machine.mark(1)
    machine.leave(POLL, STACK - 40)
    machine.run(XMIT, NOP, NOP)
    machine.run(XMIT, NOP, NOP)
    machine.mark(2)
    first, second = windows.read(machine.out)
    assert (paths(first), paths(second)) == ({(XMIT,): 2}, {(POLL,): 1, (XMIT,): 4})
    assert first.instructions == 2 + 2  # the start and what follows it in its block


@pytest.mark.parametrize(
    ("argument", "processors"),
    [("out=/nowhere/at/all", 1), ("nonsense", 1), ("out={}", 2)],
    ids=lambda value: str(value),
)
def test_what_it_cannot_do(
    library: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], argument: str, processors: int
) -> None:
    fresh: Callable[[bytes, int], int] = ctypes.CDLL(str(shutil.copy(library, tmp_path))).start
    assert fresh(argument.format(tmp_path / "out").encode(), processors) != 0
    assert capfd.readouterr().err.startswith("insns.so: ")
