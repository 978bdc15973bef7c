"""The layers of a chain (metalearn/nn/chain.py) with their gradients and the derivatives of both along a direction, without autograd.

T tasks with parameters of their own [T, ...]. Those that all tasks still share, as before their first inner step, are expanded: their first axis has
stride 0. Products with such parameters are one for all tasks. Feature maps lie as [T, n, h, w, c], features as [T, n, D].
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from metalearn.nn.chain_layers import Parameters, images_of, pair

_MANY = 300  # outputs of a task in each channel; from there on torch's convolution takes less time than patches and a product of matrices

_FEW = 32  # numbers of a patch; so few, as of images with one channel, are always cut out


class Layer(Protocol):
    """One layer of one pass. Each method remembers what those behind it need: `forward`, `backward`, `forward_along`, `backward_along`.

    The last two are derivatives of the first two, along the ways that the input, the gradient and the parameters (`direction`) move.
    """

    def forward(self, x: Tensor, parameters: Parameters) -> Tensor: ...

    def backward(self, gradient: Tensor, parameters: Parameters, into: dict[str, Tensor], needed: bool) -> Tensor:
        """Puts the gradients [T, ...] of its parameters `into`; returns that of its input, anything where it is not `needed`."""
        ...

    def forward_along(self, x: Tensor | None, parameters: Parameters, direction: Parameters) -> Tensor:
        """None: the input does not move; only the first layer's, a convolution's, does not."""
        ...

    def backward_along(
        self, gradient: Tensor, parameters: Parameters, direction: Parameters, into: dict[str, Tensor], needed: bool
    ) -> Tensor:
        """As `backward`; of kernels and matrices that all tasks share, the mean over tasks [1, ...] is put `into`."""
        ...


class Linear:
    def __init__(self, module: nn.Linear, name: str) -> None:
        self._weight, self._bias = f"{name}.weight", None if module.bias is None else f"{name}.bias"

    def forward(self, x: Tensor, parameters: Parameters) -> Tensor:
        self._x = x
        return _plus(_product(x, parameters[self._weight].transpose(1, 2)), self._bias, parameters)

    def backward(self, gradient: Tensor, parameters: Parameters, into: dict[str, Tensor], needed: bool) -> Tensor:
        self._gradient = gradient
        into[self._weight] = torch.bmm(gradient.transpose(1, 2), self._x)
        if self._bias is not None:
            into[self._bias] = gradient.sum(1)
        return _product(gradient, parameters[self._weight])

    def forward_along(self, x: Tensor | None, parameters: Parameters, direction: Parameters) -> Tensor:
        assert x is not None
        self._x_along = x
        out = _product(x, parameters[self._weight].transpose(1, 2))
        return _plus(out.baddbmm_(self._x, direction[self._weight].transpose(1, 2)), self._bias, direction)

    def backward_along(
        self, gradient: Tensor, parameters: Parameters, direction: Parameters, into: dict[str, Tensor], needed: bool
    ) -> Tensor:
        shared = _shared(parameters[self._weight])
        into[self._weight] = _outer(gradient, self._x, shared) + _outer(self._gradient, self._x_along, shared)
        if self._bias is not None:
            into[self._bias] = gradient.sum(1)
        return _product(gradient, parameters[self._weight]).baddbmm_(self._gradient, direction[self._weight])


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
        h, w = ((padded.shape[i + 2] - self._size[i]) // self._stride[i] + 1 for i in (0, 1))
        s = padded.stride()
        windows = padded.as_strided(
            (*padded.shape[:2], h, w, *self._size, padded.shape[-1]),
            (s[0], s[1], self._stride[0] * s[2], self._stride[1] * s[3], *s[2:]),
            padded.storage_offset(),
        )
        self._shape = windows.shape
        return windows.reshape(len(x), math.prod(windows.shape[1:4]), -1)

    def _put_back(self, rows: Tensor) -> Tensor:
        """The sum over all patches that a number lies in: what `_cut` is differentiated to."""
        patches = rows.view(self._shape)
        whole = rows.new_zeros(self._padded)
        (h, w), (down, across) = self._shape[2:4], self._stride
        for i in range(self._size[0]):
            for j in range(self._size[1]):
                whole[:, :, i : i + down * h : down, j : j + across * w : across][:, :, :h, :w] += patches[..., i, j, :]
        (top, left), (height, width) = self._padding, self._padded[2:4]
        return whole[:, :, top : height - top, left : width - left].contiguous()

    def forward(self, x: Tensor, parameters: Parameters) -> Tensor:
        self._rows = self._cut(x)
        self._kernels = _matrices(parameters[self._weight])
        out = _product(self._rows, self._kernels.transpose(1, 2)).view(*self._shape[:4], -1)
        return out if self._before_norm else _plus(out, self._bias, parameters)

    def backward(self, gradient: Tensor, parameters: Parameters, into: dict[str, Tensor], needed: bool) -> Tensor:
        self._gradient = gradient.reshape(len(gradient), self._rows.shape[1], -1)
        weight = parameters[self._weight]
        into[self._weight] = _kernels(torch.bmm(self._gradient.transpose(1, 2), self._rows), weight)
        _of_bias(into, self._bias, gradient, self._before_norm)
        return self._put_back(_product(self._gradient, self._kernels)) if needed else gradient

    def forward_along(self, x: Tensor | None, parameters: Parameters, direction: Parameters) -> Tensor:
        self._rows_along = None if x is None else self._cut(x)
        self._direction = _matrices(direction[self._weight])
        out = torch.bmm(self._rows, self._direction.transpose(1, 2))
        if self._rows_along is not None:
            out += _product(self._rows_along, self._kernels.transpose(1, 2))
        out = out.view(*self._shape[:4], -1)
        return out if self._before_norm else _plus(out, self._bias, direction)

    def backward_along(
        self, gradient: Tensor, parameters: Parameters, direction: Parameters, into: dict[str, Tensor], needed: bool
    ) -> Tensor:
        weight = parameters[self._weight]
        rows = gradient.reshape(self._gradient.shape)
        found = _outer(rows, self._rows, _shared(weight))
        if self._rows_along is not None:
            found += _outer(self._gradient, self._rows_along, _shared(weight))
        into[self._weight] = _kernels(found, weight)
        _of_bias(into, self._bias, gradient, self._before_norm)
        if not needed:
            return gradient
        return self._put_back(_product(rows, self._kernels).baddbmm_(self._gradient, self._direction))


class DirectConvolution:
    """By torch's convolution, one task after another where the kernels are a task's own: for tasks of many outputs."""

    def __init__(self, module: nn.Conv2d, name: str, before_norm: bool) -> None:
        self._weight, self._bias = f"{name}.weight", None if module.bias is None else f"{name}.bias"
        assert not isinstance(module.padding, str)
        self._how = (module.stride, module.padding, module.dilation)
        self._before_norm = before_norm

    def _convolved(self, x: Tensor, weight: Tensor) -> Tensor:
        if _shared(weight):
            out = functional.conv2d(images_of(x), weight[0], None, *self._how)
            return _maps(out, len(x))
        of_each = [
            functional.conv2d(_last(images), kernels, None, *self._how).permute(0, 2, 3, 1)
            for images, kernels in zip(x, weight, strict=True)
        ]
        return torch.stack(of_each)

    def _by_x(self, gradient: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        if _shared(weight):
            return _maps(self._backward(images_of(gradient), images_of(x), weight[0], (True, False, False))[0], len(x))
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
        return out if self._before_norm else _plus(out, self._bias, parameters)

    def backward(self, gradient: Tensor, parameters: Parameters, into: dict[str, Tensor], needed: bool) -> Tensor:
        self._gradient = gradient
        into[self._weight] = self._by_weight(gradient, self._x, parameters[self._weight])
        _of_bias(into, self._bias, gradient, self._before_norm)
        return self._by_x(gradient, self._x, parameters[self._weight]) if needed else gradient

    def forward_along(self, x: Tensor | None, parameters: Parameters, direction: Parameters) -> Tensor:
        self._x_along = x
        out = self._convolved(self._x, direction[self._weight])
        if x is not None:
            out += self._convolved(x, parameters[self._weight])
        return out if self._before_norm else _plus(out, self._bias, direction)

    def backward_along(
        self, gradient: Tensor, parameters: Parameters, direction: Parameters, into: dict[str, Tensor], needed: bool
    ) -> Tensor:
        weight = parameters[self._weight]
        mean = _shared(weight)
        found = self._by_weight(gradient, self._x, weight, mean)
        if self._x_along is not None:
            found += self._by_weight(self._gradient, self._x_along, weight, mean)
        into[self._weight] = found
        _of_bias(into, self._bias, gradient, self._before_norm)
        if not needed:
            return gradient
        return self._by_x(gradient, self._x, weight) + self._by_x(self._gradient, self._x, direction[self._weight])


class ConvolutionBySize:
    """Directly where a task has many outputs of many inputs, by the patches elsewhere: each takes less time there."""

    def __init__(self, module: nn.Conv2d, name: str, before_norm: bool) -> None:
        self._made = (module, name, before_norm)

    def forward(self, x: Tensor, parameters: Parameters) -> Tensor:
        module = self._made[0]
        assert not isinstance(module.padding, str)
        sides = (
            (x.shape[i + 2] + 2 * module.padding[i] - module.kernel_size[i]) // module.stride[i] + 1 for i in (0, 1)
        )
        many = x.shape[1] * math.prod(sides) >= _MANY and module.weight[0].numel() > _FEW
        self._chosen: Layer = (DirectConvolution if many else Convolution)(*self._made)
        return self._chosen.forward(x, parameters)

    def backward(self, gradient: Tensor, parameters: Parameters, into: dict[str, Tensor], needed: bool) -> Tensor:
        return self._chosen.backward(gradient, parameters, into, needed)

    def forward_along(self, x: Tensor | None, parameters: Parameters, direction: Parameters) -> Tensor:
        return self._chosen.forward_along(x, parameters, direction)

    def backward_along(
        self, gradient: Tensor, parameters: Parameters, direction: Parameters, into: dict[str, Tensor], needed: bool
    ) -> Tensor:
        return self._chosen.backward_along(gradient, parameters, direction, into, needed)


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


class Relu:
    def forward(self, x: Tensor, parameters: Parameters) -> Tensor:
        self._out = x.relu()
        return self._out

    def _let_through(self, x: Tensor) -> Tensor:
        found: Tensor = torch.ops.aten.threshold_backward(x, self._out, 0)
        return found

    def backward(self, gradient: Tensor, parameters: Parameters, into: dict[str, Tensor], needed: bool) -> Tensor:
        return self._let_through(gradient)

    def forward_along(self, x: Tensor | None, parameters: Parameters, direction: Parameters) -> Tensor:
        assert x is not None
        return self._let_through(x)

    def backward_along(
        self, gradient: Tensor, parameters: Parameters, direction: Parameters, into: dict[str, Tensor], needed: bool
    ) -> Tensor:
        return self._let_through(gradient)


class MaxPool:
    def __init__(self, module: nn.MaxPool2d) -> None:
        self._how = [pair(part) for part in (module.kernel_size, module.stride, module.padding, module.dilation)]

    def forward(self, x: Tensor, parameters: Parameters) -> Tensor:
        self._x = images_of(x)
        pooled: Tensor
        pooled, self._places = torch.ops.aten.max_pool2d_with_indices(self._x, *self._how)
        return _maps(pooled, len(x))

    def _spread(self, gradient: Tensor) -> Tensor:
        found: Tensor = torch.ops.aten.max_pool2d_with_indices_backward(
            images_of(gradient), self._x, *self._how, False, self._places
        )
        return _maps(found, len(gradient))

    def backward(self, gradient: Tensor, parameters: Parameters, into: dict[str, Tensor], needed: bool) -> Tensor:
        return self._spread(gradient)

    def forward_along(self, x: Tensor | None, parameters: Parameters, direction: Parameters) -> Tensor:
        assert x is not None
        of_pixels = x.flatten(0, 1).flatten(1, 2)  # [T * n, h * w, c]
        places = self._places.permute(0, 2, 3, 1)
        taken = of_pixels.gather(1, places.flatten(1, 2))
        return taken.view(*x.shape[:2], *places.shape[1:])

    def backward_along(
        self, gradient: Tensor, parameters: Parameters, direction: Parameters, into: dict[str, Tensor], needed: bool
    ) -> Tensor:
        return self._spread(gradient)


class Flatten:
    def forward(self, x: Tensor, parameters: Parameters) -> Tensor:
        self._shape = x.shape
        return self._flat(x)

    def _flat(self, x: Tensor) -> Tensor:
        return x.permute(0, 1, 4, 2, 3).flatten(2) if x.dim() == 5 else x.flatten(2)

    def _maps(self, gradient: Tensor) -> Tensor:
        if len(self._shape) != 5:
            return gradient.reshape(self._shape)
        t, n, h, w, c = self._shape
        return gradient.reshape(t, n, c, h, w).permute(0, 1, 3, 4, 2).contiguous()

    def backward(self, gradient: Tensor, parameters: Parameters, into: dict[str, Tensor], needed: bool) -> Tensor:
        return self._maps(gradient)

    def forward_along(self, x: Tensor | None, parameters: Parameters, direction: Parameters) -> Tensor:
        assert x is not None
        return self._flat(x)

    def backward_along(
        self, gradient: Tensor, parameters: Parameters, direction: Parameters, into: dict[str, Tensor], needed: bool
    ) -> Tensor:
        return self._maps(gradient)


class Mean:
    """Over the feature map: [T, n, h, w, c] -> [T, n, c]."""

    def forward(self, x: Tensor, parameters: Parameters) -> Tensor:
        self._shape = x.shape
        return x.mean((2, 3))

    def _spread(self, gradient: Tensor) -> Tensor:
        share = gradient / (self._shape[2] * self._shape[3])
        return share[:, :, None, None].expand(self._shape).contiguous()

    def backward(self, gradient: Tensor, parameters: Parameters, into: dict[str, Tensor], needed: bool) -> Tensor:
        return self._spread(gradient)

    def forward_along(self, x: Tensor | None, parameters: Parameters, direction: Parameters) -> Tensor:
        assert x is not None
        return x.mean((2, 3))

    def backward_along(
        self, gradient: Tensor, parameters: Parameters, direction: Parameters, into: dict[str, Tensor], needed: bool
    ) -> Tensor:
        return self._spread(gradient)


def _shared(parameter: Tensor) -> bool:
    """Whether all tasks have the same, expanded."""
    return parameter.stride(0) == 0 or len(parameter) == 1


def _product(rows: Tensor, matrices: Tensor) -> Tensor:
    """[T, m, K] by [T, K, o] -> [T, m, o]; one product for all tasks where they share the matrix."""
    if _shared(matrices):
        return (rows.flatten(0, 1) @ matrices[0]).view(*rows.shape[:2], -1)
    return torch.bmm(rows, matrices)


def _outer(gradient: Tensor, x: Tensor, mean: bool) -> Tensor:
    """[T, m, o], [T, m, K] -> [T, o, K], or the mean over tasks [1, o, K]."""
    if mean:
        return (gradient.flatten(0, 1).t() @ x.flatten(0, 1)).div_(len(x)).unsqueeze(0)
    return torch.bmm(gradient.transpose(1, 2), x)


def _plus(out: Tensor, bias: str | None, parameters: Parameters) -> Tensor:
    """Adds a bias [T, o] to [T, ..., o], in place."""
    if bias is not None:
        of_tasks = parameters[bias]
        out += of_tasks.view(len(of_tasks), *[1] * (out.dim() - 2), -1)
    return out


def _of_bias(into: dict[str, Tensor], bias: str | None, gradient: Tensor, before_norm: bool) -> None:
    if bias is not None:
        over = tuple(range(1, gradient.dim() - 1))
        into[bias] = gradient.new_zeros(len(gradient), gradient.shape[-1]) if before_norm else gradient.sum(over)


def _matrices(kernels: Tensor) -> Tensor:
    """Kernels [T, o, c, k, k] as [T, o, k * k * c]; those that are shared stay so."""
    if _shared(kernels):
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


def _maps(images: Tensor, tasks: int) -> Tensor:
    """[T * n, c, h, w] -> [T, n, h, w, c]."""
    last = images.permute(0, 2, 3, 1).contiguous()
    return last.view(tasks, -1, *last.shape[1:])
