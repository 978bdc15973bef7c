"""102 Category Flower Dataset (Nilsback and Zisserman 2008): 8,189 photographs of 102 flowers, 40 to 258 of each."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metalearn.data.files.published import About, PublishedFile
from metalearn.data.images import ImageClasses
from metalearn.data.listed import Asked, Label, Labels, by_number, load_listed
from metalearn.errors import UserError, one_line

_FROM = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102"
ABOUT = About(
    "102 Category Flower Dataset",
    homepage=f"{_FROM}/",
    licence="not stated",
    files=(
        PublishedFile(
            "102flowers.tgz",
            (f"{_FROM}/102flowers.tgz",),
            344_862_509,
            md5="52808999861908f626f3c1f4e79d11fa",
            sha256="2d01ecc807db462958cfe3d92f57a8c252b4abd240eb955770201e45f783b246",
            unpacked="jpg",
        ),
        PublishedFile(
            "imagelabels.mat",
            (f"{_FROM}/imagelabels.mat",),
            502,
            md5="e0620be6f572b9609742df49c70aed4d",
            sha256="4903e94206bac23bf772aadf06451916df56b58fc483a62db32a97b82656651d",
        ),
    ),
)
_IMAGE = re.compile(r"(?:.*/)?image_(\d{5})\.jpg")


def load(asked: Asked) -> ImageClasses:
    """102 flowers, named by their number in `imagelabels.mat` and in English: `012.colt's foot`.

    Raises:
        UserError: a file is missing or damaged, or the split is unknown.
    """
    return load_listed("flowers", ABOUT, asked, _labels, drawn=(15, 16), published=8189)


def _labels(places: tuple[Path, ...]) -> Labels:
    """The k-th number in `imagelabels.mat` is the class of `image_<k>.jpg`, both counted from 1."""
    name_of = by_number("flowers", "metadataset")
    class_of = _numbers(places[1])
    if not set(class_of.tolist()) <= set(name_of):
        raise UserError(f"{places[1]}: the classes are numbered from 1 to {len(name_of)}, {class_of.max()} is there")

    def label(path: str) -> Label | None:
        match = _IMAGE.fullmatch(path)
        if not match:
            return None
        number = int(match[1])
        if not 1 <= number <= len(class_of):
            raise UserError(f"{path}: {places[1]} has the classes of {len(class_of)} images only")
        return Label(name_of[int(class_of[number - 1])])

    return label


def _numbers(file: Path) -> NDArray[np.int64]:
    from scipy.io import loadmat  # late: only a conversion needs it

    try:
        return np.asarray(loadmat(file)["labels"]).reshape(-1).astype(np.int64)
    except Exception as error:  # scipy's reader raises nearly everything about a damaged file
        reason = one_line(error) or type(error).__name__
        raise UserError(f"{file} is not the published table of labels ({reason})") from error
