"""The four-block convolutional network of the few-shot literature (Vinyals et al. 2016, https://arxiv.org/abs/1606.04080)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Tensor, nn

from metalearn.backbones.base import Backbone, check_size, feature_dim, norm_layer
from metalearn.errors import UserError
from metalearn.nn.convolution import Conv2d


class Conv4(Backbone):
    """Four blocks of 3x3 convolution, normalisation, ReLU and halving.

    Args:
        image_shape: (channels, height, width); height and width at least 16, or 4 where two blocks halve.
        filters: channels of every block, or of each of the four.
        downsample: "max_pool" (2x2 after each block), "max_pool_first_two" (after the first two) or "stride" (convolutions of stride 2).
        norm: "batch", "group" or "none".
        running_stats: for norm="batch": keep running statistics for evaluation.
        pool: "flatten" or "mean" over the last feature map.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        filters: int | Sequence[int],
        downsample: str,
        norm: str,
        running_stats: bool,
        pool: str,
    ) -> None:
        """Raises UserError for a list of other than four numbers of filters."""
        super().__init__()
        channels, height, width = image_shape
        widths = [filters] * 4 if isinstance(filters, int) else list(filters)
        if len(widths) != 4:
            raise UserError(f"backbone.filters={widths}: one number is needed, or four, one for each block")
        pooled = {"max_pool": 4, "max_pool_first_two": 2, "stride": 0}[downsample]  # blocks that end in pooling
        if pooled:
            check_size(image_shape, pooled)
        stride = 2 if downsample == "stride" else 1
        blocks: list[nn.Module] = []
        for i, (before, after) in enumerate(itertools.pairwise([channels, *widths])):
            blocks.append(Conv2d(before, after, 3, stride=stride, padding=1))
            blocks.append(norm_layer(norm, after, running_stats, dims=2))
            if i < pooled:
                blocks.append(nn.MaxPool2d(2))
            blocks.append(nn.ReLU())  # after pooling, which comes to the same: a quarter of the work
        self.blocks = nn.Sequential(*blocks)
        self.pool = pool
        self.uses_batch_statistics = norm == "batch" and not running_stats
        self.feature_dim = feature_dim(self, image_shape)
        if pool == "flatten":
            height, width = (-(-side // 16) if stride == 2 else side // 2**pooled for side in (height, width))
            self.map_shape = (widths[-1], height, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(x)  # [n, filters of the last block, h, w]
        return x.mean((2, 3)) if self.pool == "mean" else x.flatten(1)
