"""The support vector machine of several classes beside scipy's optimizer, its primal problem, and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor
from torch.nn import functional as F

from metalearn.nn.multiclass_svm import fit

Array = NDArray[np.float64]


def tasks(count: int, examples: int, dim: int, ways: int, seed: int = 0, apart: float = 1.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(examples).remainder(ways).expand(count, -1)
    x = torch.randn(count, examples, dim, generator=generator, dtype=torch.float64)
    return x + apart * F.one_hot(y, dim), F.one_hot(y, ways).double()


def by_scipy(x: Array, y: Array, cost: float, diagonal: float) -> Array:
    """The dual problem as written, dense, by sequential quadratic programming: the weights [D, N]."""
    m, ways = y.shape
    kernel = x @ x.T + diagonal * np.eye(m)

    def objective(flat: Array) -> tuple[float, Array]:
        a = flat.reshape(m, ways)
        return 0.5 * float((a * (kernel @ a)).sum()) - float((a * y).sum()), (kernel @ a - y).ravel()

    sums = np.kron(np.eye(m), np.ones((1, ways)))
    found = minimize(
        objective,
        np.zeros(m * ways),
        jac=True,
        method="SLSQP",
        bounds=[(None, bound) for bound in (cost * y).ravel()],
        constraints={"type": "eq", "fun": lambda a: sums @ a, "jac": lambda _: sums},
        options={"maxiter": 1000, "ftol": 1e-14},
    )
    assert found.success
    weights: Array = x.T @ found.x.reshape(m, ways)
    return weights


@pytest.mark.parametrize("cost", [0.01, 0.1, 10.0])
@pytest.mark.parametrize(("examples", "dim", "diagonal"), [(6, 9, 1.0), (12, 4, 1.0), (9, 12, 0.01)])
def test_every_task_is_at_the_optimum_that_scipy_finds(examples: int, dim: int, diagonal: float, cost: float) -> None:
    x, y = tasks(3, examples, dim, 3)
    fitted = fit(x, y, cost, diagonal)
    for task in range(3):
        expected = by_scipy(x[task].numpy(), y[task].numpy(), cost, diagonal)
        np.testing.assert_allclose(fitted[task], expected, atol=2e-5 * max(1, np.abs(expected).max()))


@pytest.mark.parametrize("cost", [0.05, 5.0])
def test_with_hardly_any_diagonal_it_is_the_support_vector_machine_of_crammer_and_singer(cost: float) -> None:
    """No other weights have a lower primal objective, which has no part in how they are found."""
    x, y = tasks(2, 20, 6, 4)
    weight = fit(x, y, cost, 1e-9)

    def primal(weight: Tensor) -> Tensor:
        scores = x @ weight
        margins = scores - (scores * y).sum(-1, keepdim=True) + 1 - y
        return weight.square().sum((1, 2)) / 2 + cost * margins.amax(-1).sum(1)

    least = primal(weight)
    generator = torch.Generator().manual_seed(1)
    for size in (1e-1, 1e-2, 1e-3, 1e-4):
        for _ in range(50):
            other = weight + size * torch.randn(weight.shape, generator=generator, dtype=torch.float64)
            assert (primal(other) > least - 1e-9).all()


def test_far_features_and_many_examples_are_no_difficulty() -> None:
    """The optimum is known: with so much room no example counts but as a support vector, and every margin is kept."""
    x, y = tasks(2, 60, 30, 5, apart=20.0)
    weight = fit(100 * x, y, 10.0, 1e-9)
    scores = 100 * x @ weight
    margins = (scores * y).sum(-1) - scores.masked_fill(y > 0, -torch.inf).amax(-1)
    torch.testing.assert_close(margins.amin(1), torch.ones(2, dtype=torch.float64), atol=1e-4, rtol=0)


def test_equal_examples_of_two_classes_are_no_difficulty() -> None:
    x, y = tasks(1, 6, 4, 2)
    x[0, 1] = x[0, 0]
    weight = fit(x, y, 0.1, 1.0)
    np.testing.assert_allclose(weight[0], by_scipy(x[0].numpy(), y[0].numpy(), 0.1, 1.0), atol=1e-6)


def test_padding_and_classes_that_a_task_does_not_have_change_nothing() -> None:
    x, y = tasks(2, 6, 5, 3)
    padded_x = torch.cat([x, torch.zeros(2, 3, 5, dtype=torch.float64)], dim=1)
    padded_y = F.pad(y, (0, 2, 0, 3))
    alone, padded = fit(x, y, 0.3, 1.0), fit(padded_x, padded_y, 0.3, 1.0)
    torch.testing.assert_close(padded[..., :3], alone)
    assert not padded[..., 3:].any()


def test_tasks_do_not_influence_each_other() -> None:
    x, y = tasks(4, 6, 5, 3)
    x[1] *= 100  # takes more steps than the others
    together = fit(x, y, 0.1, 1.0)
    for task in range(4):
        torch.testing.assert_close(together[task], fit(x[task : task + 1], y[task : task + 1], 0.1, 1.0)[0])


@pytest.mark.thorough
@pytest.mark.parametrize(("cost", "diagonal"), [(0.1, 1.0), (2.0, 0.1)])
@pytest.mark.parametrize(("examples", "dim", "ways"), [(4, 6, 2), (9, 4, 3)])
def test_gradients_are_those_of_finite_differences(
    examples: int, dim: int, ways: int, cost: float, diagonal: float
) -> None:
    x, y = tasks(2, examples, dim, ways)
    queries = tasks(2, 3, dim, ways, seed=1)[0]

    def scores(support: Tensor, query: Tensor) -> Tensor:
        return (query @ fit(support, y, cost, diagonal)).log_softmax(-1)

    assert torch.autograd.gradcheck(scores, (x.requires_grad_(), queries.requires_grad_()), atol=1e-5)


def test_gradients_in_float32_are_those_in_float64_and_so_are_weights() -> None:
    x, y = tasks(2, 20, 32, 20)
    gradients = []
    for dtype in (torch.float32, torch.float64):
        support = x.to(dtype).requires_grad_()
        weight = fit(support, y.to(dtype), 0.1, 1.0)
        assert weight.dtype == dtype
        gradients.append(torch.autograd.grad(weight.square().sum(), support)[0].double())
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-4)
