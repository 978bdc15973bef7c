"""Runs a model on validation and test tasks of the user's size, for `metalearn/runs/calibration.py`; the outcome is kept in the run directory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metalearn.data.base import Dataset, Embedding, TaskSource
from metalearn.data.normalize import Normalize
from metalearn.data.pictures.paper import paper_of
from metalearn.engine.evaluate import evaluate
from metalearn.errors import UserError, one_line
from metalearn.runs.adapt import examples_of, rows_of
from metalearn.runs.calibration import GRID, Answers, Calibration, calibrated
from metalearn.runs.directory import write_json
from metalearn.runs.loaded import LoadedRun
from metalearn.runs.seen import seen_classes
from metalearn.tasks import Shape, TaskBatch, TaskShape
from metalearn.version import __version__

_FAST, _SLOW = (1000, 2000, 5), (400, 1000, 1)  # validation tasks, test tasks, most queries per class
_QUERIES = 25  # of a task at most, as far as each class has one
_LOGITS = 40_000_000  # numbers that all answers together may have


class Size(NamedTuple):
    """How many tasks of which size are drawn."""

    shots: tuple[int, ...]  # [N]
    queries: int  # per class
    val: int
    test: int


def calibrate(
    run: LoadedRun,
    shots: tuple[int, ...],
    coverage: float | None = None,
    tasks: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Calibration:
    """What the run's own data set says about tasks with `shots` [N] support examples of each class, or with descriptions of each (0).

    Args:
        coverage: of sets, beside those of the grid that is always kept.
        tasks: validation tasks, and half as many as test tasks; None: by the cost of the algorithm.
        progress: called with the tasks done and all tasks.

    Raises:
        UserError: the data set's files are not here, or it has no classes that training did not see.
    """
    dataset = run.dataset
    trained = run.state["train_classes"]
    for split in ("val", "test"):
        if seen := seen_classes(trained, [str(one) for one in dataset.classes(split)]):
            raise UserError(f"training classes among its {split} classes: {len(seen)}, such as '{seen[0]}'")
    size = _size(run, dataset, shots, tasks)
    kept = run.directory / f"calibration-{_key(run, size)}.json"
    found = _read(kept)
    if found is not None and (coverage is None or found.at(coverage) is not None):
        return found
    coverages = GRID if coverage is None or coverage in GRID else (*GRID, coverage)
    done, total = 0, size.val + size.test

    def answers(split: str, count: int) -> Answers:
        nonlocal done
        before = done
        made = _answers(run, dataset, split, count, size, lambda now: progress(before + now, total))
        done += count
        return made

    val, test = answers("val", size.val), answers("test", size.test)
    made = calibrated(dataset.name, size.shots, size.shots == shots, val, test, coverages)
    with suppress(OSError):  # where the run directory cannot be written, the next call measures again
        write_json(kept, made.record())
    return made


def paper_of_run(run: LoadedRun) -> str | None:
    """The paper of the drawings that the run was trained on, "dark" or "light"; None where they are no drawings.

    Raises:
        UserError: the data set's files are not here.
    """
    dataset = run.dataset
    split = next((name for name in ("train", "val", "test") if dataset.classes(name)), "train")
    shots, queries = fitting(dataset, split, (1,) * 5, 1)
    with closing(dataset.source(split, 0, torch.device("cpu"))) as source:
        x = source.tasks(0, 20, TaskShape(len(shots), shots[0], queries)).query.x.flatten(0, 1)
    if known := Normalize.of(run.trained_on.normalize):
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (known.mean, known.std))
        x = x * std + mean
    return paper_of(x.numpy())


def fitting(dataset: Dataset, split: str, shots: tuple[int, ...], queries: int) -> tuple[tuple[int, ...], int]:
    """The largest task of at most this size that a split can serve: support examples of each class, and queries per class.

    Raises:
        UserError: it cannot serve the smallest one.
    """
    ways = min(len(shots), max(2, len(dataset.classes(split))))
    most = max(shots)
    fault: UserError | None = None
    for k in range(most, min(most, 1) - 1, -1):  # 0 shots alone where none are asked for
        for q in range(queries, 0, -1):
            try:
                dataset.check(split, TaskShape(ways, k, q))
            except UserError as error:
                fault = error
            else:
                return tuple(min(k, count) for count in shots[:ways]), q
    assert fault is not None
    raise fault


def _size(run: LoadedRun, dataset: Dataset, shots: tuple[int, ...], tasks: int | None) -> Size:
    fast = run.algorithm.in_two_steps() is not None and not run.algorithm.heavy
    val, test, most = _FAST if fast else _SLOW
    if tasks is not None:
        val, test = tasks, 2 * tasks
    queries = max(1, min(most, _QUERIES // len(shots)))
    fitted = shots
    for split in ("val", "test"):
        fitted, queries = fitting(dataset, split, fitted, queries)
    affordable = max(20, _LOGITS // (len(fitted) ** 2 * queries))
    return Size(fitted, queries, min(val, affordable) // 2 * 2, min(test, affordable))


def _answers(
    run: LoadedRun, dataset: Dataset, split: str, count: int, size: Size, progress: Callable[[int], None]
) -> Answers:
    ways = len(size.shots)
    logits: list[Tensor] = []
    labels: list[Tensor] = []

    def answers(batch: TaskBatch, outputs: Tensor) -> None:
        logits.append(outputs[..., :ways].float().cpu())
        labels.append(batch.query.y.cpu())

    shape = TaskShape(ways, max(size.shots), size.queries)
    with closing(dataset.source(split, run.settings.eval.seed, run.device)) as source:
        like = LikeSupport(source, size.shots, run.algorithm.uneven)
        chunk = run.settings.eval.task_chunk
        features = run.settings.features
        evaluate(
            run.algorithm,
            like,
            shape,
            count,
            chunk,
            stepwise=False,
            progress=progress,
            answers=answers,
            features=features,
        )
    return Answers(torch.cat(logits), torch.cat(labels))


class LikeSupport(TaskSource):
    """The tasks of a stream, with as many support examples of each class as a user has.

    Args:
        source: whose tasks have as many as the largest class.
        shots: [N].
        takes_uneven: as for `rows_of`.
    """

    def __init__(self, source: TaskSource, shots: tuple[int, ...], takes_uneven: bool) -> None:
        self._source, self._shots, self._takes_uneven = source, shots, takes_uneven
        self.name, self.kind, self.split, self.device = source.name, source.kind, source.split, source.device
        self.classes, self.is_embedded = source.classes, source.is_embedded
        self.has_raw_descriptions = source.has_raw_descriptions

    def tasks(self, first: int, count: int, shape: Shape) -> TaskBatch:
        """See TaskSource."""
        batch = self._source.tasks(first, count, shape)
        if len(set(self._shots)) == 1:
            return batch
        rows = rows_of(self._shots, self._takes_uneven, held=max(self._shots))
        support = examples_of(
            batch.support.x[:, rows], batch.support.y[:, rows], len(self._shots), self._shots, self._takes_uneven
        )
        query = batch.query
        if support.counts is not None:
            n = query.y.shape[1]
            query = query._replace(counts=(n,) * count, task_ways=(len(self._shots),) * count)
        return batch._replace(support=support._replace(descriptions=batch.support.descriptions), query=query)

    @property
    def examples(self) -> int | None:
        return self._source.examples

    def embedded(self, embedding: Embedding) -> LikeSupport:
        return LikeSupport(self._source.embedded(embedding), self._shots, self._takes_uneven)

    def described_once(self, describe: Callable[[Tensor], Tensor]) -> LikeSupport:
        return LikeSupport(self._source.described_once(describe), self._shots, self._takes_uneven)


def _key(run: LoadedRun, size: Size) -> str:
    """Changes when anything does that the outcome depends on."""
    config = run.config
    file = run.directory / f"{config['eval']['checkpoint']}.pt"
    parts: list[Any] = [
        *(config[group] for group in ("algorithm", "backbone", "dataset")),
        [config["eval"]["seed"], run.algorithm.transductive, run.state["step"], file.name, file.stat().st_size],
        [file.stat().st_mtime_ns, size, __version__],
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _read(path: Path) -> Calibration | None:
    try:
        return Calibration.of_record(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def why_not(error: UserError) -> str:
    """One line for whoever gets probabilities that nothing was fitted to."""
    return (
        f"not calibrated, so a probability of 0.9 need not mean that 90 % are right: {one_line(error)} "
        "(dataset.root=DIR names another place of its files)"
    )
