"""Image files of every kind as pixels, and files that are none."""

from __future__ import annotations

import io
import struct
import zlib
from collections import Counter
from typing import Any

import numpy as np
import pytest
from PIL import Image

from metalearn.data.pictures.pixels import UnreadableImage, decode, header, opened_image
from metalearn.errors import UserError

RED, BLUE = (255, 0, 0), (0, 0, 255)


def red_and_blue(width: int = 32, height: int = 16) -> Image.Image:
    """Left half red, right half blue."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height))
    return image


def saved(image: Image.Image, kind: str, **more: Any) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **more)
    return content.getvalue()


def near(pixels: np.ndarray, colour: tuple[int, ...]) -> bool:
    return bool(np.abs(pixels.astype(int) - colour).max() <= 8)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "TGA", "PPM", "ICO"])
def test_formats_are_told_by_content(kind: str) -> None:
    pixels = decode(saved(red_and_blue(), kind), "x.jpg", 8, 3)
    assert pixels.shape == (3, 8, 8)
    assert pixels.dtype == np.uint8
    assert near(pixels[:, 4, 1], RED)
    assert near(pixels[:, 4, 6], BLUE)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr", "LAB"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_becomes_what_it_shows(mode: str, channels: int) -> None:
    """White left, black right: the same in every mode."""
    image = Image.new("RGB", (16, 16), (255, 255, 255))
    image.paste((0, 0, 0), (8, 0, 16, 16))
    if mode == "P":
        image = image.quantize(4)
    elif mode == "LAB":
        lightness = Image.new("L", (16, 16), 255)
        lightness.paste(0, (8, 0, 16, 16))
        image = Image.merge("LAB", (lightness, *[Image.new("L", (16, 16), 128)] * 2))
    else:
        image = image.convert(mode)
    pixels = decode(saved(image, "TIFF"), "x.tif", 16, channels)
    assert pixels.shape == (channels, 16, 16)
    assert pixels[:, :, :7].min() >= 250
    assert pixels[:, :, 9:].max() <= 5


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize(("orientation", "red_at"), [(3, (4, 6)), (6, (1, 4)), (8, (6, 4)), (2, (4, 6)), (5, (1, 4))])
def test_exif_turns_a_photograph_upright(kind: str, orientation: int, red_at: tuple[int, int]) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = decode(saved(red_and_blue(), kind, exif=exif), "x", 8, 3)
    assert near(pixels[:, red_at[0], red_at[1]], RED)


def test_damaged_exif_is_passed_over() -> None:
    content = saved(red_and_blue(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff broken")
    assert near(decode(content, "x", 8, 3)[:, 4, 1], RED)


def test_sixteen_bits_keep_their_greys() -> None:
    """Pillow's own conversion would make all but the darkest white."""
    levels = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    notes: Counter[str] = Counter()
    for kind in ("PNG", "TIFF"):
        pixels = decode(saved(Image.fromarray(levels), kind), "x", 16, 1, notes=notes)
        assert np.array_equal(pixels[0], np.arange(256).reshape(16, 16))
    dark = decode(saved(Image.fromarray(levels // 257), "PNG"), "x", 16, 1)
    assert dark.max() == 1, "of 65535 levels the lowest 255"
    assert notes == {"16 bit": 2}


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_larger_numbers_are_stretched(kind: type) -> None:
    levels = (np.arange(256) * 1000 - 5000).astype(kind).reshape(16, 16)
    pixels = decode(saved(Image.fromarray(levels), "TIFF"), "x", 16, 1)
    assert np.array_equal(pixels[0], np.arange(256).reshape(16, 16))
    levels[:] = 7
    assert decode(saved(Image.fromarray(levels), "TIFF"), "x", 16, 1).max() == 0


@pytest.mark.parametrize(("background", "level"), [(255, 255), (0, 0)])
def test_transparent_pixels_show_the_background(background: int, level: int) -> None:
    image = red_and_blue().convert("RGBA")
    image.paste((9, 9, 9, 0), (0, 0, 16, 16))
    for content in (saved(image, "PNG"), saved(image.quantize(8), "PNG"), saved(image, "WEBP", lossless=True)):
        pixels = decode(content, "x", 8, 3, background=background)
        assert near(pixels[:, 4, 1], (level,) * 3)
        assert near(pixels[:, 4, 6], BLUE)
    grey = Image.new("LA", (8, 8), (9, 0))
    assert decode(saved(grey, "PNG"), "x", 8, 1, background=background).max() == level


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_of_an_animation_is_taken(kind: str) -> None:
    notes: Counter[str] = Counter()
    first, second = red_and_blue(), Image.new("RGB", (32, 16), (0, 255, 0))
    content = saved(first, kind, save_all=True, append_images=[second])
    assert near(decode(content, "x", 8, 3, notes=notes)[:, 4, 1], RED)
    assert notes["animated (first frame)"] == 1


def test_what_is_out_of_the_ordinary_is_counted() -> None:
    notes: Counter[str] = Counter()
    exif = Image.Exif()
    exif[0x0112] = 6
    for content in (
        saved(red_and_blue(), "PNG"),
        saved(red_and_blue(), "JPEG", exif=exif),
        saved(red_and_blue().convert("CMYK"), "JPEG"),
        saved(red_and_blue().quantize(4), "PNG"),
        saved(red_and_blue().convert("RGBA"), "PNG"),
        saved(red_and_blue(8, 4), "PNG"),
    ):
        decode(content, "x", 16, 3, notes=notes)
    assert notes == {
        "turned upright by EXIF": 1,
        "CMYK": 1,
        "palette": 1,
        "with alpha (over the background)": 1,
        "smaller than 16 pixels (enlarged)": 1,
    }


def test_three_ways_to_fit_a_square() -> None:
    """A bar three times as wide as high: red, blue, red."""
    image = Image.new("RGB", (96, 32), RED)
    image.paste(BLUE, (32, 0, 64, 32))
    content = saved(image, "PNG")
    squash, crop, pad = (decode(content, "x", 24, 3, fit=fit, background=0) for fit in ("squash", "crop", "pad"))
    assert near(squash[:, 12, 2], RED)
    assert near(squash[:, 12, 12], BLUE)
    assert all(near(crop[:, y, x], BLUE) for y, x in ((1, 1), (12, 22), (22, 12)))
    assert near(pad[:, 12, 2], RED)
    assert near(pad[:, 2, 12], (0, 0, 0))
    assert near(pad[:, 21, 12], (0, 0, 0))
    thin = decode(saved(Image.new("RGB", (900, 1), RED), "PNG"), "x", 24, 3, fit="pad", background=0)
    assert (thin[0] > 200).sum() == 24


def test_a_large_jpeg_is_decoded_small_and_looks_the_same() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((1200, 800), Image.Resampling.BICUBIC)
    small = decode(saved(image, "JPEG"), "x", 32, 3)
    whole = decode(saved(image, "PNG"), "x", 32, 3)
    assert np.abs(small.astype(int) - whole).mean() < 3
    assert opened_image(saved(image, "JPEG"), "x", draft=128).size == (300, 200)


def png_of(width: int, height: int) -> bytes:
    """A PNG that says it is so large; a few bytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (b"just a text", "of no format that Pillow reads"),
        (b"<!doctype html><html></html>", "of no format that Pillow reads"),
        (b"\0\0\0\x18ftypheic" + bytes(40), "it is HEIC"),
        (saved(red_and_blue(300, 300), "JPEG")[:900], ""),
        (saved(red_and_blue(300, 300), "PNG")[:300], ""),
        (saved(red_and_blue(30, 30), "GIF")[:40], ""),
        (png_of(16, 16), ""),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "of no format that Pillow reads"),
    ],
)
def test_what_is_no_image_is_one_line(content: bytes, reason: str) -> None:
    with pytest.raises(UnreadableImage, match=f"folder/x.jpg is not a readable image.*{reason}") as raised:
        decode(content, "folder/x.jpg", 8, 3)
    assert "\n" not in str(raised.value)
    assert isinstance(raised.value, UserError)


@pytest.mark.parametrize("size", [(100_000, 100_000), (20_000, 20_000), (1 << 30, 1)])
def test_an_image_of_billions_of_pixels_is_refused_before_it_takes_memory(size: tuple[int, int]) -> None:
    with pytest.raises(UnreadableImage, match=r"x\.png") as raised:
        decode(png_of(*size), "x.png", 8, 3)
    assert "pixels" in str(raised.value)


def test_the_head_of_a_file_says_size_format_and_whether_it_is_grey() -> None:
    grey = [saved(red_and_blue().convert(mode), "PNG") for mode in ("1", "L", "LA")]
    grey.append(saved(Image.fromarray(np.zeros((16, 32), np.uint16)), "PNG"))
    assert {header(content) for content in grey} == {((32, 16), "PNG", True)}
    assert header(saved(red_and_blue(320, 160), "JPEG")[:-400]) == ((320, 160), "JPEG", False)
    assert header(saved(red_and_blue().quantize(4), "PNG")) == ((32, 16), "PNG", False)
    assert header(b"no image") is None
