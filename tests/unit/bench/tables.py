"""Tables as a kernel might have them, for tests."""

from __future__ import annotations

from harness.bench.model import KeyState, Measurement, Role, Row, Subject, Table

NOP, JMP = ("NOP 0f1f440000 in __dev_queue_xmit",), ("JMP e956010000 in __dev_queue_xmit",)


def row(name: str, *values: float, role: Role = Role.PLAIN, resolution: float = 0.01, absent: str = "") -> Row:
    """One value for each boot."""
    return Row(
        name,
        tuple(Measurement(boot, value, resolution=resolution) for boot, value in enumerate(values)),
        role,
        absent=absent,
    )


def control(name: str, value: float, expected: float, against: str) -> Row:
    return Row(name, (Measurement(0, value, resolution=0.01),), Role.CONTROL, expected=expected, against=against)


def key(
    name: str, before: tuple[str, ...] = NOP, during: tuple[str, ...] = JMP, after: tuple[str, ...] = NOP
) -> KeyState:
    return KeyState(name, before, during, after)


def table(*rows: Row, release: str = "6.12.1") -> Table:
    return Table(
        benchmark="egress",
        title="the egress hook",
        mode="exact",
        quantity="instructions",
        unit="packet",
        subject=Subject(release, "0" * 16, "debian:6.12"),
        rows=rows,
    )


def good(none: float = 1359, accept: float = 1618, *more: Row) -> Table:
    """A table that means something."""
    return table(
        row("none", none, none),
        row("tc accept", accept, accept),
        *more,
        control("tc accept and 50", accept + 50, 50, "tc accept"),
        row("none, again", none, none, role=Role.AGAIN),
    )
