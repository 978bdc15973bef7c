"""Fixed tasks of one split -> mean accuracy with its 95 % interval; and `metalearn eval`, which does so for a finished run."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metalearn import kinds
from metalearn.algorithms.base import Algorithm
from metalearn.data.base import TaskSource
from metalearn.tasks import TaskShape


class Scores(NamedTuple):
    """Per-task results of T tasks, in task order."""

    accuracy: Tensor  # [S, T]: in each of the S states that were scored, the last one counts
    steps: list[int]  # the inner steps done in each of them, [S]
    loss: Tensor  # [T]
    further: dict[str, Tensor]  # what else the algorithm's paper reports: name -> [T]

    @property
    def mean(self) -> float:
        return float(self.accuracy[-1].mean())

    @property
    def ci95(self) -> float:
        """Half the width of the 95 % interval of the mean over tasks."""
        return interval95(self.accuracy[-1])


def interval95(per_task: Tensor) -> float:
    """1.96 standard errors of the mean: [T] -> half the interval's width."""
    return 1.96 * float(per_task.std()) / math.sqrt(per_task.numel())


@torch.no_grad()
def evaluate(
    algorithm: Algorithm, source: TaskSource, task: dict[str, Any], tasks: int, task_chunk: int, stepwise: bool
) -> Scores:
    """Scores tasks 0..tasks-1 of `source`, which every run with the same evaluation seed shares.

    Args:
        task: ways, shots and queries.
        task_chunk: tasks at a time.
        stepwise: the full report: also score the states before adaptation and after inner steps (of many, those of `telling_states`), and what
            else the paper reports.
    """
    was_training = algorithm.training
    algorithm.eval()
    accuracies, losses = [], []
    further: dict[str, list[Tensor]] = {}
    for first in range(0, tasks, task_chunk):
        batch = source.tasks(first, min(task_chunk, tasks - first), TaskShape.of(task))
        steps, per_state = [], []
        for step, adapted in (
            telling_states(algorithm.adapt_stepwise(batch.support))
            if stepwise
            else [(0, algorithm.adapt(batch.support))]
        ):
            logits = algorithm.predict(adapted, batch.query.x)
            per_state.append(kinds.accuracy(logits, batch.query.y))
            steps.append(step)
        accuracies.append(torch.stack(per_state))  # [S, t]
        losses.append(kinds.cross_entropy(logits, batch.query.y))
        for name, values in (algorithm.further_scores(batch) if stepwise else {}).items():
            further.setdefault(name, []).append(values)
    algorithm.train(was_training)
    return Scores(
        torch.cat(accuracies, dim=1).cpu(),
        steps,
        torch.cat(losses).cpu(),
        {name: torch.cat(values).cpu() for name, values in further.items()},
    )


def telling_states(states: Iterator[Any]) -> Iterator[tuple[int, Any]]:
    """(inner steps done, state): of the first ten steps, of every tenth, and of the last, since accuracy moves little later on."""
    step, state = 0, next(states)
    for following in states:
        if step <= 10 or step % 10 == 0:
            yield step, state
        step, state = step + 1, following
    yield step, state


def test_record(algorithm: Algorithm, scores: Scores, checkpoint_name: str) -> dict[str, Any]:
    """The `test` entry of results.json."""
    accuracies = [float(accuracy) for accuracy in scores.accuracy.mean(1)]
    record: dict[str, Any] = {
        "accuracy": scores.mean,
        "ci95": scores.ci95,
        "tasks": scores.loss.numel(),
        "loss": float(scores.loss.mean()),
        "transductive": algorithm.transductive,
        "checkpoint": checkpoint_name,
        "adapt_steps": scores.steps[-1],
    }
    if len(accuracies) > 1:
        record |= {"accuracy_before": accuracies[0], "per_step": accuracies, "scored_steps": scores.steps}
    if scores.further:
        record["further"] = {
            name: {"mean": float(values.mean()), "ci95": interval95(values)} for name, values in scores.further.items()
        }
    return record
