"""The checks of metalearn.testing find what they are for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from metalearn.algorithms.nearest_centroid import NearestCentroid
from metalearn.backbones import Pixels
from metalearn.data.base import TaskSource
from metalearn.tasks import TaskBatch, TaskShape
from metalearn.testing import _check_tune

Choice = Callable[["Tunes", TaskBatch], str]


class Tunes(NearestCentroid):
    """Chooses a number that its scores are multiplied by."""

    chosen: Tensor
    share: Tensor

    def __init__(self, choose: Choice) -> None:
        super().__init__(Pixels((1, 16, 16)), "none", "cosine", 10.0, learn_scale=True)
        self.choose, self.secret = choose, 1.0
        self.register_buffer("chosen", torch.tensor(1))
        self.register_buffer("share", torch.tensor(1.0))

    def tune(self, tasks: TaskBatch) -> str:
        return self.choose(self, tasks)

    def predict(self, adapted: Tensor, query_x: Tensor) -> Tensor:
        return super().predict(adapted, query_x) * self.chosen * self.share * self.secret


def well(learner: Tunes, tasks: TaskBatch) -> str:
    learner.chosen.fill_(tasks.tasks)
    return f"chosen={int(learner.chosen)}"


def in_silence(learner: Tunes, tasks: TaskBatch) -> str:
    return well(learner, tasks)[:0]


def otherwise_each_time(learner: Tunes, tasks: TaskBatch) -> str:
    learner.chosen.add_(1)
    return f"chosen={int(learner.chosen)}"


def in_a_share(learner: Tunes, tasks: TaskBatch) -> str:
    learner.share.fill_(0.5)
    return "share=0.5"


def in_a_new_buffer(learner: Tunes, tasks: TaskBatch) -> str:
    learner.chosen = torch.tensor(tasks.tasks)
    return f"chosen={tasks.tasks}"


def beside_the_checkpoint(learner: Tunes, tasks: TaskBatch) -> str:
    learner.secret = 2.0
    return "secret=2"


def test_a_choice_in_a_buffer_of_whole_numbers_is_as_it_should_be(source: Callable[..., TaskSource]) -> None:
    _check_tune(Tunes(well), Tunes(well), source("train").tasks(0, 3, TaskShape(5, 1, 2)))


@pytest.mark.parametrize(
    ("choose", "message"),
    [
        (in_silence, "says nothing"),
        (otherwise_each_time, "chooses chosen=2, then chosen=3 by the same tasks"),
        (in_a_share, "share, which holds no whole numbers"),
        (in_a_new_buffer, "the buffer chosen anew"),
        (beside_the_checkpoint, "does not hold what tune chose"),
    ],
)
def test_other_choices_are_found(source: Callable[..., TaskSource], choose: Choice, message: str) -> None:
    tasks = source("train").tasks(0, 3, TaskShape(5, 1, 2))
    with pytest.raises(AssertionError, match=message):
        _check_tune(Tunes(choose), Tunes(choose), tasks)
