"""What the learners share that predict numbers with how sure they are of them.

T tasks, K support points, Q query points, n points, D features of x, O output numbers, W width, S samples.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metalearn.algorithms.base import MetaLoss
from metalearn.algorithms.embedding import EmbeddingLearner, joined_mask
from metalearn.kinds import REGRESSION, Kind
from metalearn.nn.hashed_numbers import standard_normal
from metalearn.nn.normals import Normals, divergence, masked_mean
from metalearn.tasks import Examples, TaskBatch


class Points(NamedTuple):
    """Points of T tasks."""

    x: Tensor  # [T, n, D], features
    y: Tensor  # [T, n, O]
    mask: Tensor | None  # [T, n], False where there is padding; None where there is none

    @property
    def pairs(self) -> Tensor:
        """[T, n, D + O]"""
        return torch.cat([self.x, self.y], -1)

    def with_(self, other: Points) -> Points:
        """These points, then those of the other, as one set."""
        mask = joined_mask((self.mask, self.y), (other.mask, other.y))
        return Points(torch.cat([self.x, other.x], 1), torch.cat([self.y, other.y], 1), mask)


class FunctionLearner(EmbeddingLearner):
    """Base of those learners: a subclass gives `adapt`, `predict_distribution` and `meta_loss`. x passes the backbone first.

    Args:
        backbone: [n, ...] -> [n, D].
    """

    kinds: ClassVar[tuple[Kind, ...]] = (REGRESSION,)
    kind: Kind = REGRESSION

    @abstractmethod
    def predict_distribution(self, adapted: Any, query_x: Tensor) -> Normals:
        """The distribution of each query's answer."""

    def predict(self, adapted: Any, query_x: Tensor) -> Tensor:
        return self.predict_distribution(adapted, query_x).mean

    @property
    def masks(self) -> bool:
        return not self.transductive

    @property
    def repeats(self) -> bool:
        return True

    def points(self, examples: Examples) -> Points:
        """Examples, their x embedded; the padding holds zeros."""
        return _points(self.embed(examples.x, examples.mask), examples)

    def points_together(self, tasks: TaskBatch) -> tuple[Points, Points]:
        """Support and query points, whose x pass the backbone together."""
        support, query = self.embed_together(tasks)
        return _points(support, tasks.support), _points(query, tasks.query)

    def likelihood_loss(self, found: Normals, targets: Points, tasks: TaskBatch) -> MetaLoss:
        """The mean negative log-likelihood of each task's targets, for which `found` was predicted.

        The last Q targets are the queries: their score and their likelihood are logged.
        """
        queries = tasks.query.y.shape[1]
        nll = found.nll(targets.y)  # [T, n]
        score = tasks.query.by_task(self.kind.score_of, found.mean[:, -queries:].detach())
        of_queries = masked_mean(nll[:, -queries:].detach(), tasks.query.mask)
        return MetaLoss(masked_mean(nll, targets.mask), {self.kind.score: score, "nll": of_queries})

    def bound_loss(self, found: Normals, targets: Points, tasks: TaskBatch, divergence: Tensor) -> MetaLoss:
        """Minus the evidence lower bound for each target: `likelihood_loss` and the divergence [T] of what the targets add to what is known of z.

        The logged likelihood is that of a z that knows the queries.
        """
        likely = self.likelihood_loss(found, targets, tasks)
        count = targets.y.shape[1] if targets.mask is None else targets.mask.sum(1)
        return MetaLoss(likely.loss + divergence / count, {**likely.metrics, "divergence": divergence.detach()})


def _points(features: Tensor, examples: Examples) -> Points:
    """Of examples whose x is embedded, zeros in the padding's y."""
    y, mask = examples.y.to(examples.x.dtype), examples.mask
    return Points(features, y if mask is None else y.where(mask.unsqueeze(-1), 0), mask)


def network(inputs: int, width: int, outputs: int, layers: int) -> nn.Sequential:
    """`layers` linear layers with ReLU between them: [..., inputs] -> [..., outputs], `width` units in the middle."""
    widths = [inputs, *[width] * (layers - 1), outputs]
    parts: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        parts += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*parts[:-1])


class Decoder(nn.Module):
    """The normal distribution of y at x, given what is known of the task there.

    Args:
        dim: D.
        known: how many numbers say what is known of the task.
        width, layers: of its network.
        outputs: O.
        min_std: what standard deviations are larger than.
    """

    def __init__(self, dim: int, known: int, width: int, layers: int, outputs: int, min_std: float) -> None:
        super().__init__()
        self.network = network(dim + known, width, 2 * outputs, layers)
        self.min_std = min_std

    def forward(self, x: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """x [..., n, D] and known [..., n or 1, W] -> means and standard deviations [..., n, O]."""
        read = self.network(torch.cat([x, known.expand(*x.shape[:-1], -1)], -1))
        mean, raw = _no_bfloat16(read).chunk(2, -1)
        # As in the authors' code, which has 0.1 as the bound.
        return mean, self.min_std + (1 - self.min_std) * F.softplus(raw)


class Belief(NamedTuple):
    """What is known of the latent variable of T tasks: independent normal distributions."""

    mean: Tensor  # [T, Z]
    std: Tensor  # [T, Z]

    def divergence(self, other: Belief) -> Tensor:
        """KL(self || other) of each task, [T]."""
        return divergence(self.mean, self.std, other.mean, other.std).sum(-1)

    def drawn(self, keys: Tensor) -> Tensor:
        """A value for each task that is a function of its key [T], with the gradient of mean and standard deviation: [T, Z]."""
        return self.mean + self.std * standard_normal(keys, self.mean.shape[1]).to(self.mean)

    def values(self, normal: Tensor) -> Tensor:
        """Standard normal numbers [S, Z] as values of the latent variable: [S, T, Z]."""
        return self.mean + self.std * normal.unsqueeze(1).to(self.mean)


class Latent(nn.Module):
    """What a summary of points says about the latent variable: [T, W] -> Belief. As in the authors' code the standard deviations lie in 0.1 .. 1."""

    def __init__(self, width: int, latent: int) -> None:
        super().__init__()
        self.network = network(width, width, 2 * latent, 2)

    def forward(self, summary: Tensor) -> Belief:
        mean, raw = _no_bfloat16(self.network(summary)).chunk(2, -1)
        return Belief(mean, 0.1 + 0.9 * raw.sigmoid())


def fixed_normal(samples: int, numbers: int) -> Tensor:
    """Standard normal numbers that are the same at every call, [samples, numbers]: what latent variables are drawn with where nothing is trained."""
    return torch.randn(samples, numbers, generator=torch.Generator().manual_seed(0))


def _no_bfloat16(x: Tensor) -> Tensor:
    """What distributions are made of, in at least float32."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
