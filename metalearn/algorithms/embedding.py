"""What the learners share that embed every example with one backbone, the same for all tasks, and compare embeddings.

T tasks, N ways, K shots, Q queries per class, D features.
"""

from __future__ import annotations

import copy
import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metalearn.algorithms.base import Algorithm, MetaLoss, TwoSteps
from metalearn.algorithms.class_encoder import ClassEncoder
from metalearn.backbones import Backbone, embed_tasks
from metalearn.errors import UserError
from metalearn.nn.hashed_numbers import content_key
from metalearn.tasks import Examples, TaskBatch


class EmbeddingLearner(Algorithm):
    """Base of those learners. A subclass sees examples through `embed` alone, or says None in `in_two_steps` and `behind_fixed_layers`.

    Args:
        backbone: [n, ...] -> [n, D].
    """

    uneven: ClassVar[bool] = True

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    @property
    def transductive(self) -> bool:
        return self.backbone.uses_batch_statistics

    def in_two_steps(self) -> TwoSteps | None:
        if self.backbone.uses_batch_statistics:
            return None
        return two_steps(self, self.backbone)

    def behind_fixed_layers(self) -> TwoSteps | None:
        parts = self.backbone.in_two_parts()
        return None if parts is None else TwoSteps(parts.fixed, parts.dim, with_backbone(self, parts.behind))

    def embedding(self) -> nn.Module | None:
        return None if self.backbone.uses_batch_statistics else self.backbone

    def embed_examples(self, x: Tensor) -> Tensor:
        return self.embed(x.unsqueeze(0)).squeeze(0)

    def embed(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The examples of T tasks, [T, n, ...] -> [T, n, D]; where mask [T, n] is False, zeros in the place of padding."""
        if x.shape[1] == 0:  # the support set of a zero-shot task
            return torch.zeros(len(x), 0, self.backbone.feature_dim, device=x.device)
        return embed_tasks(self.backbone, x, self.training, mask)

    def embed_together(self, tasks: TaskBatch) -> tuple[Tensor, Tensor]:
        """Support [T, N*K, D] and queries [T, N*Q, D], which pass the backbone together: its batch statistics are those of the whole task."""
        support = tasks.support.x.shape[1]
        mask = joined_mask((tasks.support.mask, tasks.support.y), (tasks.query.mask, tasks.query.y))
        embedded = self.embed(torch.cat([tasks.support.x, tasks.query.x], dim=1), mask)
        return embedded[:, :support], embedded[:, support:]


def joined_mask(*parts: tuple[Tensor | None, Tensor]) -> Tensor | None:
    """The masks of several sets of examples side by side, each with the labels y [T, n, ...] of its set; None where none has padding."""
    if all(mask is None for mask, _ in parts):
        return None
    there = (torch.ones(y.shape[:2], dtype=torch.bool, device=y.device) if mask is None else mask for mask, y in parts)
    return torch.cat(list(there), dim=1)


def two_steps(algorithm: Algorithm, backbone: Backbone) -> TwoSteps:
    """The parts of a learner that has `backbone` as an attribute of this name."""

    def embed(x: Tensor) -> Tensor:
        return embed_tasks(backbone, x.unsqueeze(0), False).squeeze(0)

    encoder = getattr(algorithm, "class_encoder", None)
    describe = embed if isinstance(encoder, ClassEncoder) and encoder.shared else None
    return TwoSteps(embed, backbone.feature_dim, with_backbone(algorithm, Embedded(backbone)), describe)


def with_backbone(algorithm: Algorithm, backbone: Backbone) -> Algorithm:
    """A learner that shares everything but the backbone with `algorithm`, which has one as an attribute of this name."""
    return with_parts(algorithm, backbone=backbone)


def with_parts(algorithm: Algorithm, **parts: nn.Module) -> Algorithm:
    """A learner that shares everything with `algorithm` but the modules that are given, by the names of its attributes."""
    twin = copy.copy(algorithm)
    twin._modules = {**algorithm._modules, **parts}
    return twin


class Embedded(Backbone):
    """The backbone of examples that are embedded already: [n, D] as they are."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.feature_dim, self.map_shape, self.uses_batch_statistics = backbone.feature_dim, backbone.map_shape, False
        self.by_itself = True
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return x


class MetricScale(nn.Module):
    """The factor of the similarities in a softmax over them, an inverse temperature: alpha in softmax(-alpha d).

    Oreshkin, Rodriguez Lopez and Lacoste 2018 (TADAM, https://arxiv.org/abs/1805.10123) show that the gradient depends on it: a large one
    leaves to each query only its nearest wrong class, a small one weighs all classes alike.

    Args:
        scale: the factor, above 0; or "auto" for `automatic`.
        learned: whether outer steps change it, from `scale` on. The parameter is its logarithm: it stays above 0, and a step changes it by
            a share of itself. A scale that is not learned adds nothing to the state.
        automatic: what "auto" stands for.
    """

    def __init__(self, scale: float | str, learned: bool, automatic: float) -> None:
        super().__init__()
        self.fixed = automatic if scale == "auto" else float(scale)
        self.log = nn.Parameter(torch.tensor(math.log(self.fixed))) if learned else None

    def forward(self, similarities: Tensor) -> Tensor:
        return similarities * (self.fixed if self.log is None else self.log.exp())

    def logged_with(self, loss: MetaLoss) -> MetaLoss:
        """The losses of T tasks, and a scale that is learned as a metric of them, `scale`."""
        if self.log is None:
            return loss
        return loss._replace(metrics={**loss.metrics, "scale": self.log.detach().exp().expand_as(loss.loss)})


def scale_of_squares(dim: int) -> float:
    """What "auto" stands for with squared distances between embeddings [.., D]: they grow with the number of features."""
    return 4 / dim


SCALE_OF_COSINES = 10.0  # what "auto" stands for with cosines, which lie within [-1, 1] whatever the number of features


def negative_squared_distances(queries: Tensor, points: Tensor) -> Tensor:
    """Minus the squared Euclidean distances, [T, n, D], [T, m, D] -> [T, n, m], up to a constant per query.

    That constant, the query's own squared norm, is left out: it is equal for all points and cancels in a softmax over them.
    """
    return 2 * queries @ points.transpose(1, 2) - points.square().sum(-1).unsqueeze(1)


def memberships(y: Tensor, ways: int, dtype: torch.dtype, mask: Tensor | None = None) -> Tensor:
    """Which example is of which class, as 0 and 1: y [T, m] -> [T, m, N]. What mask [T, m] takes for padding is of none."""
    members = F.one_hot(y, ways).to(dtype)
    return members if mask is None else members * mask.unsqueeze(-1).to(dtype)


def class_means(embedded: Tensor, support: Examples, descriptions: Tensor | None = None, weight: float = 0.0) -> Tensor:
    """The mean of each class's embedded support examples: [T, N*K, D] -> [T, N, D]; zeros of a class that a task does not have.

    Args:
        descriptions: of the classes, embedded too, [T, N, D]: each counts as `weight` more examples, and stands alone where there are none.
    """
    if descriptions is not None and support.zero_shot:
        return descriptions
    members = memberships(support.y, support.ways, embedded.dtype, support.mask)  # [T, N*K, N]
    sums, counts = members.mT @ embedded, members.sum(1).unsqueeze(-1)
    if descriptions is not None:
        sums, counts = sums + weight * descriptions, counts + weight
        return sums / counts
    return sums / counts.clamp_min(1)


def task_keys(support: Examples) -> Tensor:
    """A number for each task, from its support examples without the padding, whatever tasks come together: int64 [T]."""
    x, mask = support.x, support.mask
    if mask is not None:
        x = x.masked_fill(~mask.view(*mask.shape, *[1] * (x.dim() - 2)), 0)
    return content_key(x)


def refuse_more_ways(ways: int, most: int, what: str) -> None:
    """For learners that have `what`, such as label vectors, for `most` classes.

    Raises:
        UserError: `ways` are more.
    """
    if ways > most:
        raise UserError(
            f"{ways} ways are more than the model has {what} for: algorithm.most_ways={most} (set it before training)"
        )
