"""EMNIST (Cohen, Afshar, Tapson and van Schaik 2017): handwritten digits and letters of NIST's Special Database 19, 28x28."""

from __future__ import annotations

import string
from functools import partial
from pathlib import Path

from metalearn.data.cache import load_or_make
from metalearn.data.files.archives import LIMITS, fingerprint, opened
from metalearn.data.files.idx import Pair, labelled
from metalearn.data.files.published import About, PublishedFile, find, folder_of
from metalearn.data.images import ImageClasses
from metalearn.data.listed import Asked, divided

CONVERSION = 1  # of the cache entries; raise it when the conversion changes
ABOUT = About(
    "handwritten digits and letters",
    homepage="https://www.nist.gov/itl/products-and-services/emnist-dataset",
    licence="not stated",
    files=(
        PublishedFile(
            "gzip.zip",
            (
                "https://biometrics.nist.gov/cs_links/EMNIST/gzip.zip",
                "http://www.itl.nist.gov/iaui/vip/cs_links/EMNIST/gzip.zip",
            ),
            561_753_746,
            md5="58c8d27c78d21e728a6bc7b3cc06412e",
            unpacked="gzip",
        ),
    ),
    inner=("EMNIST/raw",),
)
_LIMITS = LIMITS._replace(member=1 << 30)  # bytes of one gzip file: the largest holds 697,932 images
# Letters whose upper and lower case look alike are one class in two of the variants; it has the upper one's name.
_MERGED = string.digits + string.ascii_uppercase + "abdefghnqrt"
# The class of each label, and how many classes split=random takes for validation and for test.
_VARIANTS: dict[str, tuple[dict[int, str], tuple[int, int]]] = {
    "balanced": (dict(enumerate(_MERGED)), (10, 15)),
    "bymerge": (dict(enumerate(_MERGED)), (10, 15)),
    "byclass": (dict(enumerate(string.digits + string.ascii_uppercase + string.ascii_lowercase)), (12, 20)),
    "letters": (dict(enumerate(string.ascii_uppercase, 1)), (6, 8)),
}


def load(asked: Asked, variant: str) -> ImageClasses:
    """26 to 62 classes of images [1, size, size], 255 = ink; the published training and test images of a class together.

    Args:
        asked: what is asked of every data set of images (docs/data/index.md).
        variant: which of the published collections: "balanced", "bymerge", "byclass" or "letters".

    Raises:
        UserError: the archive is missing or damaged.
    """
    names, drawn = _VARIANTS[variant]
    (place,) = find("emnist", ABOUT, folder_of("emnist", ABOUT, asked.root))
    pairs = [_pair(place, f"emnist-{variant}-{part}") for part in ("train", "test")]
    key = f"{variant}-{asked.size}-v{CONVERSION}-{fingerprint([place], lambda name: name.endswith('.gz'))}"
    # The files hold each image column by column.
    stored = load_or_make("emnist", key, lambda: labelled(pairs, names, asked.size, transposed=True))
    return divided("emnist", stored, asked, drawn)


def _pair(place: Path, name: str) -> Pair:
    above = "" if place.is_dir() else "gzip/"
    images, labels = (f"{above}{name}-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1"))
    return Pair(images, partial(opened, place, images, _LIMITS), partial(opened, place, labels, _LIMITS))
