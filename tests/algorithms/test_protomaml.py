"""Proto-MAML against a one-task transcription, against finite differences, and against Prototypical Networks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from metalearn.algorithms.protomaml import ProtoMAML
from metalearn.algorithms.protonet import ProtoNet
from metalearn.engine.gradient import meta_gradient
from metalearn.tasks import TaskBatch
from tests.algorithms.one_task_at_a_time import (
    TASKS,
    WAYS,
    assert_equal,
    backbone,
    gradient_of,
    gradients,
    random_tasks,
)

STEPS = 2


def protomaml(
    kind: str = "conv", first_order: bool = False, learn_scale: bool = True, checkpoint_inner: bool = False
) -> ProtoMAML:
    return ProtoMAML(
        backbone(kind),
        scale=0.5,
        learn_scale=learn_scale,
        inner_lr=0.4,
        inner_steps=STEPS,
        test_inner_steps=STEPS + 1,
        first_order=first_order,
        checkpoint_inner=checkpoint_inner,
    ).double()


def transcribed(algorithm: ProtoMAML, tasks: TaskBatch, second_order: bool) -> tuple[float, list[Tensor]]:
    """Task by task, with a plain network: prototypes, inner steps on parameters that do not know of each other, the queries' loss."""
    network = algorithm.classifier().backbone
    start = {name: parameter.detach().clone().requires_grad_() for name, parameter in network.named_parameters()}
    assert algorithm.scale.log is not None
    log_scale = algorithm.scale.log.detach().clone().requires_grad_()  # about that of 0.5
    total = torch.zeros((), dtype=torch.float64)
    for task in range(tasks.tasks):
        x, y = tasks.support.x[task], tasks.support.y[task]
        features = functional_call(network, start, (x,))
        means = torch.stack([features[y == k].mean(0) for k in range(tasks.support.ways)])
        weight, bias = 2 * log_scale.exp() * means, -log_scale.exp() * (means**2).sum(1)
        body: dict[str, Tensor] = dict(start)
        for _ in range(algorithm.inner_steps):
            slopes = _slopes(network, body | {"w": weight, "b": bias}, x, y, second_order)
            body = {name: value - 0.4 * slopes[name] for name, value in body.items()}
            weight, bias = weight - 0.4 * slopes["w"], bias - 0.4 * slopes["b"]
        logits = F.linear(functional_call(network, body, (tasks.query.x[task],)), weight, bias)
        total = total + F.cross_entropy(logits, tasks.query.y[task]) / tasks.tasks
    total.backward()  # type: ignore[no-untyped-call]
    leaves = [*start.values(), log_scale]
    return float(total.detach()), [gradient_of(leaf) for leaf in leaves]  # type: ignore[arg-type]


def _slopes(
    network: torch.nn.Module, values: dict[str, Tensor], x: Tensor, y: Tensor, second_order: bool
) -> dict[str, Tensor]:
    """The partial derivatives of the support loss by each parameter, all others held."""
    at = {
        name: value.view_as(value) if second_order else value.detach().requires_grad_()
        for name, value in values.items()
    }
    body = {name: value for name, value in at.items() if name not in ("w", "b")}
    loss = F.cross_entropy(F.linear(functional_call(network, body, (x,)), at["w"], at["b"]), y)
    return dict(zip(at, torch.autograd.grad(loss, list(at.values()), create_graph=second_order), strict=True))


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("kind", ["conv", "mlp"])
@pytest.mark.parametrize("task_chunk", [1, TASKS])
def test_meta_gradient_equals_the_transcription(kind: str, first_order: bool, task_chunk: int) -> None:
    tasks, algorithm = random_tasks(), protomaml(kind, first_order)
    expected = transcribed(algorithm, tasks, second_order=not first_order)
    assert_equal(gradients(algorithm, tasks, task_chunk), expected)


def test_equals_finite_differences_in_float64() -> None:
    """The outer gradient knows that the head came from the backbone."""
    tasks, algorithm = random_tasks(), protomaml("mlp")
    _, analytic = gradients(algorithm, tasks, TASKS)

    def loss() -> float:
        return float(algorithm.meta_loss(tasks).loss.detach().mean())

    for parameter, gradient in zip(algorithm.parameters(), analytic, strict=True):
        flat, flat_gradient = parameter.data.view(-1), gradient.view(-1)
        for i in range(0, flat.numel(), max(1, flat.numel() // 7)):
            before = float(flat[i])
            flat[i] = before + 1e-5
            up = loss()
            flat[i] = before - 1e-5
            down = loss()
            flat[i] = before
            assert (up - down) / 2e-5 == pytest.approx(float(flat_gradient[i]), abs=1e-8, rel=1e-6)


def test_the_gradient_passes_through_the_prototypes_in_first_order_too() -> None:
    """Else the first order of the scale, which only makes the head, would be zero."""
    algorithm = protomaml(first_order=True)
    meta_gradient(algorithm, random_tasks(), TASKS, "fp32")
    assert algorithm.scale.log is not None
    assert gradient_of(algorithm.scale.log).abs() > 1e-4


@pytest.mark.parametrize("ways", [2, WAYS, 7])
def test_before_the_first_step_it_is_a_prototypical_network_of_any_number_of_ways(ways: int) -> None:
    tasks, algorithm = random_tasks(ways=ways), protomaml().eval()
    protonet = ProtoNet(algorithm.classifier().backbone, scale=0.5).eval()  # type: ignore[arg-type]
    first, *_, last = algorithm.adapt_stepwise(tasks.support)
    expected = protonet.predict(protonet.adapt(tasks.support), tasks.query.x)
    found = algorithm.predict(first, tasks.query.x)
    assert found.shape == (TASKS, 4 * ways, ways)
    torch.testing.assert_close(found.log_softmax(-1), expected.log_softmax(-1))
    before, after = (
        F.cross_entropy(algorithm.predict(state, tasks.support.x).flatten(0, 1), tasks.support.y.flatten())
        for state in (first, last)
    )
    assert after < before, "the inner steps learn the support set"


def test_every_parameter_of_the_network_and_the_head_is_adapted() -> None:
    first, *_, last = (state.parameters for state in protomaml().eval().adapt_stepwise(random_tasks().support))
    assert {"head.weight", "head.bias"} < set(first)
    weights = [name for name in first if name.endswith("weight")]
    assert all(not torch.allclose(first[name], last[name], atol=1e-7) for name in weights)
    assert not any(parameter.requires_grad for parameter in last.values())


def test_it_has_no_head_to_learn() -> None:
    algorithm = protomaml(learn_scale=False)
    assert not [name for name, _ in algorithm.named_parameters() if "head" in name or "scale" in name]


def test_inner_steps_taken_twice_have_the_gradient_of_those_that_are_kept() -> None:
    tasks = random_tasks()
    kept, again = (gradients(protomaml(checkpoint_inner=twice), tasks, TASKS) for twice in (False, True))
    assert_equal(again, kept)


def test_without_transduction_a_query_sees_only_the_support_set() -> None:
    tasks, algorithm = random_tasks(), protomaml().eval()
    algorithm.set_transductive(False)
    adapted = algorithm.adapt(tasks.support)
    whole = algorithm.predict(adapted, tasks.query.x)
    torch.testing.assert_close(algorithm.predict(adapted, tasks.query.x[:, :1]), whole[:, :1])
