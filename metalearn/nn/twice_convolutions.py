"""The convolutions of `twice_layers`: passes, and their derivatives along a direction, without autograd.

Feature maps lie as [T, n, h, w, c], of T tasks with kernels of their own or, before the first inner step, the same ones, expanded.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from metalearn.nn.chain_convolutions import outputs_of, put_windows, windows_of
from metalearn.nn.chain_layers import Parameters, images_of
from metalearn.nn.twice_layers import Layer, maps_of, outer, plus, product, shared

_MANY = 300  # outputs of a task in each channel; from there on torch's convolution takes less time than patches and a product of matrices
_FEW = 32  # numbers of a patch; so few, as of images with one channel, are always cut out


class Convolution:
    """By patches, as products of matrices."""

    def __init__(self, module: nn.Conv2d, name: str, before_norm: bool) -> None:
        self._weight, self._bias = f"{name}.weight", None if module.bias is None else f"{name}.bias"
        self._size, self._stride = module.kernel_size, module.stride
        assert not isinstance(module.padding, str)
        self._padding = module.padding
        self._before_norm = before_norm  # which takes a bias out again

    def _cut(self, x: Tensor) -> Tensor:
        """The patches of x [T, n, h, w, c]: [T, n * h' * w', k * k * c]."""
        down, across = self._padding
        padded = functional.pad(x, (0, 0, across, across, down, down)) if down or across else x.contiguous()
        self._padded = padded.shape
        windows = windows_of(padded, self._size, self._stride)
        self._shape = windows.shape
        return windows.reshape(len(x), math.prod(windows.shape[1:4]), -1)

    def _put_back(self, rows: Tensor) -> Tensor:
        """The sum over all patches that a number lies in: what `_cut` is differentiated to."""
        patches = rows.view(self._shape)
        whole = rows.new_empty(self._padded)
        put_windows(whole, patches, self._stride)
        (top, left), (height, width) = self._padding, self._padded[2:4]
        return whole[:, :, top : height - top, left : width - left].contiguous()

    def forward(self, x: Tensor, parameters: Parameters) -> Tensor:
        self._rows = self._cut(x)
        self._kernels = _matrices(parameters[self._weight])
        out = product(self._rows, self._kernels.transpose(1, 2)).view(*self._shape[:4], -1)
        return out if self._before_norm else plus(out, self._bias, parameters)

    def backward(
        self, gradient: Tensor, parameters: Parameters, into: dict[str, Tensor], needed: bool
    ) -> Tensor | None:
        self._gradient = gradient.reshape(len(gradient), self._rows.shape[1], -1)
        weight = parameters[self._weight]
        into[self._weight] = _kernels(torch.bmm(self._gradient.transpose(1, 2), self._rows), weight)
        _of_bias(into, self._bias, gradient, self._before_norm)
        return self._put_back(product(self._gradient, self._kernels)) if needed else None

    def forward_along(self, x: Tensor | None, parameters: Parameters, direction: Parameters) -> Tensor:
        self._rows_along = None if x is None else self._cut(x)
        self._direction = _matrices(direction[self._weight])
        out = torch.bmm(self._rows, self._direction.transpose(1, 2))
        if self._rows_along is not None:
            out += product(self._rows_along, self._kernels.transpose(1, 2))
        out = out.view(*self._shape[:4], -1)
        return out if self._before_norm else plus(out, self._bias, direction)

    def backward_along(
        self, gradient: Tensor, parameters: Parameters, direction: Parameters, into: dict[str, Tensor], needed: bool
    ) -> Tensor | None:
        weight = parameters[self._weight]
        rows = gradient.reshape(self._gradient.shape)
        found = outer(rows, self._rows, shared(weight))
        if self._rows_along is not None:
            found += outer(self._gradient, self._rows_along, shared(weight))
        into[self._weight] = _kernels(found, weight)
        _of_bias(into, self._bias, gradient, self._before_norm)
        if not needed:
            return None
        return self._put_back(product(rows, self._kernels).baddbmm_(self._gradient, self._direction))


class DirectConvolution:
    """By torch's convolution, one task after another where the kernels are a task's own: for tasks of many outputs."""

    def __init__(self, module: nn.Conv2d, name: str, before_norm: bool) -> None:
        self._weight, self._bias = f"{name}.weight", None if module.bias is None else f"{name}.bias"
        assert not isinstance(module.padding, str)
        self._how = (module.stride, module.padding, module.dilation)
        self._before_norm = before_norm

    def _convolved(self, x: Tensor, weight: Tensor) -> Tensor:
        if shared(weight):
            out = functional.conv2d(images_of(x), weight[0], None, *self._how)
            return maps_of(out, len(x))
        of_each = [
            functional.conv2d(_last(images), kernels, None, *self._how).permute(0, 2, 3, 1)
            for images, kernels in zip(x, weight, strict=True)
        ]
        return torch.stack(of_each)

    def _by_x(self, gradient: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        if shared(weight):
            return maps_of(
                self._backward(images_of(gradient), images_of(x), weight[0], (True, False, False))[0], len(x)
            )
        of_each = [
            self._backward(_last(one), _last(images), kernels, (True, False, False))[0].permute(0, 2, 3, 1)
            for one, images, kernels in zip(gradient, x, weight, strict=True)
        ]
        return torch.stack(of_each)

    def _by_weight(self, gradient: Tensor, x: Tensor, weight: Tensor, mean: bool = False) -> Tensor:
        """[T, o, c, k, k], or the mean over tasks [1, o, c, k, k]."""
        if mean:
            total = self._backward(images_of(gradient), images_of(x), weight[0], (False, True, False))[1]
            return (total / len(x)).unsqueeze(0)
        of_each = [
            self._backward(_last(one), _last(images), kernels, (False, True, False))[1]
            for one, images, kernels in zip(gradient, x, weight, strict=True)
        ]
        return torch.stack(of_each)

    def _backward(self, gradient: Tensor, x: Tensor, kernels: Tensor, wanted: tuple[bool, bool, bool]) -> list[Tensor]:
        found: list[Tensor] = torch.ops.aten.convolution_backward(
            gradient, x, kernels, None, *self._how, False, (0, 0), 1, wanted
        )
        return found

    def forward(self, x: Tensor, parameters: Parameters) -> Tensor:
        self._x = x
        out = self._convolved(x, parameters[self._weight])
        return out if self._before_norm else plus(out, self._bias, parameters)

    def backward(
        self, gradient: Tensor, parameters: Parameters, into: dict[str, Tensor], needed: bool
    ) -> Tensor | None:
        self._gradient = gradient
        into[self._weight] = self._by_weight(gradient, self._x, parameters[self._weight])
        _of_bias(into, self._bias, gradient, self._before_norm)
        return self._by_x(gradient, self._x, parameters[self._weight]) if needed else None

    def forward_along(self, x: Tensor | None, parameters: Parameters, direction: Parameters) -> Tensor:
        self._x_along = x
        out = self._convolved(self._x, direction[self._weight])
        if x is not None:
            out += self._convolved(x, parameters[self._weight])
        return out if self._before_norm else plus(out, self._bias, direction)

    def backward_along(
        self, gradient: Tensor, parameters: Parameters, direction: Parameters, into: dict[str, Tensor], needed: bool
    ) -> Tensor | None:
        weight = parameters[self._weight]
        mean = shared(weight)
        found = self._by_weight(gradient, self._x, weight, mean)
        if self._x_along is not None:
            found += self._by_weight(self._gradient, self._x_along, weight, mean)
        into[self._weight] = found
        _of_bias(into, self._bias, gradient, self._before_norm)
        if not needed:
            return None
        return self._by_x(gradient, self._x, weight) + self._by_x(self._gradient, self._x, direction[self._weight])


class ConvolutionBySize:
    """Directly where a task has many outputs of many inputs, by the patches elsewhere: each takes less time there."""

    def __init__(self, module: nn.Conv2d, name: str, before_norm: bool) -> None:
        self._made = (module, name, before_norm)

    def forward(self, x: Tensor, parameters: Parameters) -> Tensor:
        module = self._made[0]
        many = outputs_of(module, x) >= _MANY and module.weight[0].numel() > _FEW
        self._chosen: Layer = (DirectConvolution if many else Convolution)(*self._made)
        return self._chosen.forward(x, parameters)

    def backward(
        self, gradient: Tensor, parameters: Parameters, into: dict[str, Tensor], needed: bool
    ) -> Tensor | None:
        return self._chosen.backward(gradient, parameters, into, needed)

    def forward_along(self, x: Tensor | None, parameters: Parameters, direction: Parameters) -> Tensor:
        return self._chosen.forward_along(x, parameters, direction)

    def backward_along(
        self, gradient: Tensor, parameters: Parameters, direction: Parameters, into: dict[str, Tensor], needed: bool
    ) -> Tensor | None:
        return self._chosen.backward_along(gradient, parameters, direction, into, needed)


def _of_bias(into: dict[str, Tensor], bias: str | None, gradient: Tensor, before_norm: bool) -> None:
    if bias is not None:
        over = tuple(range(1, gradient.dim() - 1))
        into[bias] = gradient.new_zeros(len(gradient), gradient.shape[-1]) if before_norm else gradient.sum(over)


def _matrices(kernels: Tensor) -> Tensor:
    """Kernels [T, o, c, k, k] as [T, o, k * k * c]; those that are shared stay so."""
    if shared(kernels):
        one = kernels[0].permute(0, 2, 3, 1).flatten(1)
        return one.expand(len(kernels), *one.shape)
    return kernels.permute(0, 1, 3, 4, 2).flatten(2)


def _kernels(matrices: Tensor, like: Tensor) -> Tensor:
    """[T, o, k * k * c] as kernels [T, o, c, k, k]."""
    _, o, c, height, width = like.shape
    return matrices.view(-1, o, height, width, c).permute(0, 1, 4, 2, 3)


def _last(x: Tensor) -> Tensor:
    """[n, h, w, c] -> [n, c, h, w], the same memory."""
    return x.permute(0, 3, 1, 2)
