"""Functions of one number to be regressed: what the data sets share whose tasks are functions that the program draws.

A task is a function; its examples are points (x, y) of it, x drawn evenly. Training, validation and test functions come from one distribution:
all are different. Letters: T tasks, K support points, Q query points.
"""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from metalearn.data.base import Dataset, TaskSource
from metalearn.data.numbers import Stream, unit
from metalearn.errors import UserError
from metalearn.kinds import REGRESSION
from metalearn.tasks import Examples, Shape, TaskBatch, TaskShape, VaryingPoints

Numbers = NDArray[np.float64]
# A task's random words for each purpose: function and x; what y takes besides; how many points.
_FUNCTION, _FURTHER, _POINTS = 0, 1, 2


class Interval(NamedTuple):
    low: float
    high: float

    def at(self, numbers: Numbers) -> Numbers:
        """Numbers in [0, 1) -> [low, high)."""
        return self.low + (self.high - self.low) * numbers


class OneDistribution(NamedTuple):
    """One distribution for train, val and test."""

    name: str
    sha256: str


class Functions(Dataset):
    """Base of those data sets. A subclass says how many random numbers a function is made of, and what its values are.

    Args:
        name: of the data set.
        x: lowest and highest.
        described: all that the distribution depends on, plain values: two with equal ones are the same.
    """

    varying_points: ClassVar[bool] = True
    own_numbers: ClassVar[int]  # how many random numbers in [0, 1) a function is made of

    def __init__(self, name: str, x: Interval, described: Any) -> None:
        self.name, self.kind, self.input_shape, self.x = name, REGRESSION, (1,), x
        self.split = OneDistribution("one-distribution", hashlib.sha256(json.dumps(described).encode()).hexdigest())

    @abstractmethod
    def values(self, numbers: Numbers, x: Numbers, further: Callable[[int], Numbers]) -> Numbers:
        """y [T, n] of T functions, made of numbers [T, `own_numbers`], at x [T, n]; `further(m)` has m more numbers of each task, [T, m]."""

    def about(self, numbers: Numbers) -> Mapping[str, tuple[Any, ...]]:
        """What reports group functions by: name -> a text or a number for each, [T]; by default nothing."""
        return {}

    def check(self, split: str, shape: Shape) -> None:
        """See Dataset."""
        key = "task.train" if split == "train" else "task"
        if shape.ways != 1:
            raise UserError(
                f"{key}.ways={shape.ways}: the tasks of {self.name} have no classes (needed: 1, as task=10shot_regression has it)"
            )
        if isinstance(shape, VaryingPoints) and shape.min_shots > shape.max_shots:
            raise UserError(
                f"{key}.min_shots={shape.min_shots} is more than {key}.max_shots={shape.max_shots}, the most support points of a task"
            )

    def source(
        self, split: str, seed: int, device: torch.device, augment: Mapping[str, float] | None = None
    ) -> TaskSource:
        """See Dataset."""
        self.check_augment(augment or {})
        return FunctionTasks(self, split, seed, device)


class FunctionTasks(TaskSource):
    """The tasks of one split. Random numbers of task i: those of its function, then the x of its support points and of its queries."""

    def __init__(self, dataset: Functions, split: str, seed: int, device: torch.device) -> None:
        self.name, self.kind, self.split, self.device, self.classes = dataset.name, dataset.kind, split, device, ()
        self._dataset, self._stream = dataset, Stream(seed, split)

    def numbers(self, first: int, count: int) -> Numbers:
        """What the functions of tasks first .. first+count-1 are made of, [count, `Functions.own_numbers`]."""
        return unit(self._stream.words(first, count, self._dataset.own_numbers, _FUNCTION))

    def tasks(self, first: int, count: int, shape: Shape) -> TaskBatch:
        """See TaskSource: x and y [count, K, 1] of the support set, [count, Q, 1] of the query set. Of a VaryingPoints, K is the largest."""
        assert isinstance(shape, TaskShape | VaryingPoints)  # the data set does not say that it is `uneven`
        own, most = self._dataset.own_numbers, shape.most_shots
        drawn = unit(self._stream.words(first, count, own + most + shape.queries, _FUNCTION))
        numbers, points = drawn[:, :own], self._dataset.x.at(drawn[:, own:])  # [T, most + Q]

        def further(n: int) -> Numbers:
            return unit(self._stream.words(first, count, n, _FURTHER))

        x, y = self._tensor(points), self._tensor(self._dataset.values(numbers, points, further))
        about = dict(self._dataset.about(numbers))
        if isinstance(shape, VaryingPoints):
            support, of_tasks = self._varying(x[:, :most], y[:, :most], first, shape)
            about["shots"] = of_tasks
        else:
            support = Examples(x[:, :most], y[:, :most], 1)
        return TaskBatch(
            support=support,
            query=Examples(x[:, most:], y[:, most:], 1),
            classes=torch.zeros(count, 1, dtype=torch.int64, device=self.device),
            about=about,
        )

    def _varying(
        self, x: torch.Tensor, y: torch.Tensor, first: int, shape: VaryingPoints
    ) -> tuple[Examples, tuple[int, ...]]:
        """The first points of each task, as many as are drawn for it, the others padding; and how many these are."""
        count = len(x)
        numbers = unit(self._stream.words(first, count, 1, _POINTS))[:, 0]
        counts = (shape.min_shots + numbers * (shape.most_shots - shape.min_shots + 1)).astype(int)
        there = torch.from_numpy(np.arange(shape.most_shots) < counts[:, None]).to(self.device)[..., None]
        of_tasks = tuple(counts.tolist())
        padded = Examples(x.where(there, 0), y.where(there, 0), 1, of_tasks, (1,) * count)
        return padded.slice(0, count), of_tasks

    def _tensor(self, numbers: Numbers) -> torch.Tensor:
        return torch.from_numpy(numbers.astype(np.float32)).unsqueeze(-1).to(self.device, non_blocking=True)


def interval(name: str, ends: Sequence[float], may_be_one: bool = False) -> Interval:
    """The setting `dataset.<name>` of two numbers, which may be equal if `may_be_one`.

    Raises:
        UserError: it is none.
    """
    if len(ends) != 2 or ends[0] > ends[1] or (ends[0] == ends[1] and not may_be_one):
        order = "the smaller one first" + (", or equal ones" if may_be_one else "")
        raise UserError(f"dataset.{name}={list(ends)} is not allowed (two numbers, {order})")
    return Interval(float(ends[0]), float(ends[1]))
