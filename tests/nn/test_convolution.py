"""The convolution that is cheap to differentiate twice: torch's values and derivatives, alone and with kernels of each task's own."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.utils._python_dispatch import TorchDispatchMode

from metalearn.nn.convolution import Conv2d

TASKS, IMAGES, CHANNELS, FILTERS, SIDE = 3, 4, 2, 5, 7


def double(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


def derivatives(layer: nn.Module, inputs: list[Tensor], dims: tuple[int | None, ...] | None) -> list[Tensor]:
    """Of a function of `layer`: its values, gradients, and the gradient of those."""

    def on_one(x: Tensor, *parameters: Tensor) -> Tensor:
        found: Tensor = functional_call(layer, dict(zip(("weight", "bias"), parameters, strict=False)), (x,))
        return found

    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    convolved = (on_one if dims is None else vmap(on_one, in_dims=dims))(*leaves)
    first = torch.autograd.grad(convolved.pow(3).sum(), leaves, create_graph=True)
    second = torch.autograd.grad(sum(gradient.pow(3).sum() for gradient in first), leaves)
    return [convolved, *first, *second]


@pytest.mark.parametrize(("stride", "padding"), [(1, 1), (2, 1), (2, 0)])
@pytest.mark.parametrize(
    ("of_tasks", "bias"),
    [
        *itertools.product(["nothing", "all", "images", "kernels", "kernels and images"], [True, False]),
        ("biases", True),
    ],
)
def test_values_and_derivatives_are_torchs(stride: int, padding: int, of_tasks: str, bias: bool) -> None:
    x_of_tasks = of_tasks in ("all", "images", "kernels and images")
    kernels_of_tasks = of_tasks in ("all", "kernels", "kernels and images")
    bias_of_tasks = of_tasks in ("all", "biases")
    inputs = [
        double(*[TASKS] * x_of_tasks, IMAGES, CHANNELS, SIDE, SIDE),
        double(*[TASKS] * kernels_of_tasks, FILTERS, CHANNELS, 3, 3),
        *([double(*[TASKS] * bias_of_tasks, FILTERS)] if bias else []),
    ]
    dims = tuple(0 if each else None for each in (x_of_tasks, kernels_of_tasks, bias_of_tasks))[: len(inputs)]
    settings: dict[str, Any] = {"stride": stride, "padding": padding, "bias": bias, "dtype": torch.float64}
    found, expected = (
        derivatives(layer(CHANNELS, FILTERS, 3, **settings), inputs, None if of_tasks == "nothing" else dims)
        for layer in (Conv2d, nn.Conv2d)
    )
    assert len(found) == 1 + 2 * len(inputs)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("dims", [None, (0, 0)])
def test_groups_and_dilation_are_torchs(dims: tuple[int, int] | None) -> None:
    axis = [TASKS] * (dims is not None)
    inputs = [double(*axis, IMAGES, 4, SIDE, SIDE), double(*axis, 6, 2, 3, 3)]
    settings: dict[str, Any] = {"groups": 2, "dilation": 2, "padding": 1, "bias": False, "dtype": torch.float64}
    found, expected = (derivatives(layer(4, 6, 3, **settings), inputs, dims) for layer in (Conv2d, nn.Conv2d))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_third_derivatives_are_torchs() -> None:
    x, weight = double(2, 2, 5, 5).requires_grad_(), double(3, 2, 3, 3).requires_grad_()
    ours = Conv2d(2, 3, 3, padding=1, bias=False, dtype=torch.float64)

    def gradient(x: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        loss = functional_call(ours, {"weight": weight}, (x,)).pow(4).sum()
        return torch.autograd.grad(loss, (x, weight), create_graph=True)

    assert torch.autograd.gradgradcheck(gradient, (x, weight))


def test_reduced_precision_is_that_of_autocast() -> None:
    layer, theirs = Conv2d(2, 3, 3), nn.Conv2d(2, 3, 3)
    theirs.load_state_dict(layer.state_dict())
    x = torch.randn(4, 2, 6, 6)
    outcomes = []
    for each in (layer, theirs):
        with torch.autocast("cpu", torch.bfloat16):
            convolved = each(x)
        assert convolved.dtype == torch.bfloat16
        convolved.float().pow(2).sum().backward()
        assert each.weight.grad is not None
        outcomes.append((convolved, each.weight.grad))
    torch.testing.assert_close(outcomes[0], outcomes[1])


def test_the_second_derivative_takes_no_more_convolutions_for_more_tasks() -> None:
    def convolutions(tasks: int) -> int:
        called: Counter[str] = Counter()

        class Counting(TorchDispatchMode):
            def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                called[func.overloadpacket.__name__] += 1
                return func(*args, **(kwargs or {}))

        with Counting():
            derivatives(
                Conv2d(2, 5, 3, bias=False), [torch.ones(tasks, 4, 2, 7, 7), torch.ones(tasks, 5, 2, 3, 3)], (0, 0)
            )
        return called["convolution"] + called["convolution_backward"]

    assert convolutions(2) == convolutions(8) == 7
