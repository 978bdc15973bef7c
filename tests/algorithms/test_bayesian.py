"""Bayesian linear regression on features: the closed form by numpy, task by task, and as a Gaussian process; scipy's likelihood."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats

from metalearn.algorithms.bayesian import Bayesian
from metalearn.backbones import MLP
from metalearn.tasks import Examples, TaskShape, VaryingPoints
from tests.algorithms.function_tasks import SHAPE, VARYING, chunk, in_another_order, learned, predicted

Array = NDArray[np.float64]


def trained(outputs: int = 1) -> Bayesian:
    """One whose prior is what training may make of it."""
    torch.manual_seed(0)
    algorithm = Bayesian(MLP((1,), [12, 7], "none", False), ways=outputs, precision=2.0, noise=0.3).double()
    with torch.no_grad():
        for parameter in (algorithm.prior_mean, algorithm.log_diagonal, algorithm.below, algorithm.log_noise):
            parameter += 0.3 * torch.randn_like(parameter)
    return algorithm


def prior(algorithm: Bayesian) -> tuple[Array, Array, Array]:
    """Mean M, precision P, and the deviation of the noise."""
    root = np.tril(algorithm.below.detach().numpy(), -1) + np.diag(algorithm.log_diagonal.detach().exp().numpy())
    return algorithm.prior_mean.detach().numpy(), root @ root.T, algorithm.log_noise.detach().exp().numpy()


def features(algorithm: Bayesian, x: torch.Tensor) -> Array:
    of: Array = algorithm.backbone(x).detach().numpy()
    return of


def double(part: Examples) -> Examples:
    return part._replace(x=part.x.double(), y=part.y.double())


@pytest.mark.parametrize("shape", [SHAPE, VARYING, TaskShape(1, 20, 4)])
def test_the_posterior_is_the_closed_form_task_by_task(shape: TaskShape | VaryingPoints) -> None:
    algorithm, tasks = trained(), chunk(shape)
    tasks = tasks._replace(support=double(tasks.support), query=double(tasks.query))
    mean, std = predicted(algorithm, tasks.support, tasks.query.x)
    losses = algorithm.train().meta_loss(tasks).loss.detach()
    m, p, noise = prior(algorithm)
    for t, task in enumerate(tasks.chunks(1)):
        phi, at = (features(algorithm, part.x[0]) for part in (task.support, task.query))
        covariance = np.linalg.inv(phi.T @ phi + p)
        weights = covariance @ (phi.T @ task.support.y[0].numpy() + p @ m)
        np.testing.assert_allclose(mean[t], at @ weights, atol=1e-9)
        expected = noise * np.sqrt(1 + np.einsum("nd,de,ne->n", at, covariance, at))
        np.testing.assert_allclose(std[t, :, 0], expected, atol=1e-9)
        nll = -stats.norm.logpdf(task.query.y[0, :, 0].numpy(), (at @ weights)[:, 0], expected)
        assert float(losses[t]) == pytest.approx(nll.mean())


def test_it_is_the_gaussian_process_whose_covariance_the_features_make() -> None:
    """The same by another way: condition the joint distribution of all points instead of that of the weights."""
    algorithm, tasks = trained(), chunk(SHAPE, tasks=1)
    support, query = double(tasks.support), double(tasks.query)
    mean, std = predicted(algorithm, support, query.x)
    m, p, noise = prior(algorithm)
    phi, at = features(algorithm, support.x[0]), features(algorithm, query.x[0])
    both = np.concatenate([phi, at])
    joint = noise**2 * (both @ np.linalg.inv(p) @ both.T + np.eye(len(both)))
    k = len(phi)
    gain = joint[k:, :k] @ np.linalg.inv(joint[:k, :k])
    np.testing.assert_allclose(mean[0], at @ m + gain @ (support.y[0].numpy() - phi @ m), atol=1e-8)
    np.testing.assert_allclose(std[0, :, 0], np.sqrt(np.diag(joint[k:, k:] - gain @ joint[:k, k:])), atol=1e-8)


def test_several_output_numbers_have_weights_and_a_noise_each() -> None:
    algorithm, tasks = trained(outputs=2), chunk(SHAPE)
    support, query = double(tasks.support), double(tasks.query)
    two = support._replace(y=torch.cat([support.y, -3 * support.y], -1))
    mean, std = predicted(algorithm, two, query.x)
    assert mean.shape == std.shape == (3, 4, 2)
    noise = algorithm.log_noise.detach().exp()
    torch.testing.assert_close(std[..., 1] / std[..., 0], (noise[1] / noise[0]).expand(3, 4))


def test_before_a_task_the_prior_is_what_the_settings_say() -> None:
    algorithm = Bayesian(MLP((1,), [6], "none", False), ways=1, precision=4.0, noise=0.5).double()
    m, p, noise = prior(algorithm)
    np.testing.assert_allclose(p, 4.0 * np.eye(6), atol=1e-6)
    assert (float(m.max()), float(noise[0])) == (0.0, pytest.approx(0.5))


def test_the_order_of_the_support_points_means_nothing() -> None:
    algorithm, tasks = trained(), chunk(SHAPE)
    one, other = (
        predicted(algorithm, double(support), tasks.query.x.double())
        for support in (tasks.support, in_another_order(tasks.support))
    )
    torch.testing.assert_close(one, other)


def test_it_learns_features_in_which_waves_are_linear() -> None:
    scores = learned("bayesian", "backbone.hidden=[64,64]", steps=60)
    assert scores.mse < 0.01 * scores.mse_of_another
    assert scores.nll < 0
