"""Evaluation without autograd adapts as evaluation with it does."""

from __future__ import annotations

import pytest
import torch

from metalearn.data.images import ImageClasses
from metalearn.engine.build import build_algorithm
from metalearn.nn.task_gradients import TaskGradients
from metalearn.tasks import TaskShape
from tests.compose import compose

SMALL = ["dataset.size=16", "backbone.filters=9"]


@pytest.mark.thorough
@pytest.mark.parametrize(
    "name", ["maml", "fomaml", "mamlpp", "boil", "metasgd", "metacurvature", "protomaml", "imaml", "bmaml", "metalstm"]
)
@pytest.mark.parametrize("ways", [5, 3])
def test_inner_steps_by_hand_lead_where_those_of_autograd_lead(
    name: str, ways: int, easy: ImageClasses, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    algorithm = build_algorithm(compose(f"algorithm={name}", *SMALL), easy).eval().double()
    tasks = easy.source("test", 0, torch.device("cpu")).tasks(0, 3, TaskShape(ways, 2, 4))
    support = tasks.support._replace(x=tasks.support.x.double())
    asked: list[bool] = []
    plain = TaskGradients.by_hand

    def noted(self: TaskGradients, x: torch.Tensor) -> bool:
        asked.append(plain(self, x))
        return asked[-1]

    def logits() -> list[torch.Tensor]:
        with torch.no_grad():
            states = list(algorithm.adapt_stepwise(support))
            return list(algorithm.predict_each(states, tasks.query.x.double()))

    monkeypatch.setattr(TaskGradients, "by_hand", noted)
    found = logits()
    assert asked
    assert all(asked)
    monkeypatch.setattr(TaskGradients, "by_hand", lambda self, x: False)
    expected = logits()
    assert len(found) == len(expected) > 1
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-8, rtol=1e-6)
    assert (found[0] - found[-1]).abs().max() > 1e-4  # it did adapt
