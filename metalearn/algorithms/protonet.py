"""Prototypical Networks (Snell, Swersky and Zemel 2017, https://arxiv.org/abs/1703.05175).

A class is the mean of its embedded support examples (eq. 1); a query belongs to it with the softmax over negative squared Euclidean distances
(eq. 2). As in the authors' code, the support and query examples of a training task pass the network together, so that its batch statistics
are those of the whole task; evaluation uses the running statistics, each query by itself.
"""

from __future__ import annotations

import torch
from torch import Tensor

from metalearn.algorithms.base import Algorithm, MetaLoss
from metalearn.backbones import Backbone, embed_tasks
from metalearn.tasks import Examples, TaskBatch


class ProtoNet(Algorithm):
    """Args:
    backbone: [n, c, H, W] -> [n, D].
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def adapt(self, support: Examples) -> Tensor:
        """Prototypes [T, N, D]."""
        return self._prototypes(self._embed(support.x), support)

    def predict(self, adapted: Tensor, query_x: Tensor) -> Tensor:
        return self._logits(adapted, self._embed(query_x))

    def meta_loss(self, tasks: TaskBatch) -> MetaLoss:
        support, query = tasks.support, tasks.query
        embedded = self._embed(torch.cat([support.x, query.x], dim=1))  # [T, N*K + N*Q, D]
        prototypes = self._prototypes(embedded[:, : support.x.shape[1]], support)
        return self.query_loss(self._logits(prototypes, embedded[:, support.x.shape[1] :]), tasks)

    @property
    def repeats(self) -> bool:
        return True

    @property
    def transductive(self) -> bool:
        return self.backbone.uses_batch_statistics

    def _embed(self, x: Tensor) -> Tensor:
        return embed_tasks(self.backbone, x, self.training)

    @staticmethod
    def _prototypes(embedded: Tensor, support: Examples) -> Tensor:
        """Eq. 1: the mean of each class's embedded support examples, [T, N*K, D] -> [T, N, D]."""
        members = torch.nn.functional.one_hot(support.y, support.ways).to(embedded.dtype)  # [T, N*K, N]
        return members.transpose(1, 2) @ embedded / members.sum(1).unsqueeze(-1)

    @staticmethod
    def _logits(prototypes: Tensor, queries: Tensor) -> Tensor:
        """Eq. 2 with the squared Euclidean distance (section 2.3): [T, N, D], [T, n, D] -> [T, n, N].

        The queries' own squared norms are left out: equal for all classes, they cancel in the softmax.
        """
        return 2 * queries @ prototypes.transpose(1, 2) - prototypes.square().sum(-1).unsqueeze(1)
