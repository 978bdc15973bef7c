"""Gradients of each task's loss that can be differentiated once more, both written out: MAML's inner step on images, on a CPU.

What the meta-gradient needs of an inner step is the product of the loss's Hessian with what arrives from behind the step. It is the derivative of the
gradient along that direction (Pearlmutter 1994, "Fast Exact Multiplication by the Hessian"): each layer's forward and backward pass is differentiated
by itself, so that only the layers' maps are kept, no graph. Before the first inner step all tasks have the same kernels. Then products with them are
one for all tasks, and so is the sum over tasks that the meta-gradient is; autograd cannot know that of the kernels' copies.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from metalearn.nn.chain import Family, Loss, layer_of, steps_of
from metalearn.nn.chain_layers import Parameters
from metalearn.nn.twice_convolutions import ConvolutionBySize
from metalearn.nn.twice_layers import (
    BatchNorm,
    Flatten,
    Layer,
    Linear,
    MaxPool,
    Mean,
    Relu,
)

Made = Callable[[], Layer]


class TwiceDifferentiable:
    """The gradients of one network, whose examples pass one layer after another.

    Args:
        layers: what makes each of them; a pass has layers of its own, which keep its maps.
    """

    def __init__(self, layers: Sequence[Made]) -> None:
        self._layers = layers

    def __call__(self, parameters: Parameters, x: Tensor, y: Tensor, loss: Loss) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses [T] of examples x [T, n, ...], y [T, n, ...], as constants, and their gradients by `parameters`, name -> [T, ...], which can be
        differentiated once."""
        names = tuple(parameters)
        once = _Once([made() for made in self._layers], x, y, loss)
        losses, *gradients = _Gradients.apply(once, names, *parameters.values())
        return losses, dict(zip(names, gradients, strict=True))

    @torch.no_grad()
    def gradient(
        self, parameters: Parameters, x: Tensor, y: Tensor, loss: Loss, into: Parameters
    ) -> tuple[Tensor, Tensor]:
        """As `Chain.gradient`, with parameters in any order in memory."""
        once = _Once([made() for made in self._layers], x, y, loss)
        losses, found = once.gradient(parameters)
        for name, part in into.items():
            part.copy_(found[name])
        return losses, once.outputs.detach()


class _Once:
    """One forward and one backward pass of T tasks, and their derivatives along a direction."""

    def __init__(self, layers: list[Layer], x: Tensor, y: Tensor, loss: Loss) -> None:
        self._layers, self._x, self._y, self._loss = layers, x, y, loss

    def gradient(self, parameters: Parameters) -> tuple[Tensor, dict[str, Tensor]]:
        x = self._x.permute(0, 1, 3, 4, 2).contiguous()
        for layer in self._layers:
            x = layer.forward(x, parameters)
        with torch.enable_grad():
            self.outputs = x.detach().requires_grad_()
            losses = self._loss(self.outputs, self._y)
            (self._of_outputs,) = torch.autograd.grad(losses.sum(), self.outputs, create_graph=True)
        into: dict[str, Tensor] = {}
        gradient: Tensor | None = self._of_outputs.detach()
        for place in reversed(range(len(self._layers))):
            assert gradient is not None
            gradient = self._layers[place].backward(gradient, parameters, into, needed=place > 0)
        return losses.detach(), into

    def along(self, parameters: Parameters, direction: Parameters) -> dict[str, Tensor]:
        """The product of each task's Hessian with `direction`, name -> [T, ...]; the mean over tasks [1, ...] of some that all tasks share."""
        x: Tensor | None = None
        for layer in self._layers:
            x = layer.forward_along(x, parameters, direction)
        assert x is not None
        gradient: Tensor | None = torch.zeros_like(x)
        # The loss's own second derivatives are symmetric: those along x are the sum over x.
        if self._of_outputs.requires_grad:
            with torch.enable_grad():
                # Not torch.autograd.grad(of_outputs, outputs, x): to compare their shapes, torch imports a library of symbols, 0.7 s and 30 MiB.
                (gradient,) = torch.autograd.grad((self._of_outputs * x).sum(), self.outputs, retain_graph=True)
        into: dict[str, Tensor] = {}
        for place in reversed(range(len(self._layers))):
            assert gradient is not None
            gradient = self._layers[place].backward_along(gradient, parameters, direction, into, needed=place > 0)
        return into


class _Gradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, once: _Once, names: tuple[str, ...], *parameters: Tensor) -> tuple[Tensor, ...]:
        ctx.once, ctx.names = once, names
        ctx.save_for_backward(*parameters)
        losses, found = once.gradient(dict(zip(names, parameters, strict=True)))
        ctx.mark_non_differentiable(losses)
        return (losses, *(found[name] for name in names))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: Tensor, *direction: Tensor) -> tuple[Tensor | None, ...]:
        parameters = dict(zip(ctx.names, ctx.saved_tensors, strict=True))
        found = ctx.once.along(parameters, dict(zip(ctx.names, direction, strict=True)))
        # The mean over tasks in every task's place: autograd sums over tasks next.
        return (None, None, *(found[name].expand_as(part) for name, part in parameters.items()))


_FAMILY = Family(
    lambda module, name, before_norm: functools.partial(ConvolutionBySize, module, name, before_norm),
    lambda module, name: functools.partial(BatchNorm, module, name),
    lambda module, name, before_norm: functools.partial(Linear, module, name),
    lambda in_place: functools.partial(Relu, in_place),
    lambda module: functools.partial(MaxPool, module),
    lambda: Flatten,
    lambda: Mean,
)


def twice_differentiable(network: nn.Module) -> TwiceDifferentiable | None:
    """Those of `network`; None where its first layer is no convolution, it does anything but pass on, or has a layer that is not known
    here."""
    steps = steps_of(network)
    if not steps or not isinstance(steps[0].module, nn.Conv2d):
        return None
    layers: list[Made | None] = [layer_of(step, _FAMILY) for step in steps]
    return None if None in layers else TwiceDifferentiable([made for made in layers if made is not None])
