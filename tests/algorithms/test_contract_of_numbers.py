"""What every algorithm that learns to regress owes, for each YAML in conf/algorithm: a new file is tested the moment it exists."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
from torch import Tensor

from metalearn.algorithms.base import Algorithm
from metalearn.data.base import TaskSource
from metalearn.engine.able import learners
from metalearn.engine.build import build_algorithm, build_dataset
from metalearn.engine.evaluate import evaluate
from metalearn.engine.gradient import meta_gradient, together
from metalearn.kinds import CLASSIFICATION, REGRESSION
from metalearn.tasks import Examples, TaskBatch, TaskShape, VaryingPoints
from metalearn.testing import check_algorithm
from tests.compose import compose

NAMES = learners(REGRESSION)
pytestmark = pytest.mark.parametrize("name", NAMES)

SHAPE, VARYING = TaskShape(1, 5, 6), VaryingPoints(1, "varying", 6, 2, 7)
SMALL = {"width": 16, "latent": 8, "samples": 3, "heads": 2, "inner_steps": 2, "test_inner_steps": 2}


@functools.cache
def config_of(name: str) -> dict[str, Any]:
    config = compose("dataset=sinusoid", f"algorithm={name}", "backbone=mlp", "backbone.hidden=[8,8]")
    config["algorithm"] |= {key: value for key, value in SMALL.items() if key in config["algorithm"]}
    return config


def make(name: str) -> Algorithm:
    config = copy.deepcopy(config_of(name))
    return build_algorithm(config, build_dataset(config))


def source(split: str = "train") -> TaskSource:
    return build_dataset(config_of(NAMES[0])).source(split, 0, torch.device("cpu"))


def double(tasks: TaskBatch) -> TaskBatch:
    return tasks._replace(support=_double(tasks.support), query=_double(tasks.query))


def _double(part: Examples) -> Examples:
    return part._replace(x=part.x.double(), y=part.y.double())


def outputs(algorithm: Algorithm, tasks: TaskBatch) -> Tensor:
    return algorithm.predict(algorithm.adapt(tasks.support), tasks.query.x).detach()


def test_keeps_what_ships_for_users_algorithms(name: str) -> None:
    if name in learners(CLASSIFICATION):
        pytest.skip("is checked on classes")
    check_algorithm(name)


@pytest.mark.thorough
@pytest.mark.parametrize("shape", [SHAPE, VARYING])
def test_chunks_do_not_change_the_gradient_and_every_parameter_has_one(name: str, shape: Any) -> None:
    gradients, losses = [], []
    for size in (1, 4):
        algorithm, tasks = make(name).double().train(), double(source().tasks(3, 4, shape))
        losses.append(meta_gradient(algorithm, tasks, size, "fp32")["loss"])
        gradients.append([parameter.grad for parameter in algorithm.parameters()])
    torch.testing.assert_close(*losses, atol=1e-9, rtol=1e-8)
    for (parameter, _), one, other in zip(algorithm.named_parameters(), *gradients, strict=True):
        assert one is not None, f"{parameter} has no gradient"
        assert bool(one.isfinite().all()), f"{parameter} has a gradient that is not finite"
        torch.testing.assert_close(one, other, atol=1e-8, rtol=1e-7)
    assert any(bool(one.abs().max() > 0) for one in gradients[0] if one is not None)


def test_the_gradient_in_float32_is_that_in_float64_but_for_rounding(name: str) -> None:
    gradients = []
    for exact in (False, True):
        algorithm, tasks = make(name).train(), source().tasks(0, 4, SHAPE)
        if exact:
            algorithm, tasks = algorithm.double(), double(tasks)
        meta_gradient(algorithm, tasks, 4, "fp32")
        parts = [p.grad.double().flatten() for p in algorithm.parameters() if p.grad is not None]
        gradients.append(torch.cat(parts))
    assert float((gradients[0] - gradients[1]).norm() / gradients[1].norm()) < 0.02


def test_evaluation_changes_nothing_and_gives_the_same_again(name: str) -> None:
    algorithm, tasks = make(name).eval(), source("test").tasks(0, 3, SHAPE)
    before = {key: tensor.clone() for key, tensor in algorithm.state_dict().items()}
    first = outputs(algorithm, tasks)
    assert first.shape == (3, 6, 1)
    assert torch.equal(first, outputs(algorithm, tasks))
    scores = evaluate(algorithm.train(), source("val"), SHAPE, 5, 2, stepwise=True)
    assert scores.score.shape[1] == scores.loss.numel() == 5
    assert algorithm.training
    assert all(torch.equal(before[key], tensor) for key, tensor in algorithm.state_dict().items())


def test_neither_tasks_nor_queries_influence_each_other(name: str) -> None:
    algorithm, tasks = make(name).eval(), source("test").tasks(0, 4, SHAPE)
    whole = outputs(algorithm, tasks)
    alone = tasks.chunks(1)[2]
    torch.testing.assert_close(whole[2:3], outputs(algorithm, alone), atol=1e-4, rtol=1e-4)
    few = alone._replace(query=alone.query._replace(x=alone.query.x[:, :2]))
    assert not algorithm.transductive
    torch.testing.assert_close(whole[2:3, :2], outputs(algorithm, few), atol=1e-4, rtol=1e-4)


def test_tasks_of_other_numbers_of_points_have_the_scores_that_they_have_alone(name: str) -> None:
    algorithm = make(name)
    at_once, alone = (evaluate(algorithm, source("test"), VARYING, 7, size, stepwise=True) for size in (7, 1))
    assert len(set(at_once.about["shots"])) > 1, "the test needs tasks of several sizes"
    torch.testing.assert_close(at_once.loss, alone.loss, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(at_once.score, alone.score, atol=1e-4, rtol=1e-4)
    assert at_once.about == alone.about


def test_what_stands_in_the_padding_is_never_looked_at(name: str) -> None:
    algorithm = make(name).train()
    tasks = source().tasks(0, 4, VARYING)
    if together(algorithm, tasks, 4) == 1:
        return
    mask = tasks.support.mask
    assert mask is not None
    x, y = (part.masked_fill(~mask.unsqueeze(-1), torch.nan) for part in tasks.support[:2])
    outcomes = []
    for batch in (tasks, tasks._replace(support=tasks.support._replace(x=x, y=y))):
        algorithm.zero_grad()
        loss = algorithm.train().meta_loss(batch).loss
        loss.sum().backward()  # type: ignore[no-untyped-call]
        predicted = outputs(algorithm.eval(), batch)
        outcomes.append([loss.detach(), predicted, *(parameter.grad for parameter in algorithm.parameters())])
    for one, other in zip(*outcomes, strict=True):
        torch.testing.assert_close(one, other)


def test_bf16_trains(name: str) -> None:
    algorithm, tasks = make(name).train(), source().tasks(0, 4, SHAPE)
    exact = float(meta_gradient(algorithm, tasks, 4, "fp32")["loss"])
    algorithm.zero_grad(set_to_none=True)
    rounded = float(meta_gradient(algorithm, tasks, 4, "bf16")["loss"])
    assert rounded == pytest.approx(exact, rel=0.1)
    assert all(
        p.grad is not None and p.dtype == torch.float32 and torch.isfinite(p.grad).all() for p in algorithm.parameters()
    )
