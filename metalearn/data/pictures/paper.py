"""Drawings: whether ink is light on dark paper or dark on light, and how one becomes the other.

The paper of a drawing is what its border shows. Data sets of characters store ink as 255 on paper of 0; whoever scans or photographs ink on paper has
the reverse. A model that learned one of them is of little use on the other.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

DARK, LIGHT = "dark", "light"  # of paper
_NEAR = 0.15  # levels, of 1, that the paper of a drawing differs from black or white at most
_EVEN = 0.75  # the share of a border that has to have nearly the level of the paper
_MOST = 0.9  # the share of images that has to agree
_INK = 0.5  # percent of the pixels that are darker than full ink: a photograph's noise does not count as ink


def paper_of(images: NDArray[np.floating]) -> str | None:
    """The paper that nearly all of these images [n, c, H, W] in [0, 1] have: "dark", "light", or None where they are no drawings."""
    if not len(images):
        return None
    border = _border(images.mean(1))  # [n, pixels]
    level = np.median(border, axis=1)
    even = (np.abs(border - level[:, None]) < _NEAR).mean(1) >= _EVEN
    for name, distance in ((DARK, level), (LIGHT, 1 - level)):
        if (even & (distance < _NEAR)).mean() >= _MOST:
            return name
    return None


def paper_level(image: Image.Image) -> float:
    """The level, 0 (black) to 1 (white), of the paper of one image."""
    grey = np.asarray(image.convert("L"), dtype=np.float32) / 255
    return float(np.median(_border(grey[None])))


def reversed_ink(image: Image.Image) -> Image.Image:
    """A drawing (mode L or RGB) whose paper and ink change places.

    Of dark ink on light paper, the paper's level becomes 0 and that of full ink 255, so that the grey paper of a photograph becomes as black
    as that of a data set. Of black on white, and of light ink on dark paper, it is the plain negative.
    """
    values = np.asarray(image, dtype=np.float32)
    flat = values.reshape(-1, 1 if values.ndim == 2 else values.shape[-1])
    paper = np.median(_border(values.reshape(1, *values.shape[:2], -1).transpose(0, 3, 1, 2)[0]), axis=1)  # [c]
    if paper.mean() < 128:
        return Image.fromarray((255 - values).astype(np.uint8))
    ink = np.percentile(flat, _INK, axis=0)
    span = np.maximum(paper - ink, 1)
    lifted = (paper - flat) / span * 255
    return Image.fromarray(np.clip(lifted + 0.5, 0, 255).reshape(values.shape).astype(np.uint8))


def _border(planes: NDArray[np.floating]) -> NDArray[np.floating]:
    """The outermost pixels of images [n, H, W]: [n, pixels]."""
    parts = [planes[:, 0], planes[:, -1], planes[:, 1:-1, 0], planes[:, 1:-1, -1]]
    return np.concatenate(parts, axis=1)
