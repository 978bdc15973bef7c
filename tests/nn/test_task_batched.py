"""Tasks one after another or together: the same outputs, losses and gradients."""

from __future__ import annotations

import pytest
import torch

from metalearn import kinds
from metalearn.nn import task_batched
from metalearn.nn.chain import chain_of
from tests.nn.networks import EXAMPLES, SHAPE, images, network, parameters_of


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
