"""A contact sheet: a picture with a row of small images for each class."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from metalearn.atomic import write
from metalearn.errors import UserError, one_line

SIDE = 64  # pixels of a small image
COLUMNS = 10  # small images in a row
ROWS = 200  # of the largest sheet: beyond that a picture viewer gives up
_GAP, _LABEL = 4, 180  # pixels
_LETTERS = 26  # that fit beside a row


def write_sheet(file: Path, rows: Mapping[str, Sequence[NDArray[np.uint8]]]) -> None:
    """Writes a PNG with a row for each class: its name and up to `COLUMNS` images.

    Args:
        file: what is written.
        rows: text beside a row -> small images, each uint8 [3, SIDE, SIDE]; at most `ROWS`.

    Raises:
        UserError: the file cannot be written.
    """
    step = SIDE + _GAP
    picture = Image.new("RGB", (_LABEL + COLUMNS * step, _GAP + len(rows) * step), (255, 255, 255))
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default()
    for row, (text, images) in enumerate(rows.items()):
        top = _GAP + row * step
        draw.text((_GAP, top + SIDE // 2 - 6), _printable(text, font), fill=(0, 0, 0), font=font)
        for column, image in enumerate(images[:COLUMNS]):
            picture.paste(Image.fromarray(image.transpose(1, 2, 0)), (_LABEL + column * step, top))
    content = io.BytesIO()
    picture.save(content, "PNG")
    try:
        write(file, content.getvalue())
    except OSError as error:
        raise UserError(f"--sheet: {file} cannot be written ({one_line(error)})") from error


def _printable(text: str, font: object) -> str:
    """Short enough to stand beside the row, and of letters that the font has."""
    short = text if len(text) <= _LETTERS else f"{text[: _LETTERS - 10]}...{text[-7:]}"
    # Pillow without FreeType draws with a font of Latin letters and fails at others.
    return short if isinstance(font, ImageFont.FreeTypeFont) else short.encode("latin-1", "replace").decode("latin-1")
