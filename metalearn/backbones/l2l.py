"""learn2learn's own networks."""

from __future__ import annotations

from torch import Tensor

from metalearn.backbones.base import Backbone, check_size, feature_dim
from metalearn.nn.l2l import learn2learn


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
            check_size(image_shape)
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
        self.feature_dim = feature_dim(self, image_shape)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(x)  # [n, filters, h, w]
        return x.mean((2, 3)) if self.pool == "mean" else x.flatten(1)
