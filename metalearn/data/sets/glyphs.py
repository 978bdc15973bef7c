"""Glyphs: invented characters drawn by this module, so that few-shot learning needs no file and no network.

A class is 1 to 4 pen strokes, each a cubic Bezier curve. A drawer has a pen and a slant of their own and writes every
class once, moving its control points, its strokes and the whole character a little.

Every number is made from Philox's raw bits with +, -, *, / and square roots, which IEEE 754 fixes to the last bit, so
that any machine and any numpy draws the same images. numpy's random distributions, sine, exponential and matrix
products promise no such thing.

Letters: S strokes of a class, M drawers, P points along a stroke. The longer side of a character is 1 until `_fit`,
which turns lengths into pixels. A constant called SPREAD is a standard deviation.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from metalearn.data.cache import Classes, load_or_make
from metalearn.data.classes import SPLITS, random_split
from metalearn.data.files.published import About
from metalearn.data.images import ImageClasses
from metalearn.data.normalize import Normalize
from metalearn.data.numbers import unit
from metalearn.errors import UserError

ABOUT = About("characters that the program draws", homepage="", licence="MIT, as the program")

Floats = NDArray[np.float64]
Words = NDArray[np.uint64]  # raw random bits, one word per number wanted

DRAWING = 1  # of the cache entries; raise it when the drawing changes
SMALLEST_SIZE = 8  # pixels; strokes run into each other below it
_DRAWERS_STREAM = 2**64 - 1  # class i draws from stream i, so this one is never a class's

# The character that every drawer of a class sets out to write.
_STROKE_COUNT_CUTS = (0.07, 0.4, 0.8)  # a uniform number above k of these gives k + 1 strokes
_JOINED = 0.5  # share of strokes that start where the one before ended
_ANCHOR_SPREAD = 0.12  # of a stroke's ends around the 3 x 3 grid they are taken from
_BEND_SPREAD = 0.33  # of the inner control points around the straight stroke

# What a drawer does to it.
_POINT_SPREAD = 0.042  # of each control point
_STROKE_SPREAD = 0.03  # of each stroke as a whole
_TURN_SPREAD = 0.15  # of the rotation, radians
_STRETCH_SPREAD = 0.1  # of width and of height, relative
_SLANT_SPREAD = 0.15  # of a drawer's slant: shift to the side per height
_SLANT_JITTER_SPREAD = 0.05  # of one character around its drawer's slant
_HEIGHT = (0.54, 0.78)  # of a character, in image sides: smallest, largest
_SHIFT = 0.12  # largest move off the centre, in image sides
_PEN = (0.026, 0.042)  # radius of a drawer's pen, in image sides: thinnest, thickest

# The colours of one image, with channels=3: each channel evenly between two values, 1 is full intensity. They say nothing about the class.
_PAPER, _INK = (0.0, 0.35), (0.5, 1.0)
_COLOURS = 1  # a class's colours come from another part of its stream than its strokes


def load(
    classes: int,
    drawers: int,
    size: int,
    seed: int,
    val_classes: int,
    test_classes: int,
    channels: int = 1,
    normalize: Mapping[str, Sequence[float]] | None = None,
) -> ImageClasses:
    """The alphabet, `drawers` images [channels, size, size] of each class, and its split, drawn once and cached.

    Args:
        channels: 1, white ink on black; or 3, each image in two colours of its own.
        normalize: mean and std of each channel; None: images are only divided by 255.

    Raises:
        UserError: no class is left for training, or `normalize` is for another number of channels.
    """
    if val_classes + test_classes >= classes:
        raise UserError(
            f"dataset.val_classes={val_classes} and dataset.test_classes={test_classes} leave no training class of dataset.classes={classes}"
        )
    # A name depends on what is drawn alone, not on how many classes there are.
    names = tuple(f"seed{seed}/glyph{i:03d}" for i in range(classes))

    def make() -> Classes:
        written = each_drawn(classes, drawers, size, seed)
        return zip(names, written if channels == 1 else coloured(written, seed), strict=True)

    colours = "" if channels == 1 else "-rgb"
    stored = load_or_make("glyphs", f"{classes}x{drawers}-{size}{colours}-seed{seed}-v{DRAWING}", make)
    split = random_split(names, val_classes, test_classes, seed)
    rotations = dict.fromkeys(SPLITS, 1)
    return ImageClasses("glyphs", stored.images, names, split, rotations, normalize=Normalize.of(normalize))


def draw(classes: int, drawers: int, size: int, seed: int) -> NDArray[np.uint8]:
    """Invented characters, each written once by the same people: uint8 [classes, drawers, 1, size, size], 255 = ink; see `each_drawn`."""
    return np.stack(list(each_drawn(classes, drawers, size, seed)))


def each_drawn(classes: int, drawers: int, size: int, seed: int) -> Iterator[NDArray[np.uint8]]:
    """One invented character after another, each written once by the same people: uint8 [drawers, 1, size, size], 255 = ink.

    A pure function of its arguments; class c by drawer d is the same image however many of both are asked for.

    Args:
        classes: number of characters, at least 1.
        drawers: number of images of each character, at least 1.
        size: side of an image in pixels, at least `SMALLEST_SIZE`.
        seed: of the alphabet and its drawers, 0 to 2**64 - 1.

    Raises:
        UserError: an argument is out of its range.
    """
    least = {"classes": (classes, 1), "drawers": (drawers, 1), "size": (size, SMALLEST_SIZE), "seed": (seed, 0)}
    faults = [f"{name} is {value}, must be at least {low}" for name, (value, low) in least.items() if value < low]
    if seed >= 2**64:
        faults.append(f"seed is {seed}, must be below 2**64")
    if faults:
        raise UserError("glyphs: " + "; ".join(faults))

    habits = _stream(seed, _DRAWERS_STREAM).random_raw(drawers * 2).reshape(drawers, 2)
    radius = np.maximum(_between(*_PEN, habits[:, 0]) * size, 0.5)  # [M]; no line is thinner than a pixel
    slant = _SLANT_SPREAD * _bell(habits[:, 1])  # [M]
    for index in range(classes):
        bits = _stream(seed, index)
        strokes = _invent(bits)  # [S, 4, 2]
        # One row a drawer, so that more drawers leave the first ones' words as they are.
        words = bits.random_raw(drawers * (len(strokes) * 10 + 7)).reshape(drawers, -1)
        # At two points a pixel of image side, those of the longest and most uneven stroke are a pixel apart.
        written = _write(strokes, slant, 2 * size, words[:, 3:])  # [M, S * P, 2]
        yield _ink(_fit(written, radius, size, words[:, :3]), radius, size)[:, None]


def coloured(written: Iterable[NDArray[np.uint8]], seed: int) -> Iterator[NDArray[np.uint8]]:
    """The images of each class, [drawers, 1, size, size], 255 = ink, with ink and paper in colours of their own: [drawers, 3, size, size].

    A pure function of its arguments; an image has the same colours however many classes and drawers there are.
    """
    for index, images in enumerate(written):
        words = _stream(seed, index, _COLOURS).random_raw(len(images) * 6).reshape(len(images), 6, 1, 1)
        paper, ink = _between(*_PAPER, words[:, :3]), _between(*_INK, words[:, 3:])  # each [drawers, 3, 1, 1]
        yield ((paper + (ink - paper) * (images / 255.0)) * 255 + 0.5).astype(np.uint8)


def _invent(bits: np.random.Philox) -> Floats:
    """The strokes of a new character, centred: control points (x, y) of cubic Beziers, [S, 4, 2]."""
    count = 1 + int((unit(bits.random_raw(1)) > np.array(_STROKE_COUNT_CUTS)).sum())
    words = bits.random_raw(count * 11).reshape(count, 11)
    # The end is one of the 8 other cells, so that no stroke is a dot.
    first = (unit(words[:, 0]) * 9).astype(np.int64)
    cells = np.stack([first, (first + 1 + (unit(words[:, 1]) * 8).astype(np.int64)) % 9], axis=1)  # [S, 2]
    ends = np.stack([cells % 3, cells // 3], axis=2) / 2  # [S, 2, 2]
    ends = ends + _ANCHOR_SPREAD * _bell(words[:, 2:6]).reshape(count, 2, 2)
    for stroke in range(1, count):
        if unit(words[stroke, 10]) < _JOINED:
            ends[stroke, 0] = ends[stroke - 1, 1]
    thirds = np.arange(4)[:, None] / 3
    strokes: Floats = ends[:, :1] + (ends[:, 1:] - ends[:, :1]) * thirds  # [S, 4, 2]
    strokes[:, 1:3] += _BEND_SPREAD * _bell(words[:, 6:10]).reshape(count, 2, 2)
    outline = _curve(strokes, 32).reshape(-1, 2)
    low, high = outline.min(axis=0), outline.max(axis=0)
    centred: Floats = (strokes - (low + high) / 2) / (high - low).max()
    return centred


def _write(strokes: Floats, slant: Floats, points: int, words: Words) -> Floats:
    """`strokes` [S, 4, 2] written by the drawers with `slant` [M]: points along the pen's way, [M, S * P, 2]."""
    drawers, count = len(slant), len(strokes)
    bells = _bell(words)  # [M, 10 * S + 4]
    by_point = bells[:, : count * 8].reshape(drawers, count, 4, 2)
    by_stroke = bells[:, count * 8 : count * 10].reshape(drawers, count, 1, 2)
    turn, lean, width, height = bells[:, -4:].T[:, :, None]  # each [M, 1]
    moved = strokes + _POINT_SPREAD * by_point + _STROKE_SPREAD * by_stroke
    curves = _curve(moved, points).reshape(drawers, -1, 2)
    y = curves[:, :, 1] * (1 + _STRETCH_SPREAD * height)
    x = curves[:, :, 0] * (1 + _STRETCH_SPREAD * width) - y * (slant[:, None] + _SLANT_JITTER_SPREAD * lean)
    # A rotation without sine and cosine: t is the tangent of half the angle.
    t = _TURN_SPREAD / 2 * turn
    cosine, sine = (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)
    return np.stack([cosine * x - sine * y, sine * x + cosine * y], axis=2)


def _fit(written: Floats, radius: Floats, size: int, words: Words) -> Floats:
    """Points [M, S * P, 2] in pixels: scaled and shifted, but only so far that a white pixel stays around the ink."""
    low, high = written.min(axis=1), written.max(axis=1)  # [M, 2]
    room = size / 2 - 1.5 - radius[:, None]  # [M, 1] from the centre; 1.5 is the white pixel and half the soft edge
    half = (high - low) / 2  # [M, 2]
    scale = np.minimum(_between(*_HEIGHT, words[:, :1]) * size, room / half.max(axis=1, keepdims=True))  # [M, 1]
    shift = (2 * unit(words[:, 1:]) - 1) * np.minimum(_SHIFT * size, room - half * scale)  # [M, 2]
    placed: Floats = (written - (low + half)[:, None]) * scale[:, None] + (size / 2 + shift)[:, None]
    return placed


def _ink(points: Floats, radius: Floats, size: int) -> NDArray[np.uint8]:
    """The strokes that round pens of `radius` [M] draw along `points` [M, S * P, 2]: uint8 [M, size, size], soft at the edge."""
    centres = (np.arange(size) + 0.5).astype(np.float32)
    x, y = points.astype(np.float32).transpose(2, 1, 0)[..., None]  # each [S * P, M, 1]
    across, down = (centres - x) ** 2, (centres - y) ** 2  # [S * P, M, size]
    nearest = np.full((len(radius), size, size), np.inf, dtype=np.float32)
    squared = np.empty_like(nearest)
    # Point by point: the two buffers of one class stay in the processor's cache, all distances at once would not.
    for point in range(len(across)):
        np.add(down[point, :, :, None], across[point, :, None, :], out=squared)
        np.minimum(nearest, squared, out=nearest)
    cover = np.clip(radius.astype(np.float32)[:, None, None] + np.float32(0.5) - np.sqrt(nearest), 0, 1)
    image: NDArray[np.uint8] = (cover * 255 + np.float32(0.5)).astype(np.uint8)
    return image


def _curve(strokes: Floats, points: int) -> Floats:
    """Cubic Beziers [..., 4, 2] at `points` even steps of their parameter: [..., points, 2]."""
    t = (np.arange(points) / (points - 1))[:, None]  # [P, 1]
    s = 1 - t
    a, b, c, d = (strokes[..., None, k, :] for k in range(4))  # each [..., 1, 2]
    curve: Floats = s * s * s * a + 3 * s * s * t * b + 3 * s * t * t * c + t * t * t * d
    return curve


def _stream(seed: int, stream: int, part: int = 0) -> np.random.Philox:
    counter = np.array([0, 0, 0, part], dtype=np.uint64)
    return np.random.Philox(key=np.array([seed, stream], dtype=np.uint64), counter=counter)


def _between(low: float, high: float, words: Words) -> Floats:
    """Each word as a number in [low, high)."""
    return low + (high - low) * unit(words)


def _bell(words: Words) -> Floats:
    """Each word as a number with mean 0, deviation 1 and a bell's shape within +-3.5: the sum of its 16-bit parts."""
    total = np.zeros(words.shape)
    for shift in (0, 16, 32, 48):
        total += (words >> np.uint64(shift)) & np.uint64(0xFFFF)
    return (total / 0xFFFF - 2) * math.sqrt(3)
