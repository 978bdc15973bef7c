"""Meta-SGD against learn2learn's own loop and against its update written out."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional as F

from metalearn.algorithms.metasgd import MetaSGD
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


def metasgd(kind: str = "conv", steps: int = 2, first_order: bool = False, checkpoint_inner: bool = False) -> MetaSGD:
    algorithm = MetaSGD(
        backbone(kind),
        3,
        inner_lr=0.4,
        inner_steps=steps,
        test_inner_steps=steps + 1,
        first_order=first_order,
        checkpoint_inner=checkpoint_inner,
    ).double()
    shake(algorithm.learner.lrs)
    return algorithm


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("kind", ["conv", "mlp"])
@pytest.mark.parametrize("task_chunk", [1, TASKS])
def test_equals_learn2learns_own_loop(kind: str, first_order: bool, task_chunk: int) -> None:
    tasks, algorithm = random_tasks(), metasgd(kind, first_order=first_order)
    reference = learn2learn().algorithms.MetaSGD(
        copy.deepcopy(algorithm.classifier()), lrs=copy.deepcopy(algorithm.learner.lrs), first_order=first_order
    )
    assert_equal(gradients(algorithm, tasks, task_chunk), learn2learn_gradients(reference, 2, tasks))


def test_a_step_is_the_rate_times_the_gradient_elementwise() -> None:
    tasks, algorithm = random_tasks(), metasgd(steps=1)
    adapted = algorithm.adapt(tasks.support)
    network, task = algorithm.classifier(), 2
    loss = F.cross_entropy(network(tasks.support.x[task]), tasks.support.y[task])
    start = dict(network.named_parameters())
    by_hand = torch.autograd.grad(loss, list(start.values()))
    for (name, theta), gradient, rate in zip(start.items(), by_hand, algorithm.learner.lrs, strict=True):
        torch.testing.assert_close(adapted.parameters[name][task], theta - rate * gradient)


def test_rates_start_at_inner_lr_and_are_learned() -> None:
    algorithm = MetaSGD(
        backbone(), 3, inner_lr=0.4, inner_steps=1, test_inner_steps=1, first_order=False, checkpoint_inner=False
    )
    rates = list(algorithm.learner.lrs)
    parameters = list(algorithm.classifier().parameters())
    assert [rate.shape for rate in rates] == [parameter.shape for parameter in parameters]
    assert all(bool((rate == 0.4).all()) for rate in rates)
    assert {id(rate) for rate in rates} <= {id(parameter) for parameter in algorithm.parameters()}


def test_first_order_differs_from_second() -> None:
    _, second = gradients(metasgd("mlp"), random_tasks(), TASKS)
    _, first = gradients(metasgd("mlp", first_order=True), random_tasks(), TASKS)
    assert max(float((a - b).abs().max()) for a, b in zip(first, second, strict=True)) > 1e-3


def test_evaluation_takes_its_own_number_of_steps_and_keeps_no_graph() -> None:
    tasks, algorithm = random_tasks(), metasgd(steps=2)
    assert len(list(algorithm.train().adapt_stepwise(tasks.support))) == 3
    states = list(algorithm.eval().adapt_stepwise(tasks.support))
    assert len(states) == 4
    assert not any(parameter.requires_grad for state in states for parameter in state.parameters.values())


def test_other_numbers_of_ways_take_the_mean_rates_of_the_head() -> None:
    tasks, algorithm = random_tasks(ways=7), metasgd(steps=0).eval()
    before, after = (state.parameters for state in algorithm.adapt_stepwise(tasks.support))
    network = copy.deepcopy(algorithm.classifier())
    network.head.weight = torch.nn.Parameter(before["head.weight"][0])
    network.head.bias = torch.nn.Parameter(before["head.bias"][0])
    loss = F.cross_entropy(network(tasks.support.x[0]), tasks.support.y[0])
    weight, bias = torch.autograd.grad(loss, [network.head.weight, network.head.bias])
    weight_rates, bias_rates = algorithm.learner.lrs[-2:]
    torch.testing.assert_close(after["head.weight"][0], before["head.weight"][0] - weight_rates.mean(0) * weight)
    torch.testing.assert_close(after["head.bias"][0], before["head.bias"][0] - bias_rates.mean() * bias)
    assert algorithm.predict(algorithm.adapt(tasks.support), tasks.query.x).shape == (TASKS, 7 * QUERIES, 7)


def test_running_statistics_are_refused() -> None:
    with pytest.raises(UserError, match=r"backbone\.running_stats"):
        MetaSGD(
            backbone(running_stats=True),
            3,
            inner_lr=0.4,
            inner_steps=1,
            test_inner_steps=1,
            first_order=False,
            checkpoint_inner=False,
        )


def test_inner_steps_taken_twice_have_the_gradient_of_those_that_are_kept() -> None:
    tasks = random_tasks()
    kept, again = (
        gradients(metasgd(steps=3, checkpoint_inner=checkpointed), tasks, TASKS)[1] for checkpointed in (False, True)
    )
    assert len(kept) == len(again) == 2 * len(list(metasgd().classifier().parameters()))
    for theirs, ours in zip(kept, again, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-9)
