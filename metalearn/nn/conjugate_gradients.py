"""Symmetric systems of equations of many tasks at once, by conjugate gradients (Hestenes and Stiefel 1952): no matrix is ever formed."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Solution(NamedTuple):
    """What conjugate gradients came to, for each of T tasks."""

    x: Tensor  # [T, ...]
    residual: Tensor  # [T], the length of right - A x, as the recurrence has it


def conjugate_gradients(
    product: Callable[[Tensor], Tensor],
    right: Tensor,
    steps: int,
    tolerance: Tensor | None = None,
    active: Tensor | None = None,
) -> Solution:
    """The x of A x = right [T, ...], from zeros; every task has a symmetric A of its own.

    A task stops where its direction has no positive curvature, as a matrix that is not positive definite may have it (Steihaug 1983): what it has
    come to by then is its solution, and zeros where that is the first direction.

    Args:
        product: A times a direction [T, ...].
        right: [T, ...].
        steps: products at most.
        tolerance: [T]: a task stops when what is left is no longer than that; None: when nothing is left.
        active: [T] bool: a task that is not keeps zeros; None: all are.
    """
    over = tuple(range(1, right.dim()))
    solution, left = torch.zeros_like(right), right
    direction, squares = left, left.square().sum(over)
    going = squares >= 0 if active is None else active
    least = torch.zeros_like(squares) if tolerance is None else tolerance
    for _ in range(steps):
        going = going & (squares.sqrt() > least)
        if not going.any():
            break
        product_ = product(direction)
        curvature = (direction * product_).sum(over)
        going = going & (curvature > 0)
        size = _each(torch.where(going, squares / curvature, 0.0), right)
        solution, left = solution + size * direction, left - size * product_
        before, squares = squares, torch.where(going, left.square().sum(over), squares)
        direction = torch.where(_each(going, right), left + _each(squares / before, right) * direction, direction)
    return Solution(solution, squares.sqrt())


def _each(values: Tensor, like: Tensor) -> Tensor:
    """[T] -> [T, 1, ...], with as many axes as `like`."""
    return values.view(-1, *[1] * (like.dim() - 1))
