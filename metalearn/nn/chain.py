"""The gradient of a network whose layers follow one another, without autograd: for inner loops of many short steps on a CPU.

There autograd, with its node for every operation, and convolutions that order their kernels anew in every call cost as much as the arithmetic. Here
an example's patches are cut out once, so that a convolution and the gradient of its kernels are products of matrices, and all gradients are written
into one row, which the optimizer then goes through as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

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


class Family(NamedTuple):
    """What makes each layer that is known here, of the module, the name of its parameters, and whether batch normalisation follows;
    of ReLU, whether nobody else needs its input."""

    convolution: Callable[[nn.Conv2d, str, bool], Any]
    norm: Callable[[nn.BatchNorm1d | nn.BatchNorm2d, str], Any]
    linear: Callable[[nn.Linear, str, bool], Any]
    relu: Callable[[bool], Any]
    pool: Callable[[nn.MaxPool2d], Any]
    flatten: Callable[[], Any]
    mean: Callable[[], Any]


class Step(NamedTuple):
    """One layer that an example passes."""

    node: fx.Node
    before: nn.Module | None
    module: nn.Module | None
    norm: nn.BatchNorm1d | nn.BatchNorm2d | None  # right behind it


def chain_of(network: nn.Module, direct: bool = False) -> Chain | None:
    """The layers of `network` in their order; None where `steps_of` finds none, or there is a layer that is not known here.

    Args:
        direct: convolutions behind the first are torch's own also where a task has few outputs.
    """
    convolution = DirectConvolution if direct else ConvolutionBySize
    family = Family(convolution, BatchNorm, Linear, Relu, MaxPool, Flatten, Mean)
    layers: list[Layer | None] = []
    for step in steps_of(network) or ():
        if layers and isinstance(layers[-1], NormalisedConvolution) and layers[-1].of(step.module):
            continue  # the convolution does it as well
        layers.append(_normalised_convolution(step) if not layers else None)
        layers[-1] = layers[-1] or layer_of(step, family)
    return None if not layers or None in layers else Chain([layer for layer in layers if layer is not None])


def steps_of(network: nn.Module) -> list[Step] | None:
    """The layers of `network` in their order, by following a symbolic example through it; None where it does anything but pass from layer to layer,
    or has parameters outside of these layers."""
    # Modules of these types and of no subclass, whose forward method may do more.
    nodes = followed(network, lambda module: type(module) in _KNOWN)
    if nodes is None:
        return None
    found = [(node, network.get_submodule(str(node.target)) if node.op == "call_module" else None) for node in nodes]
    found = [(node, module) for node, module in found if not isinstance(module, nn.Identity)]
    known = {f"{node.target}.{name}" for node, module in found if module for name, _ in module.named_parameters()}
    if known != {name for name, _ in network.named_parameters()}:
        return None
    modules = [module for _, module in found]
    return [
        Step(node, before, module, norm if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d) else None)
        for (node, module), before, norm in zip(found, [None, *modules[:-1]], [*modules[1:], None], strict=True)
    ]


def _normalised_convolution(step: Step) -> Layer | None:
    """The first layer, where it can be one with the normalisation behind it."""
    module, norm = step.module, step.norm
    if (
        not isinstance(module, nn.Conv2d)
        or not isinstance(norm, nn.BatchNorm2d)
        or not (_usual(module) and _plain(norm))
    ):
        return None
    if module.weight[0].numel() > len(module.weight):
        return None
    return NormalisedConvolution(module, str(step.node.target), norm, str(step.node.next.target))


def layer_of(step: Step, family: Family) -> Any | None:
    """What a step of the network stands for, of that family, or None if that is not known."""
    node, module = step.node, step.module
    name, before_norm = str(node.target), step.norm is not None
    if isinstance(module, nn.Conv2d):
        return family.convolution(module, name, before_norm) if _usual(module) else None
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        return family.norm(module, name) if _plain(module) else None
    if isinstance(module, nn.Linear):
        return family.linear(module, name, before_norm)
    if isinstance(module, nn.ReLU):
        # These write what they return, and none of them reads it again.
        return family.relu(isinstance(step.before, nn.Conv2d | nn.BatchNorm1d | nn.BatchNorm2d | nn.Linear))
    if isinstance(module, nn.MaxPool2d):
        return None if module.ceil_mode or module.return_indices else family.pool(module)
    if isinstance(module, nn.Flatten) and (module.start_dim, module.end_dim) == (1, -1):
        return family.flatten()
    if node.op == "call_method" and name == "flatten" and node.args[1:] == (1,) and not node.kwargs:
        return family.flatten()
    if node.op == "call_method" and name == "mean" and node.args[1:] == ((2, 3),) and not node.kwargs:
        return family.mean()
    return None


def _usual(module: nn.Conv2d) -> bool:
    plain = module.groups == 1 and module.dilation == (1, 1) and module.padding_mode == "zeros"
    return plain and not isinstance(module.padding, str)


def _plain(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> bool:
    return norm.affine and not norm.track_running_stats
