"""What every dataset module returns: images by class, and which classes belong to which split."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from metalearn.errors import UserError

SPLITS = ("train", "val", "test")
_SPLIT_FILES = Path(__file__).parent / "splits"


@dataclass(frozen=True)
class ClassSplit:
    """Disjoint class names for training, validation and test, under a published or seeded name."""

    name: str
    classes: Mapping[str, tuple[str, ...]]  # "train" | "val" | "test" -> class names

    def __post_init__(self) -> None:
        for i, first in enumerate(SPLITS):
            for second in SPLITS[i + 1 :]:
                both = set(self.classes[first]) & set(self.classes[second])
                if both:
                    raise UserError(f"split '{self.name}': class '{min(both)}' is in {first} and in {second}")

    @property
    def sha256(self) -> str:
        """Of the class names in order: two results with equal hashes were measured on the same classes."""
        text = "\n".join(f"{split}\t{name}" for split in SPLITS for name in self.classes[split])
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class ImageClasses:
    """A dataset: C classes of up to M images each, uint8, the k-th image of class c at images[c, k]."""

    name: str
    images: np.ndarray  # uint8 [C, M, c, H, W], memory-mapped; 255 is ink (or full intensity)
    counts: np.ndarray  # int64 [C], how many of the M images a class has
    class_names: tuple[str, ...]  # [C]
    split: ClassSplit
    rotations: Mapping[str, int]  # split -> 1, 2 or 4: every class again, turned by multiples of 90 degrees

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        channels, height, width = self.images.shape[2:]
        return channels, height, width


def read_split(dataset: str, name: str) -> ClassSplit:
    """The class lists shipped as `splits/<dataset>_<name>_{train,val,test}.txt`.

    Raises:
        UserError: no such split is shipped; the message lists those that are.
    """
    files = {split: _SPLIT_FILES / f"{dataset}_{name}_{split}.txt" for split in SPLITS}
    if not all(file.is_file() for file in files.values()):
        shipped = sorted(f.stem.split("_")[1] for f in _SPLIT_FILES.glob(f"{dataset}_*_train.txt"))
        raise UserError(f"dataset.split={name}: {dataset} has no such split (shipped: {', '.join(shipped)})")
    return ClassSplit(name, {split: tuple(file.read_text().split()) for split, file in files.items()})


def random_split(class_names: Sequence[str], val: int, test: int, seed: int) -> ClassSplit:
    """`test` and `val` classes drawn at random with `seed`, the rest for training; a pure function of its arguments."""
    order = np.random.Generator(np.random.Philox(key=seed)).permutation(len(class_names))
    names = [class_names[i] for i in order]
    parts = {"test": names[:test], "val": names[test : test + val], "train": names[test + val :]}
    return ClassSplit(f"random-{seed}", {split: tuple(sorted(part)) for split, part in parts.items()})
