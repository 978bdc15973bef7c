"""MAML's and MAML++'s ways with the gains and shifts of normalisation layers, against a one-task transcription."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from metalearn.algorithms.maml import MAML, norms_of
from metalearn.backbones import Conv4
from metalearn.cli.main import main
from metalearn.engine.gradient import meta_gradient
from metalearn.runs import checkpoint
from metalearn.tasks import TaskBatch
from tests.algorithms.one_task_at_a_time import (
    TASKS,
    WAYS,
    assert_equal,
    backbone,
    gradients,
    random_tasks,
    shake,
)
from tests.runs.test_run import TINY

STEPS = 3


def maml(
    norm_parameters: str,
    first_order: bool = False,
    learn_rates: bool = False,
    multi_step_loss_until: int = 0,
    checkpoint_inner: bool = False,
    steps: int = STEPS,
) -> MAML:
    algorithm = MAML(
        backbone(),
        WAYS,
        inner_lr=0.4,
        inner_steps=steps,
        test_inner_steps=steps + 1,
        first_order=first_order,
        learn_rates=learn_rates,
        multi_step_loss_until=multi_step_loss_until,
        first_order_until=0,
        checkpoint_inner=checkpoint_inner,
        norm_parameters=norm_parameters,
        head_parameters="adapted",
    ).double()
    shake([*norms_of(algorithm.classifier()).values(), *algorithm.later_norms])  # else all are ones and zeros
    return algorithm


def norms_by_step(algorithm: MAML) -> list[dict[str, Tensor]]:
    """The gains and shifts of each inner step, as leaves of their own; where all steps have the same, the same leaves."""
    first = {name: norm.detach().clone().requires_grad_() for name, norm in norms_of(algorithm.classifier()).items()}
    if not algorithm.later_norms:
        return [first] * algorithm.inner_steps
    rows = zip(*(norms.detach().unbind() for norms in algorithm.later_norms), strict=True)
    return [
        first,
        *(dict(zip(first, (row.clone().requires_grad_() for row in of_step), strict=True)) for of_step in rows),
    ]


def transcribed(
    algorithm: MAML, tasks: TaskBatch, weights: list[float], second_order: bool
) -> tuple[float, dict[str, Tensor], list[dict[str, Tensor]]]:
    """The loop of MAML++'s code, task by task: step i and the queries after it take the norms of step i, which no inner step changes.

    Returns:
        The loss, and its gradients with respect to the other parameters and to each step's norms.
    """
    network, norms = algorithm.classifier(), norms_by_step(algorithm)
    start = {
        name: parameter.detach().clone().requires_grad_()
        for name, parameter in network.named_parameters()
        if name not in norms[0]
    }
    total = torch.zeros((), dtype=torch.float64)
    for task in range(tasks.tasks):
        parameters: dict[str, Tensor] = dict(start)
        for step, weight in enumerate(weights):
            logits = functional_call(network, parameters | norms[step], (tasks.support.x[task],))
            loss = F.cross_entropy(logits, tasks.support.y[task])
            slopes = torch.autograd.grad(loss, list(parameters.values()), create_graph=second_order)
            parameters = {
                name: parameter - 0.4 * slope
                for (name, parameter), slope in zip(parameters.items(), slopes, strict=True)
            }
            logits = functional_call(network, parameters | norms[step], (tasks.query.x[task],))
            total = total + weight * F.cross_entropy(logits, tasks.query.y[task]) / tasks.tasks
    total.backward()  # type: ignore[no-untyped-call]
    return float(total.detach()), _slopes(start), [_slopes(of_step) for of_step in norms]


def _slopes(leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for name, leaf in leaves.items()}


def _gradient(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


@pytest.mark.thorough
@pytest.mark.parametrize("task_chunk", [1, TASKS])
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize(("outer_step", "weights"), [(4, [0.2, 0.2, 0.6]), (10, [0.0, 0.0, 1.0])])
@pytest.mark.parametrize("kind", ["shared", "per_step"])
def test_meta_gradient_equals_the_transcription(
    kind: str, outer_step: int, weights: list[float], first_order: bool, task_chunk: int
) -> None:
    tasks, algorithm = random_tasks(), maml(kind, first_order, multi_step_loss_until=10)
    algorithm.outer_step = outer_step
    expected_loss, others, norms = transcribed(algorithm, tasks, weights, second_order=not first_order)
    loss = meta_gradient(algorithm, tasks, task_chunk, "fp32")["loss"]
    assert float(loss) == pytest.approx(expected_loss, abs=1e-12)
    own = {name: _gradient(parameter) for name, parameter in algorithm.classifier().named_parameters()}
    expected = others | norms[0]
    assert own.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(own[name], gradient, atol=1e-11, rtol=1e-9)
    for name, later in zip(norms[0], algorithm.later_norms, strict=kind == "per_step"):
        by_hand = torch.stack([of_step[name] for of_step in norms[1:]])
        torch.testing.assert_close(_gradient(later), by_hand, atol=1e-11, rtol=1e-9)
        assert by_hand[-1].abs().max() > 1e-4, "the queries after the last step take it"


@pytest.mark.parametrize("kind", ["shared", "per_step"])
def test_inner_steps_leave_the_norms_and_move_the_rest(kind: str) -> None:
    tasks, algorithm = random_tasks(), maml(kind).eval()
    states = [state.parameters for state in algorithm.adapt_stepwise(tasks.support)]
    by_step = norms_by_step(algorithm)
    assert len(states) == STEPS + 2
    # Before the first step its own; after step i those of step i; a step beyond training takes the last one's.
    for state, norms in zip(states, [by_step[0], *by_step, by_step[-1]], strict=True):
        for name, norm in norms.items():
            assert torch.equal(state[name], norm.detach().expand(TASKS, -1)), name
    others = [name for name in states[0] if name not in by_step[0]]
    moved = {name for name in others if not torch.allclose(states[0][name], states[-1][name], atol=1e-9)}
    # Not the biases before a normalisation, which subtracts them again.
    assert moved == {name for name in others if name.endswith(".weight") or name == "head.bias"}


def test_adapted_norms_move_in_the_first_step() -> None:
    tasks, algorithm = random_tasks(), maml("adapted", learn_rates=True)
    before, after, *_ = algorithm.eval().adapt_stepwise(tasks.support)
    assert len(norms_of(algorithm.classifier())) == 8
    for name in norms_of(algorithm.classifier()):
        assert not torch.allclose(before.parameters[name], after.parameters[name], atol=1e-6), name
    assert algorithm.rates is not None
    assert algorithm.rates.shape == (STEPS, 18)


@pytest.mark.parametrize("kind", ["shared", "per_step"])
def test_there_are_rates_for_what_is_adapted_alone(kind: str) -> None:
    rates = maml(kind, learn_rates=True).rates
    assert rates is not None
    assert rates.shape == (STEPS, 10)  # four convolutions and the head, weight and bias


@pytest.mark.parametrize("kind", ["shared", "per_step"])
def test_inner_steps_taken_twice_have_the_gradient_of_those_that_are_kept(kind: str) -> None:
    tasks = random_tasks()
    kept, again = (
        gradients(maml(kind, learn_rates=True, checkpoint_inner=twice), tasks, TASKS) for twice in (False, True)
    )
    assert_equal(again, kept)


def test_one_inner_step_has_norms_of_its_own_already() -> None:
    tasks = random_tasks()
    shared, per_step = (gradients(maml(kind, steps=1), tasks, TASKS) for kind in ("shared", "per_step"))
    assert_equal(per_step, shared)


def test_a_network_without_normalisation_has_nothing_to_share() -> None:
    network = backbone("mlp")
    algorithm = MAML(network, WAYS, 0.4, 2, 2, False, True, 0, 0, False, "per_step", "adapted")
    assert not algorithm.later_norms
    assert algorithm.rates is not None
    assert algorithm.rates.shape == (2, 4)


def test_group_normalisation_counts() -> None:
    network = Conv4((1, 16, 16), filters=8, downsample="stride", norm="group", running_stats=False, pool="mean")
    algorithm = MAML(network, WAYS, 0.4, 2, 2, False, False, 0, 0, False, "per_step", "adapted")
    assert len(algorithm.later_norms) == 8


def test_without_transduction_queries_pass_with_the_last_steps_norms() -> None:
    tasks, algorithm = random_tasks(), maml("per_step").eval()
    algorithm.set_transductive(False)
    adapted = algorithm.adapt(tasks.support)
    task, query = 1, 5
    batch = torch.cat([tasks.support.x[task], tasks.query.x[task, query : query + 1]])
    parameters = {name: parameter[task] for name, parameter in adapted.parameters.items()} | norms_by_step(algorithm)[
        -1
    ]
    by_hand = functional_call(algorithm.classifier(), parameters, (batch,))[-1]
    torch.testing.assert_close(algorithm.predict(adapted, tasks.query.x)[task, query], by_hand, atol=1e-9, rtol=1e-7)


@pytest.mark.thorough
def test_a_run_learns_the_norms_of_every_step_and_is_evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    chosen = ["algorithm=mamlpp", "algorithm.multi_step_loss_until=4", "algorithm.norm_parameters=per_step"]
    main(["train", *TINY, *chosen, "eval.tasks=20", "hydra.run.dir=run"])
    model = checkpoint.load(Path("run/last.pt"), torch.device("cpu"))["model"]
    for i in range(8):
        rows = model[f"later_norms.{i}"]
        assert rows.shape[0] == 4
        assert not torch.allclose(rows[0], rows[-1], atol=1e-6), "each goes its own way"
    main(["eval", "run", "algorithm.test_inner_steps=7"])
