"""Multinomial logistic regression with a squared penalty, solved to its optimum for many tasks at once.

T tasks, m examples, D features, N classes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metalearn.nn.conjugate_gradients import conjugate_gradients

_NEWTON_STEPS, _HALVINGS = 100, 40  # far more than are needed
_DECREASE = 1e-4  # of what the slope promises, that a step has to bring (Armijo)


class Fit(NamedTuple):
    """The minimiser of -sum over examples of log p(y) + penalty / 2 |W|^2, with p = softmax(x W + b). The bias has no penalty."""

    weight: Tensor  # [T, D, N]
    bias: Tensor  # [T, N]; they sum to 0


def fit(x: Tensor, y: Tensor, penalty: float) -> Fit:
    """Fits each task by itself, in float64 where the device has it.

    Gradients pass to x as they do at the optimum (implicit differentiation), once: not twice.

    Args:
        x: [T, m, D].
        y: [T, m, N], 1 for the class of an example, else 0; rows of zeros are padding. A class without an example keeps weights of zero.
        penalty: above 0.
    """
    with torch.no_grad():
        problem = _Problem(x, y, penalty)
        optimum = problem.minimiser()
        solved = problem.expand(optimum)
    if not (torch.is_grad_enabled() and x.requires_grad):
        return solved
    # At the optimum the gradient g(W, b, x) of the objective is zero, so d(W, b) = -H^-1 dg, where dg is by x alone.
    there = y.sum(-1, keepdim=True)
    error = (_probabilities(x @ solved.weight + solved.bias.unsqueeze(1), y) - y) * there
    by_weight = x.mT @ error + penalty * solved.weight
    weight, bias = _AtOptimum.apply(*solved, by_weight, error.sum(1), functools.partial(problem.solve, optimum))
    return Fit(weight, bias)


class _AtOptimum(torch.autograd.Function):
    """(W, b) as they are; their gradient goes to the gradient of the objective, through the inverse Hessian."""

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, bias: Tensor, by_weight: Tensor, by_bias: Tensor, solve: Callable[..., Fit]
    ) -> tuple[Tensor, Tensor]:
        ctx.solve = solve
        return weight.clone(), bias.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        weight, bias = ctx.solve(*gradients)
        return None, None, -weight, -bias, None


class _Problem:
    """The same problem in coordinates of the space that the examples span: at most m instead of D, as the penalty keeps W within it.

    Parameters are [T, R, N] there; their last row is the bias.
    """

    def __init__(self, x: Tensor, y: Tensor, penalty: float) -> None:
        exact = torch.float32 if x.device.type == "mps" else torch.float64
        self.dtype, self.penalty = x.dtype, penalty
        there = y.sum(-1, keepdim=True).to(exact)
        self.basis, triangle = torch.linalg.qr((x.to(exact) * there).mT)  # [T, D, R - 1], [T, R - 1, m]
        self.x = torch.cat([triangle.mT, there], dim=2)  # [T, m, R]
        self.y, self.there = y.to(exact), there
        self.penalties = torch.full((self.x.shape[2], 1), penalty, dtype=exact, device=x.device)
        self.penalties[-1] = 0.0
        self.close = torch.finfo(exact).eps ** 0.6  # the largest entry of a gradient that counts as zero

    def expand(self, parameters: Tensor) -> Fit:
        """[T, R, N] -> in the space of the features."""
        return Fit((self.basis @ parameters[:, :-1]).to(self.dtype), parameters[:, -1].to(self.dtype))

    def minimiser(self) -> Tensor:
        """Newton's method with a line search, from zeros; a task that has arrived stays where it is."""
        parameters = torch.zeros(*self.y.shape[:1], self.x.shape[2], self.y.shape[2]).to(self.x)
        for _ in range(_NEWTON_STEPS):
            probabilities = self._probabilities(parameters)
            gradient = self.x.mT @ (probabilities - self.y) + self.penalties * parameters
            active = gradient.abs().amax((1, 2)) > self.close
            if not active.any():
                break
            length = gradient.square().sum((1, 2)).sqrt()
            # Roughly at first, exactly near the optimum: so the convergence is as fast as with exact steps.
            step = -self._conjugate_gradients(gradient, probabilities, length.sqrt().clamp_max(0.1) * length, active)
            parameters = parameters + self._step_size(parameters, step, gradient, active) * step
        return parameters

    def solve(self, optimum: Tensor, weight: Tensor, bias: Tensor) -> Fit:
        """H^-1 of [T, D, N] and [T, N], with the Hessian at the optimum."""
        exact = self.x.dtype
        weight, bias = weight.to(exact), self._without_common_part(bias.to(exact))
        within = self.basis.mT @ weight
        right = torch.cat([within, bias.unsqueeze(1)], dim=1)
        probabilities = self._probabilities(optimum)
        length = right.square().sum((1, 2)).sqrt()
        solved = self._conjugate_gradients(right, probabilities, self.close * length, length > 0)
        # What is outside the space of the examples meets the penalty alone.
        outside = (weight - self.basis @ within) / self.penalty
        inside, solved_bias = self.expand(solved)
        return Fit(inside + outside.to(self.dtype), solved_bias)

    def _without_common_part(self, bias: Tensor) -> Tensor:
        """[T, N], less its mean over the classes of a task: what rounding leaves of it would grow without end, as H has no inverse there."""
        classes = (self.y.sum(1) > 0).to(bias)
        return (bias - (bias * classes).sum(1, keepdim=True) / classes.sum(1, keepdim=True)) * classes

    def _probabilities(self, parameters: Tensor) -> Tensor:
        return _probabilities(self.x @ parameters, self.y) * self.there

    def _objective(self, parameters: Tensor) -> Tensor:
        """[T]"""
        log_p = _present(self.x @ parameters, self.y).log_softmax(-1)
        fit = (log_p.where(self.y > 0, 0.0)).sum((1, 2))
        return (self.penalties * parameters.square()).sum((1, 2)) / 2 - fit

    def _hessian(self, probabilities: Tensor, direction: Tensor) -> Tensor:
        """H times direction [T, R, N]."""
        scores = self.x @ direction
        curved = probabilities * (scores - (probabilities * scores).sum(-1, keepdim=True))
        return self.x.mT @ curved + self.penalties * direction

    def _conjugate_gradients(self, right: Tensor, probabilities: Tensor, tolerance: Tensor, active: Tensor) -> Tensor:
        """The v of H v = right [T, R, N], until what is left is shorter than tolerance [T]; zeros where a task is not active [T].

        Adding a number to all biases changes nothing, so H has no inverse in that direction; neither gradients nor steps have a part in it.
        """
        steps = right.shape[1] * right.shape[2]
        return conjugate_gradients(functools.partial(self._hessian, probabilities), right, steps, tolerance, active).x

    def _step_size(self, parameters: Tensor, step: Tensor, gradient: Tensor, active: Tensor) -> Tensor:
        """1, or as many halves of it as the objective needs to go down, [T, 1, 1]; 0 where a task is not active."""
        before, slope = self._objective(parameters), (gradient * step).sum((1, 2))
        slack = 10 * torch.finfo(before.dtype).eps * before.abs()  # near the optimum rounding hides what a step brings
        size = active.to(before)
        for _ in range(_HALVINGS):
            after = self._objective(parameters + _each(size) * step)
            short = after > before + _DECREASE * size * slope + slack
            if not short.any():
                break
            size = torch.where(short, size / 2, size)
        return _each(size)


def _present(logits: Tensor, y: Tensor) -> Tensor:
    """The logits [T, m, N]; minus infinity of classes that have no example."""
    return logits.masked_fill((y.sum(1, keepdim=True) == 0), -torch.inf)


def _probabilities(logits: Tensor, y: Tensor) -> Tensor:
    return _present(logits, y).softmax(-1)


def _each(values: Tensor) -> Tensor:
    return values[:, None, None]
