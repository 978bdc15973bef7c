"""Prototypical Networks (Snell, Swersky and Zemel 2017, https://arxiv.org/abs/1703.05175).

A class is the mean of its embedded support examples (eq. 1); a query belongs to it with the softmax over negative squared Euclidean distances
(eq. 2). As in the authors' code, the support and query examples of a training task pass the network together, so that its batch statistics
are those of the whole task; evaluation uses the running statistics, each query by itself.

Without support examples a class is what its description is embedded as, by a class encoder (section 2.7), divided by its length.

Departures: the distances may have a factor, `scale`; in the paper it is 1. With `description_weight`, a description counts as so many support
examples beside them; in the paper a class has either the one or the other.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from metalearn.algorithms.base import MetaLoss
from metalearn.algorithms.class_encoder import ClassEncoder, described
from metalearn.algorithms.embedding import (
    EmbeddingLearner,
    MetricScale,
    class_means,
    negative_squared_distances,
    scale_of_squares,
)
from metalearn.backbones import Backbone
from metalearn.tasks import Examples, TaskBatch


class ProtoNet(EmbeddingLearner):
    """Labels a query by the nearest mean of embedded support examples.

    Args:
        backbone: [n, c, H, W] -> [n, D].
        scale: factor of the squared distances, 1 in the paper; "auto" for 4 / D.
        learn_scale: whether outer steps change it, from `scale` on.
        class_encoder: of the descriptions of classes; None: there are support examples in every task.
        description_weight: how many support examples a description counts as beside them.
        unit_descriptions: whether embedded descriptions are divided by their length.
    """

    zero_shot: ClassVar[bool] = True

    # The defaults are for code of before there was a scale, and of before there were descriptions.
    def __init__(
        self,
        backbone: Backbone,
        scale: float | str = 1.0,
        learn_scale: bool = False,
        class_encoder: ClassEncoder | None = None,
        description_weight: float = 0.0,
        unit_descriptions: bool = True,
    ) -> None:
        super().__init__(backbone)
        self.scale = MetricScale(scale, learn_scale, scale_of_squares(backbone.feature_dim))
        self.class_encoder = class_encoder
        self.description_weight, self.unit_descriptions = description_weight, unit_descriptions

    def adapt(self, support: Examples) -> Tensor:
        """Prototypes [T, N, D], eq. 1."""
        return self._prototypes(self.embed(support.x, support.mask), support)

    def predict(self, adapted: Tensor, query_x: Tensor) -> Tensor:
        return self._logits(adapted, self.embed(query_x))

    def meta_loss(self, tasks: TaskBatch) -> MetaLoss:
        support, queries = self.embed_together(tasks)
        logits = self._logits(self._prototypes(support, tasks.support), queries)
        return self.scale.logged_with(self.query_loss(logits, tasks))

    @property
    def masks(self) -> bool:
        return not self.transductive

    @property
    def repeats(self) -> bool:
        return True

    def _prototypes(self, embedded: Tensor, support: Examples) -> Tensor:
        """Of embedded support examples [T, N*K, D]: [T, N, D]; without any, g(v_k) of section 2.7."""
        descriptions = described(self.class_encoder, self.description_weight, support, self.backbone)
        if descriptions is not None and self.unit_descriptions:
            # Section 2.7: descriptions and queries come from different domains, so that prototypes of unit length help.
            descriptions = F.normalize(descriptions, dim=-1)
        return class_means(embedded, support, descriptions, self.description_weight)

    def _logits(self, prototypes: Tensor, queries: Tensor) -> Tensor:
        """Eq. 2 with the squared Euclidean distance (section 2.4): [T, N, D], [T, n, D] -> [T, n, N]."""
        logits: Tensor = self.scale(negative_squared_distances(queries, prototypes))
        return logits
