"""A convolution whose second derivative is made of convolutions, also where every task has kernels of its own.

torch differentiates the gradient of a grouped convolution group by group: with T tasks as groups that is hundreds of small convolutions, and their
outcome lies in memory in another order than the gradients it is added to. Here all tasks go together: MAML's second-order step of 32 tasks on the
strided network, one query per class, went from 397 to 348 ms on two cores.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F


class _How(NamedTuple):
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int


class Conv2d(nn.Conv2d):
    """A torch convolution; the padding is zeros and given in numbers."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if torch.is_autocast_enabled(input.device.type):  # which does not look into a Function
            dtype = torch.get_autocast_dtype(input.device.type)
            input, weight, bias = input.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
        assert not isinstance(self.padding, str)
        assert self.padding_mode == "zeros"
        return _convolution(input, weight, bias, _How(self.stride, self.padding, self.dilation, self.groups))


def _convolution(x: Tensor, weight: Tensor, bias: Tensor | None, how: _How) -> Tensor:
    convolved: Tensor = _Convolution.apply(x, weight, bias, how)
    return convolved


class _Convolution(Function):
    """x [n, g*c, H, W], kernels [g*o, c, k, k] and bias [g*o] in g groups -> [n, g*o, H', W']."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, how: _How) -> Tensor:
        return F.conv2d(x, weight, bias, *how)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, _, ctx.how = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        needed = tuple(ctx.needs_input_grad[:3])
        return (*_Gradients.apply(gradient, *ctx.saved_tensors, ctx.how, needed), None)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], x: Tensor, weight: Tensor, bias: Tensor | None, how: _How
    ) -> tuple[Tensor, int]:
        """Tasks with kernels of their own become groups, those that share them a longer batch."""
        tasks, (x_dim, weight_dim, bias_dim, _) = info.batch_size, in_dims
        if weight_dim is None and bias_dim is None:
            assert x_dim is not None
            convolved = _convolution(x.movedim(x_dim, 0).flatten(0, 1), weight, bias, how)
            return convolved.reshape(tasks, -1, *convolved.shape[1:]), 0
        x = x.unsqueeze(1).expand(-1, tasks, *x.shape[1:]) if x_dim is None else x.movedim(x_dim, 1)
        kernels = _of_each(weight, weight_dim, tasks).flatten(0, 1)
        biases = None if bias is None else _of_each(bias, bias_dim, tasks).flatten(0, 1)
        convolved = _convolution(x.flatten(1, 2), kernels, biases, how._replace(groups=how.groups * tasks))
        return convolved.reshape(len(convolved), tasks, -1, *convolved.shape[2:]), 1


def _of_each(parameter: Tensor, dim: int | None, tasks: int) -> Tensor:
    return parameter.expand(tasks, *parameter.shape) if dim is None else parameter.movedim(dim, 0)


class _Gradients(Function):
    """Those of _Convolution by x, kernels and bias, as far as needed: linear in the gradient it is given, in x and in the kernels."""

    @staticmethod
    def forward(
        ctx: Any, gradient: Tensor, x: Tensor, weight: Tensor, how: _How, needed: tuple[bool, ...]
    ) -> tuple[Tensor | None, ...]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(gradient, x, weight)
        ctx.how = how
        found: tuple[Tensor | None, ...] = torch.ops.aten.convolution_backward(
            gradient, x, weight, [len(weight)], *how[:3], False, (0, 0), how.groups, needed
        )
        return found

    @staticmethod
    def backward(ctx: Any, by_x: Tensor | None, by_weight: Tensor | None, by_bias: Tensor | None) -> tuple[Any, ...]:
        (gradient, x, weight), how = ctx.saved_tensors, ctx.how
        of_gradient = of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            parts = []
            if by_x is not None:
                parts.append(_convolution(by_x, weight, by_bias, how))
            if by_weight is not None:
                parts.append(_convolution(x, by_weight, by_bias if not parts else None, how))
            if by_bias is not None and not parts:
                parts.append(by_bias.view(-1, 1, 1).expand_as(gradient))
            of_gradient = sum(parts[1:], parts[0]) if parts else None
        if by_weight is not None and ctx.needs_input_grad[1]:
            of_x = _Gradients.apply(gradient, x, by_weight, how, (True, False, False))[0]
        if by_x is not None and ctx.needs_input_grad[2]:
            of_weight = _Gradients.apply(gradient, by_x, weight, how, (False, True, False))[1]
        return of_gradient, of_x, of_weight, None, None
