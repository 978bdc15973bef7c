"""Relation Networks (Sung, Yang, Zhang, Xiang, Torr and Hospedales 2018, https://arxiv.org/abs/1711.06025).

The feature maps of a class, summed over its shots, and those of a query are concatenated in depth; the relation module, convolutional itself,
turns them into a relation score in [0, 1] (eq. 1), which is regressed to 1 where the query is of the class and to 0 elsewhere (eq. 2).

Departures from the authors' code: evaluation uses running statistics, each query by itself, where theirs always normalises with the batch at
hand; all convolutions are padded, so that maps are 7x7 for images of 28x28, theirs 5x5; torch's own initialisation; the mean over shots unless
asked for the sum; one gradient clip for both networks, if any. As in ProtoNet here, support and query examples of a training task pass the
embedding network together. `loss="cross_entropy"` is no part of the paper: the code of Chen et al. 2019 (https://arxiv.org/abs/1904.04232)
offers it, to learn in less time.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metalearn.algorithms.base import MetaLoss
from metalearn.algorithms.embedding import EmbeddingLearner, memberships
from metalearn.backbones import Backbone
from metalearn.errors import UserError
from metalearn.tasks import Examples, TaskBatch


class RelationNet(EmbeddingLearner):
    """Scores a query and a class by a small network that reads both feature maps.

    Args:
        backbone: [n, c, H, W] -> [n, D], flattened feature maps [n, C, h, w].
        filters: of the relation module's convolutions.
        hidden: units of its fully connected layer.
        shots: how a class's feature maps come together: "sum" or "mean".
        loss: "squared_error" of the relation scores, or "cross_entropy" of the softmax over a query's log-odds.

    Raises:
        UserError: the backbone gives no feature maps, or too small ones.
    """

    def __init__(self, backbone: Backbone, filters: int, hidden: int, shots: str, loss: str) -> None:
        super().__init__(backbone)
        if backbone.map_shape is None:
            raise UserError(
                "backbone: a relation network compares feature maps, and this backbone gives vectors "
                "(backbone=conv4_relation, or conv4 with backbone.pool=flatten and backbone.downsample=max_pool_first_two, gives maps)"
            )
        _, height, width = backbone.map_shape
        if min(height, width) < 4:
            raise UserError(
                f"backbone: the relation module halves feature maps twice, and this backbone's are {height}x{width} (at least 4x4; "
                "backbone=conv4_relation, or backbone.downsample=max_pool_first_two, has larger ones)"
            )
        self.map_shape = backbone.map_shape
        self.shots, self.loss = shots, loss
        self.relation = RelationModule(backbone.map_shape, filters, hidden, not backbone.uses_batch_statistics)

    def adapt(self, support: Examples) -> Tensor:
        """Feature maps of the classes, [T, N, C, h, w]."""
        return self._class_maps(self._as_maps(self.embed(support.x, support.mask)), support)

    @property
    def masks(self) -> bool:
        return not self.transductive and not self.training  # in training, all pairs of a task are normalised together

    def predict(self, adapted: Tensor, query_x: Tensor) -> Tensor:
        """The relation scores' log-odds, which are in the same order as the scores."""
        return self._logits(adapted, self._maps(query_x))

    def meta_loss(self, tasks: TaskBatch) -> MetaLoss:
        support, queries = (self._as_maps(embedded) for embedded in self.embed_together(tasks))
        logits = self._logits(self._class_maps(support, tasks.support), queries)
        if self.loss == "cross_entropy":
            return self.query_loss(logits, tasks)
        truth = memberships(tasks.query.y, tasks.query.ways, torch.int64)
        loss = (logits.sigmoid() - truth).square().mean((1, 2))  # eq. 2, as a mean
        return MetaLoss(loss, self.query_loss(logits.detach(), tasks).metrics)

    def _maps(self, x: Tensor) -> Tensor:
        return self._as_maps(self.embed(x))

    def _as_maps(self, embedded: Tensor) -> Tensor:
        """[T, n, D] -> [T, n, C, h, w]."""
        return embedded.view(*embedded.shape[:2], *self.map_shape)

    def _class_maps(self, maps: Tensor, support: Examples) -> Tensor:
        """Section 3.2, K-shot: the sum over each class's shots, [T, N*K, C, h, w] -> [T, N, C, h, w]."""
        members = memberships(support.y, support.ways, maps.dtype, support.mask)  # [T, N*K, N]
        if self.shots == "mean":
            members = members / members.sum(1, keepdim=True).clamp_min(1)
        return torch.einsum("tmn,tmchw->tnchw", members, maps)

    def _logits(self, classes: Tensor, queries: Tensor) -> Tensor:
        # Task by task: a pair is normalised with others of its task alone, and a task has N * n of them to hold in memory.
        return torch.stack([self.relation(*task) for task in zip(classes, queries, strict=True)])


class RelationModule(nn.Module):
    """g of eq. 1: maps of classes [N, C, h, w] and queries [n, C, h, w] -> log-odds of the relation score of every pair, [n, N].

    Args:
        map_shape: (C, h, w).
        filters: of both convolutions.
        hidden: of the fully connected layer.
        running_stats: keep running statistics for evaluation.
    """

    def __init__(self, map_shape: tuple[int, int, int], filters: int, hidden: int, running_stats: bool) -> None:
        super().__init__()
        channels, height, width = map_shape
        self.first = nn.Conv2d(2 * channels, filters, 3, padding=1)
        self.rest = nn.Sequential(
            nn.BatchNorm2d(filters, track_running_stats=running_stats),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(filters, filters, 3, padding=1),
            nn.BatchNorm2d(filters, track_running_stats=running_stats),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(filters * (height // 4) * (width // 4), hidden),
            nn.ReLU(),
            nn.Linear(hidden, 1),
        )

    def forward(self, classes: Tensor, queries: Tensor) -> Tensor:
        # The convolution of a concatenation is the sum of the parts' convolutions: N + n of them, not 2 * N * n.
        of_class, of_query = self.first.weight.chunk(2, dim=1)
        from_classes = F.conv2d(classes, of_class, self.first.bias, padding=1)  # [N, filters, h, w]
        from_queries = F.conv2d(queries, of_query, padding=1).unsqueeze(1)  # [n, 1, filters, h, w]
        pairs = from_classes + from_queries  # [n, N, filters, h, w]
        log_odds: Tensor = self.rest(pairs.flatten(0, 1))
        return log_odds.view(pairs.shape[:2])
