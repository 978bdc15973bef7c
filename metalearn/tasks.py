"""The one type that crosses every module border: a batch of few-shot tasks.

Letters, the same everywhere: T tasks in the batch, N ways, K shots (support examples per class), Q queries per class.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor


class TaskShape(NamedTuple):
    """How large a task is."""

    ways: int  # N; 1 where a task has no classes
    shots: int  # K, support examples per class
    queries: int  # Q, query examples per class

    @classmethod
    def of(cls, node: Mapping[str, Any]) -> TaskShape:
        """Of the configuration's `task` or `task.train`."""
        return cls(node["ways"], node["shots"], node["queries"])


class Examples(NamedTuple):
    """Labelled examples of T tasks, in blocks by label: the first K (or Q) of each task carry label 0, the next 1, ... Regression has one block."""

    x: Tensor  # [T, N*K, ...] float32
    y: Tensor  # [T, N*K] int64 in 0..N-1; of regression [T, K, D] float32
    ways: int  # N, 1 in regression; a Python number, so that no algorithm has to wait for the device to learn it

    def to(self, device: torch.device) -> Examples:
        return Examples(self.x.to(device), self.y.to(device), self.ways)

    def slice(self, start: int, stop: int) -> Examples:
        return Examples(self.x[start:stop], self.y[start:stop], self.ways)


class TaskBatch(NamedTuple):
    """T tasks: what a learner adapts to (support) and what it is scored on (query)."""

    support: Examples
    query: Examples
    classes: Tensor  # [T, N] int64, the split's class ids, or zeros where it has none; for reports and non-episodic baselines only

    @property
    def tasks(self) -> int:
        return self.classes.shape[0]

    def to(self, device: torch.device) -> TaskBatch:
        return TaskBatch(self.support.to(device), self.query.to(device), self.classes.to(device))

    def chunks(self, size: int) -> list[TaskBatch]:
        """The same tasks in order, at most `size` at a time."""
        return [
            TaskBatch(self.support.slice(i, i + size), self.query.slice(i, i + size), self.classes[i : i + size])
            for i in range(0, self.tasks, size)
        ]
