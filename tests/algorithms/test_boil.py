"""BOIL against a one-task transcription, and its head on tasks of other ways."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from metalearn.algorithms.maml import MAML
from metalearn.engine.gradient import meta_gradient
from metalearn.nn.heads import rows_of_head
from metalearn.tasks import TaskBatch
from tests.algorithms.one_task_at_a_time import TASKS, WAYS, backbone, gradient_of, random_tasks


def boil(
    kind: str = "conv",
    first_order: bool = False,
    norm_parameters: str = "adapted",
    learn_rates: bool = False,
    steps: int = 2,
) -> MAML:
    return MAML(
        backbone(kind),
        WAYS,
        inner_lr=0.4,
        inner_steps=steps,
        test_inner_steps=steps + 1,
        first_order=first_order,
        learn_rates=learn_rates,
        multi_step_loss_until=0,
        first_order_until=0,
        checkpoint_inner=False,
        norm_parameters=norm_parameters,
        head_parameters="shared",
    ).double()


def transcribed(algorithm: MAML, tasks: TaskBatch, second_order: bool) -> tuple[float, dict[str, Tensor]]:
    """The inner loop of the authors' code, task by task, with a step size of 0 for the classifier: the loss and its gradients."""
    network = algorithm.classifier()
    start = {name: parameter.detach().clone().requires_grad_() for name, parameter in network.named_parameters()}
    total = torch.zeros((), dtype=torch.float64)
    for task in range(tasks.tasks):
        parameters: dict[str, Tensor] = dict(start)
        for _ in range(algorithm.inner_steps):
            logits = functional_call(network, parameters, (tasks.support.x[task],))
            loss = F.cross_entropy(logits, tasks.support.y[task])
            slopes = torch.autograd.grad(loss, list(parameters.values()), create_graph=second_order)
            sizes = [0.0 if name.startswith("head.") else 0.4 for name in parameters]
            moved = zip(parameters.items(), sizes, slopes, strict=True)
            parameters = {name: parameter - size * slope for (name, parameter), size, slope in moved}
        logits = functional_call(network, parameters, (tasks.query.x[task],))
        total = total + F.cross_entropy(logits, tasks.query.y[task]) / tasks.tasks
    total.backward()  # type: ignore[no-untyped-call]
    return float(total.detach()), {name: gradient_of(leaf) for name, leaf in start.items()}  # type: ignore[arg-type]


@pytest.mark.parametrize("task_chunk", [1, TASKS])
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("kind", ["conv", "mlp"])
def test_it_is_maml_with_a_step_size_of_zero_for_the_head(kind: str, first_order: bool, task_chunk: int) -> None:
    tasks, algorithm = random_tasks(), boil(kind, first_order)
    expected_loss, expected = transcribed(algorithm, tasks, second_order=not first_order)
    loss = meta_gradient(algorithm, tasks, task_chunk, "fp32")["loss"]
    assert float(loss) == pytest.approx(expected_loss, abs=1e-12)
    for name, parameter in algorithm.classifier().named_parameters():
        torch.testing.assert_close(gradient_of(parameter), expected[name], atol=1e-11, rtol=1e-9)
    assert expected["head.weight"].abs().max() > 1e-4, "the outer loop learns the head"


def test_the_inner_loop_moves_the_body_and_leaves_the_head() -> None:
    tasks, algorithm = random_tasks(), boil().eval()
    first, *_, last = (state.parameters for state in algorithm.adapt_stepwise(tasks.support))
    for name in ("head.weight", "head.bias"):
        assert torch.equal(first[name], last[name])
    kernels = [name for name in first if name.startswith("backbone.") and first[name].dim() == 5]
    assert len(kernels) == 4
    assert all(not torch.allclose(first[name], last[name], atol=1e-6) for name in kernels)


def test_it_can_be_combined_with_shared_norms_and_learned_rates() -> None:
    algorithm = boil(norm_parameters="per_step", learn_rates=True)
    assert algorithm.rates is not None
    assert algorithm.rates.shape == (2, 8)  # weight and bias of four convolutions
    meta_gradient(algorithm, random_tasks(), TASKS, "fp32")
    for name, parameter in algorithm.named_parameters():
        assert gradient_of(parameter).isfinite().all(), name


def test_fewer_ways_take_the_first_rows_and_more_ways_rows_that_differ() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(2, 3, 50, generator=generator)
    assert torch.equal(rows_of_head(weight, 2), weight[:, :2])
    rows = rows_of_head(weight, 8)
    assert rows.shape == (2, 8, 50)
    assert torch.equal(rows[:, :3], weight)
    apart = torch.cdist(rows, rows) + 100 * torch.eye(8)
    assert apart.min() > 0.5 * torch.cdist(weight, weight).max(), "no two rows are alike"
    # The further ones are as far from the mean row as the trained ones.
    far = (rows - weight.mean(1, keepdim=True)).norm(dim=-1)
    torch.testing.assert_close(far, far[:, :3].repeat(1, 3)[:, :8])
    bias = torch.tensor([[1.0, 2.0, 3.0]])
    assert rows_of_head(bias, 5).tolist() == [[1.0, 2.0, 3.0, 1.0, 2.0]]


@pytest.mark.parametrize("ways", [2, 7])
def test_tasks_of_other_ways_are_learned_by_the_body_alone(ways: int) -> None:
    """A head of equal rows, from which an adapted head starts, could not tell classes apart."""
    tasks, algorithm = random_tasks(ways=ways), boil(steps=20).eval()
    before, *_, after = (algorithm.predict(state, tasks.support.x) for state in algorithm.adapt_stepwise(tasks.support))
    known = [(logits.argmax(-1) == tasks.support.y).double().mean() for logits in (before, after)]
    assert known[1] > known[0] + 0.2
