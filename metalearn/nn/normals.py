"""What a learner predicts for numbers, with how sure it is: for each query a mixture of normal distributions.

Letters: S parts of the mixture, T tasks, n queries of each, D output numbers.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Normals(NamedTuple):
    """For each query a mixture of S normal distributions of equal weight, each independent over output numbers; S = 1 is one normal distribution."""

    means: Tensor  # [S, T, n, D]
    stds: Tensor  # [S, T, n, D], standard deviations, above 0

    @classmethod
    def one(cls, mean: Tensor, std: Tensor) -> Normals:
        """One normal distribution for each query: mean and std [T, n, D]."""
        return cls(mean.unsqueeze(0), std.unsqueeze(0))

    @property
    def mean(self) -> Tensor:
        """[T, n, D]"""
        return self.means.mean(0)

    @property
    def std(self) -> Tensor:
        """The standard deviations of the mixture, [T, n, D]."""
        between = (self.means - self.mean).square().mean(0)
        return (self.stds.square().mean(0) + between).sqrt()

    def nll(self, y: Tensor) -> Tensor:
        """The negative log-likelihood of y [T, n, D] for each query, its output numbers together: [T, n], in nats."""
        of_parts = log_density(y, self.means, self.stds).sum(-1)  # [S, T, n]
        return math.log(len(of_parts)) - of_parts.logsumexp(0)


def log_density(y: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Of normal distributions, element by element."""
    return -0.5 * ((y - mean) / std).square() - std.log() - 0.5 * math.log(2 * math.pi)


def divergence(mean: Tensor, std: Tensor, from_mean: Tensor, from_std: Tensor) -> Tensor:
    """The Kullback-Leibler divergence KL(N(mean, std) || N(from_mean, from_std)), element by element, in nats."""
    ratio = std / from_std
    return 0.5 * (ratio.square() + ((mean - from_mean) / from_std).square() - 1) - ratio.log()


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """The mean over the examples of each task, without those that mask [T, n] takes for padding: [T, n, ...] -> [T, ...]."""
    if mask is None:
        return values.mean(1)
    there = mask.view(*mask.shape, *[1] * (values.dim() - 2))
    # Not a product: padding may hold NaN.
    return torch.where(there, values, 0).sum(1) / there.sum(1)
