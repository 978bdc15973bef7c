"""Probabilities that one may act on: what a run's own validation and test tasks say about tasks of the user's size.

Tasks with the user's number of classes and of support examples of each are drawn from the validation classes, which training never saw. The
first half of them fits a temperature (Guo et al. 2017, https://arxiv.org/abs/1706.04599): logits are divided by the number that makes the log
loss least. The second half gives the threshold of prediction sets (split conformal prediction). Then both are measured on test tasks, whose
classes nothing here was fitted to.

**Score**: 1 - p(label), p with the temperature (Sadinle et al. 2019, https://arxiv.org/abs/1609.00451). The set of a query holds each label
whose score is at most the threshold, and the most probable label in any case.

**Threshold**: queries of one task depend on each other, tasks do not. With K tasks of n queries, it is the ceil(coverage * (K + 1) * n)-th
smallest of the K * n scores; where there are fewer, every label is in the set. This is hierarchical conformal prediction for groups of equal
size (Lee, Barber and Willett 2023, https://arxiv.org/abs/2306.06342); with n = 1 it is ordinary split conformal prediction.

**Guarantee**: a query of a new task, exchangeable with the K tasks, has its label in its set with a probability of at least `coverage`, over
the draw of all of these tasks and the query, whatever the model. It says nothing about one class or one task alone, nor about images of
another kind than the run's.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metalearn.engine.reliability import Reliability
from metalearn.intervals import interval95

# The coverages, and the probabilities to abstain below, that are stored.
GRID = tuple(round(0.01 * i, 2) for i in range(50, 100))
_FLOOR = -1e4  # below the largest logit: for algorithms whose logits are logarithms of zero
_LOG_TEMPERATURES = (math.log(0.01), math.log(100.0))


@dataclass(frozen=True)
class Covered:
    """Prediction sets of one coverage.

    Attributes:
        coverage: what was asked for.
        threshold: the largest score in a set; 1 or more: every label is in it.
        measured: the share of test queries whose set held the label.
        ci95: half the width of its 95 % interval over tasks.
        size: labels in a set, mean over test queries.
    """

    coverage: float
    threshold: float
    measured: float
    ci95: float
    size: float


@dataclass(frozen=True)
class Answered:
    """What abstaining below a probability does, on test queries.

    Attributes:
        below: the probability.
        answered: the share of queries that were answered.
        accuracy: the share of right ones among them; None where none was.
    """

    below: float
    answered: float
    accuracy: float | None


@dataclass(frozen=True)
class Calibration:
    """What was fitted on validation tasks and measured on test tasks.

    Attributes:
        dataset: the run's data set.
        shots: [N], support examples of each class in these tasks.
        as_asked: whether these are the user's; else the data set has no larger tasks.
        fitted: validation tasks for the temperature, and as many for the threshold.
        tested: test tasks.
        queries: of each task.
        temperature: what logits are divided by.
        accuracy: on test tasks.
        ci95: half the width of its 95 % interval over tasks.
        before: how well the probabilities of test tasks are calibrated without the temperature: ece, nll, brier.
        after: the same with it.
        sets: by coverage.
        abstaining: by probability.
    """

    dataset: str
    shots: tuple[int, ...]
    as_asked: bool
    fitted: int
    tested: int
    queries: int
    temperature: float
    accuracy: float
    ci95: float
    before: dict[str, float]
    after: dict[str, float]
    sets: tuple[Covered, ...]
    abstaining: tuple[Answered, ...]

    def record(self) -> dict[str, Any]:
        """Plain values, which `of_record` reads."""
        return (
            asdict(self)
            | {"shots": list(self.shots), "sets": [asdict(one) for one in self.sets]}
            | {"abstaining": [asdict(one) for one in self.abstaining]}
        )

    @classmethod
    def of_record(cls, record: dict[str, Any]) -> Calibration:
        """Reads what `record` made; KeyError or TypeError where it is another form."""
        return cls(
            **record
            | {
                "shots": tuple(record["shots"]),
                "sets": tuple(Covered(**one) for one in record["sets"]),
                "abstaining": tuple(Answered(**one) for one in record["abstaining"]),
            }
        )

    def at(self, coverage: float) -> Covered | None:
        """The sets of a coverage; None where it was not asked for."""
        return next((one for one in self.sets if math.isclose(one.coverage, coverage)), None)

    def abstaining_below(self, probability: float) -> Answered | None:
        """What abstaining below a probability did; the next smaller one on record."""
        return next((one for one in reversed(self.abstaining) if one.below <= probability + 1e-9), None)


@dataclass(frozen=True)
class Answers:
    """What a model says about T tasks of n queries each: logits [T, n, N] and right labels [T, n]."""

    logits: Tensor
    y: Tensor

    def part(self, start: int, stop: int) -> Answers:
        """Tasks start .. stop-1."""
        return Answers(self.logits[start:stop], self.y[start:stop])

    def probabilities(self, temperature: float) -> Tensor:
        """[T, n, N], float64."""
        return probabilities(self.logits, temperature)


def probabilities(logits: Tensor, temperature: float = 1.0, dtype: torch.dtype = torch.float64) -> Tensor:
    """The probabilities [..., N] of logits [..., N] divided by a temperature."""
    return (_bounded(logits, dtype) / temperature).softmax(-1)


def calibrated(
    dataset: str, shots: tuple[int, ...], as_asked: bool, val: Answers, test: Answers, coverages: tuple[float, ...]
) -> Calibration:
    """Fits on validation tasks and measures on test tasks.

    Args:
        dataset: its name.
        shots: [N], of these tasks.
        as_asked: whether they are the user's.
        val: of an even number of tasks.
        test: of other classes.
        coverages: for which sets are made.
    """
    half = len(val.y) // 2
    temperature = fitted_temperature(val.part(0, half))
    scores = label_scores(val.part(half, 2 * half).probabilities(temperature), val.y[half : 2 * half])
    p = test.probabilities(temperature)
    right = (p.argmax(-1) == test.y).double()
    before, after = (Reliability.of(of, test.y) for of in (test.probabilities(1.0), p))
    return Calibration(
        dataset=dataset,
        shots=shots,
        as_asked=as_asked,
        fitted=half,
        tested=len(test.y),
        queries=test.y.shape[1],
        temperature=temperature,
        accuracy=float(right.mean()),
        ci95=interval95(right.mean(1)),
        before=before.record(),
        after=after.record(),
        sets=tuple(_covered(coverage, threshold(scores, coverage), p, test.y) for coverage in coverages),
        abstaining=tuple(_answered(below, p, right) for below in (0.0, *GRID)),
    )


def fitted_temperature(answers: Answers) -> float:
    """The temperature with the least log loss of these answers, between 0.01 and 100."""
    logits, y = _bounded(answers.logits).flatten(0, 1), answers.y.flatten()

    def loss(log_temperature: float) -> float:
        return float(torch.nn.functional.cross_entropy(logits / math.exp(log_temperature), y))

    # Late: the import takes a second, and what is fitted already lies in the run directory.
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(loss, bounds=_LOG_TEMPERATURES, method="bounded", options={"xatol": 1e-4})
    return math.exp(float(found.x))


def label_scores(p: Tensor, y: Tensor) -> NDArray[np.float64]:
    """1 - p(label): of p [T, n, N] and y [T, n], [T, n]."""
    return 1 - p.gather(-1, y.unsqueeze(-1)).squeeze(-1).numpy()


def threshold(scores: NDArray[np.float64], coverage: float) -> float:
    """The threshold of scores [K, n] for a coverage in (0, 1); infinite where K tasks are too few for it."""
    tasks, queries = scores.shape
    rank = math.ceil(coverage * (tasks + 1) * queries - 1e-9)
    return float(np.sort(scores, axis=None)[rank - 1]) if rank <= scores.size else math.inf


def in_set(p: Tensor, limit: float) -> Tensor:
    """Which labels are in the sets of a threshold: p [..., N] -> bool [..., N]. The most probable one always is."""
    members = 1 - p <= limit + 1e-12
    return members.scatter(-1, p.argmax(-1, keepdim=True), True)


def _covered(coverage: float, limit: float, p: Tensor, y: Tensor) -> Covered:
    members = in_set(p, limit)
    held = members.gather(-1, y.unsqueeze(-1)).squeeze(-1).double()
    size = float(members.sum(-1).double().mean())
    return Covered(coverage, min(limit, 2.0), float(held.mean()), interval95(held.mean(1)), size)


def _answered(below: float, p: Tensor, right: Tensor) -> Answered:
    sure = p.amax(-1) >= below
    return Answered(below, float(sure.double().mean()), float(right[sure].mean()) if bool(sure.any()) else None)


def _bounded(logits: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    exact = logits.to(dtype)
    return (exact - exact.amax(-1, keepdim=True)).clamp(min=_FLOOR)
