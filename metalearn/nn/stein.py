"""Stein variational gradient descent (Liu and Wang 2016, https://arxiv.org/abs/1608.04471), for the particles of many tasks at once.

T tasks, M particles of P numbers.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def stein_direction(particles: Tensor, slopes: Tensor, temperature: Tensor | float = 1.0) -> Tensor:
    """Where particles m move: (1 / M) sum over j of k(j, m) slope of j + temperature * gradient of k(j, m) by j (eq. 8).

    Slopes are those of the log density. The kernel is k(j, m) = exp(-|j - m|^2 / h), with h = median of the squared distances between two particles
    of a task / log M (section 5), which counts as constant. A single particle moves along its own slope.

    Args:
        particles: where they are, [T, M, P].
        slopes: the gradient of the log density at each, [T, M, P].
        temperature: factor of the repulsion: at 1 the particles approximate the density itself, above it a flatter one.

    Returns:
        [T, M, P].
    """
    count = particles.shape[1]
    if count == 1:
        return slopes
    # About their mean, so that what is alike in all of them takes no digits from the distances.
    centred = particles - particles.mean(1, keepdim=True)
    squares = squared_distances(centred)
    h = bandwidth(squares.detach())[:, None, None]
    kernel = torch.exp(-squares / h)
    # The sum over j of the gradient of k(j, m) by j is (2 / h) sum over j of k(j, m) (m - j).
    weights = 2 / h * kernel
    repulsion = weights.sum(2, keepdim=True) * centred - weights @ centred
    return (kernel @ slopes + temperature * repulsion) / count


def squared_distances(rows: Tensor) -> Tensor:
    """Between all rows of a task: [T, M, P] -> [T, M, M]; the diagonal is zero."""
    products = rows @ rows.mT
    lengths = products.diagonal(dim1=1, dim2=2)
    return (lengths.unsqueeze(1) + lengths.unsqueeze(2) - 2 * products).clamp_min(0)


def bandwidth(squares: Tensor) -> Tensor:
    """h of the kernel for squared distances [T, M, M] of two particles or more: [T], never 0."""
    count = squares.shape[1]
    one, other = torch.triu_indices(count, count, 1, device=squares.device)
    between = squares[:, one, other]
    return between.quantile(0.5, dim=1).clamp_min(torch.finfo(squares.dtype).tiny ** 0.5) / math.log(count)
