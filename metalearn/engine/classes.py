"""How well each class of the test tasks was recognised, and what it was taken for."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor

from metalearn.tasks import TaskBatch

_SHOWN = 3  # classes that one was most often taken for


class ClassCounts:
    """Counts the answers to queries: (true class, answered class) -> how often, over all tasks.

    Args:
        names: of the split's classes, in the order of their ids.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names
        self._answers: Counter[tuple[int, int]] = Counter()

    def add(self, tasks: TaskBatch, logits: Tensor) -> None:
        """Counts the answers of T tasks: logits [T, N*Q, N]."""
        if tasks.uneven and tasks.tasks > 1:
            for one, answers in zip(tasks.chunks(1), torch.split(logits, 1), strict=True):
                self.add(one, answers[:, : one.query.y.shape[1], : one.query.ways])
            return
        true = tasks.classes.gather(1, tasks.query.y).flatten().tolist()
        answered = tasks.classes.gather(1, logits.argmax(-1)).flatten().tolist()
        self._answers.update(zip(true, answered, strict=True))

    def record(self) -> dict[str, Any]:
        """Class name -> accuracy, n (queries), and the classes it was most often taken for with how often; the worst class first."""
        by_class: dict[int, Counter[int]] = {}
        for (true, answered), count in self._answers.items():
            by_class.setdefault(true, Counter())[answered] += count
        found = {self._names[true]: self._entry(true, answers) for true, answers in by_class.items()}
        return dict(sorted(found.items(), key=lambda item: (item[1]["accuracy"], item[0])))

    def _entry(self, true: int, answers: Counter[int]) -> dict[str, Any]:
        n = answers.total()
        wrong = Counter({self._names[other]: count for other, count in answers.items() if other != true})
        return {"accuracy": answers[true] / n, "n": n, "taken_for": dict(wrong.most_common(_SHOWN))}
