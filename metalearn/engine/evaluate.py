"""Fixed tasks of one split -> their mean score with its 95 % interval."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metalearn.algorithms.base import Algorithm
from metalearn.data.base import TaskSource
from metalearn.data.classes import ClassId
from metalearn.data.features import FeatureMemory
from metalearn.engine.embedded import embedded_once
from metalearn.engine.gradient import together
from metalearn.engine.reliability import Reliability
from metalearn.intervals import interval95, interval95_of_classes
from metalearn.kinds import CLASSIFICATION, Kind
from metalearn.nn.normals import Normals, masked_mean
from metalearn.tasks import SOURCE, Shape, TaskBatch, padded

NLL = "nll"  # in `Scores.further`: the mean negative log-likelihood of each task's queries, in nats


class Scores(NamedTuple):
    """Per-task results of T tasks, in task order."""

    score: Tensor  # [S, T]: in each of the S states that were scored, the last one counts; NaN where an output was not finite
    steps: list[int]  # the inner steps done in each of them, [S]
    loss: Tensor  # [T]; that of the kind or, where the algorithm predicts distributions, the negative log-likelihood
    # What else the algorithm's paper reports, and NLL of one that predicts distributions: name -> [T].
    further: dict[str, Tensor]
    kind: Kind = CLASSIFICATION
    classes: Tensor | None = (
        None  # [T, N], in each task; indices of `class_ids`, -1 where it has fewer than N; None: tasks have no classes
    )
    class_ids: tuple[ClassId, ...] = ()  # of the split
    about: Mapping[
        str, tuple[Any, ...]
    ] = {}  # what reports group the tasks by: name -> a number or a text for each, [T]
    calibration: Mapping[str, Any] | None = (
        None  # ece, nll, brier and bins of the probabilities after adaptation (reliability.py); None: not measured, or no classes are predicted
    )

    @property
    def mean(self) -> float:
        """The mean of the kind's score over tasks; NaN if one task has none."""
        return float(self.score[-1].mean())

    @property
    def ci95(self) -> float:
        """Half the width of the 95 % interval of the mean over tasks; NaN for one task."""
        return interval95(self.score[-1])

    def ci95_classes(self, per_task: Tensor) -> float | None:
        """Half the width of the interval of the mean of [T] values over tasks and classes; None where there is none.

        What was drawn is the upright class: its turned copies are drawn with it. Sources were not drawn: where tasks come from several, each has an
        interval of its own, whose squares add up.
        """
        if self.classes is None:
            return None
        sources = list(self.about.get(SOURCE, ()))
        if len(set(sources)) > 1:
            parts = [[task for task, of in enumerate(sources) if of == one] for one in dict.fromkeys(sources)]
            widths = [self.part(tasks).ci95_classes(per_task[tasks]) for tasks in parts]
            known = [len(tasks) * width for tasks, width in zip(parts, widths, strict=True) if width is not None]
            return math.hypot(*known) / len(sources) if len(known) == len(parts) else None
        upright = {of: number for number, of in enumerate(dict.fromkeys(one.upright for one in self.class_ids))}
        drawn = torch.tensor([upright[one.upright] for one in self.class_ids])
        half_width = interval95_of_classes(per_task, drawn[self.classes].where(self.classes >= 0, -1))
        return None if math.isnan(half_width) else half_width

    def part(self, tasks: list[int]) -> Scores:
        """Those of some of the tasks."""
        return self._replace(
            score=self.score[:, tasks],
            loss=self.loss[tasks],
            further={name: values[tasks] for name, values in self.further.items()},
            classes=None if self.classes is None else self.classes[tasks],
            about={name: tuple(values[task] for task in tasks) for name, values in self.about.items()},
            calibration=None,
        )

    @property
    def chance(self) -> float | None:
        """The mean score of guessing, of tasks of uneven size; None where all have the same, or where it is not known."""
        each = [self.kind.chance(ways) for ways in self.about.get("ways", ())]
        known = [chance for chance in each if chance is not None]
        return sum(known) / len(known) if known else None

    @property
    def not_finite(self) -> int:
        """How many tasks have outputs or a loss that are not finite, and so no score."""
        return int((~(self.score[-1].isfinite() & self.loss.isfinite())).sum())


@torch.no_grad()
def evaluate(
    algorithm: Algorithm,
    source: TaskSource,
    task: Shape,
    tasks: int,
    task_chunk: int,
    stepwise: bool,
    progress: Callable[[int], None] = lambda done: None,
    answers: Callable[[TaskBatch, Tensor], None] | None = None,
    further: bool | None = None,
    features: str = "auto",
    memory: FeatureMemory | None = None,
) -> Scores:
    """Scores tasks 0..tasks-1 of `source`, which every run with the same evaluation seed shares.

    Args:
        task_chunk: tasks at a time.
        stepwise: also score the states before adaptation and after inner steps (of many, those of `scored_states`). Without transduction
            each state costs as much as the last one, so this multiplies the time.
        progress: called with the number of tasks done after each chunk.
        answers: called with each chunk of tasks and what was predicted for their queries; examples may be embedded.
        features, memory: whether examples are embedded once for all tasks, as far as the algorithm allows, and what keeps their features for
            the next call: `embedded_once`.
        further: also what else the algorithm's paper reports, and how well probabilities are calibrated; None: where `stepwise`.
    """
    asked, was_training = algorithm, algorithm.training
    algorithm.eval()
    algorithm, source = embedded_once(algorithm, source, features, memory=memory)
    scores, losses, classes = [], [], []
    about: dict[str, list[Any]] = {}
    reliability: list[Reliability] = []
    others: dict[str, list[Tensor]] = {}
    with_others = stepwise if further is None else further
    for first in range(0, tasks, task_chunk):
        made = source.tasks(first, min(task_chunk, tasks - first), task)
        for batch in made.chunks(together(algorithm, made, task_chunk)):
            steps, score, outputs, distribution = _score_states(algorithm, batch, source.kind, stepwise)
            scores.append(score)
            classes.append(batch.classes)
            more = algorithm.further_scores(batch) | source.further_scores(batch, outputs) if with_others else {}
            if distribution is None:
                losses.append(batch.query.by_task(source.kind.loss, outputs))
            else:
                losses.append(masked_mean(distribution.nll(batch.query.y), batch.query.mask))
                more |= {NLL: losses[-1]}
            for name, values in more.items():
                others.setdefault(name, []).append(values)
            for name, of_tasks in batch.about.items():
                about.setdefault(name, []).extend(of_tasks)
            if with_others and source.classes and source.kind.classifies:
                reliability.append(Reliability.of_outputs(outputs, batch.query))
            if answers is not None:
                answers(batch, outputs)
        progress(first + made.tasks)
    asked.train(was_training)
    by_name = {name: torch.cat(values).cpu() for name, values in others.items()}
    return Scores(
        torch.cat(scores, dim=1).cpu(),
        steps,
        torch.cat(losses).cpu(),
        by_name,
        source.kind,
        torch.cat(padded(classes, -1)).cpu() if source.classes else None,
        source.classes,
        {name: tuple(of_tasks) for name, of_tasks in about.items()},
        calibration_of(functools.reduce(operator.add, reliability)) if reliability else None,
    )


def calibration_of(whole: Reliability) -> dict[str, Any]:
    """What `Scores.calibration` holds."""
    return {**whole.record(), "bins": whole.bins}


def _score_states(
    algorithm: Algorithm, batch: TaskBatch, kind: Kind, stepwise: bool
) -> tuple[list[int], Tensor, Tensor, Normals | None]:
    """The inner steps done in each scored state, [S]; its scores, [S, t]; of the last one the outputs, and their distribution where it has one."""
    steps: list[int] = []
    states = algorithm.adapt_stepwise(batch.support) if stepwise else iter([algorithm.adapt(batch.support)])
    last: Any = None

    def scored() -> Iterator[Any]:
        nonlocal last
        for step, adapted in scored_states(states):
            steps.append(step)
            last = adapted
            yield adapted

    scores = []
    for outputs in algorithm.predict_each(scored(), batch.query.x):  # the last ones are returned
        scores.append(batch.query.by_task(kind.score_of, outputs))
    return steps, torch.stack(scores), outputs, algorithm.predict_distribution(last, batch.query.x)


def scored_states(states: Iterator[Any]) -> Iterator[tuple[int, Any]]:
    """(inner steps done, state): of the first ten steps, of every tenth, and of the last, since accuracy moves little later on."""
    step, state = 0, next(states)
    for following in states:
        if step <= 10 or step % 10 == 0:
            yield step, state
        step, state = step + 1, following
    yield step, state
