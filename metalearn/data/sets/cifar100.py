"""CIFAR-FS (Bertinetto et al. 2019) and FC100 (Oreshkin et al. 2018): the 100 classes of CIFAR-100, 600 images of each, divided in two ways.

Both are made from CIFAR-100 as it is published. Its training and test images are taken together: few-shot learning divides classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metalearn.data.cache import load_or_make
from metalearn.data.files.archives import fingerprint, opened
from metalearn.data.files.pickles import load_arrays
from metalearn.data.files.published import About, PublishedFile, find, folder_of, found
from metalearn.data.images import ImageClasses
from metalearn.data.listed import Asked, by_path, distinct, divided, fitted, images_by_class
from metalearn.errors import UserError

_PUBLISHED = PublishedFile(
    "cifar-100-python.tar.gz",
    ("https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",),
    169_001_437,
    md5="eb9058c3a382ffc7106e4002c42a8d85",
    sha256="85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
    unpacked="cifar-100-python",
)
# The same images as PNGs, as CIFAR-FS's authors packed them.
_PNGS = PublishedFile("cifar100.zip", ("https://zenodo.org/record/7978538/files/cifar100.zip",), unpacked="cifar100")


def _choose(settings: Mapping[str, Any], files: tuple[PublishedFile, ...]) -> tuple[PublishedFile, ...]:
    return (_file(folder_of("cifar100", ABOUT, settings.get("root"))),)


def _file(folder: Path) -> PublishedFile:
    """The published file, except where only the PNGs are there."""
    return _PNGS if found(folder, _PNGS) is not None and found(folder, _PUBLISHED) is None else _PUBLISHED


ABOUT = About(
    "CIFAR-100, divided as CIFAR-FS or FC100",
    homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
    licence="not stated",
    files=(_PUBLISHED,),
    folder="cifar100",
    cache="cifar100",
    choose=_choose,
)
CONVERSION = 1  # of the cache entries; raise it when the conversion changes
_SIDE = 32  # pixels


def cifarfs(asked: Asked) -> ImageClasses:
    """CIFAR-100's classes divided at random into 64, 16 and 20, named as there: `aquarium_fish`; `cifar100` is their origin.

    Raises:
        UserError: the file is missing or damaged, or the split is unknown.
    """
    return _load("cifarfs", asked, drawn=(16, 20))


def fc100(asked: Asked) -> ImageClasses:
    """CIFAR-100's classes divided by superclass into 60, 20 and 20, named as there: `aquarium_fish`; `cifar100` is their origin.

    Raises:
        UserError: the file is missing or damaged, or the split is unknown.
    """
    return _load("fc100", asked, drawn=(20, 20))


def _load(name: str, asked: Asked, drawn: tuple[int, int]) -> ImageClasses:
    folder = folder_of(name, ABOUT, asked.root)
    file = _file(folder)
    (place,) = find(name, ABOUT, folder, [file])
    made = _of_pngs if file == _PNGS else _of_pickles
    key = f"{asked.size}-v{CONVERSION}-{fingerprint([place], lambda path: True)}"
    stored = load_or_make("cifar100", key, lambda: distinct(made(place, asked.size), place))
    return divided(name, stored, asked, drawn, origin="cifar100")


def _of_pngs(place: Path, size: int) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    count = 0
    for each in images_by_class(place, by_path(r"data/([^/]+)/[^/]+\.png")((place,)), size):
        count += 1
        yield each
    if not count:
        raise UserError(f"dataset.root={place.parent}: {place.name} holds no data/CLASS/*.png of CIFAR-100")


def _of_pickles(place: Path, size: int) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Of each class the 500 training images, then the 100 test images."""
    names = _member(place, "meta", "fine_label_names")
    parts = [_images(place, part, len(names)) for part in ("train", "test")]
    for label, name in sorted(enumerate(names), key=lambda each: str(each[1])):
        own = np.concatenate([images[labels == label] for images, labels in parts])
        if not len(own):
            raise UserError(f"{place}: there is no image of the class '{name}'")
        yield str(name), fitted(own, size)


def _images(place: Path, part: str, classes: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pixels [n, 3, 32, 32] and labels [n] of one pickle: rows of 1,024 red, 1,024 green and 1,024 blue values."""
    data, fine = _member(place, part, "data", "fine_labels")
    labels = np.asarray(fine)
    right = (
        isinstance(data, np.ndarray)
        and (data.ndim, data.dtype, labels.ndim, labels.dtype.kind) == (2, np.uint8, 1, "i")
        and data.shape == (len(labels), 3 * _SIDE * _SIDE)
        and len(labels) > 0
        and labels.min() >= 0
        and labels.max() < classes
    )
    if not right:
        raise UserError(
            f"{place}: {part} is not CIFAR-100's (rows of {3 * _SIDE * _SIDE} bytes, a label from 0 to {classes - 1} for each)"
        )
    return data.reshape(-1, 3, _SIDE, _SIDE), labels.astype(np.int64)


def _member(place: Path, name: str, *keys: str) -> Any:
    """The values of some keys of one of the pickles; the value itself where one key is asked for."""
    path = name if place.is_dir() else f"cifar-100-python/{name}"
    with opened(place, path) as file:
        held = load_arrays(file, f"{place.name}: {name}")
    try:
        values = [held[key] for key in keys]
    except (KeyError, TypeError, IndexError) as error:
        raise UserError(f"{place}: {name} has no {' and '.join(keys)}: it is not CIFAR-100's") from error
    return values[0] if len(values) == 1 else values
