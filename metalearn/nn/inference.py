"""Forward passes without gradients on a CPU: fewer passes over large feature maps, the same outcome up to rounding.

Most of a small network's time beside its convolutions goes into the first feature maps, 64 x 28 x 28 numbers for an image of 784. So a convolution,
the normalisation behind it, max-pooling and rectifier are done together here. Where the normalisation's statistics are known, it becomes a part of
the kernels; else it follows the pooling, which leaves a quarter of the numbers. As many images are on their way to pooling at once as the processor's
cache holds. Of one channel, the statistics of what a convolution will return follow from those of its patches, 9 numbers each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.modules.module import _has_any_global_hook

from metalearn.nn.convolution import Conv2d
from metalearn.nn.followed import followed
from metalearn.nn.memory_format import channels_last

Parameters = Mapping[str, Tensor]  # of a network, by name
Step = Callable[[Parameters, Tensor], Tensor]

_MAPS = 2**20  # numbers of a convolution's feature maps that are on their way to pooling at once: 4 MiB


def infer(network: nn.Module, x: Tensor, parameters: Parameters | None = None) -> Tensor:
    """`network` on examples x [n, ...], with other `parameters` than its own where they are given.

    Without gradients and on a CPU, images pass in less time; everything else as it is, images with their channels last.
    """
    passes = _suits(x) and not any(_has_to_run(module) for module in network.modules())
    steps = _steps_of(network) if passes else None
    if steps is None:
        x = channels_last(x)
        outputs: Tensor = network(x) if parameters is None else functional_call(network, dict(parameters), (x,))
        return outputs
    own = dict(network.named_parameters()) if parameters is None else parameters
    x = channels_last(x)
    for step in steps:
        x = step(own, x)
    return x


def _suits(x: Tensor) -> bool:
    """Whether nobody wants gradients, and these are images that go through an ordinary network, which no hook watches."""
    return not (
        torch.is_grad_enabled()
        or _has_any_global_hook()  # type: ignore[no-untyped-call]
        or torch.compiler.is_compiling()
        or torch.is_autocast_enabled("cpu")
        or type(x) is not Tensor
        or x.dim() != 4
        or x.device.type != "cpu"
    )


def _has_to_run(module: nn.Module) -> bool:
    """Whether calling a module does more than return something: hooks, and statistics that it keeps."""
    keeps = isinstance(module, nn.BatchNorm2d) and module.training and module.track_running_stats
    return bool(keeps or module._forward_hooks or module._forward_pre_hooks)


_known: WeakKeyDictionary[nn.Module, list[Step] | None] = WeakKeyDictionary()


def _steps_of(network: nn.Module) -> list[Step] | None:
    """What `network` does one after another; None where it does not pass examples from layer to layer, or has no convolution."""
    if network not in _known:
        _known[network] = _found(network)
    return _known[network]


def _found(network: nn.Module) -> list[Step] | None:
    nodes = followed(network, lambda module: not any(True for _ in module.children()))
    if nodes is None:
        return None
    modules = [network.get_submodule(str(node.target)) if node.op == "call_module" else None for node in nodes]
    steps: list[Step] = []
    place = 0
    while place < len(nodes):
        node, module = nodes[place], modules[place]
        if isinstance(module, nn.Conv2d) and _plain_convolution(module):
            block = _Block(module, str(node.target))
            place += 1
            while place < len(nodes) and block.takes(modules[place], str(nodes[place].target)):
                place += 1
            steps.append(block)
            continue
        if module is not None:
            steps.append(_Module(module, str(node.target)))
        elif node.op in ("call_function", "call_method"):
            steps.append(_Call(node))
        else:  # a parameter of the network itself
            return None
        place += 1
    return steps if any(isinstance(step, _Block) for step in steps) else None


def _plain_convolution(module: nn.Conv2d) -> bool:
    return (
        type(module) in (Conv2d, nn.Conv2d) and module.padding_mode == "zeros" and not isinstance(module.padding, str)
    )


class _Module:
    """A layer as it is, with the parameters that are given."""

    def __init__(self, module: nn.Module, name: str) -> None:
        self._module = module
        # A head may have none until a task gives it some.
        self._names = [(own, f"{name}.{own}") for own in module._parameters]

    def __call__(self, parameters: Parameters, x: Tensor) -> Tensor:
        given = {own: parameters[name] for own, name in self._names if name in parameters}
        outputs: Tensor = functional_call(self._module, given, (x,)) if given else self._module(x)
        return outputs


class _Call:
    """A function or a method of tensors that a forward method calls."""

    def __init__(self, node: fx.Node) -> None:
        self._node = node

    def __call__(self, parameters: Parameters, x: Tensor) -> Tensor:
        def of_example(_: Any) -> Tensor:
            return x

        args = fx.node.map_arg(self._node.args, of_example)
        kwargs = fx.node.map_arg(self._node.kwargs, of_example)
        if self._node.op == "call_method":
            receiver, *others = args
            returned: Tensor = getattr(receiver, str(self._node.target))(*others, **kwargs)
            return returned
        assert callable(self._node.target)
        called: Tensor = self._node.target(*args, **kwargs)
        return called


class _Block:
    """A convolution and, as far as they follow it, batch normalisation, 2x2 max-pooling and rectifier."""

    def __init__(self, convolution: nn.Conv2d, name: str) -> None:
        self._convolution, self._name = convolution, name
        self._norm: nn.BatchNorm2d | None = None
        self._pools = self._rectifies = False

    def takes(self, module: nn.Module | None, name: str) -> bool:
        """Makes the next layer a part of the block, if it can be one. Pooling and rectifier come to the same in either order."""
        if type(module) is nn.BatchNorm2d and module.affine and not (self._norm or self._pools or self._rectifies):
            self._norm, self._norm_name = module, name
            return True
        if type(module) is nn.MaxPool2d and not self._pools and _halves(module):
            self._pools = True
            return True
        if type(module) is nn.ReLU and not self._rectifies:
            self._rectifies = True
            return True
        return type(module) is nn.Identity

    def __call__(self, parameters: Parameters, x: Tensor) -> Tensor:
        kernels, bias = parameters[f"{self._name}.weight"], parameters.get(f"{self._name}.bias")
        if self._norm is None:
            return self._passed(x, kernels, bias)
        gain, shift = (parameters[f"{self._norm_name}.{part}"] for part in ("weight", "bias"))
        if self._norm.running_mean is not None and self._norm.running_var is not None:
            mean, variance = self._norm.running_mean, self._norm.running_var
            if bias is not None:
                mean = mean - bias
        elif self._convolution.groups == 1 and kernels[0].numel() <= len(kernels):
            mean, variance = _statistics_of_outputs(x, kernels, self._convolution)
        else:
            return self._normalised_late(x, kernels, gain, shift)
        scale = gain * torch.rsqrt(variance + self._norm.eps)
        return self._passed(x, kernels * scale.view(-1, 1, 1, 1), shift - mean * scale)

    def _convolved(self, x: Tensor, kernels: Tensor, bias: Tensor | None) -> Tensor:
        how = self._convolution
        return F.conv2d(x, kernels, bias, how.stride, how.padding, how.dilation, how.groups)

    def _passed(self, x: Tensor, kernels: Tensor, bias: Tensor | None) -> Tensor:
        """With kernels and bias that hold the normalisation, if there is one."""
        if not self._pools:
            return self._rectified(self._convolved(x, kernels, bias))
        of_image = len(kernels) * x.shape[2] * x.shape[3] // (self._convolution.stride[0] * self._convolution.stride[1])
        parts = torch.split(x, max(1, _MAPS // of_image))
        pooled = [_halved(self._convolved(part, kernels, bias)) for part in parts]
        return self._rectified(torch.cat(pooled) if len(pooled) > 1 else pooled[0])

    def _normalised_late(self, x: Tensor, kernels: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
        """Normalised with the statistics of the outputs. A bias would be taken out again by that.

        Pooling takes the largest number whatever the gain's sign is, as the kernels take that sign.
        """
        assert self._norm is not None
        outputs = self._convolved(x, kernels * gain.sign().view(-1, 1, 1, 1), None)
        if outputs.numel() == outputs.shape[1]:
            raise ValueError(f"one value per channel has no variance: input of shape {tuple(outputs.shape)}")
        mean, variance = _statistics(outputs)
        scale = gain.abs() * torch.rsqrt(variance + self._norm.eps)
        if self._pools:
            outputs = _halved(outputs)
        along = (-1, 1, 1)
        return self._rectified(torch.addcmul((shift - mean * scale).view(along), outputs, scale.view(along)))

    def _rectified(self, outputs: Tensor) -> Tensor:
        return outputs.relu_() if self._rectifies else outputs


def _halves(pool: nn.MaxPool2d) -> bool:
    pairs = [(part, part) if isinstance(part, int) else tuple(part) for part in (pool.kernel_size, pool.stride)]
    others = pool.padding in (0, (0, 0)) and pool.dilation in (1, (1, 1)) and not pool.ceil_mode
    return pairs == [(2, 2), (2, 2)] and others and not pool.return_indices


def _halved(maps: Tensor) -> Tensor:
    """2x2 max-pooling of maps [n, c, h, w] with their channels last: by whole rows of channels, where torch's looks for places, too."""
    x = maps.permute(0, 2, 3, 1)
    height, width = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    across = torch.maximum(x[:, :, 0:width:2], x[:, :, 1:width:2])
    return torch.maximum(across[:, 0:height:2], across[:, 1:height:2]).permute(0, 3, 1, 2)


def _statistics(maps: Tensor) -> tuple[Tensor, Tensor]:
    """The mean and the variance [c] of maps [n, c, h, w] with their channels last.

    torch adds up channels-last numbers one by one: over 75 maps of 28 x 28 the variance is wrong by 2e-4 of itself. Here it does so for each column
    of the maps, and the columns' come together.
    """
    n, c, height, width = maps.shape
    columns = maps.permute(0, 2, 3, 1).reshape(n, height, 1, width * c).permute(0, 3, 1, 2)
    means, variances = (part.view(width, c) for part in torch.batch_norm_update_stats(columns, None, None, 0.0))
    mean = means.mean(0)
    return mean, (variances + (means - mean).square()).mean(0)


def _statistics_of_outputs(x: Tensor, kernels: Tensor, how: nn.Conv2d) -> tuple[Tensor, Tensor]:
    """The mean and the variance [o] of what a convolution of x by kernels [o, c, k, k] returns, without a bias.

    It is linear in the patches: with their mean m and covariance C, a kernel w has the mean w.m and the variance w'Cw.
    """
    patches = _patches(x, how)  # [K, n, h * w]
    if patches[0].numel() == 1:
        raise ValueError(f"one value per channel has no variance: input of shape {tuple(x.shape)}")
    mean = patches.mean((1, 2), keepdim=True)
    of_images = patches.sub_(mean).transpose(0, 1)
    covariance = torch.bmm(of_images, of_images.mT).sum(0) / patches[0].numel()
    rows = kernels.flatten(1)  # [o, K]
    return (rows @ mean.flatten(1)).squeeze(1), ((rows @ covariance) * rows).sum(1).clamp_min(0)


def _patches(x: Tensor, how: nn.Conv2d) -> Tensor:
    """Every patch of images [n, c, H, W] that a convolution sees, [c * k * k, n, h * w]."""
    assert not isinstance(how.padding, str)
    (down, across), (height, width) = how.padding, how.kernel_size
    padded = F.pad(x.contiguous(), (across, across, down, down))
    h, w = (
        (padded.shape[2 + side] - how.dilation[side] * (how.kernel_size[side] - 1) - 1) // how.stride[side] + 1
        for side in (0, 1)
    )
    rows = x.new_empty(x.shape[1], height, width, len(x), h, w)
    for i in range(height):
        for j in range(width):
            top, left = i * how.dilation[0], j * how.dilation[1]
            seen = padded[
                :, :, top : top + h * how.stride[0] : how.stride[0], left : left + w * how.stride[1] : how.stride[1]
            ]
            rows[:, i, j] = seen[:, :, :h, :w].transpose(0, 1)
    return rows.view(x.shape[1] * height * width, len(x), -1)
