"""The gradient of a network whose layers follow one another, without autograd: for inner loops of many short steps on a CPU.

There autograd, with its node for every operation, and convolutions that order their kernels anew in every call cost as much as the arithmetic. Here
an example's patches are cut out once, so that a convolution and the gradient of its kernels are products of matrices, and all gradients are written
into one row, which the optimizer then goes through as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, fx, nn

from metalearn.nn.chain_convolutions import ConvolutionBySize, DirectConvolution, NormalisedConvolution
from metalearn.nn.chain_layers import (
    BatchNorm,
    Flatten,
    Layer,
    Linear,
    MaxPool,
    Mean,
    Parameters,
    Relu,
)
from metalearn.nn.convolution import Conv2d
from metalearn.nn.followed import followed

Loss = Callable[[Tensor, Tensor], Tensor]  # (outputs [G, n, ...], y [G, n, ...]) -> [G]

_KNOWN = (
    Conv2d,
    nn.Conv2d,
    nn.Linear,
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.ReLU,
    nn.MaxPool2d,
    nn.Flatten,
    nn.Identity,
)


class Chain:
    """Layers that examples pass one after another."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self._layers = list(layers)

    @torch.no_grad()
    def outputs(self, parameters: Parameters, x: Tensor) -> Tensor:
        """For x [G, n, ...], each task normalised with the statistics of its own n examples."""
        x = x.permute(0, 1, 3, 4, 2) if x.dim() == 5 else x
        for layer in self._layers:
            x = layer.forward(x, parameters)
        return x

    @torch.no_grad()
    def gradient(
        self, parameters: Parameters, x: Tensor, y: Tensor, loss: Loss, into: Parameters
    ) -> tuple[Tensor, Tensor]:
        """Writes each task's gradient of its loss into `into`, in the place of what is there.

        Args:
            parameters: name -> [G, ...], of G tasks; convolution kernels with their channels last in memory, unless convolutions are direct.
            x: [G, n, ...].
            y: [G, n, ...].
            into: tensors of the names, shapes and order in memory that the parameters have.

        Returns:
            The losses [G] and the outputs [G, n, ...].
        """
        with torch.enable_grad():
            outputs = self.outputs(parameters, x).requires_grad_()
            losses = loss(outputs, y)
            (found,) = torch.autograd.grad(losses.sum(), outputs)
        gradient: Tensor | None = found
        for place in reversed(range(len(self._layers))):
            assert gradient is not None
            gradient = self._layers[place].backward(gradient, parameters, into, needed=place > 0)
        return losses.detach(), outputs.detach()


def chain_of(network: nn.Module, direct: bool = False) -> Chain | None:
    """The layers of `network` in their order, by following a symbolic example through it; None where it does anything but pass from layer to layer,
    or has a layer that is not known here.

    Args:
        direct: convolutions behind the first are torch's own also where a task has few outputs.
    """
    # Modules of these types and of no subclass, whose forward method may do more.
    nodes = followed(network, lambda module: type(module) in _KNOWN)
    if nodes is None:
        return None
    steps = [(node, network.get_submodule(str(node.target)) if node.op == "call_module" else None) for node in nodes]
    steps = [(node, module) for node, module in steps if not isinstance(module, nn.Identity)]
    layers: list[Layer | None] = []
    for (node, module), (_, following) in zip(steps, [*steps[1:], (None, None)], strict=True):
        if layers and isinstance(layers[-1], NormalisedConvolution) and layers[-1].of(module):
            continue  # the convolution does it as well
        norm = following if isinstance(following, nn.BatchNorm1d | nn.BatchNorm2d) else None
        layers.append(_layer(node, module, norm, not layers, direct))
    known = {f"{node.target}.{name}" for node, module in steps if module for name, _ in module.named_parameters()}
    if None in layers or known != {name for name, _ in network.named_parameters()}:
        return None
    return Chain([layer for layer in layers if layer is not None])


def _layer(node: fx.Node, module: nn.Module | None, norm: nn.Module | None, first: bool, direct: bool) -> Layer | None:
    """What a step of the network stands for, or None if that is not known; `norm` is the batch normalisation behind it, if there is one."""
    name, before_norm = str(node.target), norm is not None
    if isinstance(module, nn.Conv2d):
        usual = module.groups == 1 and module.dilation == (1, 1) and module.padding_mode == "zeros"
        if not usual or isinstance(module.padding, str):
            return None
        if (
            first
            and isinstance(norm, nn.BatchNorm2d)
            and _plain(norm)
            and module.weight[0].numel() <= len(module.weight)
        ):
            return NormalisedConvolution(module, name, norm, str(node.next.target))
        return (DirectConvolution if direct else ConvolutionBySize)(module, name, before_norm)
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        return BatchNorm(module, name) if _plain(module) else None
    if isinstance(module, nn.Linear):
        return Linear(module, name, before_norm)
    if isinstance(module, nn.ReLU):
        return Relu()
    if isinstance(module, nn.MaxPool2d):
        return None if module.ceil_mode or module.return_indices else MaxPool(module)
    if isinstance(module, nn.Flatten) and (module.start_dim, module.end_dim) == (1, -1):
        return Flatten()
    if node.op == "call_method" and name == "flatten" and node.args[1:] == (1,) and not node.kwargs:
        return Flatten()
    if node.op == "call_method" and name == "mean" and node.args[1:] == ((2, 3),) and not node.kwargs:
        return Mean()
    return None


def _plain(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> bool:
    return norm.affine and not norm.track_running_stats
