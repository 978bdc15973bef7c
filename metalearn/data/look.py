"""How what a data set stores becomes what a network sees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from metalearn.data.augment import Augment
from metalearn.data.fit import fitted
from metalearn.data.normalize import Normalize


class Look(Protocol):
    """What happens to stored examples on the device."""

    @property
    def numbers(self) -> Mapping[int, int]:
        """Purpose -> how many random numbers an example takes for it; none where nothing is changed at random."""

    @property
    def key(self) -> tuple[object, ...]:
        """What tells the outcome for equal stored examples apart, where nothing is changed at random."""

    def __call__(self, stored: Tensor, numbers: Mapping[int, Tensor]) -> Tensor:
        """Stored examples [n, ...] -> what a network sees, [n, ...]; `numbers`: purpose -> [n, k] in [0, 1)."""


@dataclass(frozen=True)
class AsStored:
    """Texts, and features that were made of examples: nothing happens to them."""

    @property
    def numbers(self) -> Mapping[int, int]:
        return {}

    @property
    def key(self) -> tuple[object, ...]:
        return ()

    def __call__(self, stored: Tensor, numbers: Mapping[int, Tensor]) -> Tensor:
        return stored


@dataclass(frozen=True)
class AsPixels:
    """Images uint8 [n, c, H, W] -> float32 from 0 to 1, of one shape, changed at random, normalised.

    Args:
        augment: what happens to every drawn image.
        normalize: what happens to its channels after that.
        shape: (channels, height, width) that it is brought to before both; None: as it is stored.
    """

    augment: Augment
    normalize: Normalize | None = None
    shape: tuple[int, ...] | None = None

    @property
    def numbers(self) -> Mapping[int, int]:
        return self.augment.numbers

    @property
    def key(self) -> tuple[object, ...]:
        return self.shape, self.normalize and self.normalize.record()

    def __call__(self, stored: Tensor, numbers: Mapping[int, Tensor]) -> Tensor:
        x = stored.float().div_(255)
        if self.shape is not None:
            x = fitted(x, self.shape)
        if numbers:
            x = self.augment(x, numbers)
        return x if self.normalize is None else self.normalize(x)
