"""k nearest neighbours: a query is labelled by the votes of the support examples nearest to it in feature space.

Nothing is learned. A vote has the weight exp(scale * similarity), as in Wu, Xiong, Yu and Lin 2018 (https://arxiv.org/abs/1805.01978)
and Caron et al. 2021 (DINO, https://arxiv.org/abs/2104.14294), whose temperature of 0.07 is what `scale=auto` stands for with cosines. The votes
of a class, divided by all votes, are its probability.

Departure: a class without a vote would have the probability 0 and, where it is the true one, an infinite loss; `smoothing` gives every class a part.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from metalearn.algorithms.embedding import MetricScale, memberships, negative_squared_distances, scale_of_squares
from metalearn.algorithms.transform import FeatureLearner
from metalearn.backbones import Backbone
from metalearn.tasks import Examples

SCALE_OF_COSINES = 1 / 0.07


class Adapted(NamedTuple):
    features: Tensor  # [T, m, D], of the support examples
    y: Tensor  # [T, m]
    there: Tensor  # [T, m] bool: none of the padding
    classes: Tensor  # [T, N], 1 for the classes that a task has, else 0


class KNearest(FeatureLearner):
    """Labels a query by weighted votes of its nearest support examples.

    Args:
        backbone: [n, ...] -> [n, D].
        transform: of features: "none", "l2" or "centred_l2".
        distance: "cosine" or "squared_euclidean".
        neighbours: how many support examples vote; all of them where there are fewer.
        scale: factor of the similarities in the votes' weights; "auto" for 1 / 0.07 with cosines and 4 / D with squared distances.
        smoothing: the part of the probability that all classes of a task share equally, above 0 and below 1.
    """

    trains: ClassVar[bool] = False

    def __init__(
        self,
        backbone: Backbone,
        transform: str,
        distance: str,
        neighbours: int,
        scale: float | str,
        smoothing: float,
    ) -> None:
        super().__init__(backbone, transform)
        self.distance, self.neighbours, self.smoothing = distance, neighbours, smoothing
        automatic = SCALE_OF_COSINES if distance == "cosine" else scale_of_squares(backbone.feature_dim)
        self.scale = MetricScale(scale, learned=False, automatic=automatic)

    def adapt(self, support: Examples) -> Adapted:
        features = self.features(support.x, support.mask)
        members = memberships(support.y, support.ways, features.dtype, support.mask)  # [T, m, N]
        return Adapted(features, support.y, members.sum(-1) > 0, members.amax(1))

    def predict(self, adapted: Adapted, query_x: Tensor) -> Tensor:
        """The logarithms of the probabilities, [T, n, N]."""
        similarities = self.scale(self._similarities(self.features(query_x), adapted.features))  # [T, n, m]
        similarities = similarities.masked_fill(~adapted.there.unsqueeze(1), -torch.inf)
        nearest, which = similarities.topk(min(self.neighbours, similarities.shape[-1]), dim=-1)  # [T, n, k]
        labels = adapted.y.unsqueeze(1).expand(-1, which.shape[1], -1).gather(-1, which)
        weights = nearest.softmax(-1)
        classes = adapted.classes.unsqueeze(1).to(weights.dtype)  # [T, 1, N]
        votes = torch.zeros_like(classes).expand(*weights.shape[:2], -1).scatter_add(-1, labels, weights)
        even = classes / classes.sum(-1, keepdim=True)
        # What is no class of a task, in padded ones, has no probability at all; its logarithm still has to be a number.
        return torch.lerp(votes, even, self.smoothing).clamp_min(torch.finfo(votes.dtype).tiny).log()

    def _similarities(self, queries: Tensor, support: Tensor) -> Tensor:
        if self.distance == "cosine":
            return F.normalize(queries, dim=-1) @ F.normalize(support, dim=-1).mT
        return negative_squared_distances(queries, support)
