"""Benchmark 8: how long drawing, loading and sampling take, and how hard the tasks are for raw pixels.

Omniglot is measured where its two zips lie in $METALEARN_DATA/omniglot.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from metalearn.bench.harness import Bench, Record, Table
from metalearn.data.base import TaskSource
from metalearn.data.images import ImageClasses
from metalearn.data.sets import glyphs, omniglot
from metalearn.intervals import interval95
from metalearn.tasks import TaskShape

TASKS_PER_ROUND = 1600
BASELINE_TASKS = 1000
SHAPE = TaskShape(ways=5, shots=1, queries=15)


def measure(bench: Bench) -> Record:
    rows = [_measure(bench, "glyphs", lambda: glyphs.load(500, 20, 28, 0, 50, 100))]
    root = Path(os.environ.get("METALEARN_DATA", "no-such-folder")) / "omniglot"
    if root.is_dir() and not bench.quick:
        turned = dict.fromkeys(("train", "val", "test"), 4)
        rows.append(
            _measure(bench, "omniglot", lambda: omniglot.load(str(root), False, "vinyals", 0, 28, "antialias", turned))
        )
    started = time.perf_counter()
    glyphs.draw(500, 20, 28, 0)
    return {"rows": rows, "draw_seconds": time.perf_counter() - started}


def tables(record: Record) -> list[Table]:
    rows = []
    for row in record["rows"]:
        raw = row["raw_pixel_nearest_neighbour"]
        rows.append(
            (
                row["label"],
                f"{row['load_cached_seconds']:.3f}",
                f"{row['tasks_per_second']:,.0f}",
                f"{100 * raw['accuracy']:.2f} ± {100 * raw['ci95']:.2f}",
            )
        )
    columns = ("dataset", "load from cache, s", "tasks/s", "raw-pixel nearest neighbour, %")
    note = f"5-way 1-shot tasks of 15 queries; drawing the glyphs anew: {record['draw_seconds']:.2f} s"
    return [Table("Data", columns, rows, note)]


def _measure(bench: Bench, name: str, load: Callable[[], ImageClasses]) -> Record:
    bench.say(name)
    loading = _seconds(load, bench.rounds)
    test = load().source("test", 0, torch.device("cpu"))
    rates = [TASKS_PER_ROUND / seconds for seconds in _seconds(lambda: _sample(test), bench.rounds)]
    return {
        "label": name,
        "load_cached_seconds": statistics.median(loading),
        "tasks_per_second": statistics.median(rates),
        "tasks_per_second_range": [min(rates), max(rates)],
        "raw_pixel_nearest_neighbour": _raw_pixels(test),
    }


def _seconds(action: Callable[[], object], rounds: int) -> list[float]:
    """One warm-up, then so many timed calls."""
    action()
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        action()
        times.append(time.perf_counter() - started)
    return times


def _sample(source: TaskSource) -> None:
    for first in range(0, TASKS_PER_ROUND, 32):
        source.tasks(first, 32, SHAPE)


def _raw_pixels(source: TaskSource) -> dict[str, float]:
    """5-way 1-shot accuracy of the nearest support image in Euclidean distance between pixels."""
    accuracy = []
    for first in range(0, BASELINE_TASKS, 50):
        tasks = source.tasks(first, 50, SHAPE)
        nearest = torch.cdist(tasks.query.x.flatten(2), tasks.support.x.flatten(2)).argmin(-1)  # [T, N*Q]
        accuracy.append((tasks.support.y.gather(1, nearest) == tasks.query.y).float().mean(1))
    per_task = torch.cat(accuracy)
    return {"accuracy": float(per_task.mean()), "ci95": interval95(per_task), "tasks": BASELINE_TASKS}
