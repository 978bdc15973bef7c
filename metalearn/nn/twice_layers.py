"""The layers of a chain (metalearn/nn/chain.py) with their gradients and the derivatives of both along a direction, without autograd.

T tasks with parameters of their own [T, ...]. Those that all tasks still share, as before their first inner step, are expanded: their first axis has
stride 0. Products with such parameters are one for all tasks. Feature maps lie as [T, n, h, w, c], features as [T, n, D].
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol

import torch
from torch import Tensor, nn

from metalearn.nn import chain_layers
from metalearn.nn.chain_layers import Parameters


class Layer(Protocol):
    """One layer of one pass. Each method remembers what those behind it need: `forward`, `backward`, `forward_along`, `backward_along`.

    The last two are derivatives of the first two, along the ways that the input, the gradient and the parameters (`direction`) move.
    """

    def forward(self, x: Tensor, parameters: Parameters) -> Tensor: ...

    def backward(
        self, gradient: Tensor, parameters: Parameters, into: dict[str, Tensor], needed: bool
    ) -> Tensor | None:
        """Puts the gradients [T, ...] of its parameters `into`; returns that of its input where it is `needed`."""
        ...

    def forward_along(self, x: Tensor | None, parameters: Parameters, direction: Parameters) -> Tensor:
        """None: the input does not move; only the first layer's, a convolution's, does not."""
        ...

    def backward_along(
        self, gradient: Tensor, parameters: Parameters, direction: Parameters, into: dict[str, Tensor], needed: bool
    ) -> Tensor | None:
        """As `backward`; of kernels and matrices that all tasks share, the mean over tasks [1, ...] is put `into`."""
        ...


class Linear:
    def __init__(self, module: nn.Linear, name: str) -> None:
        self._weight, self._bias = f"{name}.weight", None if module.bias is None else f"{name}.bias"

    def forward(self, x: Tensor, parameters: Parameters) -> Tensor:
        self._x = x
        return plus(product(x, parameters[self._weight].transpose(1, 2)), self._bias, parameters)

    def backward(self, gradient: Tensor, parameters: Parameters, into: dict[str, Tensor], needed: bool) -> Tensor:
        self._gradient = gradient
        into[self._weight] = torch.bmm(gradient.transpose(1, 2), self._x)
        if self._bias is not None:
            into[self._bias] = gradient.sum(1)
        return product(gradient, parameters[self._weight])

    def forward_along(self, x: Tensor | None, parameters: Parameters, direction: Parameters) -> Tensor:
        assert x is not None
        self._x_along = x
        out = product(x, parameters[self._weight].transpose(1, 2))
        return plus(out.baddbmm_(self._x, direction[self._weight].transpose(1, 2)), self._bias, direction)

    def backward_along(
        self, gradient: Tensor, parameters: Parameters, direction: Parameters, into: dict[str, Tensor], needed: bool
    ) -> Tensor:
        mean = shared(parameters[self._weight])
        into[self._weight] = outer(gradient, self._x, mean) + outer(self._gradient, self._x_along, mean)
        if self._bias is not None:
            into[self._bias] = gradient.sum(1)
        return product(gradient, parameters[self._weight]).baddbmm_(self._gradient, direction[self._weight])


class BatchNorm:
    """Normalises with the statistics of the task's examples at hand: with c = x - mean and s = (variance + eps)^(-1/2), gain * c * s + shift."""

    def __init__(self, module: nn.BatchNorm1d | nn.BatchNorm2d, name: str) -> None:
        self._weight, self._bias, self._eps = f"{name}.weight", f"{name}.bias", module.eps

    def forward(self, x: Tensor, parameters: Parameters) -> Tensor:
        values = x.reshape(len(x), -1, x.shape[-1])  # [T, m, c]
        self._m = values.shape[1]
        if self._m == 1:
            raise ValueError(f"one value per channel has no variance: input of shape {tuple(x.shape)}")
        self._centred = values - values.mean(1, keepdim=True)
        variance = self._centred.square().mean(1, keepdim=True)
        self._inverse = torch.rsqrt(variance + self._eps)  # s [T, 1, c]
        self._scale = self._inverse * parameters[self._weight].unsqueeze(1)
        return torch.addcmul(parameters[self._bias].unsqueeze(1), self._centred, self._scale).view(x.shape)

    def backward(self, gradient: Tensor, parameters: Parameters, into: dict[str, Tensor], needed: bool) -> Tensor:
        self._gradient = gradient.reshape(self._centred.shape)
        of_bias = self._gradient.sum(1, keepdim=True)
        self._along = (self._gradient * self._centred).sum(1, keepdim=True)
        into[self._bias] = of_bias.squeeze(1)
        into[self._weight] = (self._along * self._inverse).squeeze(1)
        # u: the gradient less what the mean and the variance take of it
        self._less = torch.addcmul(
            self._gradient - of_bias / self._m, self._centred, self._inverse.square() * self._along, value=-1 / self._m
        )
        return (self._less * self._scale).view(gradient.shape)

    def forward_along(self, x: Tensor | None, parameters: Parameters, direction: Parameters) -> Tensor:
        assert x is not None
        values = x.reshape(self._centred.shape)
        self._centred_along = values - values.mean(1, keepdim=True)
        covariance = (self._centred * self._centred_along).mean(1, keepdim=True)
        self._inverse_along = -self._inverse.pow(3) * covariance
        gain = parameters[self._weight].unsqueeze(1)
        self._scale_along = direction[self._weight].unsqueeze(1) * self._inverse + gain * self._inverse_along
        shift = direction[self._bias].unsqueeze(1)
        out = torch.addcmul(shift, self._centred, self._scale_along)
        return out.addcmul_(self._centred_along, self._scale).view(x.shape)

    def backward_along(
        self, gradient: Tensor, parameters: Parameters, direction: Parameters, into: dict[str, Tensor], needed: bool
    ) -> Tensor:
        rows = gradient.reshape(self._centred.shape)
        of_bias = rows.sum(1, keepdim=True)
        moved = (rows * self._centred).addcmul_(self._gradient, self._centred_along).sum(1, keepdim=True)
        into[self._bias] = of_bias.squeeze(1)
        into[self._weight] = (moved * self._inverse + self._along * self._inverse_along).squeeze(1)
        squared = self._inverse.square()
        of_centred = 2 * self._inverse * self._inverse_along * self._along + squared * moved
        less = rows - of_bias / self._m
        less.addcmul_(self._centred_along, squared * self._along, value=-1 / self._m)
        less.addcmul_(self._centred, of_centred, value=-1 / self._m)
        return less.mul_(self._scale).addcmul_(self._less, self._scale_along).view(gradient.shape)


class _WithoutParameters(ABC):
    """Of layers that, where an example is, are linear: with the places that they let through, their derivatives along a direction are themselves."""

    @abstractmethod
    def backward(self, gradient: Tensor, parameters: Parameters, into: Parameters, needed: bool) -> Tensor | None: ...

    @abstractmethod
    def _on(self, x: Tensor) -> Tensor:
        """What the layer makes of the way that its input moves."""

    def forward_along(self, x: Tensor | None, parameters: Parameters, direction: Parameters) -> Tensor:
        assert x is not None
        return self._on(x)

    def backward_along(
        self, gradient: Tensor, parameters: Parameters, direction: Parameters, into: dict[str, Tensor], needed: bool
    ) -> Tensor | None:
        return self.backward(gradient, parameters, into, needed)


class Relu(chain_layers.Relu, _WithoutParameters):
    def _on(self, x: Tensor) -> Tensor:
        let_through: Tensor = torch.ops.aten.threshold_backward(x, self._out, 0)
        return let_through


class MaxPool(chain_layers.MaxPool, _WithoutParameters):
    def _on(self, x: Tensor) -> Tensor:
        of_pixels = x.flatten(0, 1).flatten(1, 2)  # [T * n, h * w, c]
        places = self._places.permute(0, 2, 3, 1)
        taken = of_pixels.gather(1, places.flatten(1, 2))
        return taken.view(*x.shape[:2], *places.shape[1:])


class Flatten(chain_layers.Flatten, _WithoutParameters):
    def _on(self, x: Tensor) -> Tensor:
        return x.permute(0, 1, 4, 2, 3).flatten(2) if x.dim() == 5 else x.flatten(2)


class Mean(chain_layers.Mean, _WithoutParameters):
    def _on(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def shared(parameter: Tensor) -> bool:
    """Whether all tasks have the same, expanded."""
    return parameter.stride(0) == 0 or len(parameter) == 1


def product(rows: Tensor, matrices: Tensor) -> Tensor:
    """[T, m, K] by [T, K, o] -> [T, m, o]; one product for all tasks where they share the matrix."""
    if shared(matrices):
        return (rows.flatten(0, 1) @ matrices[0]).view(*rows.shape[:2], -1)
    return torch.bmm(rows, matrices)


def outer(gradient: Tensor, x: Tensor, mean: bool) -> Tensor:
    """[T, m, o], [T, m, K] -> [T, o, K], or the mean over tasks [1, o, K]."""
    if mean:
        return (gradient.flatten(0, 1).t() @ x.flatten(0, 1)).div_(len(x)).unsqueeze(0)
    return torch.bmm(gradient.transpose(1, 2), x)


def plus(out: Tensor, bias: str | None, parameters: Parameters) -> Tensor:
    """Adds a bias [T, o] to [T, ..., o], in place."""
    if bias is not None:
        of_tasks = parameters[bias]
        out += of_tasks.view(len(of_tasks), *[1] * (out.dim() - 2), -1)
    return out


def maps_of(images: Tensor, tasks: int) -> Tensor:
    """[T * n, c, h, w] -> [T, n, h, w, c]."""
    last = images.permute(0, 2, 3, 1).contiguous()
    return last.view(tasks, -1, *last.shape[1:])
