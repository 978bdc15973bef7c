"""Logistic regression beside scipy's optimizer, and its gradients beside finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor
from torch.nn import functional as F

from metalearn.nn.softmax_regression import fit


def tasks(count: int, examples: int, dim: int, ways: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(examples).remainder(ways).expand(count, -1)
    x = torch.randn(count, examples, dim, generator=generator, dtype=torch.float64) + F.one_hot(y, dim)
    return x, F.one_hot(y, ways).double()


def by_scipy(
    x: NDArray[np.float64], y: NDArray[np.float64], penalty: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The objective as written, by L-BFGS with torch's gradient, from zeros."""
    dim, ways = x.shape[1], y.shape[1]

    def objective(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        parameters = torch.tensor(flat, requires_grad=True)
        weight, bias = parameters[: dim * ways].view(dim, ways), parameters[dim * ways :]
        losses = F.cross_entropy(torch.tensor(x) @ weight + bias, torch.tensor(y), reduction="sum")
        value = losses + penalty / 2 * weight.square().sum()
        (gradient,) = torch.autograd.grad(value, parameters)
        return float(value.detach()), gradient.numpy()

    found = minimize(
        objective,
        np.zeros((dim + 1) * ways),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 10_000, "ftol": 1e-15, "gtol": 1e-9},
    )
    return found.x[: dim * ways].reshape(dim, ways), found.x[dim * ways :]


@pytest.mark.parametrize("penalty", [0.01, 1.0, 100.0])
@pytest.mark.parametrize(("examples", "dim"), [(6, 9), (20, 4)])
def test_every_task_is_at_the_optimum_that_scipy_finds(examples: int, dim: int, penalty: float) -> None:
    x, y = tasks(3, examples, dim, 3)
    fitted = fit(x, y, penalty)
    for task in range(3):
        weight, bias = by_scipy(x[task].numpy(), y[task].numpy(), penalty)
        np.testing.assert_allclose(fitted.weight[task], weight, atol=1e-5 / penalty**0.5)
        np.testing.assert_allclose(
            fitted.bias[task] - fitted.bias[task].mean(), bias - bias.mean(), atol=1e-5 / penalty**0.5
        )


def test_the_gradient_is_zero_even_with_hardly_any_penalty_and_large_features() -> None:
    x, y = tasks(4, 15, 8, 5)
    x, penalty = 30 * x, 1e-4
    weight, bias = fit(x, y, penalty)
    error = (x @ weight + bias.unsqueeze(1)).softmax(-1) - y
    assert float((x.mT @ error + penalty * weight).abs().max()) < 1e-8
    assert float(error.sum(1).abs().max()) < 1e-8


def test_equal_and_linearly_dependent_examples_are_no_difficulty() -> None:
    x, y = tasks(1, 6, 4, 2)
    x[0, 2], x[0, 4] = x[0, 0], 0.0
    weight, bias = fit(x, y, 0.1)
    expected_weight, expected_bias = by_scipy(x[0].numpy(), y[0].numpy(), 0.1)
    np.testing.assert_allclose(weight[0], expected_weight, atol=1e-5)
    np.testing.assert_allclose(bias[0] - bias[0].mean(), expected_bias - expected_bias.mean(), atol=1e-5)


def test_padding_and_classes_that_a_task_does_not_have_change_nothing() -> None:
    x, y = tasks(2, 6, 5, 3)
    padded_x = torch.cat([x, torch.rand(2, 3, 5, dtype=torch.float64)], dim=1)
    padded_y = F.pad(y, (0, 2, 0, 3))
    alone, padded = fit(x, y, 1.0), fit(padded_x, padded_y, 1.0)
    torch.testing.assert_close(padded.weight[..., :3], alone.weight)
    torch.testing.assert_close(padded.bias[..., :3], alone.bias)
    assert not padded.weight[..., 3:].any()


def test_tasks_do_not_influence_each_other() -> None:
    x, y = tasks(4, 6, 5, 3)
    x[1] *= 100  # takes more steps than the others
    together = fit(x, y, 0.01)
    for task in range(4):
        alone = fit(x[task : task + 1], y[task : task + 1], 0.01)
        torch.testing.assert_close(together.weight[task], alone.weight[0])
        torch.testing.assert_close(together.bias[task], alone.bias[0])


@pytest.mark.parametrize(("examples", "dim"), [(4, 6), (8, 3)])
def test_gradients_are_those_of_finite_differences(examples: int, dim: int) -> None:
    x, y = tasks(2, examples, dim, 2)
    queries = tasks(2, 3, dim, 2, seed=1)[0]

    def scores(support: Tensor, query: Tensor) -> Tensor:
        weight, bias = fit(support, y, 0.5)
        return (query @ weight + bias.unsqueeze(1)).log_softmax(-1)

    assert torch.autograd.gradcheck(scores, (x.requires_grad_(), queries.requires_grad_()), atol=1e-5)


def test_gradients_in_float32_are_those_in_float64() -> None:
    """Rounded, the gradient of the biases has a part that changes nothing, in which the Hessian has no inverse."""
    x, y = tasks(2, 20, 32, 20)
    y = F.pad(y, (0, 1))  # and a class that no task has
    queries = tasks(2, 60, 32, 20, seed=1)[0]
    gradients = []
    for dtype in (torch.float32, torch.float64):
        support = F.normalize(x.to(dtype), dim=-1).requires_grad_()
        weight, bias = fit(support, y.to(dtype), 0.01)
        scores = F.normalize(queries.to(dtype), dim=-1) @ weight + bias.unsqueeze(1)
        loss = F.cross_entropy(scores[..., :20].flatten(0, 1), torch.arange(120) % 20)
        gradients.append(torch.autograd.grad(loss, support)[0].double())
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-4)


def test_float32_comes_back_as_float32() -> None:
    x, y = tasks(2, 6, 5, 3)
    exact, rounded = fit(x, y, 1.0), fit(x.float(), y.float(), 1.0)
    assert rounded.weight.dtype == rounded.bias.dtype == torch.float32
    torch.testing.assert_close(rounded.weight, exact.weight.float(), atol=1e-5, rtol=1e-5)
