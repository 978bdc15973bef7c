"""mini-ImageNet (Vinyals et al. 2016) with the classes of Ravi and Larochelle (2017): 100 ImageNet classes, 600 images of 84x84 pixels of each.

Four forms are published, and each is read as it is. Of those that lie in the folder, the first of these is taken:

- `mini-imagenet-cache-{train,val,test}.pkl`, by Ren et al.; on Zenodo the second is called `-validation`.
- `miniImageNet_category_split_{train_phase_train,val,test}.pickle`, by Gidaris and Komodakis, as MetaOptNet uses them.
- `mini-imagenet.tar.gz`, which holds the pickles of the first form.
- The lists `train.csv`, `val.csv`, `test.csv` of Ravi and Larochelle with the images that they name, in `images/` or `images.zip`.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metalearn.data.cache import load_or_make
from metalearn.data.classes import SPLITS
from metalearn.data.files.archives import LIMITS, fingerprint, listed
from metalearn.data.files.pickles import load_arrays
from metalearn.data.files.published import About, PublishedFile, find, folder_of, found
from metalearn.data.images import ImageClasses
from metalearn.data.listed import Asked, Label, distinct, divided, fitted, images_by_class
from metalearn.errors import UserError

_ZENODO = "https://zenodo.org/record/7978538/files"
_PARTS = ("train", "validation", "test")
_ON_ZENODO = tuple(
    PublishedFile(f"mini-imagenet-cache-{part}.pkl", (f"{_ZENODO}/mini-imagenet-cache-{part}.pkl",)) for part in _PARTS
)
_CACHE = tuple(PublishedFile(f"mini-imagenet-cache-{part}.pkl") for part in SPLITS)
_BY_CATEGORY = tuple(
    PublishedFile(f"miniImageNet_category_split_{part}.pickle") for part in ("train_phase_train", "val", "test")
)
_TAR = PublishedFile("mini-imagenet.tar.gz", md5="b38f1eb4251fb9459ecc8e7febf9b2eb")
_LISTS = tuple(f"{part}.csv" for part in SPLITS)
_WITH_LISTS = (PublishedFile("images.zip", unpacked="images"), *map(PublishedFile, _LISTS))
_FORMS = (_ON_ZENODO, _CACHE, _BY_CATEGORY, (_TAR,), _WITH_LISTS)
_COLUMNS = (("filename", "label"), ("image_name", "class_name"))  # of the lists: Ravi and Larochelle's, easyfsl's


def _files(folder: Path) -> tuple[PublishedFile, ...]:
    """The files of the first form that is there; where none is, those that can be fetched."""
    there = (form for form in _FORMS if all(found(folder, file) is not None for file in form))
    return next(there, _ON_ZENODO)


def _choose(settings: Mapping[str, Any], files: tuple[PublishedFile, ...]) -> tuple[PublishedFile, ...]:
    return _files(folder_of("miniimagenet", ABOUT, settings.get("root")))


ABOUT = About(
    "mini-ImageNet",
    homepage="https://github.com/renmengye/few-shot-ssl-public",
    licence="for non-commercial research and education (ImageNet's terms)",
    files=_ON_ZENODO,
    choose=_choose,
)
CONVERSION = 1  # of the cache entries; raise it when the conversion changes
_LIMITS = LIMITS._replace(member=1 << 30)  # one of the pickles has 813 MB

Classes = Iterator[tuple[str, NDArray[np.uint8]]]


def load(asked: Asked) -> ImageClasses:
    """100 classes, named by their WordNet ids; `imagenet` is their origin.

    Raises:
        UserError: a file is missing or is not the published one, or the split is unknown.
    """
    folder = folder_of("miniimagenet", ABOUT, asked.root)
    files = _files(folder)
    places = find("miniimagenet", ABOUT, folder, files)
    key = f"{asked.size}-v{CONVERSION}-{fingerprint(places, lambda path: True)}"
    stored = load_or_make("miniimagenet", key, lambda: distinct(_converted(files, places, asked.size), folder))
    return divided("miniimagenet", stored, asked, drawn=(16, 20), origin="imagenet")


def _converted(files: tuple[PublishedFile, ...], places: Sequence[Path], size: int) -> Classes:
    if files == _WITH_LISTS:
        return _of_lists(places[0], places[1:], size)
    if files == (_TAR,):
        return _of_pickles(places[0], [file.name for file in _CACHE], _of_cache, size)
    of_pickle = _of_categories if files == _BY_CATEGORY else _of_cache
    return _of_pickles(places[0].parent, [place.name for place in places], of_pickle, size)


def _of_pickles(place: Path, names: Sequence[str], of_pickle: Callable[[Any, str, int], Classes], size: int) -> Classes:
    """The classes of three pickles of a folder or an archive, which are read one after another.

    Args:
        place: the folder, or the archive that holds them in any folder.
        names: of the pickles.
        of_pickle: given what a pickle holds, its name and a size, its classes.
        size: pixels.
    """
    missing, in_folder = set(names), place.is_dir()
    for member in listed(place, lambda path: (path if in_folder else PurePosixPath(path).name) in names, _LIMITS):
        with member.open() as file:
            held = load_arrays(file, member.name)
        missing.discard(PurePosixPath(member.name).name)
        yield from of_pickle(held, member.name, size)
        del held  # before the next one is read
    if missing:
        raise UserError(f"{place} has no {min(missing)}: it is not the published file")


def _of_cache(held: Any, name: str, size: int) -> Classes:
    """A dict of `image_data` [n, 84, 84, 3] and `class_dict`, which has the numbers of the images of each class."""
    images, numbers_of = _values(held, name, "image_data", "class_dict")
    _check_images(images, name)
    if not isinstance(numbers_of, dict):
        raise UserError(f"{name}: class_dict is no dict of classes: it is not the published file")
    for class_name in sorted(numbers_of, key=str):
        numbers = np.asarray(numbers_of[class_name])
        if numbers.ndim != 1 or not len(numbers) or numbers.dtype.kind not in "iu":
            raise UserError(f"{name}: class_dict has no list of images for the class '{class_name}'")
        if numbers.min() < 0 or numbers.max() >= len(images):
            raise UserError(f"{name}: class_dict names an image beyond the {len(images)} for the class '{class_name}'")
        yield str(class_name), fitted(images[numbers].transpose(0, 3, 1, 2), size)


def _of_categories(held: Any, name: str, size: int) -> Classes:
    """A dict of `data` [n, 84, 84, 3], `labels` [n] and `catname2label`, which may name classes without an image here."""
    images, given, label_of = _values(held, name, "data", "labels", "catname2label")
    _check_images(images, name)
    labels = np.asarray(given)
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
        raise UserError(f"{name}: {len(images)} images need as many labels, whole numbers")
    if not isinstance(label_of, dict) or not set(labels.tolist()) <= set(label_of.values()):
        raise UserError(f"{name}: catname2label does not name all labels: it is not the published file")
    for class_name, label in sorted(label_of.items(), key=lambda each: str(each[0])):
        if (own := images[labels == label]).size:
            yield str(class_name), fitted(own.transpose(0, 3, 1, 2), size)


def _of_lists(place: Path, lists: Sequence[Path], size: int) -> Classes:
    """Image files by the names in the lists, in whatever folders they lie; the others are passed over."""
    class_of = {image: class_name for file in lists for image, class_name in _rows(file)}
    count = 0

    def label(path: str) -> Label | None:
        class_name = class_of.get(PurePosixPath(path).name)
        return None if class_name is None else Label(class_name)

    for class_name, images in images_by_class(place, label, size):
        count += len(images)
        yield class_name, images
    if count < len(class_of):
        raise UserError(f"{place} has {count} of the {len(class_of)} images that {', '.join(_LISTS)} name")


def _rows(file: Path) -> Iterator[tuple[str, str]]:
    with file.open(encoding="utf-8", newline="") as opened:
        reader = csv.DictReader(opened)
        columns = next((pair for pair in _COLUMNS if set(pair) <= set(reader.fieldnames or ())), None)
        if columns is None:
            raise UserError(f"{file}: its first line is not {' or '.join(','.join(pair) for pair in _COLUMNS)}")
        yield from ((row[columns[0]] or "", row[columns[1]] or "") for row in reader)


def _values(held: Any, name: str, *keys: str) -> list[Any]:
    try:
        return [held[key] for key in keys]
    except (KeyError, TypeError, IndexError) as error:
        raise UserError(f"{name} has no {' and '.join(keys)}: it is not the published file") from error


def _check_images(images: Any, name: str) -> None:
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise UserError(f"{name}: its images are no bytes [images, height, width, 3]: it is not the published file")
