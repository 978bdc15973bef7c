"""The images of all classes one after another: classes of unequal size need no padding, and a class is a slice."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class FlatImages:
    """C classes; the k-th image of class c is `images[starts[c] + k]`.

    Attributes:
        images: uint8 [M, c, H, W], all classes' images in class order; may be mapped from a file. 255 is ink (or full intensity). Or texts, uint8
            [M, length] (texts.py).
        counts: int64 [C], the number of images of each class; they add up to M.
    """

    images: NDArray[np.uint8]
    counts: NDArray[np.int64]

    def __post_init__(self) -> None:
        assert len(self.images) == self.counts.sum(), (self.images.shape, self.counts.sum())

    @classmethod
    def of_classes(cls, classes: Iterable[NDArray[np.uint8]]) -> FlatImages:
        """From one array [M_c, c, H, W] for each class, at least one; an array [C, M, c, H, W] is such a series too."""
        arrays = list(classes)
        return cls(np.concatenate(arrays), np.array([len(images) for images in arrays], dtype=np.int64))

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """int64 [C]: where each class begins."""
        return np.cumsum(self.counts) - self.counts

    def of_class(self, number: int) -> NDArray[np.uint8]:
        """uint8 [counts[number], c, H, W], not copied."""
        start = int(self.starts[number])
        return self.images[start : start + int(self.counts[number])]

    def select(self, numbers: Sequence[int]) -> FlatImages:
        """Some of the classes, in the order of `numbers`; a copy in memory."""
        return FlatImages.of_classes([self.of_class(number) for number in numbers])
