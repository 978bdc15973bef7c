"""What the learners share that embed every example with one backbone, the same for all tasks, and compare embeddings.

T tasks, N ways, K shots, Q queries per class, D features.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from metalearn.algorithms.base import Algorithm
from metalearn.backbones import Backbone, embed_tasks
from metalearn.tasks import Examples, TaskBatch


class EmbeddingLearner(Algorithm):
    """Base of those learners.

    Args:
        backbone: [n, ...] -> [n, D].
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    @property
    def transductive(self) -> bool:
        return self.backbone.uses_batch_statistics

    def embed(self, x: Tensor) -> Tensor:
        """The examples of T tasks, [T, n, ...] -> [T, n, D]."""
        return embed_tasks(self.backbone, x, self.training)

    def embed_together(self, tasks: TaskBatch) -> tuple[Tensor, Tensor]:
        """Support [T, N*K, D] and queries [T, N*Q, D], which pass the backbone together: its batch statistics are those of the whole task."""
        support = tasks.support.x.shape[1]
        embedded = self.embed(torch.cat([tasks.support.x, tasks.query.x], dim=1))
        return embedded[:, :support], embedded[:, support:]


def memberships(y: Tensor, ways: int, dtype: torch.dtype) -> Tensor:
    """Which example is of which class, as 0 and 1: y [T, m] -> [T, m, N]."""
    return F.one_hot(y, ways).to(dtype)


def class_means(embedded: Tensor, support: Examples) -> Tensor:
    """The mean of each class's embedded support examples: [T, N*K, D] -> [T, N, D]."""
    members = memberships(support.y, support.ways, embedded.dtype)  # [T, N*K, N]
    return members.mT @ embedded / members.sum(1).unsqueeze(-1)
