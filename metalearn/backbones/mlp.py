"""Fully connected blocks on the flattened example."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from torch import Tensor, nn

from metalearn.backbones.base import Backbone, norm_layer
from metalearn.errors import UserError


class MLP(Backbone):
    """Fully connected blocks of linear, normalisation and ReLU on the flattened example.

    Args:
        input_shape: of one example.
        hidden: the width of each block.
        norm: "batch" or "none".
        running_stats: for norm="batch": keep running statistics for evaluation.
    """

    def __init__(self, input_shape: tuple[int, ...], hidden: Sequence[int], norm: str, running_stats: bool) -> None:
        super().__init__()
        if not hidden or any(not isinstance(width, int) or width < 1 for width in hidden):
            raise UserError(f"backbone.hidden={list(hidden)}: a list of whole numbers >= 1 is needed")
        widths = [math.prod(input_shape), *hidden]
        self.blocks = nn.Sequential(nn.Flatten(), *blocks(widths, norm, running_stats))
        self.feature_dim = widths[-1]
        self.uses_batch_statistics = norm == "batch" and not running_stats
        self.by_itself = norm == "none"

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.blocks(x)
        return features


def blocks(widths: Sequence[int], norm: str, running_stats: bool) -> nn.Sequential:
    """Blocks of linear, normalisation and ReLU: [n, widths[0]] -> [n, widths[-1]]."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), norm_layer(norm, after, running_stats, dims=1), nn.ReLU()]
    return nn.Sequential(*layers)
