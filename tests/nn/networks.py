"""Networks that several tests of written-out passes share."""

from __future__ import annotations

from torch import Tensor, nn


class Residual(nn.Module):
    """Does more than pass examples from layer to layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.layer(x) + x
        return features
