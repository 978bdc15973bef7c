"""Gradients that can be differentiated once more, written out, against autograd's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from metalearn.algorithms.inner_loop import linear_classifier
from metalearn.backbones import MLP
from metalearn.kinds import cross_entropy, squared_error
from metalearn.nn import twice_convolutions
from metalearn.nn.twice import TwiceDifferentiable, twice_differentiable
from tests.nn.networks import Residual
from tests.nn.test_chain import IMAGE, NETWORKS, TASKS, WAYS, case

CONVOLVE = [name for name in NETWORKS if "fully connected" not in name and "images" not in name]
Case = tuple[nn.Module, TwiceDifferentiable, dict[str, Tensor], Tensor, Tensor]


def made(name: str) -> Case:
    torch.manual_seed(0)
    network = NETWORKS[name]().double()
    parameters, x, y = case(network, channels=3 if "more numbers" in name else 1)
    written_out = twice_differentiable(network)
    assert written_out is not None
    return network, written_out, parameters, x, y


def leaves_of(parameters: dict[str, Tensor], shared: bool) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Leaves, and what tasks take of them: a row each, or all the same one, expanded."""
    leaves = {name: (part[:1] if shared else part).clone().requires_grad_() for name, part in parameters.items()}
    return leaves, {name: part.expand(TASKS, *part.shape[1:]) for name, part in leaves.items()}


def losses_of(network: nn.Module, own: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
    outputs = [
        functional_call(network, {name: part[task] for name, part in own.items()}, (x[task],)) for task in range(TASKS)
    ]
    return cross_entropy(torch.stack(outputs), y)


@pytest.mark.parametrize("shared", [False, True], ids=["own parameters", "shared parameters"])
@pytest.mark.parametrize("many", [1, 10**9], ids=["direct", "patches"])
@pytest.mark.parametrize("name", CONVOLVE)
def test_gradients_and_their_derivatives_are_those_of_autograd(
    name: str, many: int, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(twice_convolutions, "_MANY", many)
    monkeypatch.setattr(twice_convolutions, "_FEW", 0)
    network, written_out, parameters, x, y = made(name)
    leaves, own = leaves_of(parameters, shared)
    plain = losses_of(network, own, x, y)
    expected = torch.autograd.grad(plain.sum(), list(own.values()), create_graph=True)
    losses, gradients = written_out(own, x, y, cross_entropy)
    assert list(gradients) == list(own)
    torch.testing.assert_close(losses, plain.detach())
    generator = torch.Generator().manual_seed(1)
    direction = [torch.randn(part.shape, generator=generator, dtype=part.dtype) for part in expected]
    for found, gradient in zip(gradients.values(), expected, strict=True):
        torch.testing.assert_close(found.detach(), gradient.detach(), rtol=1e-9, atol=1e-11)
    twice, expected_twice = (
        torch.autograd.grad(first, list(leaves.values()), direction, allow_unused=True)
        for first in (tuple(gradients.values()), expected)
    )
    for found, product in zip(twice, expected_twice, strict=True):
        assert found is not None
        torch.testing.assert_close(
            found, torch.zeros_like(found) if product is None else product, rtol=1e-9, atol=1e-10
        )


def test_a_loss_without_second_derivatives_of_its_own_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    network, written_out, parameters, x, y = made("strided")

    def linear(outputs: Tensor, y: Tensor) -> Tensor:
        return outputs[..., 0].sum(1)

    leaves, own = leaves_of(parameters, shared=False)
    outputs = [
        functional_call(network, {name: part[task] for name, part in own.items()}, (x[task],)) for task in range(TASKS)
    ]
    expected = torch.autograd.grad(linear(torch.stack(outputs), y).sum(), list(own.values()), create_graph=True)
    _, gradients = written_out(own, x, y, linear)
    moved = [
        gradients["backbone.blocks.4.weight"].square().sum(),
        expected[list(own).index("backbone.blocks.4.weight")].square().sum(),
    ]
    found, product = (torch.autograd.grad(one, leaves["backbone.blocks.0.weight"])[0] for one in moved)
    torch.testing.assert_close(found, product, rtol=1e-9, atol=1e-10)


def test_regression_is_served() -> None:
    network, written_out, parameters, x, _ = made("strided")
    y = torch.randn(*x.shape[:2], WAYS, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    leaves, own = leaves_of(parameters, shared=True)
    outputs = [
        functional_call(network, {name: part[task] for name, part in own.items()}, (x[task],)) for task in range(TASKS)
    ]
    plain = squared_error(torch.stack(outputs), y)
    expected = torch.autograd.grad(plain.sum(), list(own.values()), create_graph=True)
    _, gradients = written_out(own, x, y, squared_error)
    found, product = (
        torch.autograd.grad(sum(part.square().sum() for part in first), leaves["head.weight"])[0]
        for first in (tuple(gradients.values()), expected)
    )
    torch.testing.assert_close(found, product, rtol=1e-9, atol=1e-10)


def test_other_networks_are_left_to_autograd() -> None:
    assert twice_differentiable(linear_classifier(MLP(IMAGE, [7], "batch", running_stats=False), WAYS)) is None
    assert twice_differentiable(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), Residual())) is None
    assert twice_differentiable(nn.Sequential(nn.Conv2d(1, 2, 3), nn.GELU(), nn.Flatten(), nn.Linear(2, 2))) is None
    assert twice_differentiable(nn.Sequential(nn.ReLU(), nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2, 2))) is None
    running = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 2))
    assert twice_differentiable(running) is None
