"""The linear support vector machine of several classes (Crammer and Singer 2001, JMLR 2), solved to its optimum for many tasks at once.

T tasks, m examples, D features, N classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

_STEPS = 100  # far more than are needed
_SHORT_OF_THE_BOUND = 0.99  # the part of a step to the nearest bound that is taken


def fit(x: Tensor, y: Tensor, cost: float, diagonal: float) -> Tensor:
    """Weights [T, D, N] whose score is larger for each example's class than for all others, by 1 where that costs little.

    W is the sum over examples i of x_i a_i, where a [m, N] is the solution of the dual problem

        least 1/2 sum over k of a_k . (x x^T + diagonal I) a_k - sum over i of a_iy,  with a_ik <= cost [k = y_i] and sum over k of a_ik = 0.

    With a diagonal of 0 that is the dual of 1/2 |W|^2 + cost sum over i of max over k of (w_k . x_i - w_y . x_i + 1 - [k = y_i]).

    Solved in float64 where the device has it. Gradients pass to x as they do at the optimum (implicit differentiation), once: not twice.

    Args:
        x: [T, m, D].
        y: [T, m, N], 1 for the class of an example, else 0; rows of zeros are padding. A class without an example keeps weights of zero.
        cost: above 0.
        diagonal: above 0; it makes the solution a the only one.
    """
    exact = x.to(torch.float32 if x.device.type == "mps" else torch.float64)
    with torch.no_grad():
        problem = _Problem(exact, y.to(exact).mT, cost, diagonal)
        found, at_optimum = problem.solution()
    if torch.is_grad_enabled() and x.requires_grad:
        # At the optimum the derivative of the objective balances the constraints, so that a moves with it: da = -(its inverse) d(x x^T) a.
        found = _AtOptimum.apply(found, found @ (exact @ exact.mT), at_optimum.solve)
    return (exact.mT @ found.mT).to(x.dtype)


class _AtOptimum(torch.autograd.Function):
    """The solution as it is; its gradient goes to the derivative of the objective, through the inverse of the optimality conditions."""

    @staticmethod
    def forward(ctx: Any, found: Tensor, derivative: Tensor, solve: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.solve = solve
        return found.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return None, -ctx.solve(gradient), None


class _Conditions(NamedTuple):
    """The linear equations (K + diag(d_k)) u_k + v = right_k for each class k, and sum over k of u_k = 0.

    They fall apart into one system for each class, which meet in v: so the work grows with N m^3, not with (N m)^3.
    """

    inverses: Tensor  # [T, N, m, m]; rows and columns of zeros for what is held at zero
    common: Tensor  # [T, m, m], Cholesky's factor of their sum over classes

    def solve(self, right: Tensor) -> Tensor:
        """u [T, N, m] of right [T, N, m]."""
        return self.solve_both(right)[0]

    def solve_both(self, right: Tensor) -> tuple[Tensor, Tensor]:
        """u [T, N, m] and v [T, m]."""
        alone = (self.inverses @ right.unsqueeze(-1)).squeeze(-1)
        common = torch.cholesky_solve(alone.sum(1).unsqueeze(-1), self.common)  # [T, m, 1]
        return alone - (self.inverses @ common.unsqueeze(1)).squeeze(-1), common.squeeze(-1)


class _Point(NamedTuple):
    """Where the method is: variables a, their distance to the bounds, and the multipliers of both kinds of constraint."""

    variables: Tensor  # [T, N, m]
    slack: Tensor  # [T, N, m], above 0
    of_bounds: Tensor  # [T, N, m], above 0
    of_sums: Tensor  # [T, m]

    def moved(self, by: _Point, size: Tensor) -> _Point:
        """By `size` [T] of a step."""
        each = size[:, None, None]
        return _Point(
            self.variables + each * by.variables,
            self.slack + each * by.slack,
            self.of_bounds + each * by.of_bounds,
            self.of_sums + size[:, None] * by.of_sums,
        )


class _Problem:
    """The dual problem with variables [T, N, m], by a primal-dual interior-point method (Mehrotra 1992): predictor, then corrector."""

    def __init__(self, x: Tensor, labels: Tensor, cost: float, diagonal: float) -> None:
        """x [T, m, D]; labels [T, N, m]."""
        there = labels.sum(1) > 0  # [T, m]
        self.exists = there.unsqueeze(1) & (labels.sum(2, keepdim=True) > 0)  # neither of padding nor of absent classes
        self.count = self.exists.sum((1, 2)).to(x)
        self.cost, self.labels, self.bounds = cost, labels, cost * labels
        self.kernel = x @ x.mT + diagonal * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        self.padding = torch.diag_embed((~there).to(x))
        classes = self.exists.any(2).sum(1).view(-1, 1, 1).to(x)
        # Halfway between the bounds and what the others' bounds allow.
        start = cost / 2 * torch.where(labels > 0, 1.0, -1.0 / (classes - 1).clamp_min(1)) * self.exists
        ones = torch.ones_like(start)
        self.start = _Point(
            start, torch.where(self.exists, self.bounds - start, ones), ones, torch.zeros_like(x[..., 0])
        )
        eps = torch.finfo(x.dtype).eps
        self.close = cost * eps**0.9  # the mean of slack times multiplier that counts as zero
        # The largest entry of the other equations that counts as zero.
        self.balanced = eps**0.75 * (1 + cost * self.kernel.diagonal(dim1=1, dim2=2).amax(1))

    def solution(self) -> tuple[Tensor, _Conditions]:
        """The variables [T, N, m], and the optimality conditions there; a task that has arrived stays where it is."""
        point = self.start
        for _ in range(_STEPS):
            left = self._left(point)
            gap = self._mean(point.slack * point.of_bounds)
            active = (gap > self.close) | (left.abs().amax((1, 2)) > self.balanced)
            if not active.any():
                break
            conditions = self._conditions(point.of_bounds / point.slack, self.exists)
            step = self._step(conditions, point, left, point.slack * point.of_bounds)
            size = self._largest(point, step)
            then = point.moved(step, size)
            centring = (self._mean(then.slack * then.of_bounds) / gap) ** 3 * gap
            target = point.slack * point.of_bounds + step.slack * step.of_bounds - centring[:, None, None]
            step = self._step(conditions, point, left, target)
            size = (_SHORT_OF_THE_BOUND * self._largest(point, step)).where(active, 0.0)
            point = point.moved(step, size)
        # A variable is at its bound, and stays there, or between the bounds, and none holds it.
        free = self.exists & (point.slack > self.cost * point.of_bounds)
        return point.variables, self._conditions(torch.zeros_like(point.slack), free)

    def _left(self, point: _Point) -> Tensor:
        """What the derivative by the variables lacks to zero."""
        derivative = point.variables @ self.kernel - self.labels + point.of_bounds + point.of_sums.unsqueeze(1)
        return derivative * self.exists

    def _mean(self, values: Tensor) -> Tensor:
        return (values * self.exists).sum((1, 2)) / self.count

    def _conditions(self, weights: Tensor, free: Tensor) -> _Conditions:
        """With what is not free held at zero; weights [T, N, m]."""
        pairs = free.unsqueeze(-1) & free.unsqueeze(-2)  # [T, N, m, m]
        matrices = self.kernel.unsqueeze(1) * pairs + torch.diag_embed(torch.where(free, weights, 1.0))
        inverses = torch.cholesky_inverse(torch.linalg.cholesky(matrices)) * pairs
        return _Conditions(inverses, torch.linalg.cholesky(inverses.sum(1) + self.padding))

    def _step(self, conditions: _Conditions, point: _Point, left: Tensor, target: Tensor) -> _Point:
        """Newton's, towards slack times multiplier less `target` and nothing `left`."""
        variables, of_sums = conditions.solve_both(target / point.slack * self.exists - left)
        of_bounds = (point.of_bounds * variables - target) / point.slack * self.exists
        return _Point(variables, -variables, of_bounds, of_sums)

    def _largest(self, point: _Point, step: _Point) -> Tensor:
        """How much of a step [T] leaves slack and multipliers at or above zero, at most 1."""
        room = [
            torch.where(change < 0, -value / change.clamp_max(-torch.finfo(value.dtype).tiny), torch.inf).amin((1, 2))
            for value, change in ((point.slack, step.slack), (point.of_bounds, step.of_bounds))
        ]
        return torch.minimum(*room).clamp_max(1.0)
