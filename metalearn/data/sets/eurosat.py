"""EuroSAT (Helber, Bischke, Dengel and Borth 2019): 27,000 satellite images, 64x64, of 10 kinds of land use."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metalearn.data.cache import load_or_make
from metalearn.data.files.archives import fingerprint
from metalearn.data.files.published import About, PublishedFile, find, folder_of
from metalearn.data.halves import halved, with_turned
from metalearn.data.images import ImageClasses
from metalearn.data.listed import Asked, by_path, images_by_class
from metalearn.errors import UserError

log = logging.getLogger("metalearn")

CONVERSION = 1  # of the cache entries; raise it when the conversion changes
IMAGES = 27_000
ABOUT = About(
    "satellite images of 10 kinds of land use",
    homepage="https://github.com/phelber/EuroSAT",
    licence="MIT",
    files=(
        PublishedFile(
            "EuroSAT.zip",
            (
                "https://huggingface.co/datasets/torchgeo/eurosat/resolve/c877bcd43f099cd0196738f714544e355477f3fd/EuroSAT.zip",
                "https://madm.dfki.de/files/sentinel/EuroSAT.zip",
            ),
            94_280_567,
            md5="c8fa014336c82ac7804f0398fcb19387",
            unpacked="2750",
        ),
    ),
    inner=("eurosat",),
)
# As in `AnnualCrop/AnnualCrop_1.jpg`.
_label = by_path(r"([A-Za-z]+)/[A-Za-z]+_\d+\.jpg")(())


def load(asked: Asked) -> ImageClasses:
    """10 classes of RGB images [3, size, size].

    Raises:
        UserError: the archive is missing or damaged, or holds something else.
    """
    (place,) = find("eurosat", ABOUT, folder_of("eurosat", ABOUT, asked.root))
    key = f"{asked.size}-v{CONVERSION}-{fingerprint([place], lambda name: name.endswith('.jpg'))}"
    stored = load_or_make("eurosat", key, lambda: with_turned(_classes(place, asked.size)))
    if (images := len(stored.images.images) // 2) != IMAGES:
        log.warning("eurosat has %d images in %s: %d are published", images, place, IMAGES)
    return halved("eurosat", stored, asked)


def _classes(place: Path, size: int) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    count = 0
    for each in images_by_class(place, _label, size):
        count += 1
        yield each
    if count != 10:
        raise UserError(f"{place} has images of {count} classes, EuroSAT has 10: it is not the published file")
