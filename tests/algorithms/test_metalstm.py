"""The meta-learner LSTM beside first-order MAML, and beside one task and one coordinate at a time."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from metalearn.algorithms.inner_loop import in_rows
from metalearn.algorithms.maml import MAML
from metalearn.algorithms.metalstm import MetaLSTM, preprocessed
from metalearn.algorithms.reptile import mini_batches
from metalearn.errors import UserError
from tests.algorithms.one_task_at_a_time import (
    SHOTS,
    TASKS,
    WAYS,
    assert_equal,
    backbone,
    gradient_of,
    gradients,
    random_tasks,
    shake,
)


def metalstm(kind: str = "conv", **settings: Any) -> MetaLSTM:
    defaults = {
        "hidden": 4,
        "inner_lr": 0.2,
        "keep": 0.9,
        "inner_steps": 3,
        "test_inner_steps": 3,
        "inner_batch": None,
    }
    return MetaLSTM(backbone(kind), WAYS, **{**defaults, **settings}).double().train()


def fix_gates(algorithm: MetaLSTM, rate: float) -> None:
    """f = 1 and i = rate, whatever is seen."""
    with torch.no_grad():
        for layer, bias in ((algorithm.gates.forget, 60.0), (algorithm.gates.write, math.log(rate / (1 - rate)))):
            layer.weight.zero_()
            layer.bias.fill_(bias)


@pytest.mark.parametrize("kind", ["conv", "mlp"])
def test_with_fixed_gates_it_is_first_order_maml(kind: str) -> None:
    tasks, rate = random_tasks(), 0.3
    ours = metalstm(kind)
    fix_gates(ours, rate)
    maml = MAML(
        backbone(kind),
        WAYS,
        inner_lr=rate,
        inner_steps=3,
        test_inner_steps=3,
        first_order=True,
        learn_rates=False,
        multi_step_loss_until=0,
        first_order_until=0,
        checkpoint_inner=False,
        norm_parameters="adapted",
        head_parameters="adapted",
    )
    maml = maml.double().train()
    loss, found = gradients(ours, tasks, TASKS)
    names = [name for name, _ in ours.named_parameters()]
    of_network = [part for name, part in zip(names, found, strict=True) if name.startswith("network.")]
    assert_equal((loss, of_network), gradients(maml, tasks, TASKS))
    ours.eval(), maml.eval()
    torch.testing.assert_close(
        ours.predict(ours.adapt(tasks.support), tasks.query.x), maml.predict(maml.adapt(tasks.support), tasks.query.x)
    )


def one_task(algorithm: MetaLSTM, support: tuple[Tensor, Tensor], steps: list[Tensor]) -> dict[str, Tensor]:
    """The parameters of one task, by torch's own LSTM cell; `steps` are the places of each mini-batch."""
    gates, size = algorithm.gates, 4
    theirs = nn.LSTMCell(4, size).double()
    # Ours has the gates in the order forget, write, show, candidate; theirs input, forget, candidate, output.
    forget, write, show, candidate = gates.below.weight.chunk(4)
    weight = torch.cat([write, forget, candidate, show])
    bias = torch.cat([gates.below.bias.chunk(4)[i] for i in (1, 0, 3, 2)])
    cell_of = dict(zip(("weight_ih", "weight_hh", "bias_ih"), (weight[:, :4], weight[:, 4:], bias), strict=True))
    cell_of["bias_hh"] = torch.zeros_like(bias)
    theta = dict(algorithm.network.named_parameters())
    states = {
        name: (torch.zeros(part.numel(), size).double(), torch.zeros(part.numel(), size).double())
        for name, part in theta.items()
    }
    f, i = ({name: torch.zeros_like(part).flatten() for name, part in theta.items()} for _ in range(2))
    for places in steps:
        leaves = {name: part.detach().requires_grad_() for name, part in theta.items()}
        loss = F.cross_entropy(functional_call(algorithm.network, leaves, (support[0][places],)), support[1][places])
        found = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
        after = {}
        for name, before in theta.items():
            gradient, flat = found[name].flatten(), before.flatten()
            seen = torch.cat([preprocessed(loss.detach()).expand(len(flat), 2), preprocessed(gradient).t()], dim=1)
            states[name] = functional_call(theirs, cell_of, (seen, states[name]))
            hidden = states[name][0]
            f[name] = gates.forget(torch.stack([*hidden.unbind(1), flat, f[name]], dim=1)).squeeze(1).sigmoid()
            i[name] = gates.write(torch.stack([*hidden.unbind(1), flat, i[name]], dim=1)).squeeze(1).sigmoid()
            after[name] = (f[name] * flat - i[name] * gradient).view_as(before)
        theta = after
    return theta


@pytest.mark.parametrize("inner_batch", [None, 4])
def test_loss_and_gradients_are_those_of_one_task_at_a_time(inner_batch: int | None) -> None:
    algorithm, tasks = metalstm(inner_batch=inner_batch), random_tasks()
    shake(algorithm.gates.parameters())  # off the small weights that it starts with
    loss, found = gradients(algorithm, tasks, 2)
    algorithm.zero_grad(set_to_none=True)
    all_examples = torch.arange(WAYS * SHOTS)
    total = torch.zeros(()).double()
    for task in range(TASKS):
        x, y = tasks.support.x[task], tasks.support.y[task]
        steps = [all_examples] * 3 if inner_batch is None else list(mini_batches(x[None], inner_batch, 3)[0])
        parameters = one_task(algorithm, (x, y), steps)
        total = total + F.cross_entropy(
            functional_call(algorithm.network, parameters, (tasks.query.x[task],)), tasks.query.y[task]
        )
    (total / TASKS).backward()  # type: ignore[no-untyped-call]
    assert_equal((loss, found), (float(total.detach()) / TASKS, [gradient_of(part) for part in algorithm.parameters()]))
    assert all(float(part.abs().max()) > 0 for part in found[-6:]), "the meta-learner itself has to learn"


def detached(parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: part.detach().clone() for name, part in parameters.items()}


@pytest.mark.parametrize("block", [7, 10**6])
def test_evaluation_takes_the_coordinates_in_blocks_and_gives_what_training_does(
    monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    algorithm, tasks = metalstm(), random_tasks()
    shake(algorithm.gates.parameters())
    trained = [detached(state.parameters) for state in algorithm.adapt_stepwise(tasks.support)]
    monkeypatch.setattr("metalearn.algorithms.metalstm._BLOCK", block)
    with torch.no_grad():
        tested = [detached(state.parameters) for state in algorithm.eval().adapt_stepwise(tasks.support)]
    torch.testing.assert_close(tested, trained)


def test_preprocessing_is_that_of_the_paper() -> None:
    numbers = [0.0, 1e-9, -1e-9, math.exp(-10), -0.5, 3.0, -2e4]
    found = preprocessed(torch.tensor(numbers, dtype=torch.float64))
    for x, pair in zip(numbers, found.t().tolist(), strict=True):
        large = abs(x) >= math.exp(-10)
        expected = (math.log(abs(x)) / 10, math.copysign(1, x)) if large else (-1, math.exp(10) * x)
        assert pair == pytest.approx(expected, abs=1e-12)


def test_it_starts_as_gradient_descent_with_the_step_size_of_the_settings() -> None:
    algorithm, tasks = metalstm(inner_lr=0.05, keep=0.99, inner_steps=1).train(), random_tasks()
    start = torch.cat([part.flatten() for part in algorithm.network.parameters()])
    states = [state.parameters for state in algorithm.adapt_stepwise(tasks.support)]
    before, after = (torch.cat([part.flatten(1) for part in state.values()], 1) for state in states)
    assert torch.equal(before[0], start)
    _, by_name = algorithm._gradients(states[0], tasks.support.x, tasks.support.y, algorithm.kind.loss)
    gradient = in_rows(by_name)
    torch.testing.assert_close(after, 0.99 * before - 0.05 * gradient, rtol=0.02, atol=1e-3)


def test_running_statistics_are_refused() -> None:
    with pytest.raises(UserError, match=r"backbone.running_stats=true: an inner loop cannot use running statistics"):
        MetaLSTM(backbone("conv", running_stats=True), WAYS, 4, 0.1, 0.9, 1, 1, None)
