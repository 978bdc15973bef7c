"""Data sets of ten classes: too few to be cut in three, where each part has to serve 5-way tasks.

Half of the classes is for training, half for test. For validation there are the classes of training, turned by 90 degrees: none of the
test classes, and yet images that training never saw. Where a class looks the same from each side, such a validation says little.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from metalearn.data.cache import Stored
from metalearn.data.classes import TEST_ONLY, TURNED, ClassSplit, random_split, test_only
from metalearn.data.images import ImageClasses
from metalearn.data.listed import Asked
from metalearn.data.normalize import Normalize


def with_turned(
    classes: Iterable[tuple[str, NDArray[np.uint8]]],
) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Every class, images [n, c, H, H], and after it the same images turned by 90 degrees, as a class of its own."""
    for name, images in classes:
        yield name, images
        yield f"{TURNED}{name}", np.rot90(images, axes=(2, 3))


def halved(name: str, stored: Stored, asked: Asked) -> ImageClasses:
    """The data set `name` of the classes that `with_turned` made.

    `dataset.split=random` draws half of the upright classes for test with `dataset.split_seed`; `test_only` leaves no class for training.
    """
    upright = tuple(each for each in stored.class_names if not each.startswith(TURNED))
    if asked.split == TEST_ONLY:
        split = test_only(upright)
    else:
        halves = random_split(upright, 0, len(upright) // 2, asked.split_seed)
        train, test = halves.classes["train"], halves.classes["test"]
        split = ClassSplit(
            halves.name, {"train": train, "val": tuple(f"{TURNED}{each}" for each in train), "test": test}
        )
    whole = ImageClasses(
        name, stored.images, stored.class_names, split, asked.rotations, normalize=Normalize.of(asked.normalize)
    )
    kept = whole if asked.min_images is None else whole.without_small_classes(asked.min_images)
    return kept.with_descriptions(asked.descriptions)
