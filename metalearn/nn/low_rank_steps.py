"""Gradient steps of many tasks on one fully connected network, without a copy of its weights for each task.

All tasks start from the same weights W [o, i]. The gradient of a task's loss by them is d^T x: x [n, i] are the examples as they arrive at the layer,
d [n, o] is the gradient by what the layer makes of them. So with m examples z [m, i] of that task, after any number of steps,

    z (W - lr * sum_k d_k^T x_k)^T  =  z W^T - lr * sum_k (z x_k^T) d_k.

The first product is one for all tasks together. The others are of rank n, the support examples of a task, where a task's own weights would be o x i
numbers that each pass goes through. Autograd differentiates this form like any other: the second derivatives of MAML pass through x_k and d_k.

Letters: T tasks, n support examples of each, m examples that pass the network, r rows of all steps (n for each), i inputs and o outputs of a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from metalearn.nn.followed import followed

Loss = Callable[[Tensor, Tensor], Tensor]  # (outputs [T, m, ...], y [T, m, ...]) -> [T]

# Products of so many numbers in the place of one with a task's own weight: measured, the same time at 3 to 5.
_WORTH = 2.5
_KNOWN = (nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Flatten, nn.Identity)


class _Linear(NamedTuple):
    weight: str
    bias: str | None
    numbers: int  # of the weights
    sides: int  # inputs and outputs together


class _Norm(NamedTuple):
    """Batch normalisation with the statistics of the task's examples at hand."""

    gain: str
    shift: str
    eps: float


_Layer = _Linear | _Norm | None  # None: a rectifier


class FullyConnected:
    """The layers that flattened examples pass one after another, by the names of their parameters; the first one is linear."""

    def __init__(self, layers: list[_Layer]) -> None:
        self.layers = layers
        self.linear = [layer for layer in layers if isinstance(layer, _Linear)]
        self.norms = [layer for layer in layers if isinstance(layer, _Norm)]

    def pays(self, rank: int) -> bool:
        """Whether steps of so many rows cost less than weights for each task."""
        weights = sum(layer.numbers for layer in self.linear)
        return rank * sum(layer.sides for layer in self.linear) <= _WORTH * weights


def fully_connected(network: nn.Module) -> FullyConnected | None:
    """The layers of `network` behind the flattening that it starts with; None where it does anything but pass from layer to layer, or has layers
    other than linear ones, batch normalisation with the statistics at hand, and rectifiers."""
    # Modules of these types and of no subclass, whose forward method may do more.
    nodes = followed(network, lambda module: type(module) in _KNOWN)
    if nodes is None:
        return None
    steps = [(node, network.get_submodule(str(node.target)) if node.op == "call_module" else None) for node in nodes]
    steps = [(node, module) for node, module in steps if not isinstance(module, nn.Identity)]
    if len(steps) < 2 or not _flattens(*steps[0]) or not isinstance(steps[1][1], nn.Linear):
        return None
    layers: list[_Layer] = []
    used: list[str] = []
    for node, module in steps[1:]:
        name = str(node.target)
        if isinstance(module, nn.Linear):
            bias = None if module.bias is None else f"{name}.bias"
            sides = module.in_features + module.out_features
            layers.append(_Linear(f"{name}.weight", bias, module.weight.numel(), sides))
        elif isinstance(module, nn.BatchNorm1d) and module.affine and not module.track_running_stats:
            layers.append(_Norm(f"{name}.weight", f"{name}.bias", module.eps))
        elif isinstance(module, nn.ReLU):
            layers.append(None)
        else:
            return None
        used += [f"{name}.{part}" for part, _ in module.named_parameters()]
    # Each of them, and once: not a layer that examples pass twice.
    return FullyConnected(layers) if used == [name for name, _ in network.named_parameters()] else None


def _flattens(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether a step makes [n, D] of examples [n, ...]."""
    if isinstance(module, nn.Flatten):
        return (module.start_dim, module.end_dim) == (1, -1)
    return node.op == "call_method" and node.target == "flatten" and node.args[1:] == (1,) and not node.kwargs


class _Move(NamedTuple):
    """What the steps of each task add to a linear layer: rows^T inputs to its weight, the sum of the rows to its bias."""

    inputs: Tensor  # [T, r, i]
    rows: Tensor  # [T, r, o]

    def further(self, inputs: Tensor, rows: Tensor) -> _Move:
        if inputs is self.inputs:  # the examples themselves: one step's rows add to another's
            return _Move(inputs, self.rows + rows)
        return _Move(torch.cat([self.inputs, inputs], dim=1), torch.cat([self.rows, rows], dim=1))


class Arrived(NamedTuple):
    """Examples behind the shared part of the first layer, which no step changes."""

    x: Tensor  # [T, m, i]
    out: Tensor  # [T, m, o]


class _Passed(NamedTuple):
    """What a pass leaves for a gradient step."""

    outputs: Tensor  # [T, m, ...]
    inputs: list[Tensor]  # of each linear layer
    made: list[Tensor]  # by each linear layer


class LowRank(Mapping[str, Tensor]):
    """The parameters of T tasks after gradient steps on their support sets: name -> [T, ...], made only where somebody asks for them.

    Args:
        network: what they are the parameters of.
        shared: what all tasks start from: name -> [...].
        support_x: [T, n, ...], which all steps are taken on.
        second_order: whether the steps are within the graph.
    """

    def __init__(
        self, network: FullyConnected, shared: Mapping[str, Tensor], support_x: Tensor, second_order: bool
    ) -> None:
        self._network, self._shared, self._second_order = network, shared, second_order
        tasks = support_x.shape[0]
        self._norms = {
            name: shared[name].expand(tasks, -1) for norm in network.norms for name in (norm.gain, norm.shift)
        }
        self._moves: dict[str, _Move] = {}
        start = shared if second_order else {name: part.detach() for name, part in shared.items()}
        with torch.enable_grad():
            self._support = self._arrive(start, support_x.flatten(2))

    def arrive(self, x: Tensor) -> Arrived:
        """Examples x [T, m, ...] behind the first layer as all tasks share it: the same after any number of steps."""
        return self._arrive(self._shared, x.flatten(2))

    def _arrive(self, shared: Mapping[str, Tensor], x: Tensor) -> Arrived:
        first = self._network.linear[0]
        return Arrived(x, F.linear(x, shared[first.weight], shared[first.bias] if first.bias else None))

    def outputs(self, arrived: Arrived) -> Tensor:
        """What the network makes of examples that have arrived: [T, m, ...]."""
        return self._passed(self._shared, self._norms, arrived).outputs

    def stepped(self, y: Tensor, lr: float, loss: Loss) -> LowRank:
        """The parameters after one step more, of size `lr`, down each task's `loss` on its support set, whose answers are y [T, n, ...]."""
        shared, norms, support = self._shared, self._norms, self._support
        if not self._second_order:
            shared = {name: part.detach() for name, part in shared.items()}
            norms = {name: part.detach().requires_grad_() for name, part in norms.items()}
            support = Arrived(support.x, support.out.detach().requires_grad_())
        with torch.enable_grad():
            passed = self._passed(shared, norms, support)
            # The step size multiplies the loss, which is one number for each task, in the place of the gradients.
            descent = -lr * loss(passed.outputs, y).sum()
            by = torch.autograd.grad(descent, [*passed.made, *norms.values()], create_graph=self._second_order)
            after = object.__new__(LowRank)
            after.__dict__.update(self.__dict__)
            rows = by[: len(passed.made)]
            inputs = passed.inputs if self._second_order else [part.detach() for part in passed.inputs]
            inputs[0] = support.x
            after._moves = {
                layer.weight: self._moves[layer.weight].further(*pair) if self._moves else _Move(*pair)
                for layer, *pair in zip(self._network.linear, inputs, rows, strict=True)
            }
            after._norms = {name: self._norms[name] + moved for name, moved in zip(norms, by[len(rows) :], strict=True)}
        return after

    def _passed(self, shared: Mapping[str, Tensor], norms: Mapping[str, Tensor], arrived: Arrived) -> _Passed:
        x = arrived.x
        inputs: list[Tensor] = []
        made: list[Tensor] = []
        for layer in self._network.layers:
            if layer is None:
                x = x.relu()
            elif isinstance(layer, _Norm):
                x = _normalised(x, norms[layer.gain], norms[layer.shift], layer.eps)
            else:
                bias = shared[layer.bias] if layer.bias else None
                out = F.linear(x, shared[layer.weight], bias) if made else arrived.out
                if self._moves:
                    move = self._moves[layer.weight]
                    alike = torch.bmm(x, move.inputs.transpose(1, 2))  # [T, m, r]
                    out = torch.baddbmm(out, alike + 1 if layer.bias else alike, move.rows)
                inputs.append(x)
                made.append(out)
                x = out
        return _Passed(x, inputs, made)

    def __getitem__(self, name: str) -> Tensor:
        if name in self._norms:
            return self._norms[name]
        start = self._shared[name].expand(len(self._support.x), *self._shared[name].shape)
        for layer in self._network.linear if self._moves else ():
            move = self._moves[layer.weight]
            if name == layer.weight:
                return torch.baddbmm(start, move.rows.transpose(1, 2), move.inputs)
            if name == layer.bias:
                return start + move.rows.sum(1)
        return start

    def __iter__(self) -> Iterator[str]:
        return iter(self._shared)

    def __len__(self) -> int:
        return len(self._shared)


def _normalised(x: Tensor, gain: Tensor, shift: Tensor, eps: float) -> Tensor:
    """Batch normalisation of each task by itself: x [T, m, D], gain and shift [T, D]; as one of T * D channels."""
    tasks, m, width = x.shape
    channels = x.transpose(0, 1).reshape(m, tasks * width)
    normalised = F.batch_norm(channels, None, None, gain.reshape(-1), shift.reshape(-1), training=True, eps=eps)
    return normalised.view(m, tasks, width).transpose(0, 1)
