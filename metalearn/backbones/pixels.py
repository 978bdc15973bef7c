"""No network at all: the image as its own feature vector."""

from __future__ import annotations

import math

from torch import Tensor

from metalearn.backbones.base import Backbone


class Pixels(Backbone):
    """The flattened image itself; without parameters.

    Args:
        image_shape: (channels, height, width).
    """

    uses_batch_statistics = False

    def __init__(self, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.feature_dim = math.prod(image_shape)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)
