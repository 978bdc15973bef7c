"""Classes of image files in an archive or a folder, divided by published lists: what most benchmarks are.

The module of such a benchmark says which files are published (`ABOUT`) and what the path of an image tells about it; the rest is here.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from metalearn.data.cache import Stored, load_or_make
from metalearn.data.classes import SPLITS, TEST_ONLY, ClassSplit, random_split, read_split, test_only
from metalearn.data.files.archives import fingerprint, members
from metalearn.data.files.published import About, find, folder_of
from metalearn.data.files.scratch import by_class
from metalearn.data.images import ImageClasses
from metalearn.data.normalize import Normalize
from metalearn.data.pictures.pixels import decode, in_channels, opened_image, resized
from metalearn.errors import UserError

log = logging.getLogger("metalearn")

CONVERSION = 1  # of the cache entries; raise it when the conversion changes
_READ = (".jpg", ".jpeg", ".png", ".txt", ".csv", ".json", ".mat")  # a folder has changed when one of these files has

Box = tuple[float, float, float, float]  # left, top, right, bottom: pixels from the upper left corner


class Label(NamedTuple):
    """What an image shows, and which part of it is read; without a box all of it."""

    class_name: str
    box: Box | None = None


Labels = Callable[[str], Label | None]  # of a path in the archive; None where it is no image of the data set


class Asked(NamedTuple):
    """The settings that all benchmarks have, under the names that they have in `conf/dataset/`."""

    root: str | None
    split: str
    split_seed: int
    size: int
    rotations: Mapping[str, int]
    min_images: int | None = None
    normalize: Mapping[str, Sequence[float]] | None = None
    descriptions: str | None = None


def load_listed(
    name: str,
    about: About,
    asked: Asked,
    labels: Callable[[tuple[Path, ...]], Labels],
    drawn: tuple[int, int],
    published: int | None = None,
    variant: str = "",
    lists: Path | None = None,
) -> ImageClasses:
    """A data set of RGB images, [3, size, size], converted to the cache at the first call.

    Args:
        name: of the data set.
        about: its published files. Those that `about.choose` picks are needed; the first of them holds the images.
        asked: the settings.
        labels: given the places of these files, what a path within the first one shows. Called only where images have to be converted.
        drawn: how many validation and test classes `split=random` draws.
        published: how many images there are; another number is said in a warning.
        variant: tells apart cache entries that differ by further settings.
        lists: the folder with the lists of the other splits; None: those that metalearn ships.

    Raises:
        UserError: a file is missing, damaged or another one than it should be; the split is unknown or needs classes that are not there.
    """
    folder = folder_of(name, about, asked.root)
    places = find(name, about, folder, about.choose(asked._asdict(), about.files))
    key = f"{asked.size}{variant}-v{CONVERSION}-{fingerprint(places, lambda path: path.lower().endswith(_READ))}"
    stored = load_or_make(name, key, lambda: _converted(about, folder, places[0], labels(places), asked.size))
    images = len(stored.images.images)
    if published is not None and images != published:
        log.warning("%s has %d images in %s: %d are published", name, images, places[0], published)
    return divided(name, stored, asked, drawn, lists=lists)


def divided(
    name: str,
    stored: Stored,
    asked: Asked,
    drawn: tuple[int, int],
    origin: str | None = None,
    lists: Path | None = None,
) -> ImageClasses:
    """The converted images with their split, as `asked` wants both; `drawn`, `lists` as for `load_listed`, `origin` as for ImageClasses.

    Raises:
        UserError: the split is unknown or needs classes that are not there.
    """
    split = chosen_split(name, stored.class_names, asked.split, asked.split_seed, drawn, asked.root, lists)
    whole = ImageClasses(
        name, stored.images, stored.class_names, split, asked.rotations, origin, Normalize.of(asked.normalize)
    )
    kept = whole if asked.min_images is None else whole.without_small_classes(asked.min_images)
    return kept.with_descriptions(asked.descriptions)


def chosen_split(
    name: str,
    class_names: Sequence[str],
    split: str,
    seed: int,
    drawn: tuple[int, int],
    root: str | None,
    lists: Path | None = None,
    examples_are: str = "images",
) -> ClassSplit:
    """How `dataset.split` divides classes that are there; `drawn` and `lists` as for `load_listed`.

    Raises:
        UserError: the split is unknown or needs classes that are not there.
    """
    if split == "random":
        val, test = drawn
        if len(class_names) < val + test + 1:
            raise UserError(
                f"dataset.split=random needs {val + test + 1} classes of {name} or more, there are {len(class_names)}"
            )
        return random_split(class_names, val, test, seed)
    if split == TEST_ONLY:
        return test_only(class_names)
    listed, known = read_split(name, split, lists), set(class_names)
    missing = [each for part in SPLITS for each in listed.classes[part] if each not in known]
    if missing:
        where = "its default folder" if root is None else root
        raise UserError(
            f"dataset.split={split}: the {examples_are} of {name} lack {len(missing)} of its classes, '{min(missing)}' for one "
            f"(dataset.root: {where})"
        )
    return listed


def by_number(name: str, split: str) -> dict[int, str]:
    """The classes of a shipped split whose names begin with the number that annotations call them by: 12 -> `012.colt's foot`."""
    classes = read_split(name, split).classes
    return {int(each.partition(".")[0]): each for part in SPLITS for each in classes[part]}


def by_path(pattern: str) -> Callable[[tuple[Path, ...]], Labels]:
    r"""Labels of images that lie in a folder of their class: the first group of `pattern`, as in `by_path(r"images/([^/]+)/[^/]+\.jpg")`.

    The pattern has to match the end of a path, from the beginning of a folder's name.
    """
    whole = re.compile(rf"(?:.*/)?{pattern}", re.IGNORECASE)

    def label(path: str) -> Label | None:
        match = whole.fullmatch(path)
        return Label(match[1]) if match else None

    return lambda _: label


def images_by_class(place: Path, label: Labels, size: int) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """(class, images [n, 3, size, size]) of an archive or folder, classes in the order of their names and images in that of their paths."""

    def images() -> Iterator[tuple[str, str, NDArray[np.uint8]]]:
        for path, content in members(place, lambda path: label(path) is not None):
            found = label(path)
            assert found is not None
            yield found.class_name, path, _pixels(content, path, size, found.box)

    return by_class(images())


def distinct(classes: Iterable[tuple[str, NDArray[np.uint8]]], place: Path) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """The same classes; UserError naming `place` where one comes twice, as when a file was copied under another's name."""
    seen: set[str] = set()
    for name, images in classes:
        if name in seen:
            raise UserError(f"{place}: the class '{name}' is there twice")
        seen.add(name)
        yield name, images


def fitted(images: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """RGB images [n, 3, H, W] as [n, 3, size, size], resized as `decode` does it where they have another size."""
    if images.shape[2:] == (size, size):
        return np.ascontiguousarray(images)
    made = np.empty((len(images), 3, size, size), np.uint8)
    for number, image in enumerate(images):
        made[number] = _square(Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))), size)
    return made


def _converted(
    about: About, folder: Path, place: Path, label: Labels, size: int
) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    count = 0
    for each in images_by_class(place, label, size):
        count += 1
        yield each
    if not count:
        raise UserError(f"dataset.root={folder}: {place.name} holds no image of {about.title}")


def _pixels(content: bytes, path: str, size: int, box: Box | None) -> NDArray[np.uint8]:
    if box is None:
        return decode(content, path, size, 3)
    image = in_channels(opened_image(content, path), 3)
    left, top, right, bottom = (round(edge) for edge in box)
    inside = max(left, 0), max(top, 0), min(right, image.width), min(bottom, image.height)
    if inside[0] >= inside[2] or inside[1] >= inside[3]:
        raise UserError(f"{path} has {image.width}x{image.height} pixels, its box {box} lies outside")
    return _square(image.crop(inside), size)


def _square(image: Image.Image, size: int) -> NDArray[np.uint8]:
    return np.ascontiguousarray(np.asarray(resized(image, size, "squash")).transpose(2, 0, 1))
