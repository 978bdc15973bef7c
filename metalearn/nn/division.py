"""A network divided into its fixed layers and those behind them that change; and fixed layers as one faster function.

What a network does is read by torch.fx. Modules without a part that changes are one call, and so are those that change as a whole: only what lies
between has to be readable.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

# Where a 1x1 convolution has fewer output pixels, torch's own choice is as fast on one thread.
_POSITIONS = 50


class Division(NamedTuple):
    """Two programs over the modules of one network."""

    fixed: fx.Graph  # [n, ...] -> the tensors that cross to the rest, each [n, ...]
    behind: fx.Graph  # these -> what the network returns
    shapes: list[torch.Size]  # of one example in each of these


@torch.no_grad()
def divided(network: nn.Module, changing: list[nn.Module], examples: Tensor) -> Division | None:
    """Divides a network through which each example passes by itself.

    Args:
        changing: modules of it that change, with all their parts; all else is fixed.
        examples: [n, ...], n > 1, by which the two parts are compared with the whole.

    Returns:
        None where no layer in front is fixed, or where the network cannot be read.
    """
    tracer = _Tracer(changing)
    try:
        graph = tracer.trace(network)
    except Exception:  # whatever a forward method does that a symbolic input cannot follow
        return None
    behind: list[fx.Node] = []
    for node in graph.nodes:
        if tracer.changes(node) or any(before in behind for before in node.all_input_nodes):
            behind.append(node)
    front = [node for node in graph.nodes if node not in behind]
    if not any(node.op == "call_module" for node in front) or "output" not in [node.op for node in behind]:
        return None
    crossing = [node for node in front if any(after in behind for after in node.users)]
    fixed, rest = _program([], front, crossing), _program(crossing, behind, [])
    values = fx.Interpreter(network, graph=fixed).run(examples)
    if not all(isinstance(one, Tensor) and one.is_floating_point() and len(one) == len(examples) for one in values):
        return None
    whole, shapes = network(examples), [one.shape[1:] for one in values]
    # An operation in place could have changed what crosses before the rest takes it.
    same = torch.allclose(fx.Interpreter(network, graph=rest).run(*values), whole, rtol=1e-3, atol=1e-6)
    return Division(fixed, rest, shapes) if same else None


class _Tracer(fx.Tracer):
    """Looks into a module only where some of its parts change and others do not."""

    def __init__(self, changing: list[nn.Module]) -> None:
        super().__init__()
        self._changing = {part for module in changing for part in module.modules()}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return m in self._changing or self._changing.isdisjoint(m.modules())

    def changes(self, node: fx.Node) -> bool:
        return node.op == "call_module" and self.root.get_submodule(str(node.target)) in self._changing


def _program(given: Iterable[fx.Node], nodes: Iterable[fx.Node], returned: list[fx.Node]) -> fx.Graph:
    """Some nodes of a program as one of their own, which is given the values of others; `returned` is empty where they end in an output."""
    program, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in given:
        copies[node] = program.placeholder(node.name)
    for node in nodes:
        copies[node] = program.node_copy(node, copies.__getitem__)
    if returned:
        program.output(tuple(copies[node] for node in returned))
    return program


class FixedLayers:
    """Layers that nothing changes, in evaluation mode and without gradients. A batch normalisation becomes part of the convolution before it.

    MobileNetV2 on one thread of an AMD EPYC, processor ms per image: 1.2 instead of 2.8 with 8 images of 96x96 pixels, 5.7 instead of 13.4 with 3 of
    224x224. Weights that were loaded or moved since the last call are seen.

    Args:
        network: [n, ...] -> what it returns.
        program: which of its layers; None: all.
    """

    def __init__(self, network: nn.Module, program: fx.Graph | None = None) -> None:
        self._network, self._program = network, program
        self._made_of: list[tuple[int, int]] | None = None
        self._layers = network

    def __call__(self, x: Tensor) -> Any:
        return self.now()(x)

    @torch.no_grad()
    def now(self) -> Callable[[Tensor], Any]:
        """The layers with the weights of this moment, for several calls: looking for other weights takes a millisecond."""
        made_of = [(weight.data_ptr(), weight._version) for weight in self._weights()]
        if made_of != self._made_of:
            self._layers, self._made_of = self._made(), made_of
        return torch.no_grad()(self._layers)

    def _weights(self) -> Iterator[Tensor]:
        """Parameters and buffers."""
        parts = [self._network]
        if self._program is not None:
            parts = [
                self._network.get_submodule(str(node.target))
                for node in self._program.nodes
                if node.op == "call_module"
            ]
            values = [str(node.target) for node in self._program.nodes if node.op == "get_attr"]
            yield from (operator.attrgetter(name)(self._network) for name in values)
        for part in parts:
            yield from part.parameters()
            yield from part.buffers()

    def _made(self) -> nn.Module:
        layers = self._network if self._program is None else fx.GraphModule(self._network, self._program)
        return _without_batch_norm(layers)


def _without_batch_norm(network: nn.Module) -> nn.Module:
    """A network that returns the same up to rounding; the one given where it cannot be read."""
    if not any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
        return network
    try:
        traced = fx.symbolic_trace(network)
    except Exception:  # whatever a forward method does that a symbolic input cannot follow
        return network
    called = [str(node.target) for node in traced.graph.nodes if node.op == "call_module"]
    for node in list(traced.graph.nodes):
        before = node.args[0] if node.op == "call_module" else None
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) > 1:
            continue
        norm, convolution = (traced.get_submodule(str(one.target)) for one in (node, before))
        alone = all(called.count(str(one.target)) == 1 for one in (node, before))
        if alone and isinstance(norm, nn.BatchNorm2d) and isinstance(convolution, nn.Conv2d) and _is_fixed(norm):
            owner, _, name = str(before.target).rpartition(".")
            setattr(traced.get_submodule(owner), name, _faster(fuse_conv_bn_eval(convolution, norm)))
            node.replace_all_uses_with(before)
            traced.graph.erase_node(node)
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced


class _Pointwise(nn.Conv2d):
    """A convolution of 1x1 by oneDNN, which torch leaves aside on one thread for fewer than 16 images.

    MobileNetV2 on one core of an AMD EPYC, ms per image of 224x224: 6.7 instead of 10.3 with 3 images at a time, 10.5 instead of 12.1 with one.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        many = len(input) * input.shape[-2] * input.shape[-1] >= _POSITIONS
        plain = input.device.type == "cpu" and input.dtype == weight.dtype == torch.float32
        if not (many and plain and torch._C._has_mkldnn) or torch.is_autocast_enabled("cpu"):
            whole: Tensor = super()._conv_forward(input, weight, bias)
            return whole
        assert not isinstance(self.padding, str)
        convolved: Tensor = torch.mkldnn_convolution(
            input, weight, bias, self.padding, self.stride, self.dilation, self.groups
        )
        return convolved


def _faster(convolution: nn.Conv2d) -> nn.Conv2d:
    """The same convolution, without gradients."""
    if convolution.kernel_size != (1, 1) or convolution.padding != (0, 0) or convolution.groups > 1:
        return convolution
    made = _Pointwise(convolution.in_channels, convolution.out_channels, 1, device="meta")
    made.stride, made.weight, made.bias = convolution.stride, convolution.weight, convolution.bias
    return made.eval()


def _is_fixed(norm: nn.BatchNorm2d) -> bool:
    """Whether each example passes by itself."""
    return norm.running_mean is not None and not norm.training
