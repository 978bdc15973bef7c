"""Meta-Album (Ullah et al. 2022): forty data sets of ten domains in one format, 128x128: `images/`, `labels.csv`, `info.json`."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metalearn.data.cache import load_or_make
from metalearn.data.files.annotations import texts
from metalearn.data.files.archives import fingerprint
from metalearn.data.files.published import About, PublishedFile, find, folder_of
from metalearn.data.images import ImageClasses
from metalearn.data.listed import Asked, Label, divided, images_by_class
from metalearn.errors import UserError
from metalearn.places import expanded

CONVERSION = 1  # of the cache entries; raise it when the conversion changes
_LABELS, _INFO = "labels.csv", "info.json"
# Columns of labels.csv, and the keys of info.json that name others.
_FILE, _CLASS = ("image_column_name", "FILE_NAME"), ("category_column_name", "CATEGORY")


def _chosen(settings: Mapping[str, Any], files: tuple[PublishedFile, ...]) -> tuple[PublishedFile, ...]:
    """One archive for each set and version. Nobody publishes a checksum, and its address needs OpenML's number of the set."""
    if settings["set"] is None:
        return ()
    name = f"{settings['set']}_{settings['version']}"
    return (PublishedFile(f"{name}.zip", unpacked=name),)


ABOUT = About(
    "40 data sets of 10 domains in one format",
    homepage="https://meta-album.github.io",
    licence="each set's own, on its page",
    choose=_chosen,
)


def load(asked: Asked, set: str | None, version: str) -> ImageClasses:
    """The classes of one of the forty sets, as RGB images [3, size, size]; a class is known by the set's name and its own.

    Args:
        asked: what is asked of every data set of images (docs/data/index.md).
        set: its short name, such as BRD; None: `root` is one set, packed or unpacked, and its name begins with the short one.
        version: Micro, Mini or Extended.

    Raises:
        UserError: the set is missing, its labels.csv cannot be read, or it names images that are not there.
    """
    place = _place(asked.root, set, version)
    name = set or place.name.partition(".")[0].partition("_")[0]
    key = f"{name}-{asked.size}-v{CONVERSION}-{fingerprint([place], lambda path: path.startswith('images/') or path in (_LABELS, _INFO))}"
    stored = load_or_make("metaalbum", key, lambda: _classes(place, asked.size))
    quarter = len(stored.class_names) // 4
    return divided("metaalbum", stored, asked, (quarter, quarter), origin=f"metaalbum/{name}")


def _place(root: str | None, set: str | None, version: str) -> Path:
    """The folder or archive of the set."""
    if set is not None:
        folder = folder_of("metaalbum", ABOUT, root)
        return find("metaalbum", ABOUT, folder, _chosen({"set": set, "version": version}, ()))[0]
    if root is None:
        raise UserError(
            "dataset.set=null needs dataset.root: the folder or archive of one set; or dataset.set=BRD, say"
        )
    return expanded(Path(root), "dataset.root")


def _classes(place: Path, size: int) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    class_of = _read_labels(place)

    def label(path: str) -> Label | None:
        folder, _, name = path.rpartition("/")
        found = class_of.get(name) if folder.rpartition("/")[2] == "images" else None
        return Label(found) if found else None

    count = 0
    for name, images in images_by_class(place, label, size):
        count += len(images)
        yield name, images
    if count != len(class_of):
        raise UserError(f"{place}: {_LABELS} names {len(class_of)} images, {count} of them are in images/")


def _read_labels(place: Path) -> dict[str, str]:
    """The class of each file in `images/`."""
    found = texts(place, (_LABELS, _INFO))
    try:
        info = json.loads(found[_INFO])
        file_column, class_column = (str(info.get(key, usual)) for key, usual in (_FILE, _CLASS))
    except (ValueError, AttributeError) as error:
        raise UserError(f"{place}: {_INFO} holds no mapping from names to values") from error
    rows = csv.DictReader(io.StringIO(found[_LABELS].removeprefix("\ufeff")), skipinitialspace=True)
    for column in (file_column, class_column):
        if column not in (rows.fieldnames or ()):
            raise UserError(f"{place}: {_LABELS} has no column {column} (it has: {', '.join(rows.fieldnames or ())})")
    class_of = {row[file_column].strip(): row[class_column].strip() for row in rows if row[class_column]}
    if not class_of:
        raise UserError(f"{place}: {_LABELS} names no image")
    return class_of
