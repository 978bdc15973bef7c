"""Networks, parameters of several tasks and images that tests of passes through a network share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metalearn.algorithms.inner_loop import linear_classifier
from metalearn.backbones import MLP, Backbone, Conv4

TASKS, WAYS, EXAMPLES, SHAPE = 3, 2, 12, (1, 16, 16)


class Residual(nn.Module):
    """Does more than pass examples from layer to layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.layer(x) + x
        return features


def network(kind: str) -> nn.Module:
    torch.manual_seed(0)
    mlp = MLP(SHAPE, [7], "batch", running_stats=False)
    net: Backbone = mlp if kind == "mlp" else Conv4(SHAPE, 4, kind, "batch", running_stats=False, pool="flatten")
    return linear_classifier(net, WAYS).double()


def parameters_of(module: nn.Module) -> dict[str, Tensor]:
    """Of each task its own, with a history: [T, ...]."""
    return {
        name: (p.expand(TASKS, *p.shape) * torch.linspace(0.9, 1.1, TASKS).view(-1, *[1] * p.dim()))
        for name, p in module.named_parameters()
    }


def images(examples: int = EXAMPLES) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(TASKS, examples, *SHAPE, generator=generator, dtype=torch.float64)
    return x, torch.randint(WAYS, (TASKS, examples), generator=generator)
