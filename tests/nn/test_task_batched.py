"""Tasks one after another or together: the same outputs, losses and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from metalearn import kinds
from metalearn.algorithms.inner_loop import linear_classifier
from metalearn.backbones import MLP, Backbone, Conv4
from metalearn.nn import task_batched
from metalearn.nn.chain import chain_of

TASKS, WAYS, EXAMPLES, SHAPE = 3, 2, 12, (1, 16, 16)


def network(kind: str) -> nn.Module:
    torch.manual_seed(0)
    mlp = MLP(SHAPE, [7], "batch", running_stats=False)
    net: Backbone = mlp if kind == "mlp" else Conv4(SHAPE, 4, kind, "batch", running_stats=False, pool="flatten")
    return linear_classifier(net, WAYS).double()


def parameters_of(module: nn.Module) -> dict[str, Tensor]:
    """Of each task its own, with a history: [T, ...]."""
    return {
        name: (p.expand(TASKS, *p.shape) * torch.linspace(0.9, 1.1, TASKS).view(-1, *[1] * p.dim()))
        for name, p in module.named_parameters()
    }


def images(examples: int = EXAMPLES) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(TASKS, examples, *SHAPE, generator=generator, dtype=torch.float64)
    return x, torch.randint(WAYS, (TASKS, examples), generator=generator)


@pytest.mark.parametrize("kind", ["max_pool", "stride", "mlp"])
def test_outputs_and_second_derivatives_are_those_of_all_tasks_together(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, (x, y) = network(kind), images()
    outcomes = []
    for many in (1, EXAMPLES + 1):
        monkeypatch.setattr(task_batched, "_MANY", many)
        assert task_batched.better_task_by_task(x) == (many == 1)
        parameters = parameters_of(module)
        logits = task_batched.forward_batched(module, parameters, x)
        loss = kinds.cross_entropy(logits, y).sum()
        first = torch.autograd.grad(loss, list(parameters.values()), create_graph=True)
        second = torch.autograd.grad(
            torch.stack([g.square().sum() for g in first]).sum(), list(module.parameters()), allow_unused=True
        )
        outcomes.append([logits, *first, *(torch.zeros(()) if g is None else g for g in second)])
    for one, other in zip(*outcomes, strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-7)


@pytest.mark.parametrize("by_chain", [True, False])
@pytest.mark.parametrize("kind", ["max_pool", "stride", "mlp"])
def test_the_loss_differentiated_task_by_task_has_the_gradient_of_the_loss(kind: str, by_chain: bool) -> None:
    module, (x, y) = network(kind), images()
    chain = chain_of(module, direct=True) if by_chain else None
    assert (chain is not None) == by_chain
    weights = torch.tensor([0.5, 2.0, -1.0], dtype=torch.float64)  # of the tasks in what is differentiated
    plain = kinds.cross_entropy(task_batched.forward_batched(module, parameters_of(module), x), y)
    expected = torch.autograd.grad((weights * plain).sum(), list(module.parameters()))
    loss, logits = task_batched.loss_task_by_task(module, parameters_of(module), x, y, kinds.cross_entropy, chain)
    torch.testing.assert_close(loss, plain)
    assert not logits.requires_grad
    torch.testing.assert_close(kinds.cross_entropy(logits, y), plain.detach())
    for ours, theirs in zip(
        torch.autograd.grad((weights * loss).sum(), list(module.parameters())), expected, strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-9)


def test_the_loss_differentiated_task_by_task_refuses_a_second_derivative() -> None:
    module, (x, y) = network("mlp"), images()
    loss, _ = task_batched.loss_task_by_task(module, parameters_of(module), x, y, kinds.cross_entropy)
    (first, *_) = torch.autograd.grad(loss.sum(), list(module.parameters()), create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        first.sum().backward()  # type: ignore[no-untyped-call]


def test_few_images_go_together() -> None:
    assert not task_batched.better_task_by_task(torch.zeros(4, 5, *SHAPE))
    assert task_batched.better_task_by_task(torch.zeros(4, 75, *SHAPE))
    assert task_batched.better_task_by_task(torch.zeros(1, 5, *SHAPE))
    assert not task_batched.better_task_by_task(torch.zeros(4, 75, 64)), (
        "features of a head alone: products of matrices"
    )


@pytest.mark.parametrize("kind", ["max_pool", "stride", "mlp"])
def test_each_query_is_normalised_with_the_support_set_alone(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_batched, "_IMAGES_AT_ONCE", 20)  # one query a pass for one task, the rest in portions
    module, (support, _), (queries, _) = network(kind).eval(), images(6), images(5)
    parameters = {name: value.detach() for name, value in parameters_of(module).items()}
    found = task_batched.forward_one_by_one(module, parameters, support, queries)
    for task in range(TASKS):
        of_task = {name: value[task] for name, value in parameters.items()}
        for query in range(5):
            together = torch.cat([support[task], queries[task, query : query + 1]])
            alone = torch.func.functional_call(module, of_task, (together,))[-1]
            torch.testing.assert_close(found[task, query], alone)
