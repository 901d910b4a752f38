"""A small drawing of several figures by one size: both axes logarithmic, so that what is flat looks flat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from math import ceil, floor, log10

WIDTH, HEIGHT, LEFT, TOP, PLOT = 900, 560, 60, 20, 480
_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#7f7f7f")


def drawn(points: Mapping[int, Mapping[str, float]], across: str, up: str) -> str:
    """SVG of `points`: size -> name of a line -> value."""
    sizes = sorted(points)
    values = [v for some in points.values() for v in some.values()]
    low, high = floor(log10(min(values))), ceil(log10(max(values)))

    def x(size: int) -> float:
        span = log10(sizes[-1] / sizes[0]) or 1
        return LEFT + PLOT * log10(size / sizes[0]) / span

    def y(value: float) -> float:
        return HEIGHT - 50 - (HEIGHT - 50 - TOP) * (log10(value) - low) / (high - low)

    parts = [_head(), *_grid(sizes, x, y, low, high), _text(LEFT, HEIGHT - 8, across)]
    parts.append(_text(4, 14, up))
    names = sorted(points[sizes[-1]], key=lambda n: -points[sizes[-1]][n])
    labels = _apart([y(points[sizes[-1]][n]) for n in names], 17)
    for n, (name, at) in enumerate(zip(names, labels, strict=True)):
        colour = _COLOURS[n % len(_COLOURS)]
        line = [(x(s), y(points[s][name])) for s in sizes if name in points[s]]
        parts.append(_line(line, colour))
        parts.append(_text(x(sizes[-1]) + 12, at + 4, name, colour))
    return "\n".join([*parts, "</svg>", ""])


def _head() -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'font-family="sans-serif" font-size="12"><rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>'
    )


def _grid(sizes: Sequence[int], x: object, y: object, low: int, high: int) -> list[str]:
    assert callable(x) and callable(y)
    parts = []
    for power in range(low, high + 1):
        at = y(10.0**power)
        parts.append(_line([(LEFT, at), (LEFT + PLOT, at)], "#ddd"))
        parts.append(_text(4, at + 4, f"{10**power:,}"))
    for size in sizes:
        parts.append(_line([(x(size), TOP), (x(size), HEIGHT - 50)], "#ddd"))
        parts.append(_text(x(size) - 12, HEIGHT - 32, f"{size:,}"))
    return parts


def _apart(wanted: Sequence[float], least: float) -> list[float]:
    """Heights of labels, from the top, none on another."""
    found: list[float] = []
    for at in wanted:
        found.append(max(at, found[-1] + least) if found else at)
    over = max(0.0, found[-1] - (HEIGHT - 50)) if found else 0.0
    return [at - over for at in found]


def _line(points: Sequence[tuple[float, float]], colour: str) -> str:
    text = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
    return f'<polyline points="{text}" fill="none" stroke="{colour}" stroke-width="1.5"/>'


def _text(x: float, y: float, text: str, colour: str = "#333") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}">{escape(text)}</text>'
