"""First derivatives of each task's loss by its own parameters, where no second ones are needed: without autograd, as far as that can be."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from metalearn.nn.chain import Chain, Loss, chain_of
from metalearn.nn.rows import Rows
from metalearn.nn.task_batched import forward_batched, with_parameters
from metalearn.nn.twice import TwiceDifferentiable, twice_differentiable

IMAGES = 50  # that pass the network together, of several tasks where a task has fewer; measured: docs/performance.md


class TaskGradients:
    """Those of one network, [n, ...] -> [n, N]."""

    def __init__(self, network: nn.Module) -> None:
        self._network = network

    # Found when they are first asked for: until then somebody may give the network other layers.
    @functools.cached_property
    def _chain(self) -> Chain | None:
        return chain_of(self._network)

    @functools.cached_property
    def _twice(self) -> TwiceDifferentiable | None:
        return twice_differentiable(self._network)

    def by_hand(self, x: Tensor) -> bool:
        """Whether they are written out: of images [T, n, ...] on a CPU, which pass from layer to layer."""
        return self._chain is not None and images_on_cpu(x)

    def differentiable(self, x: Tensor) -> TwiceDifferentiable | None:
        """What finds them, written out, so that they can be differentiated once more; None where autograd must do it."""
        return self._twice if images_on_cpu(x) else None

    def __call__(
        self, parameters: dict[str, Tensor], x: Tensor, y: Tensor, loss: Loss
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses [T] of examples x [T, n, ...], y [T, n, ...] and their gradients by `parameters`, name -> [T, ...], both as constants."""
        parameters = {name: part.detach() for name, part in parameters.items()}
        if self.by_hand(x):
            return self._written_out(parameters, x, y, loss)
        with torch.enable_grad():  # evaluation turns gradients off
            leaves = {name: part.requires_grad_() for name, part in parameters.items()}
            losses = loss(forward_batched(self._network, leaves, x), y)
            # Of the SUM over tasks: each task's parameters get just that task's gradient.
            found = torch.autograd.grad(losses.sum(), list(leaves.values()))
        return losses.detach(), dict(zip(leaves, found, strict=True))

    def _written_out(
        self, parameters: dict[str, Tensor], x: Tensor, y: Tensor, loss: Loss
    ) -> tuple[Tensor, dict[str, Tensor]]:
        assert self._chain is not None
        size = max(1, IMAGES // x.shape[1])
        gradients = Rows({name: part[0] for name, part in parameters.items()}, len(x))
        losses = []
        for first in range(0, len(x), size):
            group = slice(first, first + size)
            own = gradients.scratch(len(x[group]))
            for name, part in parameters.items():
                own.named[name].copy_(part[group])
            of_group, _ = self._chain.gradient(own.named, x[group], y[group], loss, into=gradients.of(group))
            losses.append(of_group)
        return torch.cat(losses), gradients.named


def images_on_cpu(x: Tensor) -> bool:
    """Whether passes of x [T, n, ...] can be written out."""
    return x.dim() == 5 and x.device.type == "cpu" and not torch.is_autocast_enabled(x.device.type)


def in_rows_of_memory(network: nn.Module) -> None:
    """Gives a clone copies of its parameters [T, ...] as leaves that lie in memory as the gradients do that are written out."""
    parameters = dict(network.named_parameters())
    rows = Rows({name: part[0] for name, part in parameters.items()}, len(next(iter(parameters.values()))))
    for name, part in parameters.items():
        rows.named[name].copy_(part.detach())
    with_parameters(network, [part.requires_grad_() for part in rows.named.values()])


def loss_with_gradients(losses: Tensor, parameters: dict[str, Tensor], gradients: dict[str, Tensor]) -> Tensor:
    """The sum of losses [T], whose gradients by the parameters are those that are given: for what differentiates a loss by itself."""
    summed: Tensor = _LossWithGradients.apply(losses, [gradients[name] for name in parameters], *parameters.values())
    return summed


class _LossWithGradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, losses: Tensor, gradients: list[Tensor], *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return losses.sum()

    @staticmethod
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor | None, ...]:
        needed = zip(ctx.gradients, ctx.needs_input_grad[2:], strict=True)
        return (None, None, *(factor * gradient if wanted else None for gradient, wanted in needed))
