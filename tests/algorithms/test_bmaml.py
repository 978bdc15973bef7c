"""Bayesian MAML against a loop over tasks and particles, and against MAML, which it is with one particle."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from metalearn.algorithms.bmaml import BayesianMAML, average
from metalearn.algorithms.maml import MAML
from metalearn.backbones import MLP, Conv4
from metalearn.errors import UserError
from metalearn.kinds import REGRESSION
from metalearn.tasks import Examples, TaskBatch
from tests.algorithms.one_task_at_a_time import (
    QUERIES,
    SHAPE,
    TASKS,
    WAYS,
    assert_equal,
    backbone,
    gradient_of,
    gradients,
    random_tasks,
)
from tests.compose import compose

Particle = dict[str, Tensor]


def bmaml(kind: str = "mlp", **changed: Any) -> BayesianMAML:
    settings: dict[str, Any] = {"particles": 3, "inner_lr": 0.9, "inner_steps": 2, "test_inner_steps": 3}
    settings |= {"loss": "prediction", "leader_steps": 2, "temperature": 40.0, "prior": 0.0, "first_order": False}
    return BayesianMAML(backbone(kind), WAYS, **(settings | changed)).double().train()


def maml(kind: str, first_order: bool) -> MAML:
    settings = compose("algorithm=maml")["algorithm"] | {"inner_lr": 0.9, "inner_steps": 2, "test_inner_steps": 3}
    settings = {name: value for name, value in settings.items() if name != "_target_"} | {"first_order": first_order}
    return MAML(backbone(kind), WAYS, **settings).double().train()


def stein_step(
    algorithm: BayesianMAML, particles: list[Particle], x: Tensor, y: Tensor, within_graph: bool = True
) -> list[Particle]:
    """One task's particles after one step: Liu and Wang's update for each particle and each pair of them."""
    examples = len(y)
    rows = [torch.cat([part.flatten() for part in particle.values()]) for particle in particles]
    upwards = []
    for particle, row in zip(particles, rows, strict=True):
        loss = F.cross_entropy(functional_call(algorithm.classifier(), particle, (x,)), y)
        slopes = torch.autograd.grad(
            loss, list(particle.values()), create_graph=within_graph and not algorithm.first_order
        )
        upwards.append(-torch.cat([slope.flatten() for slope in slopes]) - algorithm.prior / examples * row)
    count = len(rows)
    squares = torch.stack([(rows[i] - rows[j]).square().sum().detach() for i in range(count) for j in range(i)])
    h = squares.quantile(0.5) / math.log(count)
    after = []
    for m in range(count):
        moved = rows[m]
        for j in range(count):
            kernel = (-(rows[j] - rows[m]).square().sum() / h).exp()
            repulsion = 2 / h * kernel * (rows[m] - rows[j])
            moved = moved + algorithm.inner_lr / count * (
                kernel * upwards[j] + algorithm.temperature / examples * repulsion
            )
        parts = torch.split(moved, [part.numel() for part in particles[m].values()])
        after.append({name: part.view_as(particles[m][name]) for name, part in zip(particles[m], parts, strict=True)})
    return after


def start(algorithm: BayesianMAML) -> list[Particle]:
    return [dict(network.named_parameters()) for network in algorithm.networks]


def losses_by_loop(algorithm: BayesianMAML, tasks: TaskBatch) -> Tensor:
    """The meta-loss of each task, [T]."""
    losses = []
    for task in range(tasks.tasks):
        (support_x, support_y), (query_x, query_y) = (
            (part.x[task], part.y[task]) for part in (tasks.support, tasks.query)
        )
        particles = start(algorithm)
        for _ in range(algorithm.inner_steps):
            particles = stein_step(algorithm, particles, support_x, support_y)
        if algorithm.loss == "prediction":
            each = [functional_call(algorithm.classifier(), particle, (query_x,)) for particle in particles]
            probabilities = torch.stack([logits.softmax(-1) for logits in each]).mean(0)
            losses.append(F.nll_loss(probabilities.log(), query_y))
            continue
        leaders = [{name: part.detach().requires_grad_() for name, part in one.items()} for one in particles]
        for _ in range(algorithm.leader_steps):
            moved = stein_step(
                algorithm, leaders, torch.cat([support_x, query_x]), torch.cat([support_y, query_y]), False
            )
            leaders = [{name: part.detach().requires_grad_() for name, part in one.items()} for one in moved]
        apart = [
            sum((particle[name] - leader[name].detach()).square().sum() for name in particle)
            for particle, leader in zip(particles, leaders, strict=True)
        ]
        losses.append(torch.stack([torch.as_tensor(one) for one in apart]).mean())
    return torch.stack(losses)


@pytest.mark.parametrize("task_chunk", [2, TASKS])
@pytest.mark.parametrize(
    "changed",
    [{}, {"first_order": True}, {"loss": "chaser"}, {"prior": 0.5}, {"particles": 2, "temperature": 0.0}],
    ids=str,
)
def test_it_is_a_loop_over_tasks_particles_and_pairs(changed: dict[str, Any], task_chunk: int) -> None:
    algorithm, tasks = bmaml(**changed), random_tasks()
    ours = gradients(algorithm, tasks, task_chunk)
    algorithm.zero_grad(set_to_none=True)
    mean = losses_by_loop(algorithm, tasks).mean()
    mean.backward()  # type: ignore[no-untyped-call]
    theirs = float(mean.detach()), [gradient_of(parameter) for parameter in algorithm.parameters()]
    assert_equal(ours, theirs)


def test_convolutions_and_their_norms_are_adapted_alike() -> None:
    algorithm, tasks = bmaml("conv", particles=2), random_tasks()
    torch.testing.assert_close(algorithm.meta_loss(tasks).loss, losses_by_loop(algorithm, tasks))


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("kind", ["conv", "mlp"])
def test_one_particle_is_maml(kind: str, first_order: bool) -> None:
    tasks = random_tasks()
    ours = bmaml(kind, particles=1, first_order=first_order)
    theirs = maml(kind, first_order)
    assert_equal(gradients(ours, tasks, TASKS), gradients(theirs, tasks, TASKS))
    for transductive in (True, False):
        outputs = []
        for algorithm in (ours, theirs):
            if kind == "conv":
                algorithm.set_transductive(transductive)
            algorithm.eval()
            outputs.append(algorithm.predict(algorithm.adapt(tasks.support), tasks.query.x))
        torch.testing.assert_close(outputs[0], outputs[1], atol=1e-10, rtol=1e-10)


def test_predictions_are_the_logarithms_of_mean_probabilities() -> None:
    algorithm, tasks = bmaml().eval(), random_tasks()
    adapted = algorithm.adapt(tasks.support)
    outputs = algorithm.predict(adapted, tasks.query.x)
    assert outputs.shape == (TASKS, WAYS * QUERIES, WAYS)
    torch.testing.assert_close(outputs.exp().sum(-1), torch.ones_like(outputs[..., 0]))
    task, each = 2, []
    for particle in range(3):
        own = {name: part[3 * task + particle] for name, part in adapted.parameters.items()}
        each.append(functional_call(algorithm.classifier(), own, (tasks.query.x[task],)).softmax(-1))
    torch.testing.assert_close(outputs[task].exp(), torch.stack(each).mean(0))
    numbers = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(average(numbers, of_probabilities=False), numbers.mean(0))


def test_particles_start_as_other_draws_of_the_same_distribution() -> None:
    first, *others = start(bmaml("conv"))
    for other in others:
        for name, part in first.items():
            assert torch.equal(part.flatten().sort().values, other[name].flatten().sort().values)
        assert not torch.equal(first["head.weight"], other["head.weight"])


def test_repulsion_keeps_particles_further_apart() -> None:
    tasks, distances = random_tasks(), []
    for temperature in (0.0, 40.0):
        algorithm = bmaml(temperature=temperature, test_inner_steps=20, inner_lr=0.3).eval()
        rows = torch.cat([part.flatten(1) for part in algorithm.adapt(tasks.support).parameters.values()], 1)
        distances.append(float(torch.pdist(rows[:3]).mean()))
    assert distances[1] > 1.01 * distances[0]


def test_regression_averages_numbers_and_learns_from_their_error() -> None:
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(1)
    algorithm = BayesianMAML(MLP((1,), [6], "none", False), 1, 3, 0.3, 1, 1, "prediction", 1, 1.0, 0.0, False).double()
    algorithm.kind = REGRESSION

    def examples(count: int) -> Examples:
        x, y = torch.randn(2, TASKS, count, 1, generator=generator, dtype=torch.float64)
        return Examples(x, y, 1)

    tasks = TaskBatch(examples(4), examples(5), torch.zeros(TASKS, 1, dtype=torch.int64))
    outcome = algorithm.meta_loss(tasks)
    outputs = algorithm.predict(algorithm.adapt(tasks.support), tasks.query.x)
    torch.testing.assert_close(outcome.loss, (outputs - tasks.query.y).square().mean((1, 2)))
    torch.testing.assert_close(outcome.metrics["mse"], outcome.loss.detach())
    distribution = algorithm.predict_distribution(algorithm.adapt(tasks.support), tasks.query.x)
    assert distribution is not None
    torch.testing.assert_close(distribution.mean, outputs)
    assert distribution.means.shape == (3, TASKS, 5, 1)
    between = distribution.means.var(0, correction=0)  # beside the noise of each, whose variance is 1/2
    torch.testing.assert_close(distribution.std, (between + 0.5).sqrt())
    assert float(between.detach().min()) > 0


def test_other_numbers_of_ways_start_from_the_mean_row() -> None:
    tasks, algorithm = random_tasks(ways=5), bmaml().eval()
    states = list(algorithm.adapt_stepwise(tasks.support))
    before, after = (algorithm.predict(state, tasks.query.x) for state in (states[0], states[-1]))
    assert after.shape == (TASKS, 5 * QUERIES, 5)
    torch.testing.assert_close(before, before[..., :1].expand_as(before))
    assert not torch.allclose(after, after[..., :1].expand_as(after), atol=1e-3)


def test_running_statistics_are_refused() -> None:
    net = Conv4(SHAPE, filters=8, downsample="stride", norm="batch", running_stats=True, pool="mean")
    with pytest.raises(UserError, match=r"backbone\.running_stats"):
        BayesianMAML(net, WAYS, 2, 0.1, 1, 1, "prediction", 1, 1.0, 0.0, False)
