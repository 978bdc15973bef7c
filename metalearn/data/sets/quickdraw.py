"""Quick, Draw! (Google Creative Lab 2017): sketches of 345 things by players of the game, 28x28, more than 100,000 of most."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from metalearn.data.cache import load_or_make
from metalearn.data.classes import SPLITS, read_split
from metalearn.data.files.archives import fingerprint
from metalearn.data.files.idx import resized
from metalearn.data.files.published import About, PublishedFile, find, folder_of
from metalearn.data.images import ImageClasses
from metalearn.data.listed import Asked, divided
from metalearn.errors import UserError, one_line

CONVERSION = 1  # of the cache entries; raise it when the conversion changes
SIDE = 28  # pixels
_AT = "https://storage.googleapis.com/quickdraw_dataset/full/numpy_bitmap/"
_SPLIT = read_split("quickdraw", "metadataset")
NAMES = tuple(sorted(name for part in SPLITS for name in _SPLIT.classes[part]))
ABOUT = About(
    "sketches of 345 things",
    homepage="https://github.com/googlecreativelab/quickdraw-dataset",
    licence="CC BY 4.0",
    files=tuple(PublishedFile(f"{name}.npy", (f"{_AT}{quote(name)}.npy",)) for name in NAMES),
    inner=("numpy_bitmap", "full/numpy_bitmap"),
)


def load(asked: Asked, per_class: int | None) -> ImageClasses:
    """345 classes of images [1, size, size], 255 = ink.

    Args:
        asked: what is asked of every data set of images (docs/data/index.md).
        per_class: the first so many sketches of each class; None: all, which are 50 million.

    Raises:
        UserError: a file is missing or damaged.
    """
    places = find("quickdraw", ABOUT, folder_of("quickdraw", ABOUT, asked.root))
    key = f"{asked.size}-{per_class or 'all'}-v{CONVERSION}-{fingerprint(places, bool)}"
    stored = load_or_make("quickdraw", key, lambda: _classes(places, per_class, asked.size))
    return divided("quickdraw", stored, asked, (52, 52))


def _classes(places: Sequence[Path], per_class: int | None, size: int) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    for name, place in zip(NAMES, places, strict=True):
        sketches = _sketches(place)[:per_class]
        yield name, resized(sketches.reshape(-1, SIDE, SIDE), size)[:, None]


def _sketches(place: Path) -> NDArray[np.uint8]:
    """[n, 784], not read yet."""
    try:
        sketches: NDArray[np.uint8] = np.load(place, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{place} is no intact .npy file ({one_line(error)}): delete it and fetch it again") from error
    if sketches.dtype != np.uint8 or sketches.ndim != 2 or sketches.shape[1] != SIDE**2 or not len(sketches):
        raise UserError(
            f"{place} holds {sketches.dtype} {list(sketches.shape)}, sketches are uint8 [n, {SIDE**2}]: it is not the published file"
        )
    return sketches
