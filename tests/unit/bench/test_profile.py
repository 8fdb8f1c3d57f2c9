"""What the plugin writes is read back whole or not at all, and every instruction of it ends up in one function."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness.bench import mark, native, profile, windows
from harness.bench.flame import flame_graph
from harness.bench.profile import INTERRUPTS, Profile
from harness.bench.symbols import IN_USER_SPACE, OUTSIDE, Symbols
from harness.bench.windows import Window
from harness.errors import InfraError

SYSTEM_MAP = """\
0000000000000000 D fixed_percpu_data
ffffffff81000000 T _stext
ffffffff81000000 T _text
ffffffff81000100 T entry_SYSCALL_64
ffffffff81000200 T __x64_sys_sendto
ffffffff81000300 T __dev_queue_xmit
ffffffff81000400 t validate_xmit_skb.constprop.0
ffffffff81000500 t dev_hard_start_xmit
ffffffff81000600 T asm_sysvec_apic_timer_interrupt
ffffffff81000700 T handle_softirqs
ffffffff81000800 t __dev_queue_xmit.cold
ffffffff81000900 T __lock_text_start
ffffffff81000900 T __alias
ffffffff81000900 T alias
ffffffff81000900 T alias_too
ffffffff81a00000 D _sdata
ffffffff82000000 B _end
"""
ENTRY, SENDTO, XMIT, VALIDATE, HARD, TIMER, SOFTIRQ, COLD, ALIAS = range(0xFFFFFFFF81000100, 0xFFFFFFFF81000A00, 0x100)
BPF = 0xFFFFFFFFC0000000


@pytest.fixture(scope="module")
def symbols() -> Symbols:
    return Symbols(SYSTEM_MAP)


def window(*nodes: tuple[int, int, int]) -> Window:
    return Window(sum(count for _, _, count in nodes), nodes)


def run(packets: int, *, spin: int = 0, ticks: int = 0) -> tuple[int, Window]:
    """1,000 instructions to begin and end with, and for each packet 10, 20, 30, 40 and 5."""
    return packets, window(
        (-1, windows.USER, 600 + 10 * packets),
        (-1, ENTRY + 5, 400),
        (1, SENDTO, 20 * packets),
        (2, XMIT, 10 * packets),
        (2, XMIT + 0x20, (20 + spin) * packets),
        (4, VALIDATE, 40 * packets),
        (4, BPF, 5 * packets),
        (4, TIMER, 7 * ticks),
        (7, SOFTIRQ, 70 * ticks),
    )


class TestSymbols:
    @pytest.mark.parametrize(
        ("address", "name"),
        [
            (ENTRY, "entry_SYSCALL_64"),
            (ENTRY + 0xFF, "entry_SYSCALL_64"),
            (SENDTO, "__x64_sys_sendto"),
            (VALIDATE + 3, "validate_xmit_skb.constprop.0"),
            (ALIAS, "alias"),
            (windows.USER, "[user space]"),
            (BPF, OUTSIDE),
            (0xFFFFFFFF80FFFFFF, OUTSIDE),
        ],
    )
    def test_the_symbol_before_an_address(self, symbols: Symbols, address: int, name: str) -> None:
        assert symbols.at(address) == name


class TestProfile:
    def test_what_starts_and_ends_a_run_is_not_in_it(self, symbols: Symbols) -> None:
        found = profile.profile([run(100), run(300)], symbols)
        assert found.functions == {
            "[user space]": 10,
            "__x64_sys_sendto": 20,
            "__dev_queue_xmit": 30,
            "validate_xmit_skb": 40,
            OUTSIDE: 5,
        }
        assert found.total == sum(found.stacks.values()) == 105

    def test_nor_is_what_was_done_in_one_run_of_many(self, symbols: Symbols) -> None:
        runs = [run(packets) for packets in (100, 200, 400, 500)]
        assert profile.profile([*runs, run(300, ticks=9)], symbols) == profile.profile(runs, symbols)

    def test_interrupts_stand_apart(self, symbols: Symbols) -> None:
        found = profile.profile([run(100, ticks=1), run(300, ticks=3)], symbols)
        assert found.functions[INTERRUPTS] == 2 * 77 / 200
        assert "handle_softirqs" not in found.functions
        assert found.total == pytest.approx(105 + 2 * 77 / 200)
        assert (INTERRUPTS, "asm_sysvec_apic_timer_interrupt", "handle_softirqs") in found.stacks

    def test_other_threads_are_left_out(self, symbols: Symbols) -> None:
        found = profile.profile([run(100, ticks=1), run(300, ticks=3)], symbols, thread="entry_SYSCALL_64")
        assert found.total == 95
        assert {IN_USER_SPACE, INTERRUPTS}.isdisjoint(found.functions)

    def test_runs_of_one_length_tell_nothing(self, symbols: Symbols) -> None:
        with pytest.raises(ValueError, match="different lengths"):
            profile.profile([run(100), run(100)], symbols)

    def test_parts_of_a_function_are_that_function(self, symbols: Symbols) -> None:
        called = window((-1, XMIT, 10), (0, COLD, 3), (1, HARD, 2), (-1, COLD, 1))
        assert profile.stacks(called, symbols) == {
            ("__dev_queue_xmit",): 14,
            ("__dev_queue_xmit", "dev_hard_start_xmit"): 2,
        }

    def test_a_function_that_calls_itself_stays_two(self, symbols: Symbols) -> None:
        assert profile.stacks(window((-1, XMIT, 10), (0, XMIT, 3)), symbols) == {
            ("__dev_queue_xmit",): 10,
            ("__dev_queue_xmit", "__dev_queue_xmit"): 3,
        }

    def test_a_spin_is_found_in_its_function(self, symbols: Symbols) -> None:
        base = profile.profile([run(100), run(300)], symbols)
        slow = profile.profile([run(100, spin=50), run(500, spin=50)], symbols)
        (only,) = profile.differences(base, slow)
        assert (only.function, only.base, only.here, only.more) == ("__dev_queue_xmit", 30, 80, 50)
        assert slow.total - base.total == 50

    def test_the_greatest_difference_is_first(self) -> None:
        base = Profile({"a": 10, "b": 50, "c": 7}, {})
        here = Profile({"a": 15, "c": 7, "d": 1}, {})
        found = profile.differences(base, here)
        assert [(one.function, one.more) for one in found] == [("b", -50), ("a", 5), ("d", 1)]
        assert sum(one.more for one in found) == here.total - base.total

    def test_stacks_for_other_tools(self, symbols: Symbols) -> None:
        text = profile.folded(profile.profile([run(100), run(300)], symbols))
        assert "entry_SYSCALL_64;__x64_sys_sendto;__dev_queue_xmit;validate_xmit_skb 40000\n" in text


class TestFile:
    TEXT = "window 1 12\n1 0 0 5\n2 1 ffffffff81000100 7\nend 1\nwindow 2 3\n1 0 0 3\nend 2\n"

    def read(self, tmp_path: Path, text: str) -> tuple[Window, ...]:
        file = tmp_path / "windows"
        file.write_text(text)
        return windows.read(file)

    def test_windows_in_their_order(self, tmp_path: Path) -> None:
        first, second = self.read(tmp_path, self.TEXT)
        assert first == Window(12, ((-1, 0, 5), (0, ENTRY, 7)))
        assert second == Window(3, ((-1, 0, 3),))

    @pytest.mark.parametrize(
        ("text", "complaint"),
        [
            (TEXT.replace("end 2\n", ""), "window 2 has no end"),
            (TEXT.replace("window 1 12", "window 1 13"), "do not sum up to 13"),
            (TEXT.replace("window 2", "window 3"), "in place of window 2"),
            (TEXT.replace("2 1 ffffffff81000100", "2 2 ffffffff81000100"), "out of order"),
            (TEXT.replace("2 1 ffffffff81000100", "3 1 ffffffff81000100"), "out of order"),
            ("window 1\n", "not enough values"),
        ],
    )
    def test_a_damaged_file_is_refused(self, tmp_path: Path, text: str, complaint: str) -> None:
        with pytest.raises(InfraError, match=complaint):
            self.read(tmp_path, text)

    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(InfraError, match="not what the plugin writes"):
            windows.read(tmp_path / "windows")


class TestFlameGraph:
    BASE = Profile({}, {("send", "xmit"): 50, ("send",): 25, (INTERRUPTS, "tick"): 1})

    def test_each_box_tells_what_it_costs(self) -> None:
        svg = flame_graph(self.BASE, "egress <none>", unit="packet")
        assert "<title>send: 75.0 instructions for one packet (98.7 %), 25.0 in itself</title>" in svg
        assert "<title>xmit: 50.0 instructions for one packet (65.8 %), 50.0 in itself</title>" in svg
        assert "egress &lt;none&gt;" in svg

    def test_each_box_tells_its_difference(self) -> None:
        here = Profile({}, {("send", "xmit"): 150, ("send", "new"): 15, ("send",): 25, ("gone",): -1})
        svg = flame_graph(here, "egress", unit="packet", base=self.BASE)
        assert "150.0 in itself; +100.0 in all, +100.0 in itself</title>" in svg
        assert "15.0 in itself; +15.0 in all, +15.0 in itself</title>" in svg
        assert "25.0 in itself; +115.0 in all, +0.0 in itself</title>" in svg
        assert "gone" not in svg


def test_the_plugin_compiles_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KPROOF_CACHE", str(tmp_path / "cache, with a comma"))
    first = native.shared_object(windows.PLUGIN, [windows.HEADER])
    made = first.stat().st_ino
    assert native.shared_object(windows.PLUGIN, [windows.HEADER]).stat().st_ino == made
    word, value = windows.plugin(tmp_path / "out,1").qemu
    assert word == "-plugin"
    assert value == f"file={str(first).replace(',', ',,')},out={tmp_path}/out,,1"


def test_c_that_does_not_compile_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KPROOF_CACHE", str(tmp_path / "cache"))
    (tmp_path / "bad.c").write_text("int f(void) { return }\n")
    with pytest.raises(InfraError, match="gcc failed"):
        native.shared_object(tmp_path / "bad.c")
    assert [path.name for path in (tmp_path / "cache/native").iterdir()] == []


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="machine code of x86")
def test_marks_do_nothing_without_the_plugin() -> None:
    with mark.Marks().window():
        pass
