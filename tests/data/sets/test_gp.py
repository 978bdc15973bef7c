"""Draws from Gaussian processes: their statistics are those of the kernel, and who knows the kernel predicts them as well as can be."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from metalearn.data.functions import FunctionTasks
from metalearn.data.sets.gp import GaussianProcesses, Processes
from metalearn.engine.build import build_algorithm, build_dataset, check_tasks
from metalearn.engine.evaluate import evaluate
from metalearn.engine.gradient import meta_gradient
from metalearn.errors import UserError
from metalearn.tasks import TaskBatch, TaskShape, VaryingPoints, shape_of
from tests.compose import compose

CPU = torch.device("cpu")
ONE = {"length_scale": [0.5, 0.5], "scale": [0.8, 0.8], "noise": [0.1, 0.1], "period": [1.5, 1.5], "x": [-2.0, 2.0]}
VARYING = VaryingPoints(1, "varying", 4, 3, 7)


def processes(kernel: str, **changed: Any) -> GaussianProcesses:
    return GaussianProcesses([kernel], **(ONE | changed))


def points(tasks: TaskBatch) -> tuple[np.ndarray, ...]:
    """x, y of the support set and x, y of the queries, [T, n] each."""
    return tuple(part[..., 0].double().numpy() for part in (*tasks.support[:2], *tasks.query[:2]))


# The kernels as other people write them, for a length scale of 0.5, a scale of 0.8 and a period of 1.5.
def written(kernel: str, d: float) -> float:
    length, p = 0.5, 1.5
    if kernel == "rbf":
        return 0.64 * math.exp(-(d**2) / (2 * length**2))
    if kernel == "periodic":  # scikit-learn's ExpSineSquared, with a length scale without a unit
        return 0.64 * math.exp(-2 * math.sin(math.pi * d / p) ** 2 / (2 * math.pi * length / p) ** 2)
    # Rasmussen and Williams, eq. 4.14: Matern's kernel by the modified Bessel function
    from scipy.special import gamma, kv

    nu = {"matern32": 1.5, "matern52": 2.5}[kernel]
    z = math.sqrt(2 * nu) * d / length
    return float(0.64 * 2 ** (1 - nu) / gamma(nu) * z**nu * kv(nu, z))


@pytest.mark.parametrize("kernel", ["rbf", "matern32", "matern52", "periodic"])
def test_the_covariance_is_that_of_the_kernel_and_the_draws_have_it(kernel: str) -> None:
    dataset = processes(kernel)
    grid = np.tile([-1.3, -1.0, -0.4, 0.5, 1.9], (4000, 1))
    source = dataset.source("train", 0, CPU)
    assert isinstance(source, FunctionTasks)
    numbers = source.numbers(0, 4000)
    exact = np.array([[written(kernel, abs(a - b) or 1e-12) for b in grid[0]] for a in grid[0]])
    np.testing.assert_allclose(dataset.processes(numbers[:1]).covariance(grid[:1], grid[:1])[0], exact, atol=1e-9)
    uniform = np.random.default_rng(0).random((4000, 5))
    drawn = dataset.values(numbers, grid, lambda n: uniform[:, :n])
    noisy = exact + 0.01 * np.eye(5)
    # Of 4000 draws, a covariance of about 0.65 has a standard error of at most 0.015.
    np.testing.assert_allclose(np.cov(drawn.T), noisy, atol=0.06)
    whitened = np.linalg.solve(np.linalg.cholesky(noisy), drawn.T)
    assert stats.kstest(whitened.ravel(), "norm").pvalue > 1e-4


def test_settings_are_drawn_evenly_from_what_they_may_be() -> None:
    dataset = build_dataset(compose("dataset=gp", "algorithm=maml", "dataset.noise=[0.1,0.3]"))
    assert isinstance(dataset, GaussianProcesses)
    drawn = dataset.exact(dataset.source("val", 1, CPU), 0, 4000)
    assert np.bincount(drawn.kernel, minlength=4) / 4000 == pytest.approx(0.25, abs=0.03)
    for values, (low, high) in [
        (drawn.length_scale, (0.1, 0.6)),
        (drawn.scale, (0.1, 1.0)),
        (drawn.noise, (0.1, 0.3)),
        (drawn.period, (0.5, 2.0)),
    ]:
        assert values.shape == (4000, 1, 1)
        assert stats.kstest((values.ravel() - low) / (high - low), "uniform").pvalue > 1e-4
    tasks = dataset.source("val", 1, CPU).tasks(0, 300, TaskShape(1, 2, 1))
    assert tasks.about["kernel"] == tuple(dataset.kernels[place] for place in drawn.kernel[:300])
    assert stats.kstest((tasks.support.x.numpy().ravel() + 2) / 4, "uniform").pvalue > 1e-4


def test_more_points_of_a_task_are_points_of_the_same_function() -> None:
    source = processes("rbf").source("train", 0, CPU)
    few, more = (source.tasks(5, 3, TaskShape(1, 4, queries)) for queries in (1, 9))
    assert torch.equal(few.support.x, more.support.x)
    torch.testing.assert_close(few.support.y, more.support.y)
    torch.testing.assert_close(few.query.y, more.query.y[:, :1])


def test_the_posterior_of_the_process_is_calibrated_and_no_other_predicts_better() -> None:
    dataset = build_dataset(compose("dataset=gp", "algorithm=maml"))
    assert isinstance(dataset, GaussianProcesses)
    source = dataset.source("test", 0, CPU)
    right = dataset.exact(source, 0, 1000)
    x, y, at, targets = points(source.tasks(0, 1000, TaskShape(1, 10, 10)))
    mean, std = right.posterior(x, y, at)
    standard = (targets - mean) / std
    # Of a normal distribution 95.45 % lie within two deviations; points of a task depend on each other, so the error is that of 1,000 tasks at most.
    assert (abs(standard) < 2).mean() == pytest.approx(0.9545, abs=0.015)
    assert standard.std() == pytest.approx(1, abs=0.05)

    def nll(of: Processes) -> float:
        means, stds = of.posterior(x, y, at)
        return float(-stats.norm.logpdf(targets, means, stds).mean())

    for wrong in (
        right._replace(length_scale=1.3 * right.length_scale),
        right._replace(scale=1.3 * right.scale),
        right._replace(noise=1.5 * right.noise),
        right._replace(kernel=(right.kernel + 1) % 4),
    ):
        assert nll(right) < nll(wrong)


def test_the_posterior_is_that_of_the_joint_distribution_task_by_task() -> None:
    dataset = processes("matern32")
    source = dataset.source("test", 0, CPU)
    of = dataset.exact(source, 0, 3)
    x, y, at, _ = points(source.tasks(0, 3, TaskShape(1, 6, 4)))
    mean, std = of.posterior(x, y, at)
    for task in range(3):
        both = np.concatenate([x[task], at[task]])
        joint = np.array([[written("matern32", abs(a - b) or 1e-12) for b in both] for a in both]) + 0.01 * np.eye(10)
        gain = joint[6:, :6] @ np.linalg.inv(joint[:6, :6])
        np.testing.assert_allclose(mean[task], gain @ y[task], atol=1e-5)
        left = joint[6:, 6:] - gain @ joint[:6, 6:]
        np.testing.assert_allclose(std[task], np.sqrt(np.diag(left)), atol=1e-5)


@pytest.mark.parametrize("name", ["gp", "sinusoid"])
def test_the_number_of_support_points_is_a_function_of_the_task(name: str) -> None:
    dataset = build_dataset(compose(f"dataset={name}", "algorithm=maml"))
    source = dataset.source("train", 0, CPU)
    tasks = source.tasks(0, 200, VARYING)
    assert tasks.support.counts is not None
    assert set(tasks.support.counts) == {3, 4, 5, 6, 7}
    assert tasks.about["shots"] == tasks.support.counts
    assert tasks.query.counts is None
    whole = source.tasks(0, 200, TaskShape(1, 7, 4))  # the same functions and points, all of them
    assert torch.equal(tasks.query.y, whole.query.y)
    mask = tasks.support.mask
    assert mask is not None
    for part in ("x", "y"):
        padded, full = (getattr(of.support, part)[..., 0] for of in (tasks, whole))
        assert torch.equal(padded[mask], full[mask])
        assert not padded[~mask].any()
    for number in (11, 3):
        alone = source.tasks(number, 1, VARYING)
        assert alone.support.x.shape[1] == tasks.support.counts[number]
        assert torch.equal(alone.support.y[0], whole.support.y[number, : tasks.support.counts[number]])


def test_learners_without_a_mask_get_such_tasks_one_by_one() -> None:
    config = compose("dataset=gp", "algorithm=maml")
    dataset = build_dataset(config)
    algorithm = build_algorithm(config, dataset).train()
    source = dataset.source("train", 0, CPU)
    assert shape_of(config["task"]) == VaryingPoints(1, "varying", 50, 3, 50)
    sums = meta_gradient(algorithm, source.tasks(0, 3, VARYING), 3, "fp32")
    assert math.isfinite(float(sums["mse"]))
    together, alone = (evaluate(algorithm, source, VARYING, 4, chunk, stepwise=True) for chunk in (4, 1))
    torch.testing.assert_close(together.score, alone.score)


def test_tasks_of_varying_points_are_refused_where_there_are_no_functions() -> None:
    config = compose("algorithm=maml", "task=varying_regression")
    with pytest.raises(UserError, match=r"^glyphs cannot serve the train tasks: they are no functions .*\(task=vary"):
        check_tasks(build_dataset(config), config["task"], "train")
    waves = build_dataset(compose("dataset=sinusoid", "algorithm=maml"))
    for key, split in (("task", "test"), ("task.train", "train")):
        with pytest.raises(UserError, match=rf"^{key}.min_shots=9 is more than {key}.max_shots=7, the most support"):
            waves.check(split, VARYING._replace(min_shots=9))
        with pytest.raises(UserError, match=rf"^{key}.ways=5: the tasks of sinusoid have no classes"):
            waves.check(split, TaskShape(5, 1, 1))


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("kernels=[rbf,cosine]", r"dataset\.kernels=\['rbf', 'cosine'\] is not allowed \(some of: rbf, matern32,"),
        ("kernels=[]", r"dataset\.kernels=\[\]"),
        ("noise=[0.3,0.2]", r"dataset\.noise=\[0\.3, 0\.2\] is not allowed .*, or equal ones"),
        ("noise=[0.1,0.2,0.3]", r"dataset\.noise=\[0\.1, 0\.2, 0\.3\] is not allowed"),
        ("x=[1.0,1.0]", r"dataset\.x=\[1\.0, 1\.0\] is not allowed"),
    ],
)
def test_settings_that_mean_nothing_are_refused_in_one_line(setting: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        build_dataset(compose("dataset=gp", "algorithm=maml", f"dataset.{setting}"))
