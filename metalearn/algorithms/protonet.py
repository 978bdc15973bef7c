"""Prototypical Networks (Snell, Swersky and Zemel 2017, https://arxiv.org/abs/1703.05175).

A class is the mean of its embedded support examples (eq. 1); a query belongs to it with the softmax over negative squared Euclidean distances
(eq. 2). As in the authors' code, the support and query examples of a training task pass the network together, so that its batch statistics
are those of the whole task; evaluation uses the running statistics, each query by itself.
"""

from __future__ import annotations

from torch import Tensor

from metalearn.algorithms.base import MetaLoss
from metalearn.algorithms.embedding import EmbeddingLearner, class_means
from metalearn.tasks import Examples, TaskBatch


class ProtoNet(EmbeddingLearner):
    """Labels a query by the nearest mean of embedded support examples.

    Args:
        backbone: [n, c, H, W] -> [n, D].
    """

    def adapt(self, support: Examples) -> Tensor:
        """Prototypes [T, N, D], eq. 1."""
        return class_means(self.embed(support.x), support)

    def predict(self, adapted: Tensor, query_x: Tensor) -> Tensor:
        return self._logits(adapted, self.embed(query_x))

    def meta_loss(self, tasks: TaskBatch) -> MetaLoss:
        support, queries = self.embed_together(tasks)
        return self.query_loss(self._logits(class_means(support, tasks.support), queries), tasks)

    @property
    def repeats(self) -> bool:
        return True

    @staticmethod
    def _logits(prototypes: Tensor, queries: Tensor) -> Tensor:
        """Eq. 2 with the squared Euclidean distance (section 2.3): [T, N, D], [T, n, D] -> [T, n, N].

        The queries' own squared norms are left out: equal for all classes, they cancel in the softmax.
        """
        return 2 * queries @ prototypes.transpose(1, 2) - prototypes.square().sum(-1).unsqueeze(1)
