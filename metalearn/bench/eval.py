"""Benchmark 4: seconds for 1,000 test tasks, for every algorithm that learns classes of images, with its defaults."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from metalearn.bench.harness import Bench, Config, Record, Table
from metalearn.bench.ours import images
from metalearn.engine.able import learners
from metalearn.engine.build import Parts, assemble
from metalearn.engine.embedded import backbone_of, embedded_once
from metalearn.engine.evaluate import evaluate
from metalearn.errors import UserError
from metalearn.kinds import CLASSIFICATION
from metalearn.nn.inference import infer

_TASKS = 1000
_SECONDS = 5.0  # for one algorithm; what would take longer is measured on fewer tasks
_NOTE = "Passing the backbone alone: each image of the tasks once, or of the split where it is embedded once; without the images of inner steps."
_IMAGES = 64  # that pass the backbone together, where it is measured alone


class _Seconds(NamedTuple):
    wall: float
    processor: float  # of all threads


def labels(bench: Bench) -> list[str]:
    """Of the rows that a call can measure."""
    return learners(CLASSIFICATION)


def measure(bench: Bench) -> Record:
    """A row for each choice of `algorithm`, plug-ins' included, that learns classes; one that cannot be evaluated so says why, as `left_out`."""
    data = images(bench)
    rows = []
    for name in bench.chosen(labels(bench)):
        bench.say(name)
        try:
            rows.append({"label": name, **_row(bench.config(*data, f"algorithm={name}", "task=5way_1shot"))})
        except UserError as error:  # such as of a plug-in that asks for features of a pre-trained backbone
            rows.append({"label": name, "left_out": str(error)})
    return {"dataset": bench.config(*data)["names"]["dataset"], "rows": rows}


def _row(config: Config) -> Record:
    parts = assemble(config)
    tasks, taken = _evaluated(parts)
    return {
        "backbone": config["names"]["backbone"],
        "seconds": taken.wall * _TASKS / tasks,
        "processor": taken.processor * _TASKS / tasks,
        "passes": _passes(parts),
        "tasks": tasks,
        "transductive": parts.algorithm.transductive,
    }


def _evaluated(parts: Parts) -> tuple[int, _Seconds]:
    """How many tasks were evaluated, and how long that took."""
    algorithm, source = parts.algorithm, parts.source("test")
    shape, chunk = parts.settings.task, parts.settings.eval.task_chunk

    def seconds(tasks: int) -> _Seconds:
        return _taken(lambda: evaluate(algorithm, source, shape, tasks, chunk, stepwise=False))

    seconds(chunk)
    # Where each image is embedded once, the first tasks need most of the images: only all tasks say how long all take.
    once = embedded_once(algorithm.eval(), source, "auto")[1] is not source
    tasks = _TASKS if once else min(_TASKS, chunk * max(1, int(_SECONDS / seconds(chunk).wall)))
    return tasks, seconds(tasks)


def _passes(parts: Parts) -> float:
    """Seconds that the images of all tasks would take to pass the backbone once, as often as tasks have them; those of inner steps are not in it."""
    backbone, shape = backbone_of(parts.algorithm), parts.settings.task
    assert backbone is not None
    source = parts.source("test")
    batch = source.tasks(0, 1, shape)
    x = batch.query.x[0][:_IMAGES]
    count = _TASKS * (batch.support.x.shape[1] + batch.query.x.shape[1])
    if source.examples is not None and parts.algorithm.eval().in_two_steps() is not None:
        count = min(count, source.examples)
    backbone.eval()
    with torch.no_grad():
        infer(backbone, x)
        repeats = 10
        taken = _taken(lambda: [infer(backbone, x) for _ in range(repeats)])
    return taken.wall / repeats / len(x) * count


def _taken(action: Callable[[], object]) -> _Seconds:
    wall, processor = time.perf_counter(), time.process_time()
    action()
    return _Seconds(time.perf_counter() - wall, time.process_time() - processor)


def tables(record: Record) -> list[Table]:
    rows = [
        (
            row["label"],
            row["backbone"],
            f"{row['seconds']:.1f}",
            *(f"{row[name]:.1f}" if name in row else "not measured" for name in ("processor", "passes")),
            f"{row['tasks']:,}",
            "yes" if row["transductive"] else "no",
        )
        for row in _sorted(record)
        if "left_out" not in row
    ]
    left_out = [f"{row['label']}: {row['left_out']}." for row in _sorted(record) if "left_out" in row]
    return [
        Table(
            f"{_TASKS:,} test tasks, 5-way 1-shot 15-query, {record['dataset']}, each algorithm's defaults",
            (
                "",
                "backbone",
                "seconds",
                "processor seconds",
                "passing the backbone alone, s",
                "measured on tasks",
                "transductive",
            ),
            rows,
            " ".join([_NOTE, *left_out]),
        )
    ]


def _sorted(record: Record) -> list[Record]:
    """Rows by name, in whatever order they were measured."""
    return sorted(record["rows"], key=lambda row: str(row["label"]))
