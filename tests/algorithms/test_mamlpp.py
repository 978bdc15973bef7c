"""MAML++'s options against a one-task transcription, finite differences and numbers by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from metalearn.algorithms.maml import MAML, step_weights
from metalearn.backbones import MLP
from metalearn.cli.main import main
from metalearn.runs import checkpoint
from metalearn.tasks import TaskBatch
from tests.algorithms.test_maml import TASKS, check_finite_differences, gradients, maml, random_tasks
from tests.runs.test_run import TINY

UNTIL = 10


def with_unequal_rates(algorithm: MAML) -> MAML:
    assert algorithm.rates is not None
    generator = torch.Generator().manual_seed(2)
    rates = algorithm.rates.data
    rates.copy_(torch.rand(rates.shape, generator=generator, dtype=rates.dtype) * 0.6 + 0.1)
    return algorithm


def one_step(
    network: torch.nn.Module, parameters: dict[str, Tensor], x: Tensor, y: Tensor, rates: Tensor, second_order: bool
) -> dict[str, Tensor]:
    """theta_i = theta_{i-1} - rate * gradient, tensor by tensor: rates [P], for one task."""
    loss = F.cross_entropy(functional_call(network, parameters, (x,)), y)
    slopes = torch.autograd.grad(loss, list(parameters.values()), create_graph=second_order)
    return {
        name: parameter - rates[i] * slope
        for i, ((name, parameter), slope) in enumerate(zip(parameters.items(), slopes, strict=True))
    }


def transcribed_gradients(
    algorithm: MAML, tasks: TaskBatch, weights: list[float], second_order: bool
) -> tuple[float, list[Tensor]]:
    """Of the mean over tasks of the weighted sum of the queries' losses: with respect to the rates, then the parameters."""
    assert algorithm.rates is not None
    network = algorithm.classifier()
    start = {name: p.detach().clone().requires_grad_() for name, p in network.named_parameters()}
    rates = algorithm.rates.detach().clone().requires_grad_()
    total = torch.zeros((), dtype=rates.dtype)
    for task in range(tasks.tasks):
        parameters: dict[str, Tensor] = dict(start)
        for step, weight in enumerate(weights):
            parameters = one_step(
                network, parameters, tasks.support.x[task], tasks.support.y[task], rates[step], second_order
            )
            query_loss = F.cross_entropy(
                functional_call(network, parameters, (tasks.query.x[task],)), tasks.query.y[task]
            )
            total = total + weight * query_loss / tasks.tasks
    total.backward()  # type: ignore[no-untyped-call]
    gradients_of = [rates.grad, *(p.grad for p in start.values())]
    return float(total.detach()), [gradient for gradient in gradients_of if gradient is not None]


@pytest.mark.thorough
@pytest.mark.parametrize("task_chunk", [1, TASKS])
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("backbone", ["conv", "mlp"])
@pytest.mark.parametrize(
    ("outer_step", "weights"),
    [
        (0, [1 / 3, 1 / 3, 1 / 3]),
        (4, [0.2, 0.2, 0.6]),
        (9, [1 / 30, 1 / 30, 28 / 30]),
        (10, [0, 0, 1]),
        (99, [0, 0, 1]),
    ],
)
def test_meta_gradient_equals_the_transcription(
    backbone: str, first_order: bool, task_chunk: int, outer_step: int, weights: list[float]
) -> None:
    tasks = random_tasks(torch.float64)
    algorithm = maml(backbone, torch.float64, 3, first_order, learn_rates=True, multi_step_loss_until=UNTIL)
    with_unequal_rates(algorithm).outer_step = outer_step
    loss, ours = gradients(algorithm, tasks, task_chunk)
    expected_loss, expected = transcribed_gradients(algorithm, tasks, weights, second_order=not first_order)
    assert loss == pytest.approx(expected_loss, abs=1e-12)
    for our, their in zip(ours, expected, strict=True):
        assert our.shape == their.shape
        torch.testing.assert_close(our, their, atol=1e-11, rtol=1e-9)


@pytest.mark.parametrize("outer_step", [0, 7, UNTIL])
def test_meta_gradient_equals_finite_differences(outer_step: int) -> None:
    algorithm = maml("mlp", torch.float64, learn_rates=True, multi_step_loss_until=UNTIL)
    with_unequal_rates(algorithm).outer_step = outer_step
    check_finite_differences(algorithm)


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [(0, [0.2] * 5), (1, [0.18, 0.18, 0.18, 0.18, 0.28]), (5, [0.1, 0.1, 0.1, 0.1, 0.6]), (9, [0.02] * 4 + [0.92])],
)
def test_weights_are_those_of_the_authors_code(epoch: int, expected: list[float]) -> None:
    """Theirs, for 5 inner steps and an annealing of 10 epochs: 1/5 - epoch / 50 for all but the last."""
    assert step_weights(5, epoch / 10) == pytest.approx(expected, abs=1e-15)


def test_one_inner_step_has_all_the_weight() -> None:
    assert step_weights(1, 0.0) == step_weights(1, 0.7) == [1.0]


def test_the_queries_pass_once_where_one_step_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    passes = []
    original = MAML.queries_loss
    monkeypatch.setattr(MAML, "queries_loss", lambda *given: passes.append(1) or original(*given))
    algorithm, tasks = maml("mlp", steps=3, multi_step_loss_until=2), random_tasks()
    for outer_step, expected in ((0, 3), (1, 3), (2, 1), (3, 1)):
        passes.clear()
        algorithm.outer_step = outer_step
        algorithm.meta_loss(tasks)
        assert len(passes) == expected


def test_accuracy_is_that_after_the_last_step() -> None:
    tasks, algorithm = random_tasks(), maml(steps=3, multi_step_loss_until=2)
    early = algorithm.meta_loss(tasks)
    algorithm.outer_step = 2
    late = algorithm.meta_loss(tasks)
    assert torch.equal(early.metrics["accuracy"], late.metrics["accuracy"])
    assert not torch.allclose(early.loss, late.loss, atol=1e-2)


def test_first_order_ends_at_its_step() -> None:
    tasks = random_tasks()
    _, first = gradients(maml("mlp", first_order=True), tasks, TASKS)
    _, second = gradients(maml("mlp"), tasks, TASKS)
    algorithm = maml("mlp", first_order_until=3)
    for outer_step, expected in ((0, first), (2, first), (3, second), (4, second)):
        algorithm.outer_step = outer_step
        _, ours = gradients(algorithm, tasks, TASKS)
        assert all(torch.equal(our, their) for our, their in zip(ours, expected, strict=True)), outer_step


def test_equal_rates_are_one_rate() -> None:
    tasks = random_tasks(torch.float64)
    learned = maml(dtype=torch.float64, learn_rates=True)
    assert learned.rates is not None
    # Four blocks of four tensors, and the head's two.
    assert torch.equal(learned.rates, torch.full((2, 18), 0.4).double())
    learned.rates.data.fill_(0.4)  # in float64, as learn2learn's rate is
    _, (_, *ours) = gradients(learned, tasks, TASKS)
    _, plain = gradients(maml(dtype=torch.float64), tasks, TASKS)
    for our, their in zip(ours, plain, strict=True):
        torch.testing.assert_close(our, their, atol=1e-12, rtol=1e-10)


def test_a_whole_number_is_a_rate_too() -> None:
    network = MLP((1, 16, 16), hidden=[6], norm="none", running_stats=False)
    algorithm = MAML(
        network,
        3,
        1,
        2,
        2,
        first_order=False,
        learn_rates=True,
        multi_step_loss_until=0,
        first_order_until=0,
        checkpoint_inner=False,
        norm_parameters="adapted",
        head_parameters="adapted",
    )
    assert algorithm.rates is not None
    assert torch.equal(algorithm.rates, torch.ones(2, 4))


def test_steps_beyond_training_take_the_last_rates() -> None:
    tasks = random_tasks(torch.float64)
    algorithm = with_unequal_rates(
        maml("mlp", torch.float64, learn_rates=True)
    ).eval()  # two steps in training, three in evaluation
    assert algorithm.rates is not None
    with torch.no_grad():
        states = list(algorithm.adapt_stepwise(tasks.support))
    assert len(states) == 4
    for step, rates in enumerate(algorithm.rates.detach()[[0, 1, 1]]):
        for task in range(TASKS):
            before = {name: p[task].requires_grad_() for name, p in states[step].parameters.items()}
            by_hand = one_step(
                algorithm.classifier(), before, tasks.support.x[task], tasks.support.y[task], rates, second_order=False
            )
            for name, parameter in by_hand.items():
                torch.testing.assert_close(states[step + 1].parameters[name][task], parameter.detach())


@pytest.mark.thorough
def test_a_checkpoint_with_learned_rates_takes_more_steps_in_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    main(
        ["train", *TINY, "algorithm=mamlpp", "algorithm.multi_step_loss_until=4", "eval.tasks=20", "hydra.run.dir=run"]
    )
    trained = json.loads(Path("run/results.json").read_text())["test"]["per_step"]
    rates = checkpoint.load(Path("run/last.pt"), torch.device("cpu"))["model"]["rates"]
    assert rates.shape == (5, 10)  # four convolutions and the head, weight and bias
    assert rates.unique().numel() > 25, "each goes its own way"
    main(["eval", "run", "algorithm.test_inner_steps=7"])
    (file,) = Path("run").glob("eval-*.json")
    longer = json.loads(file.read_text())["test"]["per_step"]
    assert len(longer) == 8
    assert longer[:6] == trained
