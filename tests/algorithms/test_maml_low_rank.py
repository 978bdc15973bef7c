"""MAML without weights for each task against MAML with them; that one is compared with learn2learn's own loop in test_maml.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from metalearn.algorithms.maml import MAML
from metalearn.backbones import MLP, Conv4
from metalearn.engine.gradient import meta_gradient
from metalearn.kinds import REGRESSION
from metalearn.nn.low_rank_steps import LowRank
from metalearn.tasks import Examples, TaskBatch

WAYS, TASKS = 3, 4
SHAPE = (1, 6, 6)


class WithWeightsOfEachTask(MAML):
    """Takes the ordinary way, as every subclass does."""


def tasks_of(
    shots: int = 1, queries: int = 15, dtype: torch.dtype = torch.float64, ways: int = WAYS, tasks: int = TASKS
) -> TaskBatch:
    generator = torch.Generator().manual_seed(0)

    def examples(each: int) -> Examples:
        x = torch.rand(tasks, ways * each, *SHAPE, generator=generator, dtype=dtype)
        return Examples(x, torch.arange(ways).repeat_interleave(each).expand(tasks, -1), ways)

    return TaskBatch(examples(shots), examples(queries), torch.zeros(tasks, ways, dtype=torch.int64))


def both(dtype: torch.dtype = torch.float64, norm: str = "batch", **settings: Any) -> tuple[MAML, MAML]:
    """The same learner, without weights for each task and with them."""
    chosen = {
        "inner_lr": 0.4,
        "inner_steps": 2,
        "test_inner_steps": 3,
        "first_order": False,
        "learn_rates": False,
        "multi_step_loss_until": 0,
        "first_order_until": 0,
        "checkpoint_inner": False,
        "norm_parameters": "adapted",
        "head_parameters": "adapted",
        **settings,
    }
    made = []
    for kind in (MAML, WithWeightsOfEachTask):
        torch.manual_seed(1)
        learner = kind(MLP(SHAPE, hidden=[24, 16], norm=norm, running_stats=False), WAYS, **chosen)
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for parameter in learner.parameters():  # gains and shifts other than 1 and 0
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
        made.append(learner.to(dtype))
    return made[0], made[1]


def in_low_rank(learner: MAML, tasks: TaskBatch) -> bool:
    return isinstance(learner.adapt(tasks.support).parameters, LowRank)


def outcome(learner: MAML, tasks: TaskBatch, task_chunk: int = TASKS, precision: str = "fp32") -> Tensor:
    """Loss, accuracy and the meta-gradient in a row."""
    learner.zero_grad(set_to_none=True)
    means = meta_gradient(learner, tasks, task_chunk, precision)
    gradients = [parameter.grad.flatten() for parameter in learner.parameters() if parameter.grad is not None]
    return torch.cat([torch.stack(list(means.values())), *gradients])


def assert_equal(tasks: TaskBatch, low_rank: MAML, plain: MAML, task_chunk: int = TASKS) -> None:
    assert in_low_rank(low_rank, tasks)
    assert not in_low_rank(plain, tasks)
    found, expected = outcome(low_rank, tasks, task_chunk), outcome(plain, tasks, task_chunk)
    assert len(found) == 2 + sum(parameter.numel() for parameter in plain.parameters())
    assert expected[2:].abs().max() > 1e-2
    tolerance = 1e-10 if found.dtype == torch.float64 else 1e-5
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("queries", [1, 15])
@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("norm", ["batch", "none"])
def test_the_meta_gradient_is_the_same(norm: str, steps: int, queries: int, first_order: bool) -> None:
    assert_equal(tasks_of(queries=queries), *both(norm=norm, inner_steps=steps, first_order=first_order))


@pytest.mark.parametrize("steps", [1, 3])
def test_in_float32_it_is_the_same_to_rounding(steps: int) -> None:
    # No normalisation: of nearly equal values it makes large numbers of rounding errors.
    assert_equal(
        tasks_of(dtype=torch.float32), *both(torch.float32, norm="none", inner_steps=steps, test_inner_steps=steps)
    )


@pytest.mark.parametrize("settings", [{"multi_step_loss_until": 4}, {"first_order_until": 4}])
@pytest.mark.parametrize("outer_step", [1, 5])
def test_annealed_options_are_the_same(settings: dict[str, int], outer_step: int) -> None:
    low_rank, plain = both(**settings)
    low_rank.outer_step = plain.outer_step = outer_step
    assert_equal(tasks_of(), low_rank, plain)


@pytest.mark.parametrize("task_chunk", [1, 3])
def test_the_meta_gradient_does_not_depend_on_the_chunk(task_chunk: int) -> None:
    low_rank, _ = both()
    whole, chunked = outcome(low_rank, tasks_of()), outcome(low_rank, tasks_of(), task_chunk)
    torch.testing.assert_close(chunked, whole, atol=1e-10, rtol=1e-10)


def test_tasks_of_numbers_are_the_same() -> None:
    generator = torch.Generator().manual_seed(0)
    support, query = (
        Examples(
            torch.rand(TASKS, n, *SHAPE, generator=generator).double(),
            torch.rand(TASKS, n, WAYS, generator=generator).double(),
            WAYS,
        )
        for n in (4, 7)
    )
    tasks = TaskBatch(support, query, torch.zeros(TASKS, 0, dtype=torch.int64))
    low_rank, plain = both(norm="none", inner_lr=0.05)
    low_rank.kind = plain.kind = REGRESSION
    assert_equal(tasks, low_rank, plain)


@pytest.mark.parametrize("first_order", [False, True])
def test_adapted_parameters_can_be_asked_for(first_order: bool) -> None:
    tasks = tasks_of()
    low_rank, plain = both(first_order=first_order)
    states = zip(low_rank.adapt_stepwise(tasks.support), plain.adapt_stepwise(tasks.support), strict=True)
    for ours, theirs in states:
        assert list(ours.parameters) == list(theirs.parameters)
        for name, parameter in theirs.parameters.items():
            torch.testing.assert_close(ours.parameters[name], parameter, atol=1e-10, rtol=1e-10, msg=name)


@pytest.mark.parametrize("transductive", [True, False])
@pytest.mark.parametrize("ways", [WAYS, 5])
@torch.no_grad()
def test_predictions_after_each_step_are_the_same(ways: int, transductive: bool) -> None:
    tasks = tasks_of(ways=ways)
    found = []
    for learner in both():
        learner.eval().set_transductive(transductive)
        states = list(learner.adapt_stepwise(tasks.support))
        assert len(states) == 4
        assert not any(parameter.requires_grad for state in states for parameter in state.parameters.values())
        found.append(torch.stack(list(learner.predict_each(states, tasks.query.x))))
        alone = learner.predict(learner.adapt(tasks.support), tasks.query.x)
        torch.testing.assert_close(alone, found[-1][-1], atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(*found, atol=1e-10, rtol=1e-10)


def test_an_adapted_network_can_be_deployed() -> None:
    tasks = tasks_of(tasks=1)
    found = []
    for learner in both(norm="none"):
        adapted = learner.eval().adapt(tasks.support)
        found.append(learner.deployed(adapted)(tasks.query.x[0]))
        torch.testing.assert_close(found[-1], learner.predict(adapted, tasks.query.x)[0], atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(*found, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize(
    "settings",
    [
        {"learn_rates": True},
        {"checkpoint_inner": True},
        {"norm_parameters": "shared"},
        {"norm_parameters": "per_step"},
        {"head_parameters": "shared"},
    ],
    ids=lambda settings: "-".join(settings),
)
def test_other_inner_loops_have_weights_for_each_task(settings: dict[str, Any]) -> None:
    learner, _ = both(**settings)
    assert not in_low_rank(learner, tasks_of())


def test_many_support_examples_get_weights_for_each_task() -> None:
    learner, _ = both()
    assert in_low_rank(learner, tasks_of(shots=2))
    assert not in_low_rank(learner, tasks_of(shots=20))


def test_a_convolutional_network_gets_weights_for_each_task() -> None:
    backbone = Conv4((1, 16, 16), filters=4, downsample="stride", norm="batch", running_stats=False, pool="mean")
    learner = MAML(backbone, WAYS, 0.4, 1, 1, False, False, 0, 0, False, "adapted", "adapted")
    support = Examples(torch.rand(2, WAYS, 1, 16, 16), torch.arange(WAYS).expand(2, -1), WAYS)
    assert not isinstance(learner.adapt(support).parameters, LowRank)


def test_bfloat16_takes_the_ordinary_way() -> None:
    tasks = tasks_of(dtype=torch.float32)
    low_rank, plain = both(torch.float32, norm="none")
    found, expected = (outcome(learner, tasks, precision="bf16") for learner in (low_rank, plain))
    assert torch.equal(found, expected)
    assert not torch.equal(found, outcome(low_rank, tasks))
    with torch.autocast("cpu", torch.bfloat16):
        assert not in_low_rank(low_rank, tasks)


def test_other_devices_take_the_ordinary_way() -> None:
    low_rank, _ = both(torch.float32)
    support = tasks_of(dtype=torch.float32).support
    elsewhere = support._replace(x=support.x.to("meta"), y=support.y.to("meta"))
    assert not isinstance(low_rank.to("meta").adapt(elsewhere).parameters, LowRank)


def test_one_value_per_channel_is_refused_as_ever() -> None:
    for learner in both():
        support = tasks_of(ways=1).support
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            learner.adapt(support)
