"""Small tasks and learners of functions, for tests."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from metalearn.algorithms.base import Algorithm
from metalearn.data.base import TaskSource
from metalearn.engine.build import build_algorithm, build_dataset
from metalearn.engine.gradient import meta_gradient
from metalearn.tasks import Examples, TaskBatch, TaskShape, VaryingPoints
from tests.compose import compose

SHAPE, VARYING = TaskShape(1, 5, 4), VaryingPoints(1, "varying", 4, 2, 6)


def waves(split: str = "train") -> TaskSource:
    return build_dataset(compose("dataset=sinusoid", "algorithm=maml")).source(split, 0, torch.device("cpu"))


def in_another_order(support: Examples) -> Examples:
    order = torch.randperm(support.x.shape[1], generator=torch.Generator().manual_seed(0))
    return support._replace(x=support.x[:, order], y=support.y[:, order])


def predicted(algorithm: Algorithm, support: Examples, query_x: Tensor) -> tuple[Tensor, Tensor]:
    """Means and standard deviations."""
    found = algorithm.eval().predict_distribution(algorithm.adapt(support), query_x)
    assert found is not None
    return found.mean.detach(), found.std.detach()


def chunk(shape: TaskShape | VaryingPoints, tasks: int = 3) -> TaskBatch:
    return waves("test").tasks(0, tasks, shape)


class Scores(NamedTuple):
    mse: float
    nll: float
    mse_of_another: float  # of tasks whose support points are those of another task
    nll_of_another: float


def learned(name: str, *overrides: str, steps: int) -> Scores:
    """Of 100 test tasks, parts of waves, after so many outer steps of 8 tasks."""
    config = compose("dataset=sinusoid", f"algorithm={name}", *overrides, "dataset.x=[-1.5,1.5]")
    dataset = build_dataset(config)
    algorithm = build_algorithm(config, dataset).train()
    optimizer = torch.optim.Adam(algorithm.parameters(), lr=3e-3)
    shape, source = TaskShape(1, 10, 10), dataset.source("train", 0, torch.device("cpu"))
    for step in range(steps):
        optimizer.zero_grad()
        meta_gradient(algorithm, source.tasks(8 * step, 8, shape), 8, "fp32")
        optimizer.step()
    tasks = dataset.source("test", 0, torch.device("cpu")).tasks(0, 100, shape)
    scores = []
    for support in (tasks.support, tasks.support._replace(x=tasks.support.x.roll(1, 0), y=tasks.support.y.roll(1, 0))):
        with torch.no_grad():
            found = algorithm.eval().predict_distribution(algorithm.adapt(support), tasks.query.x)
        assert found is not None
        scores += [float((found.mean - tasks.query.y).square().mean()), float(found.nll(tasks.query.y).mean())]
    return Scores(*scores)
