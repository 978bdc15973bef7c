"""Backbones: an image [n, c, H, W] -> a feature vector [n, D]; `feature_dim` is D.

Each can be asked to normalise with the statistics of the examples at hand (`running_stats=False`), which makes the outcome for one example
depend on the others: `uses_batch_statistics` says so, and evaluation reports it as transductive.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from metalearn.convolution import Conv2d
from metalearn.dropblock import DropBlock
from metalearn.l2l import learn2learn
from metalearn.layout import channels_last


def embed_tasks(backbone: nn.Module, x: Tensor, training: bool) -> Tensor:
    """The examples of T tasks through one backbone: [T, n, ...] -> [T, n, D]."""
    if training or backbone.uses_batch_statistics:
        # Task by task: each is normalised with its own statistics, so the outcome does not depend on which tasks come together.
        return torch.stack([backbone(channels_last(task)) for task in x])
    embedded: Tensor = backbone(channels_last(x.flatten(0, 1)))
    return embedded.view(*x.shape[:2], -1)


def _norm(kind: str, channels: int, running_stats: bool, dims: int) -> nn.Module:
    if kind == "batch":
        layer = nn.BatchNorm2d if dims == 2 else nn.BatchNorm1d
        return layer(channels, track_running_stats=running_stats)
    if kind == "group":  # 8 channels to a group where that divides, else one group
        return nn.GroupNorm(channels // 8 if channels % 8 == 0 else 1, channels)
    return nn.Identity()


def _feature_dim(backbone: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """D, by asking: one pass over blank images, in evaluation mode so that running statistics stay as they were."""
    with torch.no_grad():
        features: Tensor = backbone.eval()(torch.zeros(2, *image_shape))
    backbone.train()
    return features.shape[1]


def _check_size(image_shape: tuple[int, int, int], halvings: int = 4) -> None:
    """Raises ValueError where the halvings leave nothing."""
    _, height, width = image_shape
    if min(height, width) < 2**halvings:
        times = {4: "four times", 2: "twice"}[halvings]
        raise ValueError(
            f"this backbone halves the image {times}: {height}x{width} pixels are too few (at least {2**halvings}x{2**halvings})"
        )


class Backbone(nn.Module):
    """What an algorithm may know of its backbone."""

    feature_dim: int  # D
    uses_batch_statistics: bool
    map_shape: tuple[int, int, int] | None = None  # (C, h, w) where the D features are a feature map, flattened


class Conv4(Backbone):
    """Four blocks of 3x3 convolution, normalisation, ReLU and halving.

    Args:
        image_shape: (channels, height, width); height and width at least 16, or 4 where two blocks halve.
        filters: channels of every block.
        downsample: "max_pool" (2x2 after each block), "max_pool_first_two" (after the first two) or "stride" (convolutions of stride 2).
        norm: "batch", "group" or "none".
        running_stats: for norm="batch": keep running statistics for evaluation.
        pool: "flatten" or "mean" over the last feature map.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        filters: int,
        downsample: str,
        norm: str,
        running_stats: bool,
        pool: str,
    ) -> None:
        super().__init__()
        channels, height, width = image_shape
        pooled = {"max_pool": 4, "max_pool_first_two": 2, "stride": 0}[downsample]  # blocks that end in pooling
        if pooled:
            _check_size(image_shape, pooled)
        stride = 2 if downsample == "stride" else 1
        blocks: list[nn.Module] = []
        for i in range(4):
            blocks.append(Conv2d(channels if i == 0 else filters, filters, 3, stride=stride, padding=1))
            blocks.append(_norm(norm, filters, running_stats, dims=2))
            if i < pooled:
                blocks.append(nn.MaxPool2d(2))
            blocks.append(nn.ReLU())  # after pooling, which comes to the same: a quarter of the work
        self.blocks = nn.Sequential(*blocks)
        self.pool = pool
        self.uses_batch_statistics = norm == "batch" and not running_stats
        self.feature_dim = _feature_dim(self, image_shape)
        if pool == "flatten":
            height, width = (-(-side // 16) if stride == 2 else side // 2**pooled for side in (height, width))
            self.map_shape = (filters, height, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(x)  # [n, filters, h, w]
        return x.mean((2, 3)) if self.pool == "mean" else x.flatten(1)


class MLP(Backbone):
    """Fully connected blocks of linear, normalisation and ReLU on the flattened image.

    Args:
        image_shape: (channels, height, width).
        hidden: the width of each block.
        norm: "batch" or "none".
        running_stats: for norm="batch": keep running statistics for evaluation.
    """

    def __init__(
        self, image_shape: tuple[int, int, int], hidden: Sequence[int], norm: str, running_stats: bool
    ) -> None:
        super().__init__()
        if not hidden or any(not isinstance(width, int) or width < 1 for width in hidden):
            raise ValueError(f"backbone.hidden={list(hidden)}: a list of whole numbers >= 1 is needed")
        channels, height, width = image_shape
        widths = [channels * height * width, *hidden]
        blocks: list[nn.Module] = [nn.Flatten()]
        for before, after in itertools.pairwise(widths):
            blocks += [nn.Linear(before, after), _norm(norm, after, running_stats, dims=1), nn.ReLU()]
        self.blocks = nn.Sequential(*blocks)
        self.feature_dim = widths[-1]
        self.uses_batch_statistics = norm == "batch" and not running_stats

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.blocks(x)
        return features


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
        _check_size(image_shape)
        if len(filters) != 4:
            raise ValueError(f"backbone.filters={list(filters)}: four numbers are needed, one for each block")

        def normalised(convolution: nn.Conv2d) -> list[nn.Module]:
            nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="leaky_relu")
            return [convolution, _norm(norm, convolution.out_channels, running_stats, dims=2)]

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
        self.feature_dim = _feature_dim(self, image_shape)
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


class Learn2LearnConv4(Backbone):
    """learn2learn's `ConvBase`, the body of its OmniglotCNN and MiniImagenetCNN: the layers of `Conv4`, started as learn2learn starts them.

    Args:
        image_shape: (channels, height, width); height and width at least 16 with max_pool.
        filters: channels of every block.
        downsample: "max_pool" (2x2 after each block) or "stride" (convolutions of stride 2).
        running_stats: keep running statistics for evaluation.
        pool: "flatten" or "mean" over the last feature map.

    Raises:
        UserError: learn2learn is missing.
    """

    def __init__(
        self, image_shape: tuple[int, int, int], filters: int, downsample: str, running_stats: bool, pool: str
    ) -> None:
        super().__init__()
        if downsample == "max_pool":
            _check_size(image_shape)
        models = learn2learn().vision.models
        self.blocks = models.ConvBase(
            hidden=filters, channels=image_shape[0], max_pool=downsample == "max_pool", layers=4
        )
        if not running_stats:  # learn2learn's norms know only how to keep them
            for block in self.blocks:
                norm = block.normalize
                norm.track_running_stats = False
                norm.running_mean = norm.running_var = norm.num_batches_tracked = None
        self.pool = pool
        self.uses_batch_statistics = not running_stats
        self.feature_dim = _feature_dim(self, image_shape)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(x)  # [n, filters, h, w]
        return x.mean((2, 3)) if self.pool == "mean" else x.flatten(1)


class Koch(Backbone):
    """The Omniglot network of Koch, Zemel and Salakhutdinov 2015: four convolutions without padding or normalisation, each followed by ReLU and the
    first three by 2x2 max-pooling, then a fully connected layer of sigmoid units.

    Initialised as in He et al. 2015 (https://arxiv.org/abs/1502.01852): as drawn in the paper, with convolutions of standard deviation 0.01
    and biases of 0.5, the features of two images differ by only 0.002 at first.

    Args:
        image_shape: (channels, height, width); height and width at least 65, the paper's are 105.
        units: of the fully connected layer.
    """

    uses_batch_statistics = False

    def __init__(self, image_shape: tuple[int, int, int], units: int) -> None:
        super().__init__()
        channels, height, width = image_shape
        if min(height, width) < 65:
            raise ValueError(
                f"backbone=koch is made for images of 105x105 pixels: {height}x{width} are too few (at least 65x65; see dataset.size)"
            )
        convolutions = nn.Sequential(
            *(Conv2d(channels, 64, 10), nn.ReLU(), nn.MaxPool2d(2)),
            *(Conv2d(64, 128, 7), nn.ReLU(), nn.MaxPool2d(2)),
            *(Conv2d(128, 128, 4), nn.ReLU(), nn.MaxPool2d(2)),
            *(Conv2d(128, 256, 4), nn.ReLU(), nn.Flatten()),
        )
        flat = _feature_dim(convolutions, image_shape)
        self.blocks = nn.Sequential(convolutions, nn.Linear(flat, units), nn.Sigmoid())
        for name, parameter in self.named_parameters():
            if name.endswith("weight"):
                nn.init.kaiming_normal_(parameter)
            else:
                nn.init.zeros_(parameter)
        self.feature_dim = units

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.blocks(x)
        return features
