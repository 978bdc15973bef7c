"""Charts as SVG texts, drawn without a library: lines with bands, distributions, reliability diagrams.

Colours are classes of the page's style (`c0` ... `c7`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup, escape

from metalearn.sizes import count_text

# How to read a reliability diagram.
RELIABILITY = (
    "Below the dashed line probabilities are too high, above it too low. Larger dots stand for more queries; bins with less than 0.1 % of "
    "them are left out."
)
_PROBABILITY = "largest probability of an answer"
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 620, 280, 58, 38, 12, 26


class Line(NamedTuple):
    """One line of a chart: points (x, y, lowest y, highest y)."""

    name: str
    colour: int
    points: Sequence[tuple[float, float, float, float]]


def line_chart(lines: Sequence[Line], x_title: str, y_title: str, percent: bool) -> Markup:
    """Lines with bands between the lowest and the highest y; an empty text where there is nothing to draw."""
    lines = [line for line in lines if line.points]
    if not lines:
        return Markup("")
    xs = [x for line in lines for x, *_ in line.points]
    ys = [y for line in lines for _, *all_ys in line.points for y in all_ys]
    across, up = _Axis.of(min(xs), max(xs), _LEFT, _WIDTH - _RIGHT), _Axis.of(min(ys), max(ys), _HEIGHT - _BOTTOM, _TOP)
    parts = [_frame(across, up, x_title, y_title, percent)]
    parts += _bands(lines, across, up)
    for line in lines:
        points = [(across.at(x), up.at(y), x, y) for x, y, *_ in line.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _, _ in points)
        parts.append(f'<polyline class="line c{line.colour}" points="{path}"/>')
        if len(points) <= 40:
            parts += [
                f'<circle class="dot c{line.colour}" cx="{x:.1f}" cy="{y:.1f}" r="2.6">'
                f"<title>{escape(line.name)}: {_number(value, percent)} at {at:g}</title></circle>"
                for x, y, at, value in points
            ]
    return _svg(parts, _HEIGHT, f"{y_title} against {x_title}")


def curve_chart(
    line: Line, support: Sequence[Sequence[float]], query: Sequence[Sequence[float]], x_title: str, y_title: str
) -> Markup:
    """A predicted curve with its band; support points are dots, the targets of queries are rings."""
    xs = [x for x, *_ in [*line.points, *support, *query]]
    ys = [y for _, *all_ys in [*line.points, *support, *query] for y in all_ys]
    across, up = _Axis.of(min(xs), max(xs), _LEFT, _WIDTH - _RIGHT), _Axis.of(min(ys), max(ys), _HEIGHT - _BOTTOM, _TOP)
    parts = [_frame(across, up, x_title, y_title, False), *_bands([line], across, up)]
    path = " ".join(f"{across.at(x):.1f},{up.at(y):.1f}" for x, y, *_ in line.points)
    parts.append(f'<polyline class="line c{line.colour}" points="{path}"/>')
    for points, look, what in (
        (query, 'class="line c2" r="3.2"', "target"),
        (support, 'class="dot c1" r="4"', "support"),
    ):
        parts += [
            f'<circle {look} cx="{across.at(x):.1f}" cy="{up.at(y):.1f}"><title>{what}: {y:g} at {x:g}</title></circle>'
            for x, y in points
        ]
    return _svg(parts, _HEIGHT, f"{y_title} against {x_title}")


def distributions(
    rows: Sequence[tuple[str, int, Sequence[float]]], title: str, percent: bool, bins: int = 40
) -> Markup:
    """One histogram below the other on a common axis, the mean marked: rows of (name, colour, values)."""
    rows = [row for row in rows if row[2]]
    if not rows:
        return Markup("")
    values = [value for _, _, of_row in rows for value in of_row]
    each, height = 54, 54 * len(rows) + _TOP + _BOTTOM
    across = _Axis.of(min(values), max(values), _LEFT, _WIDTH - _RIGHT)
    parts = [_x_axis(across, height, title, percent)]
    width = (across.last - across.first) / bins
    for place, (name, colour, of_row) in enumerate(rows):
        counts = [0] * bins
        for value in of_row:
            counts[min(int((value - across.first) / width), bins - 1)] += 1
        base, most = _TOP + each * (place + 1) - 4, max(counts)
        for number, count in enumerate(counts):
            if count:
                x, x2 = across.at(across.first + number * width), across.at(across.first + (number + 1) * width)
                tall = (each - 20) * count / most
                span = f"{_number(across.first + number * width, percent)} to {_number(across.first + (number + 1) * width, percent)}"
                parts.append(
                    f'<rect class="bar c{colour}" x="{x:.1f}" y="{base - tall:.1f}" width="{x2 - x - 0.6:.1f}" height="{tall:.1f}">'
                    f"<title>{span}: {count_text(count, 'task')}</title></rect>"
                )
        mean = math.fsum(of_row) / len(of_row)
        x = across.at(mean)
        parts.append(f'<line class="mean" x1="{x:.1f}" x2="{x:.1f}" y1="{base - each + 16}" y2="{base}"/>')
        parts.append(
            f'<text class="name" x="{_LEFT + 2}" y="{base - each + 18}">{escape(name)}: mean {_number(mean, percent)}</text>'
        )
    return _svg(parts, height, title)


def reliability_diagram(lines: Sequence[tuple[str, int, Sequence[tuple[int, float, float]]]]) -> Markup:
    """The share of right answers against the probability that they were given with; the dashed diagonal is perfect calibration.

    Args:
        lines: name, colour and bins: (queries in the bin, mean of their largest probabilities, share of right ones). A dot's area says how many.
            Bins with less than a thousandth of a line's queries are left out: their shares are of a handful of answers.
    """
    lines = [(name, colour, _large_enough(bins)) for name, colour, bins in lines if bins]
    if not lines:
        return Markup("")
    least = min(min(confidence, right) for _, _, bins in lines for _, confidence, right in bins)
    across, up = _Axis.of(least, 1.0, _LEFT, _WIDTH - _RIGHT), _Axis.of(least, 1.0, _HEIGHT - _BOTTOM, _TOP)
    parts = [_frame(across, up, _PROBABILITY, "share of right answers", True, percent_across=True)]
    first, last = max(across.first, up.first), min(across.last, up.last)
    parts.append(
        f'<line class="axis" stroke-dasharray="4 4" x1="{across.at(first):.1f}" y1="{up.at(first):.1f}" '
        f'x2="{across.at(last):.1f}" y2="{up.at(last):.1f}"/>'
    )
    for name, colour, bins in lines:
        path = " ".join(f"{across.at(x):.1f},{up.at(y):.1f}" for _, x, y in bins)
        parts.append(f'<polyline class="line c{colour}" points="{path}"/>')
        whole = sum(count for count, _, _ in bins)
        for count, x, y in bins:
            told = f"{escape(name)}: of {count:,} answers given with {_number(x, True)}, {_number(y, True)} are right"
            radius = 1.5 + 7 * math.sqrt(count / whole)
            parts.append(
                f'<circle class="dot c{colour}" cx="{across.at(x):.1f}" cy="{up.at(y):.1f}" r="{radius:.1f}" opacity="0.8">'
                f"<title>{told}</title></circle>"
            )
    return _svg(parts, _HEIGHT, f"share of right answers against {_PROBABILITY}")


def _large_enough(bins: Sequence[tuple[int, float, float]]) -> list[tuple[int, float, float]]:
    whole = sum(count for count, _, _ in bins)
    return [one for one in bins if 1000 * one[0] >= whole]


def _bands(lines: Sequence[Line], across: _Axis, up: _Axis) -> list[str]:
    parts = []
    for line in lines:
        there = [(across.at(x), up.at(low), up.at(high)) for x, _, low, high in line.points]
        if any(low != high for _, low, high in there):
            edge = [f"{x:.1f},{high:.1f}" for x, _, high in there] + [
                f"{x:.1f},{low:.1f}" for x, low, _ in reversed(there)
            ]
            parts.append(f'<polygon class="band c{line.colour}" points="{" ".join(edge)}"/>')
    return parts


class _Axis(NamedTuple):
    first: float
    last: float
    step: float
    start: float  # in pixels
    end: float

    @classmethod
    def of(cls, least: float, most: float, start: float, end: float) -> _Axis:
        """Round numbers around what is shown."""
        if most <= least:
            room = abs(least) / 10 or 1.0
            least, most = least - room, most + room
        rough = (most - least) / 5
        power = 10 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
        return cls(math.floor(least / step + 1e-9) * step, math.ceil(most / step - 1e-9) * step, step, start, end)

    def at(self, value: float) -> float:
        """The pixel of a value."""
        return self.start + (value - self.first) / (self.last - self.first) * (self.end - self.start)

    @property
    def ticks(self) -> list[float]:
        return [self.first + n * self.step for n in range(round((self.last - self.first) / self.step) + 1)]


def _frame(across: _Axis, up: _Axis, x_title: str, y_title: str, percent: bool, percent_across: bool = False) -> str:
    parts = [_x_axis(across, _HEIGHT, x_title, percent_across)]
    for tick in up.ticks:
        y = up.at(tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(
            f'<text class="tick" text-anchor="end" x="{_LEFT - 6}" y="{y + 4:.1f}">{_number(tick, percent)}</text>'
        )
    middle = (_HEIGHT - _BOTTOM + _TOP) / 2
    parts.append(
        f'<text class="title" text-anchor="middle" transform="translate(13 {middle}) rotate(-90)">{escape(y_title)}</text>'
    )
    return "".join(parts)


def _x_axis(across: _Axis, height: int, title: str, percent: bool) -> str:
    floor = height - _BOTTOM
    parts = [f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{floor}" y2="{floor}"/>']
    for tick in across.ticks:
        parts.append(
            f'<text class="tick" text-anchor="middle" x="{across.at(tick):.1f}" y="{floor + 14}">{_number(tick, percent)}</text>'
        )
    parts.append(
        f'<text class="title" text-anchor="middle" x="{(_LEFT + _WIDTH) / 2}" y="{floor + 30}">{escape(title)}</text>'
    )
    return "".join(parts)


def _number(value: float, percent: bool) -> str:
    return f"{100 * value:.4g} %" if percent else f"{value:,.6g}"


def _svg(parts: Sequence[str], height: int, title: str) -> Markup:
    head = f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(title)}" xmlns="http://www.w3.org/2000/svg">'
    return Markup(head + "".join(parts) + "</svg>")
