"""Meta-Curvature against learn2learn's own loop and against its transform written out."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from metalearn.algorithms.metacurvature import MetaCurvature, TaskBatchedTransform, one_task_transform
from metalearn.errors import UserError
from metalearn.nn.l2l import learn2learn
from tests.algorithms.one_task_at_a_time import (
    QUERIES,
    TASKS,
    assert_equal,
    backbone,
    gradients,
    learn2learn_gradients,
    random_tasks,
    shake,
)

TRANSFORMS = ("metacurvature", "kronecker")


def metacurvature(
    transform: str = "metacurvature",
    kind: str = "conv",
    steps: int = 2,
    first_order: bool = False,
    checkpoint_inner: bool = False,
) -> MetaCurvature:
    algorithm = MetaCurvature(
        backbone(kind),
        3,
        transform,
        inner_lr=0.4,
        inner_steps=steps,
        test_inner_steps=steps + 1,
        first_order=first_order,
        checkpoint_inner=checkpoint_inner,
    ).double()
    shake(algorithm.learner.compute_update.parameters())
    return algorithm


def reference(algorithm: MetaCurvature) -> Any:
    """learn2learn's GBML around the plain network, with its transforms as they come, and the same values."""
    l2l = learn2learn()
    transform: Any = l2l.optim.MetaCurvatureTransform
    if algorithm.transform == "kronecker":
        transform = l2l.optim.KroneckerTransform(l2l.nn.KroneckerLinear)
    gbml = l2l.algorithms.GBML(
        copy.deepcopy(algorithm.classifier()),
        transform=transform,
        lr=algorithm.learner.lr,
        first_order=algorithm.learner.first_order,
    ).double()
    with torch.no_grad():
        for theirs, ours in zip(gbml.parameters(), algorithm.parameters(), strict=True):
            theirs.copy_(ours)
    return gbml


@pytest.mark.thorough
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("kind", ["conv", "mlp"])
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("task_chunk", [1, TASKS])
def test_equals_learn2learns_own_loop(transform: str, kind: str, first_order: bool, task_chunk: int) -> None:
    tasks, algorithm = random_tasks(), metacurvature(transform, kind, first_order=first_order)
    theirs = learn2learn_gradients(reference(algorithm), 2, tasks)
    assert_equal(gradients(algorithm, tasks, task_chunk), theirs)


def transformed(transform: str, gradient: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    one_task = one_task_transform(transform, gradient[0]).double()
    shake(one_task.parameters())
    return TaskBatchedTransform(one_task)(gradient).detach(), [factor.detach() for factor in one_task.parameters()]


def random_gradient(*shape: int) -> torch.Tensor:
    return torch.randn(TASKS, *shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def test_metacurvature_multiplies_every_axis_of_a_gradient() -> None:
    gradient = random_gradient(4, 3, 2, 5)  # [T, O, I, h, w]
    update, (of_outputs, of_inputs, of_positions) = transformed("metacurvature", gradient)
    by_hand = torch.einsum("ab,tbcx,cd,yx->tady", of_outputs, gradient.flatten(3), of_inputs, of_positions)
    torch.testing.assert_close(update, by_hand.view_as(gradient))
    gradient = random_gradient(4, 3)
    update, (of_outputs, of_inputs) = transformed("metacurvature", gradient)
    torch.testing.assert_close(update, torch.einsum("ab,tbc,cd->tad", of_outputs, gradient, of_inputs))
    gradient = random_gradient(4)
    update, (scales,) = transformed("metacurvature", gradient)
    torch.testing.assert_close(update, scales * gradient)


def test_kronecker_multiplies_by_squares() -> None:
    gradient = random_gradient(4, 3, 2, 5)
    update, (left, right) = transformed("kronecker", gradient)
    by_hand = torch.einsum("cd,tadx,xy->tacy", left.T @ left, gradient.flatten(3), right.T @ right)
    torch.testing.assert_close(update, by_hand.view_as(gradient))
    gradient = random_gradient(4)
    update, (left, right) = transformed("kronecker", gradient)
    torch.testing.assert_close(update, gradient @ (left.T @ left) * right.square())


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_starts_as_maml(transform: str) -> None:
    algorithm = MetaCurvature(
        backbone("mlp"),
        3,
        transform,
        inner_lr=0.4,
        inner_steps=1,
        test_inner_steps=1,
        first_order=False,
        checkpoint_inner=False,
    ).double()
    tasks, network = random_tasks(), algorithm.classifier()
    adapted = algorithm.adapt(tasks.support)
    loss = F.cross_entropy(network(tasks.support.x[0]), tasks.support.y[0])
    start = dict(network.named_parameters())
    for (name, theta), gradient in zip(start.items(), torch.autograd.grad(loss, list(start.values())), strict=True):
        torch.testing.assert_close(adapted.parameters[name][0], theta - 0.4 * gradient)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_first_order_differs_from_second(transform: str) -> None:
    _, second = gradients(metacurvature(transform, "mlp"), random_tasks(), TASKS)
    _, first = gradients(metacurvature(transform, "mlp", first_order=True), random_tasks(), TASKS)
    assert max(float((a - b).abs().max()) for a, b in zip(first, second, strict=True)) > 1e-3


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_evaluation_takes_its_own_number_of_steps_and_keeps_no_graph(transform: str) -> None:
    tasks, algorithm = random_tasks(), metacurvature(transform, steps=2)
    assert len(list(algorithm.train().adapt_stepwise(tasks.support))) == 3
    states = list(algorithm.eval().adapt_stepwise(tasks.support))
    assert len(states) == 4
    assert not any(parameter.requires_grad for state in states for parameter in state.parameters.values())


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_other_numbers_of_ways_take_the_same_step_where_the_factors_are_symmetric(transform: str) -> None:
    """A head's factors a on the diagonal and b elsewhere, the form that label permutation gives them in the mean, act as a - b for any N."""
    algorithm = metacurvature(transform, steps=0).eval()
    symmetric = 0.7 * torch.eye(3, dtype=torch.float64) + 0.3
    with torch.no_grad():
        for name, factor in algorithm.learner.compute_update.named_parameters():
            of_head = name.startswith(("transforms_modules.16.", "transforms_modules.17."))
            if of_head and name.endswith(("mc_in", "left")):
                factor.copy_(symmetric)
    scale = 0.7 if transform == "metacurvature" else 0.7**2
    for ways in (3, 7):
        tasks = random_tasks(ways=ways)
        before, after = (state.parameters for state in algorithm.adapt_stepwise(tasks.support))
        network = copy.deepcopy(algorithm.classifier())
        network.head.weight = nn.Parameter(before["head.weight"][0])
        network.head.bias = nn.Parameter(before["head.bias"][0])
        loss = F.cross_entropy(network(tasks.support.x[0]), tasks.support.y[0])
        (gradient,) = torch.autograd.grad(loss, [network.head.weight])
        factors = dict(algorithm.learner.compute_update.transforms_modules[16].named_parameters())
        if transform == "metacurvature":
            step = scale * gradient @ factors["transform.mc_out"]
        else:
            right = factors["transform.transform.right"]
            step = scale * gradient @ (right.T @ right)
        torch.testing.assert_close(after["head.weight"][0], before["head.weight"][0] - 0.4 * step)
        assert algorithm.predict(algorithm.adapt(tasks.support), tasks.query.x).shape == (TASKS, ways * QUERIES, ways)


def test_running_statistics_are_refused() -> None:
    with pytest.raises(UserError, match=r"backbone\.running_stats"):
        MetaCurvature(
            backbone(running_stats=True),
            3,
            "metacurvature",
            inner_lr=0.4,
            inner_steps=1,
            test_inner_steps=1,
            first_order=False,
            checkpoint_inner=False,
        )


def test_adaptation_errors_are_raised_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """learn2learn prints a RuntimeError of autograd and goes on; here it must surface as itself."""
    learner = metacurvature().learner.clone()
    with pytest.raises(RuntimeError, match="does not require grad"):
        learner.adapt(torch.zeros(()))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("transform", ["metacurvature", "kronecker"])
def test_inner_steps_taken_twice_have_the_gradient_of_those_that_are_kept(transform: str) -> None:
    tasks = random_tasks()
    kept, again = (
        gradients(metacurvature(transform, steps=3, checkpoint_inner=checkpointed), tasks, TASKS)[1]
        for checkpointed in (False, True)
    )
    assert len(kept) == len(again) > len(list(metacurvature(transform).classifier().parameters()))
    for theirs, ours in zip(kept, again, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-9)
