"""The layers of a chain (metalearn/nn/chain.py): forward and backward passes without autograd.

G tasks with parameters of their own [G, ...]. Feature maps lie as [G, n, h, w, c], features as [G, n, D].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

Parameters = Mapping[str, Tensor]


class Layer(Protocol):
    """One layer. `forward` remembers what the next `backward` needs."""

    def forward(self, x: Tensor, parameters: Parameters) -> Tensor: ...

    def backward(self, gradient: Tensor, parameters: Parameters, into: Parameters, needed: bool) -> Tensor | None:
        """Writes the gradients of its parameters into `into`; returns that of its input where it is `needed`."""
        ...


class BatchNorm:
    """Normalises with the statistics of the task's examples at hand."""

    def __init__(self, module: nn.BatchNorm1d | nn.BatchNorm2d, name: str) -> None:
        self._weight, self._bias, self._eps = f"{name}.weight", f"{name}.bias", module.eps

    def forward(self, x: Tensor, parameters: Parameters) -> Tensor:
        values = x.reshape(len(x), -1, x.shape[-1])  # [G, m, c]
        if values.shape[1] == 1:
            raise ValueError(f"one value per channel has no variance: input of shape {tuple(x.shape)}")
        self._centred = values - values.mean(1, keepdim=True)
        variance = self._centred.square().mean(1, keepdim=True)
        self._inverse = torch.rsqrt(variance + self._eps)  # [G, 1, c]
        scale = self._inverse * parameters[self._weight].unsqueeze(1)
        return torch.addcmul(parameters[self._bias].unsqueeze(1), self._centred, scale).view(x.shape)

    def backward(self, gradient: Tensor, parameters: Parameters, into: Parameters, needed: bool) -> Tensor | None:
        rows = gradient.reshape(self._centred.shape)
        of_bias = rows.sum(1, keepdim=True)
        of_weight = (rows * self._centred).sum(1, keepdim=True).mul_(self._inverse)
        into[self._bias].copy_(of_bias.squeeze(1))
        into[self._weight].copy_(of_weight.squeeze(1))
        if not needed:
            return None
        m = rows.shape[1]
        by_x = torch.addcmul(rows - of_bias / m, self._centred, of_weight * self._inverse, value=-1 / m)
        return by_x.mul_(self._inverse * parameters[self._weight].unsqueeze(1)).view(gradient.shape)


class Linear:
    def __init__(self, module: nn.Linear, name: str, before_norm: bool) -> None:
        self._weight, self._bias = f"{name}.weight", None if module.bias is None else f"{name}.bias"
        self._before_norm = before_norm

    def forward(self, x: Tensor, parameters: Parameters) -> Tensor:
        self._x = x
        out = torch.bmm(x, parameters[self._weight].transpose(1, 2))
        if self._bias is not None and not self._before_norm:
            out += parameters[self._bias].unsqueeze(1)
        return out

    def backward(self, gradient: Tensor, parameters: Parameters, into: Parameters, needed: bool) -> Tensor | None:
        into[self._weight].copy_(torch.bmm(gradient.transpose(1, 2), self._x))
        if self._bias is not None:
            into[self._bias].copy_(torch.zeros(()) if self._before_norm else gradient.sum(1))
        return torch.bmm(gradient, parameters[self._weight]) if needed else None


class Relu:
    def __init__(self, in_place: bool) -> None:
        """In place: nobody needs the input any more."""
        self._in_place = in_place

    def forward(self, x: Tensor, parameters: Parameters) -> Tensor:
        self._out = x.relu_() if self._in_place else x.relu()
        return self._out

    def backward(self, gradient: Tensor, parameters: Parameters, into: Parameters, needed: bool) -> Tensor | None:
        found: Tensor = torch.ops.aten.threshold_backward(gradient, self._out, 0)
        return found


class MaxPool:
    def __init__(self, module: nn.MaxPool2d) -> None:
        self._how = [pair(part) for part in (module.kernel_size, module.stride, module.padding, module.dilation)]

    def forward(self, x: Tensor, parameters: Parameters) -> Tensor:
        self._x = images_of(x)
        pooled: Tensor
        pooled, self._places = torch.ops.aten.max_pool2d_with_indices(self._x, *self._how)
        return pooled.permute(0, 2, 3, 1).reshape(*x.shape[:2], *pooled.shape[2:], -1)

    def backward(self, gradient: Tensor, parameters: Parameters, into: Parameters, needed: bool) -> Tensor | None:
        found: Tensor = torch.ops.aten.max_pool2d_with_indices_backward(
            images_of(gradient), self._x, *self._how, False, self._places
        )
        return found.permute(0, 2, 3, 1).reshape(*gradient.shape[:2], *found.shape[2:], -1)


def images_of(x: Tensor) -> Tensor:
    """[G, n, h, w, c] -> [G * n, c, h, w], the same memory."""
    return x.flatten(0, 1).permute(0, 3, 1, 2)


def pair(size: int | tuple[int, ...]) -> tuple[int, ...]:
    return (size, size) if isinstance(size, int) else size


class Flatten:
    def forward(self, x: Tensor, parameters: Parameters) -> Tensor:
        self._maps = x.dim() == 5
        self._x = x.permute(0, 1, 4, 2, 3) if self._maps else x
        return self._x.flatten(2)

    def backward(self, gradient: Tensor, parameters: Parameters, into: Parameters, needed: bool) -> Tensor | None:
        found = gradient.reshape(self._x.shape)
        return found.permute(0, 1, 3, 4, 2).contiguous() if self._maps else found


class Mean:
    """Over the feature map: [G, n, h, w, c] -> [G, n, c]."""

    def forward(self, x: Tensor, parameters: Parameters) -> Tensor:
        self._shape = x.shape
        return x.mean((2, 3))

    def backward(self, gradient: Tensor, parameters: Parameters, into: Parameters, needed: bool) -> Tensor | None:
        share = gradient / (self._shape[2] * self._shape[3])
        return share[:, :, None, None].expand(self._shape).contiguous()
