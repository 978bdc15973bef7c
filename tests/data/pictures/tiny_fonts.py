"""Small typefaces of rectangles, exact to the pixel, written by the tests that read them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from fontTools.ttLib import TTCollection, TTFont

Box = tuple[int, int, int, int]  # left, bottom, right, top, in a thousandth of the em
MISSING: Box = (100, 0, 900, 800)


def typeface(
    family: str,
    style: str,
    drawings: Mapping[str, Box | None],
    missing: Box | None = MISSING,
    mark: Box | None = None,
) -> TTFont:
    """A typeface whose characters are one rectangle each; None: a blank one.

    `missing` is drawn for all other characters, `mark` beside each that is not blank.
    """
    names = {character: f"uni{ord(character):04X}" for character in drawings}
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", *names.values()])
    builder.setupCharacterMap({ord(character): name for character, name in names.items()})
    boxes = {".notdef": missing} | {names[character]: box for character, box in drawings.items()}
    builder.setupGlyf({name: _glyph(box, mark) for name, box in boxes.items()})
    builder.setupHorizontalMetrics({name: (1000, box[0] if box else 0) for name, box in boxes.items()})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": family, "styleName": style})
    builder.setupOS2(sTypoAscender=800, sTypoDescender=-200)
    builder.setupPost()
    return builder.font


def _glyph(*boxes: Box | None) -> object:
    pen = TTGlyphPen(None)
    for left, bottom, right, top in (box for box in boxes if boxes[0] and box):
        pen.moveTo((left, bottom))
        for point in ((left, top), (right, top), (right, bottom)):
            pen.lineTo(point)
        pen.closePath()
    return pen.glyph()


def write(
    folder: Path, family: str, drawings: Mapping[str, Box | None], style: str = "Regular", **more: Box | None
) -> Path:
    """The typeface as `<family>-<style>.ttf`."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{family}-{style}.ttf"
    typeface(family, style, drawings, **more).save(file)
    return file


def write_collection(file: Path, fonts: list[TTFont]) -> None:
    """Several typefaces in one .ttc file."""
    collection = TTCollection()
    collection.fonts = fonts
    collection.save(file)
