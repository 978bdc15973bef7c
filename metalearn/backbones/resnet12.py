"""The residual network of MetaOptNet (Lee, Maji, Ravichandran and Soatto 2019, https://arxiv.org/abs/1904.03758)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Tensor, nn

from metalearn.backbones.base import Backbone, check_size, feature_dim, norm_layer
from metalearn.errors import UserError
from metalearn.nn.convolution import Conv2d
from metalearn.nn.dropblock import DropBlock


class ResNet12(Backbone):
    """The residual network of MetaOptNet (Lee, Maji, Ravichandran and Soatto 2019, https://arxiv.org/abs/1904.03758): four blocks of three
    3x3 convolutions beside a 1x1 shortcut, each halving the image and followed by DropBlock.

    Args:
        image_shape: (channels, height, width); height and width at least 16.
        filters: channels of each of the four blocks.
        norm: "batch" or "group".
        running_stats: for norm="batch": keep running statistics for evaluation.
        pool: "flatten" or "mean" over the last feature map.
        drop_rate: share of a feature map that is dropped in training.
        drop_block: side of a dropped region after the last two blocks; after the first two it is 1.
        drop_ramp: passes in training over which the share after the last two blocks rises from 0 to `drop_rate`, as in the authors' code.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        filters: Sequence[int],
        norm: str,
        running_stats: bool,
        pool: str,
        drop_rate: float,
        drop_block: int,
        drop_ramp: int,
    ) -> None:
        super().__init__()
        check_size(image_shape)
        if len(filters) != 4:
            raise UserError(f"backbone.filters={list(filters)}: four numbers are needed, one for each block")

        def normalised(convolution: nn.Conv2d) -> list[nn.Module]:
            nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="leaky_relu")
            return [convolution, norm_layer(norm, convolution.out_channels, running_stats, dims=2)]

        self.blocks = nn.Sequential()
        for i, (before, after) in enumerate(itertools.pairwise([image_shape[0], *filters])):
            layers: list[nn.Module] = []
            for channels in (before, after, after):
                layers += normalised(Conv2d(channels, after, 3, padding=1, bias=False))
                layers.append(nn.LeakyReLU(0.1))
            shortcut = normalised(Conv2d(before, after, 1, bias=False))
            drop = DropBlock(drop_rate, 1, 1) if i < 2 else DropBlock(drop_rate, drop_block, drop_ramp)
            self.blocks.append(_Residual(nn.Sequential(*layers[:-1]), nn.Sequential(*shortcut)))
            self.blocks.extend([nn.LeakyReLU(0.1), nn.MaxPool2d(2), drop])
        self.pool = pool
        self.uses_batch_statistics = norm == "batch" and not running_stats
        self.feature_dim = feature_dim(self, image_shape)
        if pool == "flatten":
            self.map_shape = (filters[-1], image_shape[1] // 16, image_shape[2] // 16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(x)  # [n, filters[3], h, w]
        return x.mean((2, 3)) if self.pool == "mean" else x.flatten(1)


class _Residual(nn.Module):
    def __init__(self, path: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.path, self.shortcut = path, shortcut

    def forward(self, x: Tensor) -> Tensor:
        both: Tensor = self.path(x) + self.shortcut(x)
        return both
