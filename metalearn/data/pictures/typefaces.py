"""Typefaces of the files in some folders, and characters drawn with them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from metalearn.data.pictures.font_files import font_files
from metalearn.data.pictures.ink import boxed, centred, margin
from metalearn.errors import UserError

log = logging.getLogger("metalearn")

DRAWING = 1  # of the cache entries; raise it when the drawing changes
_TIMES = 4  # how many times as large as in the image a character is drawn
_LARGEST = 16  # sides of its em: a character that is larger is damaged
_FACES = 128  # of one collection
_PLAIN = ("regular", "book", "roman", "normal", "medium")  # styles, the plainest first
_NOBODYS = (
    "\U0010ffff"  # Unicode never gives it to a character: what a typeface draws for it is its sign for a missing one
)


class Typeface(NamedTuple):
    """One face of a family of typefaces."""

    family: str
    style: str
    file: Path
    number: int  # in a collection (.ttc)

    def __str__(self) -> str:
        """One line for a person."""
        return f"{self.family} {self.style}: {self.file}"

    def at(self, pixels: int) -> ImageFont.FreeTypeFont:
        """The typeface with an em of so many pixels; OSError where it has no outlines or cannot be read."""
        # The basic layout: the other one would depend on whether libraqm is installed.
        return ImageFont.truetype(self.file, pixels, self.number, layout_engine=ImageFont.Layout.BASIC)


def find_typefaces(places: Sequence[Path]) -> list[Typeface]:
    """One face of each family, its plainest, in the order of the families' names.

    Raises:
        UserError: there is none.
    """
    of_family: dict[str, Typeface] = {}
    unreadable = 0
    for file in font_files(places):
        faces = list(_faces(file))
        unreadable += not faces
        for face in faces:
            known = of_family.get(face.family)
            if known is None or _plainness(face.style) < _plainness(known.style):
                of_family[face.family] = face
    if unreadable:
        log.info("%d files hold no typeface with outlines that can be read", unreadable)
    if not of_family:
        raise UserError(f"dataset.root={places[0]}: no typefaces (.ttf, .otf, .ttc) there")
    return [of_family[family] for family in sorted(of_family)]


def _faces(file: Path) -> Iterator[Typeface]:
    for number in range(_FACES):
        try:
            family, style = Typeface("", "", file, number).at(_TIMES * 8).getname()
        except (OSError, ValueError):  # the last one, or nothing that can be read
            return
        yield Typeface(family or file.stem, style or "", file, number)


def _plainness(style: str) -> int:
    return _PLAIN.index(style.lower()) if style.lower() in _PLAIN else len(_PLAIN)


def draw(face: Typeface, characters: Sequence[str], size: int) -> list[NDArray[np.uint8] | None]:
    """Each character with its ink box in the middle, 255 = ink, [1, size, size]; the em is as large as the image without its margin.

    None stands for what says nothing about a character: the typeface lacks it, draws nothing for it, or draws the same for another one of
    `characters` too, such as an empty box for each that its designer has left out.
    """
    font = face.at(_TIMES * (size - 2 * margin(size)))
    boxes = [_box(font, character) for character in [*characters, _NOBODYS]]
    marks = [None if box is None else (box.shape, box.tobytes()) for box in boxes]
    seen: dict[object, int] = {}
    for mark in marks:
        seen[mark] = seen.get(mark, 0) + 1
    return [
        None if box is None or seen[mark] > 1 else centred(box, size, 1 / _TIMES)
        for box, mark in zip(boxes[:-1], marks[:-1], strict=True)
    ]


def _box(font: ImageFont.FreeTypeFont, character: str) -> NDArray[np.uint8] | None:
    """The ink box [1, h, w] of a character; None where it is blank or damaged."""
    try:
        left, top, right, bottom = (round(side) for side in font.getbbox(character))
        if not 0 < max(right - left, bottom - top) <= _LARGEST * font.size:
            return None
        image = Image.new("L", (max(1, right - left), max(1, bottom - top)))
        ImageDraw.Draw(image).text((-left, -top), character, fill=255, font=font)
    except (OSError, ValueError):
        return None
    return boxed(np.asarray(image)[None])
