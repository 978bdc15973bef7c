"""SVG icons drawn by resvg, with their ink box in the middle of the image."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from metalearn.data.pictures.iconify import Icon
from metalearn.data.pictures.ink import boxed, centred
from metalearn.errors import UserError

log = logging.getLogger("metalearn")

DRAWING = 1  # of the cache entries; raise it when the drawing changes
_TIMES = 4  # how many times as large as the image an icon is drawn before its ink box is cut out
_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
# What would make a drawing depend on other files of this machine.
_OUTSIDE = re.compile(r"""href\s*=\s*["']\s*(?!#|data:)""")


def draw(icon: Icon, size: int, colour: bool) -> NDArray[np.uint8] | None:
    """The icon, centred; None where nothing can be seen of it.

    Args:
        icon: `currentColor` is black, the ground white.
        size: of the image in pixels.
        colour: uint8 [3, size, size], as it looks; else [1, size, size], where 255 is black ink.

    Raises:
        UserError: resvg-py is not installed.
        ValueError: the body is no SVG, or it refers to another file.
    """
    try:
        import resvg_py  # late: an extra, and only a conversion needs it
    except ImportError as error:
        raise UserError(
            "icons are drawn by resvg-py, which is not installed: pip install 'metalearn-runner[icons]'"
        ) from error
    if _OUTSIDE.search(icon.body):
        raise ValueError("it refers to another file")
    body = _at_its_end(icon.body) if "<animate" in icon.body else icon.body
    scale = _TIMES * size / max(icon.width, icon.height)
    svg = (
        f'<svg xmlns="{_SVG}" xmlns:xlink="{_XLINK}" color="#000" '
        f'viewBox="{icon.left} {icon.top} {icon.width} {icon.height}" width="{icon.width}" height="{icon.height}">'
        f"{body}</svg>"
    )
    png = resvg_py.svg_to_bytes(
        svg_string=svg,
        width=max(1, round(icon.width * scale)),
        height=max(1, round(icon.height * scale)),
        background="#fff",
        skip_system_fonts=True,  # text would look different on every machine
    )
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB" if colour else "L"))
    ink = 255 - pixels.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1)  # [c, h, w]
    box = boxed(_turned(ink, icon))
    if box is None:
        return None
    image = centred(box, size)
    return 255 - image if colour else image


def drawn(classes: Mapping[str, Sequence[Icon]], size: int, colour: bool) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """(class, its icons drawn, uint8 [n, c, size, size]) of every class, as `draw`. What cannot be drawn or seen is left out, and counted in the log.

    Raises:
        UserError: resvg-py is not installed, or nothing of a class can be drawn.
    """
    total = sum(len(icons) for icons in classes.values())
    log.info("drawing %d icons of %d classes, once: about %d s", total, len(classes), 1 + total * 2 // 1000)
    lost: list[str] = []
    for name, icons in classes.items():
        images = []
        for icon in icons:
            try:
                image = draw(icon, size, colour)
            except ValueError as error:
                log.debug("an icon of '%s' cannot be drawn: %s", name, error)
                image = None
            images += [] if image is None else [image]
        lost += [name] * (len(icons) - len(images))
        if not images:
            raise UserError(f"none of the {len(icons)} icons of '{name}' can be drawn: is the package damaged?")
        yield name, np.stack(images)
    if lost:
        log.info("%d icons cannot be drawn or show nothing, one of '%s' for example", len(lost), lost[0])


def _at_its_end(body: str) -> str:
    """An animated body as it stays after its animations, which resvg would draw before they begin: often half of it, or nothing.

    Raises:
        ValueError: it is no XML.
    """
    try:
        root = ElementTree.fromstring(f'<svg xmlns="{_SVG}" xmlns:xlink="{_XLINK}">{body}</svg>')
    except ElementTree.ParseError as error:
        raise ValueError(f"{error}") from error
    for parent in root.iter():
        for animation in parent.findall(f"{{{_SVG}}}animate"):
            last = animation.get("to") or (animation.get("values") or "").rpartition(";")[2]
            if animation.get("fill") == "freeze" and last:
                parent.set(animation.get("attributeName", ""), last.strip())
    return "".join(ElementTree.tostring(child, encoding="unicode") for child in root)


def _turned(ink: NDArray[np.uint8], icon: Icon) -> NDArray[np.uint8]:
    """The drawing [c, h, w], mirrored and then turned as the icon asks. Its place does not matter: its ink box is cut out afterwards."""
    mirrored = ink[:, :: -1 if icon.v_flip else 1, :: -1 if icon.h_flip else 1]
    return np.rot90(mirrored, -icon.rotate, axes=(1, 2))
