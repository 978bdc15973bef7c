"""No network at all: the example as its own feature vector."""

from __future__ import annotations

import math

from torch import Tensor

from metalearn.backbones.base import Backbone


class Pixels(Backbone):
    """The flattened example itself; without parameters.

    Args:
        input_shape: of one example.
    """

    uses_batch_statistics = False
    by_itself = True

    def __init__(self, input_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.feature_dim = math.prod(input_shape)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)
