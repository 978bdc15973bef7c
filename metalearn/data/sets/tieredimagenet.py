"""tiered-ImageNet (Ren et al. 2018): 779,165 images of 608 ImageNet classes, whose 34 superclasses are in one split each.

As its authors publish it: for each split a pickled list of encoded PNGs of 84x84 pixels and a pickle of labels. The lists have up to seven
gigabytes; they are read image by image. Labels name classes in English; `class_names.txt` and `synsets.txt` give the WordNet id, which is the
name here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from metalearn.data.cache import load_or_make
from metalearn.data.classes import SPLITS, read_split
from metalearn.data.files.annotations import texts
from metalearn.data.files.archives import LIMITS, fingerprint, opened
from metalearn.data.files.pickle_stream import stream_list
from metalearn.data.files.pickles import load_arrays
from metalearn.data.files.published import About, PublishedFile, find, folder_of, found
from metalearn.data.files.scratch import counted
from metalearn.data.images import ImageClasses
from metalearn.data.listed import Asked, distinct, divided
from metalearn.data.pictures.pixels import decode
from metalearn.errors import UserError

_ZENODO = "https://zenodo.org/record/7978538/files"
_PREFIX = "tiered-imagenet-"  # of the files on Zenodo; those in the authors' archive have none, but lie in a folder
_FOLDER = "tiered-imagenet"
_TEXTS = ("class_names.txt", "synsets.txt")
_NAMES = (*(f"{split}_{kind}.pkl" for split in SPLITS for kind in ("images_png", "labels")), *_TEXTS)
_TAR = PublishedFile(f"{_FOLDER}.tar", md5="e07e811b9f29362d159a9edd0d838c62")


def _named(before: str) -> tuple[PublishedFile, ...]:
    """All files, with `before` in front of their names."""
    return tuple(PublishedFile(f"{before}{name}", (f"{_ZENODO}/{_PREFIX}{name}",)) for name in _NAMES)


def _files(folder: Path) -> tuple[PublishedFile, ...]:
    """The files as they are named in the folder: those of the form whose first one is there."""
    forms = (_named(_PREFIX), _named(""), _named(f"{_FOLDER}/"), _named(f"{_FOLDER}/{_PREFIX}"), (_TAR,))
    return next((form for form in forms if found(folder, form[0]) is not None), forms[0])


def _choose(settings: Mapping[str, Any], files: tuple[PublishedFile, ...]) -> tuple[PublishedFile, ...]:
    return _files(folder_of("tieredimagenet", ABOUT, settings.get("root")))


ABOUT = About(
    "tiered-ImageNet",
    homepage="https://github.com/renmengye/few-shot-ssl-public",
    licence="for non-commercial research and education (ImageNet's terms)",
    files=_named(_PREFIX),
    choose=_choose,
)
# The archive holds lists that are larger than any image.
_LIMITS = LIMITS._replace(member=1 << 34)
CONVERSION = 1  # of the cache entries; raise it when the conversion changes


def load(asked: Asked) -> ImageClasses:
    """608 classes, named by their WordNet ids; `imagenet` is their origin.

    Raises:
        UserError: a file is missing or is not the published one, or the split is unknown.
    """
    folder = folder_of("tieredimagenet", ABOUT, asked.root)
    first = find("tieredimagenet", ABOUT, folder, _files(folder))[0]
    place = first if first.name == _TAR.name else first.parent
    key = f"{asked.size}-v{CONVERSION}-{fingerprint([place], lambda path: path.endswith(_NAMES))}"
    stored = load_or_make("tieredimagenet", key, lambda: distinct(_converted(place, asked.size), place))
    return divided("tieredimagenet", stored, asked, drawn=(97, 160), origin="imagenet")


def _converted(place: Path, size: int) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    named = _wordnet_ids(place)  # English name -> ids
    for split in SPLITS:
        of_split = set(read_split("tieredimagenet", "ren").classes[split])
        ids = {name: each for name, several in named.items() for each in several if each in of_split}
        yield from _of_split(place, split, ids, size)


def _of_split(place: Path, split: str, ids: Mapping[str, str], size: int) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """One class after another, each as soon as its last image has come: published images are in the order of their classes."""
    labels_file = f"{split}_labels.pkl"
    with _opened(place, labels_file) as file:
        labels, names = _labels(load_arrays(file, labels_file), labels_file)
    left = np.bincount(labels, minlength=len(names)).tolist()
    waiting: dict[int, list[NDArray[np.uint8]]] = defaultdict(list)
    images_file, count = f"{split}_images_png.pkl", 0
    with _opened(place, images_file) as file:
        for count, encoded in enumerate(counted(stream_list(file, images_file), f"{split} images"), 1):
            if count > len(labels):
                break
            label = int(labels[count - 1])
            waiting[label].append(decode(_png(encoded, images_file), f"{images_file}, image {count}", size, 3))
            left[label] -= 1
            if left[label] == 0:
                if names[label] not in ids:
                    raise UserError(f"{place}: '{names[label]}' is no class of the {split} split of tiered-ImageNet")
                yield ids[names[label]], np.stack(waiting.pop(label))
    if count != len(labels):
        more = "more than " if count > len(labels) else ""
        raise UserError(
            f"{place}: {images_file} has {more}{min(count, len(labels))} images, {labels_file} has {len(labels)} labels"
        )


def _path(place: Path, name: str) -> str:
    """The path of one of the published files in the folder or the archive."""
    if not place.is_dir():
        return f"{_FOLDER}/{name}"
    return name if (place / name).is_file() else f"{_PREFIX}{name}"


def _opened(place: Path, name: str) -> AbstractContextManager[IO[bytes]]:
    return opened(place, _path(place, name), _LIMITS)


def _wordnet_ids(place: Path) -> dict[str, list[str]]:
    """The WordNet ids of each English name: two files whose lines belong together. One name, that of cranes, stands for two classes of ImageNet."""
    paths = [_path(place, name) for name in _TEXTS]
    found_texts = texts(place, paths)
    names, synsets = (found_texts[path].splitlines() for path in paths)
    if len(names) != len(synsets):
        raise UserError(
            f"{place}: {_TEXTS[0]} has {len(names)} lines, {_TEXTS[1]} has {len(synsets)} (as many are published)"
        )
    found = defaultdict(list)
    for name, synset in zip(names, synsets, strict=True):
        found[name.strip()].append(synset.strip())
    return found


def _labels(found: Any, name: str) -> tuple[NDArray[np.int64], list[str]]:
    """The label of each image, and the names of the labels.

    Raises:
        UserError: it is not what is published.
    """
    try:
        labels, names = np.asarray(found["label_specific"]), [str(each) for each in found["label_specific_str"]]
    except (KeyError, TypeError, IndexError) as error:
        raise UserError(f"{name} has no label_specific and label_specific_str: it is not the published file") from error
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or not len(labels):
        raise UserError(f"{name}: label_specific is no list of whole numbers")
    if labels.min() < 0 or labels.max() >= len(names):
        raise UserError(f"{name}: labels lie from 0 to {len(names) - 1}, {labels.min()} to {labels.max()} are there")
    return labels.astype(np.int64), names


def _png(encoded: Any, name: str) -> bytes:
    """OpenCV hands out an encoded image as an array of bytes."""
    if isinstance(encoded, np.ndarray) and encoded.dtype == np.uint8:
        return encoded.tobytes()
    if isinstance(encoded, bytes):
        return encoded
    raise UserError(f"{name} holds something else than encoded images")
