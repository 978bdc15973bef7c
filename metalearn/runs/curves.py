"""Test tasks that are functions of one number, as they are shown: support points, the queries' targets, and the curves that are predicted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metalearn.algorithms.base import Algorithm
from metalearn.data.base import TaskSource
from metalearn.engine.evaluate import scored_states
from metalearn.kinds import NUMBERS, Kind
from metalearn.tasks import Examples, Shape, TaskBatch

DEVIATIONS = 2  # predicted standard deviations that a curve's band shows on either side
_GRID = 120  # points of a curve
_STATES = 4  # of the inner loop, a curve for each

Point = tuple[float, float]


@dataclass(frozen=True)
class Curve:
    """What is predicted along x in one state of the inner loop, with a band of so much on either side; none where that is not predicted."""

    name: str
    x: list[float]
    y: list[float]
    band: list[float]


@dataclass(frozen=True)
class FunctionTask:
    """One task: its points, its curves from the first state to the last, and its score in the last."""

    support: list[Point]
    query: list[Point]
    curves: list[Curve]
    score: float

    @classmethod
    def of(cls, algorithm: Algorithm, kind: Kind, task: TaskBatch) -> FunctionTask:
        """Of a task for which `is_function` holds."""
        support, query = _points(task.support), _points(task.query)
        xs = [x for x, _ in support + query]
        # With transduction a prediction depends on the other queries: then the curve goes through these alone.
        along = sorted(x for x, _ in query) if algorithm.transductive else np.linspace(min(xs), max(xs), _GRID).tolist()
        grid = task.query.x.new_tensor(along).view(1, -1, 1)
        states = list(scored_states(algorithm.adapt_stepwise(task.support)))
        kept = sorted({0, 1, len(states) // 2, len(states) - 1} & set(range(len(states))))[-_STATES:]
        curves = []
        for step, adapted in (states[i] for i in kept):
            plural = "s" if step > 1 else ""
            name = "prediction" if len(states) == 1 else "before" if step == 0 else f"{step} step{plural}"
            distribution = algorithm.predict_distribution(adapted, grid)
            band = [] if distribution is None else _numbers(DEVIATIONS * distribution.std)
            curves.append(Curve(name, along, _numbers(algorithm.predict(adapted, grid)), band))
        outputs = algorithm.predict(states[-1][1], task.query.x)
        return cls(support, query, curves, float(task.query.by_task(kind.score_of, outputs)[0]))

    def record(self) -> dict[str, Any]:
        """The entry of an evaluation's file: `score`, the points as [x, y], and of the last state `x`, `y` and `band`."""
        last = self.curves[-1]
        points = {"support": self.support, "query": self.query}
        return {
            "score": self.score,
            **{name: [[_short(number) for number in point] for point in of] for name, of in points.items()},
            **{name: [_short(number) for number in getattr(last, name)] for name in ("x", "y", "band")},
        }


def is_function(kind: Kind, task: TaskBatch) -> bool:
    """Whether a task asks for one number at one number."""
    return kind.answers == NUMBERS and task.support.x.shape[2:] == (1,) and task.support.y.shape[2:] == (1,)


@torch.no_grad()
def function_records(algorithm: Algorithm, source: TaskSource, shape: Shape, count: int) -> list[dict[str, Any]]:
    """`FunctionTask.record` of the first `count` tasks; an empty list where they are no functions of one number."""
    if not count:
        return []
    was_training = algorithm.training
    algorithm.eval()
    try:
        tasks = source.tasks(0, count, shape).chunks(1)
        return [FunctionTask.of(algorithm, source.kind, one).record() for one in tasks if is_function(source.kind, one)]
    finally:
        algorithm.train(was_training)


def _points(examples: Examples) -> list[Point]:
    return [(float(x), float(y)) for x, y in zip(examples.x[0, :, 0], examples.y[0, :, 0], strict=True)]


def _numbers(values: Tensor) -> list[float]:
    """[1, n, 1] as n numbers."""
    found: list[float] = values[0, :, 0].float().cpu().tolist()
    return found


def _short(number: float) -> float:
    return float(f"{number:.5g}")
