"""What TensorBoard shows of a test beside numbers: some tasks as pictures, the curve over inner steps, embeddings of test examples.

What a picture shows follows from the kind of the tasks: images with the class that was predicted for them, or points of a function with the curve
that was fitted to them.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metalearn.algorithms.base import Algorithm
from metalearn.atomic import write
from metalearn.data.base import IMAGES, TEXTS, TaskSource
from metalearn.data.normalize import Normalize
from metalearn.engine.build import Parts
from metalearn.engine.evaluate import Scores, scored_states
from metalearn.errors import one_line
from metalearn.kinds import CLASSES, NUMBERS, Kind
from metalearn.nn.texts import texts_of
from metalearn.report import drawing
from metalearn.report.task_text import Answered, TextRow, task_text
from metalearn.runs.curves import DEVIATIONS, FunctionTask, is_function
from metalearn.runs.events import Picture
from metalearn.runs.projector import embeddings
from metalearn.runs.tracking import Tracker
from metalearn.sizes import count_text
from metalearn.tasks import Shape, TaskBatch

log = logging.getLogger("metalearn")


@dataclass(frozen=True)
class Pictures:
    """Of one test.

    Attributes:
        pictures: tag -> picture.
        texts: tag -> Markdown.
        files: name -> content, for the run directory: what TensorBoard's projector reads.
    """

    pictures: dict[str, Picture] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)

    def write_files(self, run_dir: Path) -> None:
        """Writes the files, the one that names the others last."""
        for name, content in self.files.items():
            write(run_dir / name, content)


def show_test(run_dir: Path, tracker: Tracker, step: int, parts: Parts, scores: Scores) -> None:
    """Draws `eval.pictures` test tasks into the event file of a run, at an outer step; its test ended with `scores`.

    Where that fails, the log says so, and no more: it must not cost the number.
    """
    settings, started = parts.settings, time.perf_counter()
    if not settings.eval.pictures:
        return
    try:
        form = parts.dataset.trained_on
        with contextlib.closing(parts.source("test")) as source:
            found = pictures(
                parts.algorithm, source, settings.task, settings.eval.pictures, scores, form.normalize, form.form
            )
        tracker.show(step, found.pictures, found.texts)
        found.write_files(run_dir)
        log.info("pictures of %d test tasks: %.2f s", settings.eval.pictures, time.perf_counter() - started)
    except Exception as error:
        log.warning("no pictures of test tasks: %s: %s", type(error).__name__, one_line(error))


@torch.no_grad()
def pictures(
    algorithm: Algorithm,
    source: TaskSource,
    shape: Shape,
    count: int,
    scores: Scores,
    normalize: Mapping[str, Any] | None = None,
    form: str = IMAGES,
) -> Pictures:
    """Draws the first `count` tasks of `source`; 0: nothing.

    Args:
        algorithm: as it was tested.
        shape: of the tasks.
        scores: of the test, for the curve over inner steps.
        normalize: what the images were normalised by, so that they are shown as they were before.
        form: of the examples; tasks of texts are shown as texts.
    """
    if not count:
        return Pictures()
    was_training = algorithm.training
    algorithm.eval()
    try:
        look = _Look(Normalize.of(normalize), form)
        drawn, texts = {}, {}
        for number, task in enumerate(source.tasks(0, count, shape).chunks(1), start=1):
            if form == TEXTS and source.kind.answers == CLASSES:
                texts[f"test_tasks/{number}"] = _of_texts(algorithm, source, task, number)
            elif (picture := _task(algorithm, source, task, number, look)) is not None:
                drawn[f"test_tasks/{number}"] = picture
        if len(scores.steps) > 1:
            drawn["test_tasks/inner_steps"] = _curve(scores)
        return Pictures(drawn, texts, embeddings(algorithm, source, shape, form, look.images))
    finally:
        algorithm.train(was_training)


@dataclass(frozen=True)
class _Look:
    """How examples become images that can be looked at."""

    normalize: Normalize | None
    form: str

    def images(self, x: Tensor) -> NDArray[np.uint8] | None:
        """Examples [n, c, H, W] -> [n, H, W, 3]; None where they are no images. Grey ones have dark ink on white paper."""
        if x.ndim != 4 or x.shape[1] not in (1, 3):
            return None
        x = x.detach().float().cpu()
        if self.normalize is not None:
            mean, std = (torch.tensor(part).view(-1, 1, 1) for part in (self.normalize.mean, self.normalize.std))
            x = x * std + mean
        x = (1 - x if x.shape[1] == 1 else x).clamp(0, 1)
        levels: NDArray[np.uint8] = (x * 255).round().to(torch.uint8).expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()
        return levels


def _task(algorithm: Algorithm, source: TaskSource, task: TaskBatch, number: int, look: _Look) -> Picture | None:
    """One task; None where its kind cannot be drawn."""
    if source.kind.answers == CLASSES:
        return _of_classes(algorithm, source, task, number, look)
    if source.kind.answers == NUMBERS:
        draw = _of_numbers if is_function(source.kind, task) else _of_rows
        return draw(algorithm, source.kind, task, number)
    return None


def _of_classes(algorithm: Algorithm, source: TaskSource, task: TaskBatch, number: int, look: _Look) -> Picture | None:
    support, queries = look.images(task.support.x[0]), look.images(task.query.x[0])
    if support is None or queries is None:
        return None
    outputs = algorithm.predict(algorithm.adapt(task.support), task.query.x)
    probabilities, predicted = (part[0].cpu().tolist() for part in outputs.softmax(-1).max(-1))
    of_support, of_query = task.support.y[0].tolist(), task.query.y[0].tolist()
    rows = [
        drawing.ClassRow(
            _name(source, task, label),
            [support[i] for i, y in enumerate(of_support) if y == label],
            [drawing.Answer(queries[i], predicted[i], probabilities[i]) for i, y in enumerate(of_query) if y == label],
        )
        for label in range(task.support.ways)
    ]
    score = source.kind.text(float(task.query.by_task(source.kind.score_of, outputs)[0]), digits=1)
    title = f"Test task {number}: {score} of {len(of_query)} queries are right"
    about = f"The score of this task is {score}. Green: right; red: the class that was predicted instead."
    return _encoded(drawing.task_picture(title, rows), about, photo=task.support.x.shape[2] == 3)


def _of_texts(algorithm: Algorithm, source: TaskSource, task: TaskBatch, number: int) -> str:
    """A task of texts as Markdown."""
    support, queries = texts_of(task.support.x[0]), texts_of(task.query.x[0])
    outputs = algorithm.predict(algorithm.adapt(task.support), task.query.x)
    probabilities, predicted = (part[0].cpu().tolist() for part in outputs.softmax(-1).max(-1))
    of_support, of_query = task.support.y[0].tolist(), task.query.y[0].tolist()
    names = [_name(source, task, label) for label in range(task.support.ways)]
    rows = [
        TextRow(
            name,
            [support[i] for i, y in enumerate(of_support) if y == label],
            [Answered(queries[i], names[predicted[i]], probabilities[i]) for i, y in enumerate(of_query) if y == label],
        )
        for label, name in enumerate(names)
    ]
    score = source.kind.text(float(task.query.by_task(source.kind.score_of, outputs)[0]), digits=1)
    return task_text(f"Test task {number}: {score} of {len(of_query)} queries are right", rows)


def _name(source: TaskSource, task: TaskBatch, label: int) -> str:
    """Of a class: what its data set calls it, and by how much it is turned."""
    if not source.classes:
        return ""
    class_ = source.classes[int(task.classes[0, label])]
    return f"{class_.name} {class_.turn}°" if class_.turn else class_.name


def _of_numbers(algorithm: Algorithm, kind: Kind, task: TaskBatch, number: int) -> Picture:
    """Support points, the queries' targets, and what some states of the inner loop predict along x."""
    found = FunctionTask.of(algorithm, kind, task)
    score = kind.text(found.score)
    lines = [drawing.Line(curve.name, curve.x, curve.y, curve.band) for curve in found.curves]
    title = f"Test task {number}: {kind.score} {score} over {count_text(len(found.query), 'query', 'queries')}"
    chart = drawing.Chart(title, "x", "y", lines, found.support, found.query)
    band = f" The band is ± {DEVIATIONS} predicted standard deviations." if any(one.band for one in lines) else ""
    about = f"The score of this task is {score}. Lines: predictions by inner steps; rings: the queries' targets; dots: support.{band}"
    return _encoded(drawing.chart_picture(chart), about)


def _of_rows(algorithm: Algorithm, kind: Kind, task: TaskBatch, number: int) -> Picture:
    """Predictions against targets, where a curve over x cannot be drawn: of the queries' first number, before adaptation and after it."""
    states = [adapted for _, adapted in scored_states(algorithm.adapt_stepwise(task.support))]
    right = task.query.y[0, :, 0].tolist()
    first, last = (
        list(zip(right, algorithm.predict(adapted, task.query.x)[0, :, 0].cpu().tolist(), strict=True))
        for adapted in (states[0], states[-1])
    )
    outputs = algorithm.predict(states[-1], task.query.x)
    score = kind.text(float(task.query.by_task(kind.score_of, outputs)[0]))
    ends = [min(right), max(right)]
    title = f"Test task {number}: {kind.score} {score} over {count_text(len(right), 'query', 'queries')}"
    chart = drawing.Chart(
        title,
        "target" if outputs.shape[-1] == 1 else "first target",
        "prediction",
        [drawing.Line("right", ends, ends)],
        last,
        first if len(states) > 1 else (),
    )
    about = f"The score of this task is {score}. Dots: what is predicted for queries; rings: before adaptation; the line: what would be right."
    return _encoded(drawing.chart_picture(chart), about)


def _curve(scores: Scores) -> Picture:
    """The mean score in each state of the inner loop, with its 95 % interval over tasks."""
    means = scores.score.mean(1).tolist()
    bands = [scores._replace(score=scores.score[i : i + 1]).ci95 for i in range(len(means))]
    finite = [0.0 if band != band else band for band in bands]
    line = drawing.Line(scores.kind.score, scores.steps, means, finite)
    title = f"{scores.kind.score} by inner step, mean of {scores.loss.numel():,} test tasks"
    chart = drawing.Chart(title, "inner steps", scores.kind.score, [line], percent=scores.kind.percent)
    last = scores.kind.text(means[-1], bands[-1])
    return _encoded(
        drawing.chart_picture(chart), f"After {scores.steps[-1]} inner steps: {last}; the band is the 95 % interval."
    )


def _encoded(picture: Any, about: str, photo: bool = False) -> Picture:
    return Picture(picture.width, picture.height, drawing.encoded(picture, photo), about)
