"""Kinds of task: what a task is scored by. Loss, score, which of two scores is better, what guessing comes to, how a score is written.

Whoever trains, selects, compares or prints asks the kind of the tasks; nobody else knows whether they are about classes or numbers.

Letters: T tasks, n examples of each, N ways, D output numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # whoever only reads results needs no torch
    from torch import Tensor


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Mean over each task's examples: logits [T, n, N], y [T, n] -> [T]."""
    from torch.nn import functional as F

    tasks, n = y.shape
    return F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none").view(tasks, n).mean(1)


def accuracy(logits: Tensor, y: Tensor) -> Tensor:
    """Share of each task's examples whose largest logit is the right one: logits [T, n, N], y [T, n] -> [T].

    A task with a logit that is not finite has no accuracy: its score is NaN, not what the first class happens to get.
    """
    right = (logits.argmax(-1) == y).float().mean(1)
    return right.where(logits.isfinite().flatten(1).all(1), math.nan)


def squared_error(outputs: Tensor, y: Tensor) -> Tensor:
    """Mean over each task's examples and output numbers: outputs [T, n, D], y [T, n, D] -> [T]."""
    return (outputs - y).square().flatten(1).mean(1)


@dataclass(frozen=True)
class Scale:
    """How scores of one kind of task are read; results.json says it, so that a reader needs no code of the kind.

    Attributes:
        name: of the kind.
        score: the name of the main score in results.json and, behind a split's name, in tags: `val/<score>`.
        higher_is_better: whether of two scores the larger one is the better one.
        percent: whether scores are fractions that are shown in percent.
    """

    name: str
    score: str
    higher_is_better: bool
    percent: bool

    @property
    def drawn(self) -> str:
        """What test tasks are drawn from, for reports: classes, or what a data set of numbers has instead."""
        return "classes" if self.percent else "task families"

    @property
    def worst(self) -> float:
        """A score that every other one is better than."""
        return -math.inf if self.higher_is_better else math.inf

    def better(self, score: float, than: float) -> bool:
        """Whether `score` is strictly better; a score that is not a number never is."""
        return score > than if self.higher_is_better else score < than

    def chance(self, ways: int) -> float | None:
        """The score of guessing, or None if it is not known."""
        return 1 / ways if self.percent else None

    def text(self, score: float, half_width: float | None = None, digits: int | None = None) -> str:
        """`95.20 ± 0.31 %` of 0.952 and 0.0031, or `0.3456 ± 0.0123`: the score with half the width of its interval.

        Scores that are no percentages have four decimals where they are below 10, of larger ones five digits in all: `249051 ± 16774`.
        """
        factor, unit = (100, " %") if self.percent else (1, "")
        places = self.digits(score) if digits is None else digits
        interval = "" if half_width is None else f" ± {factor * half_width:.{places}f}"
        return f"{factor * score:.{places}f}{interval}{unit}"

    def digits(self, score: float) -> int:
        """How many decimals `text` gives a score."""
        if self.percent:
            return 2
        whole = math.floor(math.log10(abs(score))) if math.isfinite(score) and abs(score) >= 1 else 0
        return max(0, 4 - whole)

    def record(self) -> dict[str, Any]:
        """The `kind` entry of results.json, which `scale_of` reads."""
        return {field.name: getattr(self, field.name) for field in fields(Scale)}


@dataclass(frozen=True)
class Kind(Scale):
    """What tasks of one kind have in common. A plug-in's data set may bring a kind of its own.

    Attributes:
        loss: (outputs [T, n, ...], y [T, n, ...]) -> [T]; what inner and outer loops descend.
        score_of: (outputs, y) -> [T], the main score of each task; NaN for a task whose outputs are not finite.
        answers: what is predicted for an example: CLASSES, NUMBERS, or "" for anything else. It decides who can learn such tasks
            (`Algorithm.learns`) and how one is drawn.
    """

    loss: Callable[[Tensor, Tensor], Tensor]
    score_of: Callable[[Tensor, Tensor], Tensor]
    answers: str = ""

    @property
    def classifies(self) -> bool:
        """Whether outputs are logits of a task's classes. Tasks of numbers may be drawn from classes, which nobody predicts."""
        return self.answers != NUMBERS


CLASSES, NUMBERS = "classes", "numbers"
CLASSIFICATION = Kind("classification", "accuracy", True, True, cross_entropy, accuracy, CLASSES)
REGRESSION = Kind("regression", "mse", False, False, squared_error, squared_error, NUMBERS)


def scale_of(results: Mapping[str, Any]) -> Scale:
    """How the scores in what results.json holds are read.

    Results of earlier versions do not say their kind: it shows in the name of the score that `test` or `val` holds.
    """
    if results.get("kind"):
        return Scale(**{field.name: results["kind"][field.name] for field in fields(Scale)})
    records = [results.get("test") or {}, results.get("val") or {}]
    return REGRESSION if any(REGRESSION.score in record for record in records) else CLASSIFICATION
