"""Sine waves to be regressed (Finn, Abbeel and Levine 2017, https://arxiv.org/abs/1703.03400, section 5.1).

A task is a wave y = amplitude * sin(x - phase), as in the authors' code; its examples are points of it, x drawn evenly. Training, validation and test
tasks come from the same distribution: all waves are different.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from metalearn.data.base import Dataset, TaskSource
from metalearn.data.files.published import About
from metalearn.data.numbers import Stream, unit
from metalearn.errors import UserError
from metalearn.kinds import REGRESSION
from metalearn.tasks import Examples, Shape, TaskBatch, TaskShape

ABOUT = About(
    "sine waves to be regressed, drawn by the program", "https://arxiv.org/abs/1703.03400", "MIT, as the program"
)


class Interval(NamedTuple):
    low: float
    high: float

    def at(self, numbers: NDArray[np.float64]) -> NDArray[np.float64]:
        """Numbers in [0, 1) -> [low, high)."""
        return self.low + (self.high - self.low) * numbers


class WaveSplit(NamedTuple):
    """One distribution for train, val and test."""

    name: str
    sha256: str


class Sinusoid(Dataset):
    """Waves by amplitude and phase.

    Args:
        amplitude: lowest and highest.
        phase: lowest and highest, radians.
        x: lowest and highest.

    Raises:
        UserError: an interval is none.
    """

    def __init__(self, amplitude: Sequence[float], phase: Sequence[float], x: Sequence[float]) -> None:
        self.name, self.kind, self.input_shape = "sinusoid", REGRESSION, (1,)
        self.amplitude, self.phase = _interval("amplitude", amplitude), _interval("phase", phase)
        self.x = _interval("x", x)
        described = json.dumps([self.amplitude, self.phase, self.x])
        self.split = WaveSplit("one-distribution", hashlib.sha256(described.encode()).hexdigest())

    def check(self, split: str, shape: Shape) -> None:
        """See Dataset."""
        if shape.ways != 1:
            key = "task.train.ways" if split == "train" else "task.ways"
            raise UserError(
                f"{key}={shape.ways}: the tasks of {self.name} have no classes (needed: 1, as task=10shot_regression has it)"
            )

    def source(
        self, split: str, seed: int, device: torch.device, augment: Mapping[str, float] | None = None
    ) -> TaskSource:
        """See Dataset."""
        self.check_augment(augment or {})
        return Waves(self, split, seed, device)


class Waves(TaskSource):
    """The tasks of one split: random numbers of task i are its amplitude, its phase and the x of its points, in this order."""

    def __init__(self, dataset: Sinusoid, split: str, seed: int, device: torch.device) -> None:
        self.name, self.kind, self.split, self.device, self.classes = dataset.name, dataset.kind, split, device, ()
        self._dataset, self._stream = dataset, Stream(seed, split)

    def tasks(self, first: int, count: int, shape: Shape) -> TaskBatch:
        """See TaskSource: x and y [count, K, 1] of the support set, [count, Q, 1] of the query set."""
        assert isinstance(shape, TaskShape)  # the data set does not say that it is `uneven`
        numbers = unit(self._stream.words(first, count, 2 + shape.shots + shape.queries, purpose=0))
        amplitude, phase = self._dataset.amplitude.at(numbers[:, :1]), self._dataset.phase.at(numbers[:, 1:2])  # [T, 1]
        points = self._dataset.x.at(numbers[:, 2:])  # [T, K + Q]
        x, y = self._tensor(points), self._tensor(amplitude * np.sin(points - phase))
        return TaskBatch(
            support=Examples(x[:, : shape.shots], y[:, : shape.shots], 1),
            query=Examples(x[:, shape.shots :], y[:, shape.shots :], 1),
            classes=torch.zeros(count, 1, dtype=torch.int64, device=self.device),
        )

    def _tensor(self, numbers: NDArray[np.float64]) -> torch.Tensor:
        return torch.from_numpy(numbers.astype(np.float32)).unsqueeze(-1).to(self.device, non_blocking=True)


def _interval(name: str, ends: Sequence[float]) -> Interval:
    if len(ends) != 2 or not ends[0] < ends[1]:
        raise UserError(f"dataset.{name}={list(ends)} is not allowed (two numbers, the smaller one first)")
    return Interval(float(ends[0]), float(ends[1]))
