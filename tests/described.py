"""A small data set whose classes are told by attributes: what a description says can be seen in the images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from metalearn.data.classes import SPLITS, ClassSplit
from metalearn.data.container import FlatImages
from metalearn.data.descriptions import Descriptions
from metalearn.data.images import ImageClasses

ATTRIBUTES = 6


def described_classes(classes: int = 60, images: int = 10, noise: float = 0.3, seed: int = 0) -> ImageClasses:
    """Each attribute that a class has, 0 or 1, darkens places of its own; images [1, 16, 16] are the sum with noise."""
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 2, (classes, ATTRIBUTES)).astype(np.float32)
    places = rng.random((ATTRIBUTES, 16)) > 0.6
    patterns = (values @ places).reshape(classes, 1, 1, 4, 4) / places.sum(0).max()
    patterns = patterns.repeat(4, axis=-2).repeat(4, axis=-1)
    drawn = patterns * (1 - noise) + noise * rng.random((classes, images, 1, 16, 16))
    names = tuple(f"class{i:03d}" for i in range(classes))
    half, quarter = classes // 2, classes // 4
    parts = {"train": names[:half], "val": names[half : half + quarter], "test": names[half + quarter :]}
    return ImageClasses(
        name="described",
        images=FlatImages.of_classes((drawn * 255).astype(np.uint8)),
        class_names=names,
        split=ClassSplit("fixed", parts),
        rotations=dict.fromkeys(SPLITS, 1),
        descriptions=Descriptions(dict(zip(names, values, strict=True))),
    )


def with_shuffled_descriptions(dataset: ImageClasses, seed: int = 1) -> ImageClasses:
    """The same data set, each class with the description of another one that is drawn."""
    assert dataset.descriptions is not None
    values = list(dataset.descriptions.of_class.values())
    order = np.random.default_rng(seed).permutation(len(values))
    shuffled = {name: values[i] for name, i in zip(dataset.class_names, order, strict=True)}
    return replace(dataset, descriptions=Descriptions(shuffled))  # type: ignore[arg-type]  # all numbers


def with_texts(dataset: ImageClasses) -> ImageClasses:
    """The same data set, its classes described by texts of different lengths."""
    return replace(dataset, descriptions=Descriptions({name: f"it is {name}" for name in dataset.class_names}))
