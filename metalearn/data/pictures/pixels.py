"""Image files -> arrays of pixels: every format that Pillow reads, however it stores colour, and whoever sent it."""

from __future__ import annotations

import io
import warnings
from collections import Counter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from metalearn.errors import UserError, one_line

FITS = ("squash", "crop", "pad")
LARGEST = 178_956_970  # pixels of one image: above it Pillow itself suspects a bomb
_DRAFT = 4  # a JPEG is decoded at this many times the size that is asked for, or a little more: eight times faster, the same to the eye
# Formats whose further frames are other pictures; those of MPO and ICO are the same one.
_FIRST_OF_SEVERAL = ("GIF", "PNG", "WEBP", "TIFF", "AVIF")
_SIXTEEN_BITS = ("PNG", "PPM")  # in which Pillow's mode I means 0..65535
_GREY = ("1", "L", "LA", "La", "I", "F")  # and every I;...
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_HEIC = (b"ftypheic", b"ftypheix", b"ftyphevc", b"ftypmif1", b"ftypmsf1")


class UnreadableImage(UserError):
    """A file that is no image, or a damaged one, or one too large."""


def decode(
    content: bytes,
    name: str,
    size: int,
    channels: int,
    fit: str = "squash",
    background: int = 255,
    notes: Counter[str] | None = None,
) -> NDArray[np.uint8]:
    """The pixels of an image file, uint8 [channels, size, size].

    Turned upright as its EXIF says; of an animation the first frame; palettes, CMYK and others as RGB; transparent pixels over `background`; 16 bits
    divided by 257; larger numbers stretched from the image's least to its greatest. Resized with Lanczos' filter over the right area of pixels.

    Args:
        content: of the file.
        name: for messages.
        size: pixels.
        channels: 1 (grey) or 3 (RGB).
        fit: "squash" (both sides become `size`), "crop" (the largest square in the middle), or "pad" (all of it, `background` at two sides).
        background: 0 (black) to 255 (white).
        notes: counts what was out of the ordinary, in words for a summary.

    Raises:
        UnreadableImage: it cannot be read.
    """
    image = opened_image(content, name, draft=size * _DRAFT, notes=notes)
    if notes is not None and min(image.size) < size:
        notes[f"smaller than {size} pixels (enlarged)"] += 1
    fitted = resized(in_channels(image, channels, background), size, fit, background)
    pixels = np.asarray(fitted)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)) if channels == 3 else pixels[None].copy()


def opened_image(
    content: bytes, name: str, largest: int = LARGEST, draft: int | None = None, notes: Counter[str] | None = None
) -> Image.Image:
    """The image in `content`, loaded and upright.

    Args:
        content: of the file.
        name: for messages.
        largest: pixels.
        draft: a JPEG may be decoded at a lower resolution, of this many pixels a side or more.
        notes: as for `decode`.

    Raises:
        UnreadableImage: it is none, or damaged, or has more than `largest` pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow about sizes (checked here), palettes and EXIF
            image = _recognised(content)
            if image.width * image.height > largest:  # known before any memory is taken for it
                raise UnreadableImage(f"{name} has {image.width}x{image.height} pixels (at most {largest} in all)")
            mode = image.mode
            if draft is not None and min(image.size) >= 2 * draft:
                image.draft(None, (draft, draft))
            image.load()
            upright = _upright(image, notes)
    except UnreadableImage:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImage(f"{name} is not a readable image ({_unknown(content)})") from error
    except Exception as error:  # Pillow's readers raise nearly everything about a damaged file
        reason = one_line(error) or type(error).__name__
        raise UnreadableImage(f"{name} is not a readable image ({reason})") from error
    if notes is not None:
        _note(image, mode, notes)
    return upright


class Header(NamedTuple):
    """What the head of an image file says: the size in pixels (width, height), the format, and whether it stores grey levels only."""

    size: tuple[int, int]
    format: str
    grey: bool


def header(content: bytes) -> Header | None:
    """The head of an image file; None where it is no image. The file may be damaged all the same."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = _recognised(content)
    except Exception:  # as in opened_image, which says what is wrong
        return None
    return Header(image.size, image.format or "", image.mode in _GREY or image.mode.startswith("I;"))


def in_channels(image: Image.Image, channels: int, background: int = 255) -> Image.Image:
    """The image in mode L (1 channel) or RGB (3), transparent pixels over `background`."""
    mode = "L" if channels == 1 else "RGB"
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        image = Image.fromarray(_eight_bits(image))
    if _has_alpha(image):
        image = image.convert("RGBA")
        below = Image.new("RGBA", image.size, (background, background, background, 255))
        image = Image.alpha_composite(below, image)
    elif image.mode in ("P", "LAB", "HSV", "CMYK", "YCbCr", "RGBX"):
        image = image.convert("RGB")
    return image if image.mode == mode else image.convert(mode)


def resized(image: Image.Image, size: int, fit: str, background: int = 255) -> Image.Image:
    """The image (L or RGB) as a square of `size` pixels, as `decode` says of `fit`."""
    width, height = image.size
    if fit == "pad":
        longest = max(width, height)
        sides = max(1, round(size * width / longest)), max(1, round(size * height / longest))
        square = Image.new(image.mode, (size, size), (background,) * len(image.getbands()))
        square.paste(image.resize(sides, Image.Resampling.LANCZOS), ((size - sides[0]) // 2, (size - sides[1]) // 2))
        return square
    assert fit in FITS, fit
    shortest = min(width, height)
    left, top = ((width - shortest) / 2, (height - shortest) / 2) if fit == "crop" else (0, 0)
    box = (left, top, width - left, height - top)
    if image.size == (size, size):
        return image
    return image.resize((size, size), Image.Resampling.LANCZOS, box=box)


def _recognised(content: bytes) -> Image.Image:
    """Opened, not loaded. Not by the reader of EPS, which runs another program."""
    Image.init()
    return Image.open(io.BytesIO(content), formats=[name for name in Image.ID if name != "EPS"])


def _unknown(content: bytes) -> str:
    if not content:
        return "it is empty"
    if content[4:12] in _HEIC:
        return "it is HEIC, which Pillow does not read: convert it to JPEG"
    return "of no format that Pillow reads"


def _upright(image: Image.Image, notes: Counter[str] | None) -> Image.Image:
    try:
        turn = _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged EXIF says nothing about an image that is otherwise whole
        return image
    if turn is None:
        return image
    if notes is not None:
        notes["turned upright by EXIF"] += 1
    return image.transpose(turn)


def _note(image: Image.Image, mode: str, notes: Counter[str]) -> None:
    """Counts what is out of the ordinary about a loaded image; `mode` is the one that it was opened with."""
    if image.format in _FIRST_OF_SEVERAL and getattr(image, "is_animated", False):
        notes["animated (first frame)"] += 1
    if mode == "CMYK":
        notes["CMYK"] += 1
    elif mode in ("P", "PA"):
        notes["palette"] += 1
    elif mode.startswith("I;16") or (mode == "I" and image.format in _SIXTEEN_BITS):
        notes["16 bit"] += 1
    elif mode in ("I", "F"):
        notes["32 bit (stretched)"] += 1
    if _has_alpha(image):
        notes["with alpha (over the background)"] += 1


def _has_alpha(image: Image.Image) -> bool:
    return image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info


def _eight_bits(image: Image.Image) -> NDArray[np.uint8]:
    """Grey levels of more than 8 bits as 0..255; Pillow's own conversion cuts them off at 255."""
    numbers = np.nan_to_num(np.asarray(image).astype(np.float64), posinf=0.0, neginf=0.0)
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in _SIXTEEN_BITS):
        return np.rint(numbers / 257).astype(np.uint8)
    least, greatest = float(numbers.min()), float(numbers.max())
    return np.rint((numbers - least) * (255 / max(greatest - least, 1e-300))).astype(np.uint8)
