"""An ensemble of several states of one learner: each adapts to the task, their probabilities for its queries are averaged.

For classes it is the mean of probabilities (as in deep ensembles, Lakshminarayanan et al. 2017, https://arxiv.org/abs/1612.01474; of states along one
training, Huang et al. 2017, https://arxiv.org/abs/1704.00109); for numbers the mean of the outputs.
"""

from __future__ import annotations

import functools
import operator

import torch
from torch import Tensor

from metalearn.engine.evaluate import Scores, calibration_of
from metalearn.engine.reliability import Reliability
from metalearn.kinds import Kind
from metalearn.tasks import TaskBatch


class Pool:
    """Sums up what the members answer to the same tasks. `evaluate` calls `add` with each chunk of each member.

    The chunks of all members are the same: they depend on the tasks and the learner alone.

    Args:
        members: how many there are.
        kind: of the tasks.
        classes: whether outputs are logits of classes.
    """

    def __init__(self, members: int, kind: Kind, classes: bool) -> None:
        self._members, self._kind, self._classes = members, kind, classes
        self._sums: list[Tensor] = []  # of each chunk, or of each task where tasks are of uneven size: [t, n, N]
        self._number, self._place = 1, 0
        self._scores: list[Tensor] = []
        self._losses: list[Tensor] = []
        self._reliability: list[Reliability] = []

    def next_member(self) -> None:
        """What is added from now on is of the next member."""
        self._number, self._place = self._number + 1, 0

    def add(self, batch: TaskBatch, outputs: Tensor) -> None:
        """Takes a member's outputs for the queries of a chunk of tasks."""
        score = batch.query.by_task(self._measured, outputs)
        if self._number == self._members:
            self._scores.append(score)

    def _measured(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Adds outputs [t, n, N]; of the last member the scores [t] of the mean."""
        own = (outputs.float().softmax(-1) if self._classes else outputs.float()).cpu()
        if self._number == 1:
            self._sums.append(own)
        else:
            self._sums[self._place] += own
        whole, self._place = self._sums[self._place], self._place + 1
        if self._number < self._members:
            return y.new_zeros(y.shape[0], dtype=torch.float32)
        mean, y = whole / self._members, y.cpu()
        if self._classes:
            self._reliability.append(Reliability.of(mean, y))
            mean = mean.clamp(min=torch.finfo(mean.dtype).tiny).log()  # NaN stays NaN
        self._losses.append(self._kind.loss(mean, y))
        return self._kind.score_of(mean, y)

    def scores(self, alone: Scores) -> Scores:
        """Those of the ensemble, task by task beside those of its first member alone."""
        return alone._replace(
            score=torch.cat(self._scores)[None],
            steps=alone.steps[-1:],
            loss=torch.cat(self._losses),
            further={ALONE: alone.score[-1]},
            calibration=calibration_of(functools.reduce(operator.add, self._reliability))
            if self._reliability
            else None,
        )


ALONE = "alone"  # the score of the first member alone, in the scores of an ensemble
