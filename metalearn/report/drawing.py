"""Pictures of tasks and curves, drawn with Pillow: what TensorBoard shows of a test.

Images are uint8 arrays [height, width, 3].
"""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Pixels = NDArray[np.uint8]

RIGHT, WRONG, INK, FAINT, PAPER = (0, 128, 84), (208, 44, 44), (33, 37, 41), (134, 142, 150), (255, 255, 255)
_RAMP = ((187, 210, 236), (18, 74, 148))  # the first and the last of several lines
MOST_CLASSES, MOST_SUPPORT, MOST_QUERIES = 10, 5, 6  # that a picture of a task has room for
_TILE = (56, 72)  # pixels: the smallest and the largest side of an image
_GAP, _WORDS, _NAME = 8, 17, 118  # pixels: between images, for a line of text, for the name of a class
_FINE = 3  # lines are drawn so many times larger: Pillow does not smooth them


@dataclass(frozen=True)
class Answer:
    """A query example and what was predicted for it.

    Attributes:
        image: the example.
        predicted: the index of the class, in the order of the rows.
        probability: of that class.
    """

    image: Pixels
    predicted: int
    probability: float


@dataclass(frozen=True)
class ClassRow:
    """A class of a task: its support examples, and its queries with their answers."""

    name: str
    support: Sequence[Pixels]
    queries: Sequence[Answer]


@dataclass(frozen=True)
class Line:
    """A line of a chart: points (x, y) in the order of x, and around them a band of so much on either side."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    band: Sequence[float] = ()


@dataclass(frozen=True)
class Chart:
    """Lines over one x axis; `points` are drawn as dots, `targets` as small rings.

    Attributes:
        percent: whether the values of y are fractions that are shown in percent.
    """

    title: str
    x_name: str
    y_name: str
    lines: Sequence[Line]
    points: Sequence[tuple[float, float]] = field(default=())
    targets: Sequence[tuple[float, float]] = field(default=())
    percent: bool = False


def task_picture(title: str, rows: Sequence[ClassRow]) -> Image.Image:
    """A row for each class: its letter and name, support examples, queries. Below a query: the class that was predicted and its probability.

    A right answer has a green frame; a wrong one a thick red frame and a cross. Of larger tasks the first classes, the first examples of each.
    """
    shown = rows[:MOST_CLASSES]
    support = min(max((len(row.support) for row in shown), default=0), MOST_SUPPORT)
    queries = min(max((len(row.queries) for row in shown), default=0), MOST_QUERIES)
    side, step = _side(shown), _side(shown) + _GAP
    head, height = 3 * _WORDS, _side(shown) + _WORDS + _GAP
    left = _GAP + _NAME
    right = left + support * step + 2 * _GAP
    picture = Image.new("RGB", (right + queries * step + _GAP, head + len(shown) * height + _GAP), PAPER)
    draw = ImageDraw.Draw(picture)
    _text(draw, (_GAP, 4), title, INK, 14)
    _text(draw, (left, _WORDS + 9), "support", FAINT)
    _text(draw, (right, _WORDS + 9), "queries and predictions", FAINT)
    bottom = head + len(shown) * height
    draw.line([(right - _GAP - 4, head), (right - _GAP - 4, bottom - _WORDS)], fill=(206, 212, 218))
    for number, row in enumerate(shown):
        top = head + number * height
        _text(draw, (_GAP, top + side // 2 - 8), _letter(number), INK, 15)
        _text(draw, (_GAP + 22, top + side // 2 - 6), _cut(row.name, 13), INK)
        for place, image in enumerate(row.support[:support]):
            _paste(picture, image, side, (left + place * step, top))
            draw.rectangle(_frame(left + place * step, top, side, 1), outline=(206, 212, 218))
        for place, answer in enumerate(row.queries[:queries]):
            x, is_right = right + place * step, answer.predicted == number
            _paste(picture, answer.image, side, (x, top))
            colour = RIGHT if is_right else WRONG
            draw.rectangle(_frame(x, top, side, 2 if is_right else 3), outline=colour, width=2 if is_right else 3)
            said = f"{_letter(answer.predicted)} {100 * answer.probability:.0f} %"
            if not is_right:  # a cross, for those who do not tell the colours apart; Pillow's own font has none
                for ends in (
                    (x + 1, top + side + 7, x + 8, top + side + 14),
                    (x + 1, top + side + 14, x + 8, top + side + 7),
                ):
                    draw.line(ends, fill=colour, width=2)
            _text(draw, (x if is_right else x + 12, top + side + 3), said, colour)
    return picture


def chart_picture(chart: Chart, width: int = 520, height: int = 320) -> Image.Image:
    """A chart with axes, its lines from light to dark, their names on the right."""
    factor = 100 if chart.percent else 1
    lines = [
        Line(one.name, one.x, [factor * y for y in one.y], [factor * half for half in one.band]) for one in chart.lines
    ]
    points = [(x, factor * y) for x, y in chart.points]
    targets = [(x, factor * y) for x, y in chart.targets]
    names = [one.name for one in lines] + ["target"] * bool(targets) + ["support"] * bool(points)
    room = 18 + max((8 * len(name) for name in names), default=0) if len(names) > 1 else 16
    box = (64, 48, width - room, height - 44)
    place = _Axes(
        box, [x for one in lines for x in one.x] + [x for x, _ in points + targets], _heights(lines, points + targets)
    )
    picture = Image.new("RGB", (width * _FINE, height * _FINE), PAPER)
    fine = ImageDraw.Draw(picture)
    for y in place.y_marks:
        fine.line(_scaled([(box[0], place.y(y)), (box[2], place.y(y))]), fill=(233, 236, 239), width=_FINE)
    for number, one in enumerate(lines):
        colour = _shade(number, len(lines))
        if one.band:
            edge = [(place.x(x), place.y(y + half)) for x, y, half in zip(one.x, one.y, one.band, strict=True)]
            back = [(place.x(x), place.y(y - half)) for x, y, half in zip(one.x, one.y, one.band, strict=True)]
            fine.polygon(_scaled(edge + back[::-1]), fill=(226, 235, 246))
        fine.line(_scaled([(place.x(x), place.y(y)) for x, y in zip(one.x, one.y, strict=True)]), colour, 2 * _FINE)
        if len(one.x) <= 30 and len(lines) == 1:
            for x, y in zip(one.x, one.y, strict=True):
                fine.ellipse(_around(place.x(x), place.y(y), 3), fill=colour)
    for x, y in targets:
        fine.ellipse(_around(place.x(x), place.y(y), 4), outline=RIGHT, width=_FINE * 3 // 2)
    for x, y in points:
        fine.ellipse(_around(place.x(x), place.y(y), 5), fill=WRONG)
    picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    _label(ImageDraw.Draw(picture), chart, place, box)
    _legend(ImageDraw.Draw(picture), lines, bool(targets), bool(points), box)
    return picture


def sprite(images: Sequence[Pixels], side: int = 32) -> Image.Image:
    """Images side by side in a square, row by row, as TensorBoard's projector reads them."""
    columns = int(np.ceil(np.sqrt(len(images))))
    picture = Image.new("RGB", (columns * side, columns * side), PAPER)
    for number, image in enumerate(images):
        _paste(picture, image, side, (number % columns * side, number // columns * side))
    return picture


def encoded(picture: Image.Image, photo: bool) -> bytes:
    """A JPEG file of what holds photos, else a PNG file."""
    content = io.BytesIO()
    if photo:
        picture.save(content, "JPEG", quality=85)
    else:
        picture.quantize(128, Image.Quantize.MAXCOVERAGE).save(content, "PNG")
    return content.getvalue()


class _Axes:
    """Where values lie in a box (left, top, right, bottom) of pixels."""

    def __init__(self, box: tuple[int, int, int, int], xs: Sequence[float], ys: Sequence[float]) -> None:
        self._box = box
        self.x_marks, self.y_marks = _marks(min(xs), max(xs), 6), _marks(min(ys), max(ys), 5)
        self._x = (min(xs), max(max(xs), min(xs) + 1e-9))
        margin = 0.04 * max(max(ys) - min(ys), 1e-9)
        self._y = (min(ys) - margin, max(ys) + margin)

    def x(self, value: float) -> float:
        left, _, right, _ = self._box
        return left + (right - left) * (value - self._x[0]) / (self._x[1] - self._x[0])

    def y(self, value: float) -> float:
        _, top, _, bottom = self._box
        return bottom - (bottom - top) * (value - self._y[0]) / (self._y[1] - self._y[0])


def _heights(lines: Sequence[Line], points: Sequence[tuple[float, float]]) -> list[float]:
    edges = [
        y + sign * half
        for one in lines
        for y, half in zip(one.y, one.band or [0.0] * len(one.y), strict=True)
        for sign in (-1, 1)
    ]
    return edges + [y for _, y in points]


def _marks(low: float, high: float, most: int) -> list[float]:
    """Round numbers between `low` and `high`, `most` at most."""
    span = max(high - low, 1e-9)
    power = 10.0 ** np.floor(np.log10(span / most))
    step = next((power * one for one in (1, 2, 5, 10, 20) if span / (power * one) <= most - 1), power * 20)
    first = np.ceil(low / step - 1e-9)
    return [float(step * (first + n)) for n in range(most + 2) if step * (first + n) <= high + step * 1e-6]


def _label(draw: ImageDraw.ImageDraw, chart: Chart, place: _Axes, box: tuple[int, int, int, int]) -> None:
    left, top, right, bottom = box
    draw.line([(left, bottom), (right, bottom)], fill=FAINT)
    _text(draw, (_GAP, 6), chart.title, INK, 14)
    for y in place.y_marks:
        text = f"{y:.6g}{' %' if chart.percent else ''}"
        _text(draw, (left - 8 - _width(draw, text), place.y(y) - 7), text, FAINT)
    for x in place.x_marks:
        _text(draw, (place.x(x) - _width(draw, f"{x:g}") / 2, bottom + 6), f"{x:g}", FAINT)
    _text(draw, ((left + right - _width(draw, chart.x_name)) / 2, bottom + 24), chart.x_name, INK)
    _text(draw, (_GAP, top - 22), chart.y_name, FAINT)


def _legend(
    draw: ImageDraw.ImageDraw, lines: Sequence[Line], targets: bool, points: bool, box: tuple[int, int, int, int]
) -> None:
    if len(lines) + targets + points < 2:
        return
    x, y = box[2] + 10, box[1] + 4
    for number, one in enumerate(lines):
        _text(draw, (x, y), one.name, _shade(number, len(lines), darker=True))
        y += _WORDS
    for there, name, colour in ((targets, "target", RIGHT), (points, "support", WRONG)):
        if there:
            _text(draw, (x, y), name, colour)
            y += _WORDS


def _shade(number: int, count: int, darker: bool = False) -> tuple[int, int, int]:
    """From light to dark; `darker`, so that it can be read as text."""
    part = 1.0 if count < 2 else number / (count - 1)
    part = 0.35 + 0.65 * part if darker else part
    red, green, blue = (round(a + (b - a) * part) for a, b in zip(*_RAMP, strict=True))
    return red, green, blue


def _side(rows: Sequence[ClassRow]) -> int:
    """Pixels of an image's longer side: a multiple of its own where it is small."""
    own = max((max(image.shape[:2]) for row in rows for image in row.support), default=_TILE[0])
    return min(max(own * -(-_TILE[0] // own), _TILE[0]), _TILE[1])


def _paste(picture: Image.Image, image: Pixels, side: int, place: tuple[int, int]) -> None:
    height, width = image.shape[:2]
    factor = side / max(height, width)
    size = (max(round(width * factor), 1), max(round(height * factor), 1))
    how = Image.Resampling.NEAREST if factor.is_integer() else Image.Resampling.LANCZOS
    scaled = Image.fromarray(image).resize(size, how) if size != (width, height) else Image.fromarray(image)
    picture.paste(scaled, (place[0] + (side - size[0]) // 2, place[1] + (side - size[1]) // 2))


def _frame(x: int, y: int, side: int, width: int) -> tuple[int, int, int, int]:
    return x - width, y - width, x + side + width - 1, y + side + width - 1


def _letter(number: int) -> str:
    """A, B, ..., Z, AA, AB, ..."""
    return (_letter(number // 26 - 1) if number >= 26 else "") + chr(ord("A") + number % 26)


def _cut(text: str, letters: int) -> str:
    return text if len(text) <= letters else f"…{text[-letters + 1 :]}"


def _scaled(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(x * _FINE, y * _FINE) for x, y in points]


def _around(x: float, y: float, radius: float) -> list[tuple[float, float]]:
    return _scaled([(x - radius, y - radius), (x + radius, y + radius)])


@functools.cache  # Pillow decodes the font's file at every call
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    try:
        return ImageFont.load_default(size)
    except TypeError:  # Pillow 10.0 knows one size
        return ImageFont.load_default()


def _text(
    draw: ImageDraw.ImageDraw, place: tuple[float, float], text: str, colour: tuple[int, int, int], size: int = 12
) -> None:
    font = _font(size)
    if not isinstance(font, ImageFont.FreeTypeFont):  # Pillow without FreeType fails at other letters
        text = text.encode("latin-1", "replace").decode("latin-1")
    draw.text(place, text, fill=colour, font=font)


def _width(draw: ImageDraw.ImageDraw, text: str) -> float:
    return draw.textlength(text, font=_font(12))
