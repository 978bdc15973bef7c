"""Implicit MAML against the exact implicit gradient, against an unrolled inner loop, and against a loop over tasks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from metalearn.algorithms.imaml import ImplicitMAML
from metalearn.algorithms.inner_loop import in_rows, out_of_rows
from metalearn.backbones import Backbone
from metalearn.engine.gradient import meta_gradient
from metalearn.errors import UserError
from metalearn.tasks import Examples, TaskBatch
from tests.algorithms.one_task_at_a_time import backbone
from tests.algorithms.one_task_at_a_time import random_tasks as images

WAYS, SHOTS, QUERIES, TASKS = 3, 2, 4, 3
SHAPE = (1, 3, 3)


def random_tasks(ways: int = WAYS) -> TaskBatch:
    generator = torch.Generator().manual_seed(0)

    def examples(each: int) -> Examples:
        x = torch.rand(TASKS, ways * each, *SHAPE, generator=generator, dtype=torch.float64)
        return Examples(x, torch.arange(ways).repeat_interleave(each).expand(TASKS, -1), ways)

    return TaskBatch(examples(SHOTS), examples(QUERIES), torch.zeros(TASKS, ways, dtype=torch.int64))


class Smooth(Backbone):
    """A layer of tanh: the minimum of a loss never lies at the kink of a ReLU, where no gradient is zero."""

    feature_dim, uses_batch_statistics = 4, False

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(9, self.feature_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(1)).tanh()


def imaml(steps: int = 120, proximal: float = 1.0, cg_steps: int = 60, damping: float = 0.0) -> ImplicitMAML:
    """As many inner steps as bring it to the minimum; as many of conjugate gradients as solve the system."""
    torch.manual_seed(1)
    return (
        ImplicitMAML(Smooth(), WAYS, 0.3, steps, steps + 1, proximal, 0.5 * proximal, cg_steps, damping)
        .double()
        .train()
    )


def theta_of(algorithm: ImplicitMAML) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in algorithm.network.parameters()])


def loss_of(algorithm: ImplicitMAML, examples: Examples, task: int) -> Callable[[Tensor], Tensor]:
    """The loss of one task's examples as a function of all parameters in a row."""
    like = {name: parameter.detach().unsqueeze(0) for name, parameter in algorithm.network.named_parameters()}

    def loss(row: Tensor) -> Tensor:
        named = {name: part[0] for name, part in out_of_rows(row.unsqueeze(0), like).items()}
        return F.cross_entropy(functional_call(algorithm.network, named, (examples.x[task],)), examples.y[task])

    return loss


def meta_gradient_of(algorithm: ImplicitMAML, tasks: TaskBatch, chunk: int = TASKS) -> Tensor:
    algorithm.zero_grad(set_to_none=True)
    meta_gradient(algorithm, tasks, chunk, "fp32")
    return torch.cat([parameter.grad.flatten() for parameter in algorithm.parameters() if parameter.grad is not None])


def dense(algorithm: ImplicitMAML, tasks: TaskBatch, damping: float = 0.0) -> Tensor:
    """The mean over tasks of (I + H / (proximal + damping))^-1 times the queries' gradient, by a whole Hessian and a dense solver."""
    phi = in_rows(algorithm.adapt(tasks.support).parameters)
    total = torch.zeros_like(phi[0])
    for task in range(TASKS):
        hessian = torch.autograd.functional.hessian(loss_of(algorithm, tasks.support, task), phi[task])
        assert isinstance(hessian, Tensor)
        system = torch.eye(len(phi[task]), dtype=torch.float64) + hessian / (algorithm.proximal + damping)
        assert float(torch.linalg.eigvalsh(system).min()) > 0, "the oracle needs a minimum"
        row = phi[task].clone().requires_grad_()
        (slope,) = torch.autograd.grad(loss_of(algorithm, tasks.query, task)(row), row)
        total += torch.linalg.solve(system, slope)
    return total / TASKS


@pytest.mark.parametrize("damping", [0.0, 3.0])
@pytest.mark.parametrize("chunk", [1, TASKS])
def test_the_meta_gradient_is_the_exact_implicit_one(chunk: int, damping: float) -> None:
    algorithm, tasks = imaml(damping=damping), random_tasks()
    ours, exact = meta_gradient_of(algorithm, tasks, chunk), dense(algorithm, tasks, damping)
    torch.testing.assert_close(ours, exact, atol=1e-10, rtol=1e-8)
    assert float(exact.abs().max()) > 1e-2


def test_at_the_minimum_it_is_the_gradient_through_the_inner_steps() -> None:
    """That of MAML on the same inner objective, whose graph holds all of the steps: to 1e-7, where the objective's slopes are below 1e-9."""
    algorithm, tasks = imaml(), random_tasks()
    theta = theta_of(algorithm).requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for task in range(TASKS):
        phi = theta
        for _ in range(algorithm.inner_steps):
            objective = loss_of(algorithm, tasks.support, task)(phi)
            objective = objective + algorithm.proximal / 2 * (phi - theta).square().sum()
            (slope,) = torch.autograd.grad(objective, phi, create_graph=True)
            # The first slope is by theta itself, where the proximal term has none.
            phi = phi - algorithm.inner_lr * slope
        assert float(slope.detach().norm()) < 1e-9, "not at the minimum"
        total = total + loss_of(algorithm, tasks.query, task)(phi) / TASKS
    (unrolled,) = torch.autograd.grad(total, theta)
    torch.testing.assert_close(meta_gradient_of(algorithm, tasks), unrolled, atol=1e-7, rtol=1e-7)
    first_order = meta_gradient_of(imaml(cg_steps=0), tasks)
    assert float((first_order - unrolled).abs().max()) > 1e-2, "the queries' gradient alone is another one"


def test_it_is_the_slope_of_the_queries_loss_after_adaptation() -> None:
    """By finite differences of theta, each with an inner loop of its own."""
    algorithm, tasks = imaml(), random_tasks()
    gradient, before = meta_gradient_of(algorithm, tasks), theta_of(algorithm)

    def value_at(row: Tensor) -> float:
        nn.utils.vector_to_parameters(row, algorithm.network.parameters())
        return float(algorithm.meta_loss(tasks).loss.detach().mean())

    for i in range(0, len(before), 12):
        step = torch.zeros_like(before)
        step[i] = 1e-5
        slope = (value_at(before + step) - value_at(before - step)) / 2e-5
        assert slope == pytest.approx(float(gradient[i]), abs=1e-8, rel=1e-5)


@pytest.mark.parametrize("kind", ["conv", "mlp"])
def test_inner_steps_are_those_of_a_loop_over_tasks(kind: str) -> None:
    tasks = images()
    algorithm = ImplicitMAML(backbone(kind), WAYS, 0.2, 3, 4, 2.0, 0.5, 1, 0.0).double()
    for training, steps, proximal in ((True, 3, 2.0), (False, 4, 0.5)):
        algorithm.train(training)
        states = list(algorithm.adapt_stepwise(tasks.support))
        assert len(states) == steps + 1
        for task in range(tasks.tasks):
            theta = {name: parameter.detach() for name, parameter in algorithm.network.named_parameters()}
            phi = {name: part.clone().requires_grad_() for name, part in theta.items()}
            for _ in range(steps):
                loss = F.cross_entropy(
                    functional_call(algorithm.network, phi, (tasks.support.x[task],)), tasks.support.y[task]
                )
                loss = loss + proximal / 2 * sum((phi[name] - theta[name]).square().sum() for name in theta)
                slopes = torch.autograd.grad(loss, list(phi.values()))
                phi = {
                    name: (part - 0.2 * slope).detach().requires_grad_()
                    for (name, part), slope in zip(phi.items(), slopes, strict=True)
                }
            for name, part in states[-1].parameters.items():
                torch.testing.assert_close(part[task], phi[name].detach(), atol=1e-10, rtol=1e-8)


def test_no_graph_leads_through_the_inner_steps() -> None:
    algorithm, tasks = imaml(steps=2), random_tasks()
    assert not any(part.requires_grad for part in algorithm.adapt(tasks.support).parameters.values())


def test_the_logged_residual_is_what_conjugate_gradients_leave() -> None:
    tasks = random_tasks()
    rough, fine = (imaml(cg_steps=steps).meta_loss(tasks).metrics["cg_residual"] for steps in (1, 60))
    assert float(imaml(cg_steps=0).meta_loss(tasks).metrics["cg_residual"].min()) == pytest.approx(1)
    assert float(fine.max()) < 1e-9 < 1e-3 < float(rough.min())


def test_where_the_curvature_is_negative_at_once_the_gradient_counts_as_it_is() -> None:
    algorithm, tasks = imaml(steps=1, proximal=1e-9), random_tasks()
    phi = algorithm.adapt(tasks.support).parameters
    gradient = torch.ones(TASKS, len(theta_of(algorithm)), dtype=torch.float64)
    downwards = algorithm._support_loss
    algorithm._support_loss = lambda parameters, support: -downwards(parameters, support)  # type: ignore[method-assign]
    # Minus a convex loss in the head alone: the queries' gradient has no part elsewhere.
    head = torch.cat([torch.full_like(part[0].flatten(), float(name == "head.weight")) for name, part in phi.items()])
    head = head * torch.arange(len(head), dtype=torch.float64)
    solution = algorithm._implicit(phi, tasks.support, gradient * head)
    torch.testing.assert_close(solution.x, gradient * head)


def test_other_ways_train_through_the_mean_row_of_the_head() -> None:
    algorithm, tasks = imaml(), random_tasks(ways=2)
    meta_gradient_of(algorithm, tasks)
    head = algorithm.network.get_submodule("head").weight.grad
    assert isinstance(head, Tensor)
    torch.testing.assert_close(head, head[:1].expand_as(head))


def test_running_statistics_are_refused() -> None:
    with pytest.raises(UserError, match=r"backbone\.running_stats"):
        ImplicitMAML(backbone("conv", running_stats=True), WAYS, 0.1, 1, 1, 1.0, 1.0, 1, 0.0)
