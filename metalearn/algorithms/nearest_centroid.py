"""SimpleShot (Wang, Chao, Weinberger and van der Maaten 2019, https://arxiv.org/abs/1911.04623): the nearest class mean of given features.

Nothing is learned for a task. Features are left as they are, divided by their length, or centred by the mean feature of the training images and
then divided by their length (UN, L2N, CL2N in the paper); a class is the mean of its transformed support features, and a query belongs to the
nearest of them.

The features come from a backbone that was trained before: from `train.init` or a pre-trained one. As in the paper, nothing trains here by
default; with `train.steps` above 0 the loss of the queries trains the backbone as in Prototypical Networks, with this transform and distance.

Without support examples a class is what its description is embedded as by a class encoder (Snell, Swersky and Zemel 2017, section 2.7), and
transformed as examples are; this paper has no such tasks.

Departures: the paper names no probabilities; here they are the softmax over similarities times `scale`. With more than one shot the paper's
centroids are the means of transformed features and are not normalised again, as here.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from metalearn.algorithms.class_encoder import ClassEncoder, described
from metalearn.algorithms.embedding import (
    SCALE_OF_COSINES,
    MetricScale,
    class_means,
    negative_squared_distances,
    scale_of_squares,
)
from metalearn.algorithms.transform import HeadLearner
from metalearn.backbones import Backbone
from metalearn.tasks import Examples


class NearestCentroid(HeadLearner):
    """Labels a query by the nearest mean of transformed support features.

    Args:
        backbone: [n, ...] -> [n, D].
        transform: of features: "none", "l2" or "centred_l2".
        distance: "squared_euclidean" or "cosine".
        scale: factor of the similarities in the softmax; "auto" for 4 / D where features keep their length and distances are squared, else 10.
        learn_scale: whether outer steps change it, from `scale` on.
        class_encoder: of the descriptions of classes; None: there are support examples in every task.
        description_weight: how many support examples a description counts as beside them.
    """

    zero_shot: ClassVar[bool] = True

    def __init__(
        self,
        backbone: Backbone,
        transform: str,
        distance: str,
        scale: float | str,
        learn_scale: bool,
        class_encoder: ClassEncoder | None = None,
        description_weight: float = 0.0,
    ) -> None:
        super().__init__(backbone, transform)
        self.distance = distance
        bounded = distance == "cosine" or transform != "none"
        self.scale = MetricScale(
            scale, learn_scale, SCALE_OF_COSINES if bounded else scale_of_squares(backbone.feature_dim)
        )
        self.class_encoder, self.description_weight = class_encoder, description_weight

    def head(self, features: Tensor, support: Examples) -> Tensor:
        """Centroids [T, N, D]."""
        descriptions = described(self.class_encoder, self.description_weight, support, self.backbone)
        if descriptions is not None:
            descriptions = self.transform(descriptions)
        return class_means(features, support, descriptions, self.description_weight)

    @property
    def repeats(self) -> bool:
        return True

    def logits(self, head: Tensor, queries: Tensor) -> Tensor:
        if self.distance == "cosine":
            similarities = F.normalize(queries, dim=-1) @ F.normalize(head, dim=-1).mT
        else:
            similarities = negative_squared_distances(queries, head)
        logits: Tensor = self.scale(similarities)
        return logits
