"""MAML as functorch's `maml_omniglot` example makes it, which torchbench measures as `functorch_maml_omniglot`: one task's loss, `vmap` over tasks.

Written anew from what it does: parameters as a dictionary, `functional_call`, an inner loop of plain gradient descent by `torch.func.grad`, the
sum of the tasks' losses differentiated at once, Adam. Its network has three blocks of unpadded convolution, which ours can take.

Its meta-gradient is not quite MAML's: with torch 2.14.1 the second derivatives of `F.batch_norm` are wrong under vmap(grad(...)), as if a batch's
mean and variance were constants in the backward pass. With the normalisation written out it is ours (`tests/bench/test_rivals.py`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from metalearn.algorithms.base import Algorithm
from metalearn.backbones import Conv4
from metalearn.bench.harness import Config
from metalearn.nn.convolution import Conv2d
from metalearn.tasks import TaskBatch

BLOCKS, FILTERS = 3, 64


def take_its_network(algorithm: Algorithm) -> None:
    """Puts its three blocks in the place of those of `conv4`, which have as many features: [n, 1, 28, 28] -> [n, 64].

    The example pools after ReLU, which comes to the same.
    """
    layers: list[nn.Module] = []
    for block in range(BLOCKS):
        norm = nn.BatchNorm2d(FILTERS, track_running_stats=False)
        layers += [Conv2d(FILTERS if block else 1, FILTERS, 3), norm, nn.MaxPool2d(2), nn.ReLU()]
    backbone = algorithm.classifier().backbone  # type: ignore[operator]
    assert isinstance(backbone, Conv4)
    assert backbone.feature_dim == FILTERS
    backbone.blocks = nn.Sequential(*layers)


class FunctorchLoop:
    """The example's outer loop, stopped between steps, on one stored meta-batch, as torchbench has it: it makes no tasks.

    Args:
        network: of torch's own layers, without running statistics; it is trained.
        tasks: the meta-batch of every step.
    """

    data_seconds = 0.0

    def __init__(self, config: Config, network: nn.Module, tasks: TaskBatch) -> None:
        self.inner_lr, self.inner_steps = config["algorithm"]["inner_lr"], config["algorithm"]["inner_steps"]
        self.network, self.tasks = network, tasks
        self.parameters: dict[str, Tensor] = dict(network.named_parameters())
        self.optimizer = torch.optim.Adam(self.parameters.values(), lr=config["train"]["lr"])

    def gradient(self) -> None:
        """The meta-gradient's sum over tasks, in the parameters' `.grad`."""
        self.optimizer.zero_grad()
        support, query = self.tasks.support, self.tasks.query
        losses, _ = vmap(self._of_task)(support.x, support.y, query.x, query.y)
        losses.sum().backward()  # type: ignore[no-untyped-call]

    def step(self) -> None:
        self.gradient()
        self.optimizer.step()

    def _of_task(self, support_x: Tensor, support_y: Tensor, query_x: Tensor, query_y: Tensor) -> tuple[Tensor, Tensor]:
        """The adapted parameters' loss and accuracy on the queries."""
        parameters = self.parameters
        for _ in range(self.inner_steps):
            slopes = grad(self._support_loss)(parameters, support_x, support_y)
            parameters = {name: value - self.inner_lr * slopes[name] for name, value in parameters.items()}
        logits = functional_call(self.network, parameters, (query_x,))
        return F.cross_entropy(logits, query_y), (logits.argmax(1) == query_y).float().mean()

    def _support_loss(self, parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(self.network, parameters, (x,)), y)
