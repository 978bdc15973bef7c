"""All parameters of a task in one row of memory."""

from __future__ import annotations

import torch
from torch import Tensor


class Rows:
    """A number for every parameter of T tasks, in one row for each task: what an update goes through at once.

    Attributes:
        all: [T, P].
        named: the same memory cut into parameters: name -> [T, ...], convolution kernels with their channels last in memory.
    """

    def __init__(self, like: dict[str, Tensor], tasks: int) -> None:
        self._shapes = {name: parameter.shape for name, parameter in like.items()}
        some = next(iter(like.values()))
        self.all = some.new_empty(tasks, sum(shape.numel() for shape in self._shapes.values()))
        parts = torch.split(self.all, [shape.numel() for shape in self._shapes.values()], dim=1)
        self.named = {name: _cut(part, shape) for (name, shape), part in zip(self._shapes.items(), parts, strict=True)}
        self._scratch: Rows | None = None

    def fill(self, named: dict[str, Tensor]) -> None:
        """Gives every task the same numbers: name -> [...]."""
        for name, part in named.items():
            self.named[name][0].copy_(part)
        self.all[1:].copy_(self.all[0])

    def of(self, group: slice) -> dict[str, Tensor]:
        """Those of some tasks, the same memory."""
        return {name: part[group] for name, part in self.named.items()}

    def empty(self, tasks: int) -> Rows:
        """Rows for the same parameters, not yet filled."""
        return Rows({name: part[0] for name, part in self.named.items()}, tasks)

    def scratch(self, tasks: int) -> Rows:
        """Rows for the same parameters, which the next call may hand out again."""
        if self._scratch is None or len(self._scratch.all) != tasks:
            self._scratch = self.empty(tasks)
        return self._scratch

    def copy(self) -> Rows:
        copied = self.empty(len(self.all))
        copied.all.copy_(self.all)
        return copied


def _cut(part: Tensor, shape: torch.Size) -> Tensor:
    """Rows [T, o * c * k * k] -> [T, o, c, k, k] with channels last in memory; other parameters -> [T, ...]."""
    if len(shape) != 4:
        return part.view(-1, *shape)
    o, c, height, width = shape
    return part.view(-1, o, height, width, c).permute(0, 1, 4, 2, 3)
