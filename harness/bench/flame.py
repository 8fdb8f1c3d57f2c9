"""A flame graph as SVG, without a script: each function is a box on its caller's, as wide as what it costs.

The text of each box, in full, is its tooltip. Colours tell how a box differs from the same box of another profile: red
for dearer, blue for cheaper, deeper by more; without another profile they only tell neighbours apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from colorsys import hls_to_rgb
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

from harness.bench.profile import INTERRUPTS, Profile, Stack

WIDTH, MARGIN, ROW, HEAD = 1200, 10, 17, 46
CHARACTER = 6.9
"""Of 11 px of the monospaced font."""
NARROWEST = 0.3
"""Pixels; what is narrower is not drawn, nor is what it calls."""
LEAST, STRONGEST = 0.5, 60
"""Instructions' differences at which a box is coloured at all, and the deepest."""
NEUTRAL = "#ece9e1"


@dataclass
class _Box:
    """A function under its callers: instructions for one packet, those of what it calls included."""

    name: str
    total: float = 0.0
    own: float = 0.0
    calls: dict[str, _Box] = field(default_factory=dict)

    def depth(self, least: float) -> int:
        """Rows of boxes that are worth so much."""
        return 1 + max((box.depth(least) for box in self.calls.values() if box.total >= least), default=0)


def flame_graph(profile: Profile, title: str, *, unit: str, base: Profile | None = None) -> str:
    """The SVG. With ``base``, boxes are coloured by their difference to it; what only ``base`` has, is not drawn.

    Interrupts are drawn as well. ``unit`` is what a profile's number is for: ``packet``.
    """
    root = _tree(profile.stacks, "all")
    other = _tree(base.stacks, "all") if base else None
    scale = (WIDTH - 2 * MARGIN) / root.total
    height = HEAD + root.depth(NARROWEST / scale) * ROW + MARGIN
    colours = "; red: dearer, blue: cheaper" if other else ""
    subtitle = f"{root.total:,.1f} instructions for one {unit}{colours}"
    boxes = "".join(_boxes(root, other, x=MARGIN, y=height - MARGIN - ROW, scale=scale,
                           all_of_it=root.total, unit=unit))  # fmt: skip
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}"'
        ' font-family="DejaVu Sans Mono, Menlo, Consolas, monospace" font-size="11">\n'
        f'<rect width="100%" height="100%" fill="#fffdf7"/>\n'
        f'<text x="{WIDTH / 2:.0f}" y="20" font-size="15" text-anchor="middle">{escape(title)}</text>\n'
        f'<text x="{WIDTH / 2:.0f}" y="37" text-anchor="middle">{escape(subtitle)}</text>\n'
        f"{boxes}</svg>\n"
    )


def _tree(stacks: Mapping[Stack, float], name: str) -> _Box:
    root = _Box(name)
    for stack, count in stacks.items():
        if count < 0:  # less in longer runs: chance
            continue
        box = root
        box.total += count
        for function in stack:
            box = box.calls.setdefault(function, _Box(function))
            box.total += count
        box.own += count
    return root


def _boxes(box: _Box, other: _Box | None, *, x: float, y: float, scale: float, all_of_it: float, unit: str,
           compare: bool | None = None) -> Iterator[str]:  # fmt: skip
    """A box and, above it, what it calls, by name. ``other`` is the same box of the profile to compare with."""
    compare = other is not None if compare is None else compare
    width = box.total * scale
    if width < NARROWEST:
        return
    tip = f"{box.name}: {box.total:,.1f} instructions for one {unit} ({100 * box.total / all_of_it:.1f} %)"
    tip += f", {box.own:,.1f} in itself"
    colour = _plain(box.name)
    if compare:
        more = box.total - (other.total if other else 0.0)
        own = box.own - (other.own if other else 0.0)
        tip += f"; {more:+,.1f} in all, {own:+,.1f} in itself"
        colour = _by(own)
    room = int((width - 4) / CHARACTER)
    label = box.name if len(box.name) <= room else f"{box.name[: room - 1]}…" if room > 3 else ""
    yield f'<g><title>{escape(tip)}</title><rect x="{x:.2f}" y="{y}" width="{max(width - 0.4, 0.2):.2f}"'
    yield f' height="{ROW - 1}" rx="1" fill="{colour}"/>'
    if label:
        yield f'<text x="{x + 3:.2f}" y="{y + 12}">{escape(label)}</text>'
    yield "</g>\n"
    for name in sorted(box.calls, key=lambda name: (name == INTERRUPTS, name)):
        below = other.calls.get(name) if other else None
        yield from _boxes(box.calls[name], below, x=x, y=y - ROW, scale=scale, all_of_it=all_of_it, unit=unit,
                          compare=compare)  # fmt: skip
        x += box.calls[name].total * scale


def _plain(name: str) -> str:
    """A warm colour that a name always has."""
    hash_ = sum(place * ord(letter) for place, letter in enumerate(name, 1))
    return _hex(18 + hash_ % 37, 0.62 + hash_ % 11 / 100, 0.85)


def _by(more: float) -> str:
    """Grey for no difference, red for more, blue for less."""
    if abs(more) < LEAST:
        return NEUTRAL
    strength = min(abs(more) / STRONGEST, 1.0)
    return _hex(4 if more > 0 else 212, 0.93 - 0.35 * strength, 0.4 + 0.45 * strength)


def _hex(hue: int, lightness: float, saturation: float) -> str:
    """Degrees and shares; not every viewer of SVG knows hsl()."""
    return "#" + "".join(f"{round(255 * share):02x}" for share in hls_to_rgb(hue / 360, lightness, saturation))
