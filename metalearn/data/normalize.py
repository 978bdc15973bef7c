"""Per-channel normalisation of images: (value - mean) / deviation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from metalearn.errors import UserError
from metalearn.sizes import count_text


@dataclass(frozen=True)
class Normalize:
    """What is taken from each channel of an image in [0, 1], and what the rest is divided by.

    Args:
        mean: [c].
        std: [c], above 0.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, setting: Mapping[str, Sequence[float]] | None) -> Normalize | None:
        """What `dataset.normalize` asks for: {mean: [...], std: [...]} or null."""
        if setting is None:
            return None
        return cls(tuple(map(float, setting["mean"])), tuple(map(float, setting["std"])))

    def record(self) -> dict[str, list[float]]:
        """The setting, as `of` reads it."""
        return {"mean": list(self.mean), "std": list(self.std)}

    def check(self, channels: int) -> None:
        """Raises UserError where it is for another number of channels."""
        for key, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != channels:
                raise UserError(
                    f"dataset.normalize.{key} has {count_text(len(values), 'value')}, "
                    f"the images have {count_text(channels, 'channel')} (needed: one for each)"
                )

    def __call__(self, images: Tensor) -> Tensor:
        """Normalises images [..., c, H, W]; the result may be the same memory."""
        mean, std = (
            torch.tensor(values, dtype=images.dtype, device=images.device).view(-1, 1, 1)
            for values in (self.mean, self.std)
        )
        return images.sub_(mean).div_(std)
