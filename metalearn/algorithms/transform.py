"""What happens to features before a learner compares them, and the base of the learners that do no more than that.

T tasks, N ways, K shots, Q queries per class, D features.
"""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metalearn.algorithms.base import MetaLoss
from metalearn.algorithms.embedding import EmbeddingLearner, MetricScale
from metalearn.backbones import Backbone
from metalearn.tasks import Examples, TaskBatch


class FeatureTransform(nn.Module):
    """The three ways to prepare features of Wang, Chao, Weinberger and van der Maaten 2019 (SimpleShot, https://arxiv.org/abs/1911.04623).

    Args:
        kind: "none" leaves features as they are (UN in the paper); "l2" divides each by its length (L2N); "centred_l2" first takes the mean
            feature of the training images from it (CL2N).
        dim: D.
    """

    mean: Tensor  # [D], of the training images; zeros until `fit`

    def __init__(self, kind: str, dim: int) -> None:
        super().__init__()
        self.kind = kind
        if self.fits:
            self.register_buffer("mean", torch.zeros(dim))

    @property
    def fits(self) -> bool:
        """Whether it takes anything from the training images."""
        return self.kind == "centred_l2"

    def forward(self, features: Tensor) -> Tensor:
        """[..., D] -> [..., D]"""
        if self.kind == "none":
            return features
        return F.normalize(features - self.mean if self.fits else features, dim=-1)

    def fit(self, features: Iterable[Tensor]) -> None:
        """Takes the mean of features [n, D], which come in chunks, each example with the same weight."""
        total, count = torch.zeros_like(self.mean, dtype=torch.float64, device="cpu"), 0
        for chunk in features:
            total += chunk.cpu().double().sum(0)  # float32 would lose digits over 100,000 images
            count += len(chunk)
        self.mean.copy_(total / count)


class FeatureLearner(EmbeddingLearner):
    """Base of the learners whose support and query features pass a `FeatureTransform` and then a head that is made for each task.

    Args:
        backbone: [n, ...] -> [n, D].
        transform: "none", "l2" or "centred_l2".
    """

    def __init__(self, backbone: Backbone, transform: str) -> None:
        super().__init__(backbone)
        self.transform = FeatureTransform(transform, backbone.feature_dim)

    def fit(self, images: Iterable[Tensor]) -> None:
        if self.transform.fits:
            self.transform.fit(self.embed(x.unsqueeze(0)).squeeze(0) for x in images)

    @property
    def fits(self) -> bool:
        return self.transform.fits

    @property
    def masks(self) -> bool:
        return not self.transductive

    def embed_examples(self, x: Tensor) -> Tensor:
        return self.features(x.unsqueeze(0)).squeeze(0)

    def features(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Examples of T tasks, [T, n, ...] -> [T, n, D]."""
        transformed: Tensor = self.transform(self.embed(x, mask))
        return transformed

    def features_together(self, tasks: TaskBatch) -> tuple[Tensor, Tensor]:
        """Support [T, N*K, D] and queries [T, N*Q, D], which pass the backbone together, as in training."""
        support, queries = self.embed_together(tasks)
        return self.transform(support), self.transform(queries)


class HeadLearner(FeatureLearner):
    """Base of those among them that can be trained: the gradient of the queries' loss passes the head into the backbone."""

    scale: MetricScale  # of the class scores

    @abstractmethod
    def head(self, features: Tensor, support: Examples) -> Any:
        """A head for each task, of support features [T, N*K, D]."""

    @abstractmethod
    def logits(self, head: Any, queries: Tensor) -> Tensor:
        """Class scores of query features [T, n, D] -> [T, n, N]."""

    def adapt(self, support: Examples) -> Any:
        return self.head(self.features(support.x, support.mask), support)

    def predict(self, adapted: Any, query_x: Tensor) -> Tensor:
        return self.logits(adapted, self.features(query_x))

    def meta_loss(self, tasks: TaskBatch) -> MetaLoss:
        support, queries = self.features_together(tasks)
        logits = self.logits(self.head(support, tasks.support), queries)
        return self.scale.logged_with(self.query_loss(logits, tasks))


@contextlib.contextmanager
def exact(features: Tensor) -> Iterator[Tensor]:
    """The features in at least float32, and no autocast: systems of equations have no bfloat16."""
    with torch.autocast(features.device.type, enabled=False):
        yield features.float() if features.dtype in (torch.bfloat16, torch.float16) else features
