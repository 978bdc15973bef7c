"""Counts of answers by class."""

from __future__ import annotations

import torch

from metalearn.engine.classes import ClassCounts
from metalearn.tasks import Examples, TaskBatch


def test_answers_are_counted_by_class() -> None:
    y = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 1]])
    examples = Examples(torch.zeros(2, 4, 1), y, 2)
    tasks = TaskBatch(examples, examples, torch.tensor([[2, 0], [0, 1]]))
    answers = torch.tensor([[0, 0, 0, 1], [0, 1, 1, 1]])  # labels; classes 2 2 2 0 and 0 1 1 1
    counts = ClassCounts(("a", "b", "c"))
    counts.add(tasks, torch.nn.functional.one_hot(answers, 2).float())
    assert list(counts.record().items()) == [
        ("a", {"accuracy": 0.5, "n": 4, "taken_for": {"c": 1, "b": 1}}),
        ("b", {"accuracy": 1.0, "n": 2, "taken_for": {}}),
        ("c", {"accuracy": 1.0, "n": 2, "taken_for": {}}),
    ]
