"""Drawings put into the middle of an image: icons, emoji and characters of typefaces all pass here.

A drawing comes larger than the image and with any space around it. What counts is its ink box, the smallest rectangle that holds all ink. So
one designer's margins say nothing about the class.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Ink = NDArray[np.uint8]  # 0 is paper, 255 full ink

_FAINT = 16  # levels of 255: fainter ink does not count, such as the soft edge of a shadow


def margin(size: int) -> int:
    """Pixels of paper that stay on each side of an image of `size` pixels."""
    return max(1, size // 14)


def boxed(ink: Ink) -> Ink | None:
    """The part [c, h, w] of a drawing [c, H, W] within its ink box; None where there is no ink."""
    level = ink.max(axis=0) > _FAINT
    rows, columns = np.flatnonzero(level.any(axis=1)), np.flatnonzero(level.any(axis=0))
    if not len(rows):
        return None
    return ink[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def centred(box: Ink, size: int, scale: float | None = None) -> Ink:
    """An ink box [c, h, w] in the middle of an image [c, size, size], by the mean of the pixels that become one.

    Args:
        scale: pixels of the image for a pixel of the box; less where the drawing would not fit. None: the longer side fills the image up to
            its margin.
    """
    room = size - 2 * margin(size)
    _, height, width = box.shape
    fitting = room / max(height, width)
    factor = fitting if scale is None else min(scale, fitting)
    rows, columns = (max(1, min(room, round(side * factor))) for side in (height, width))
    image = np.zeros((len(box), size, size), dtype=np.uint8)
    top, left = (size - rows) // 2, (size - columns) // 2
    for channel, plane in zip(image, box, strict=True):
        small = Image.fromarray(plane).resize((columns, rows), Image.Resampling.BOX)
        channel[top : top + rows, left : left + columns] = np.asarray(small)
    return image
