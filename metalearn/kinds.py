"""What a task is scored by: the loss that is trained and the metric that is reported, in one place for every algorithm."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Mean over each task's examples: logits [T, n, N], y [T, n] -> [T]."""
    tasks, n = y.shape
    return F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none").view(tasks, n).mean(1)


def accuracy(logits: Tensor, y: Tensor) -> Tensor:
    """Share of each task's examples whose largest logit is the right one: logits [T, n, N], y [T, n] -> [T]."""
    return (logits.argmax(-1) == y).float().mean(1)
