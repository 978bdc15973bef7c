"""Data: how long drawing, loading and sampling take, and how hard the tasks are for raw pixels.

    python scripts/bench_data.py [--json FILE] [--threads N]

Omniglot is measured where its two zips lie in $METALEARN_DATA/omniglot.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from metalearn.data.base import TaskSource
from metalearn.data.images import ImageClasses
from metalearn.data.sets import glyphs, omniglot
from metalearn.engine.evaluate import interval95
from metalearn.runs.directory import environment, write_json
from metalearn.tasks import TaskShape

ROUNDS = 7
TASKS_PER_ROUND = 1600
BASELINE_TASKS = 1000
SHAPE = TaskShape(ways=5, shots=1, queries=15)


def seconds(action: Callable[[], object]) -> list[float]:
    """One warm-up, then ROUNDS timed calls."""
    action()
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        action()
        times.append(time.perf_counter() - started)
    return times


def sample(source: TaskSource) -> None:
    for first in range(0, TASKS_PER_ROUND, 32):
        source.tasks(first, 32, SHAPE)


def raw_pixels(source: TaskSource) -> dict[str, float]:
    """5-way 1-shot accuracy of the nearest support image in Euclidean distance between pixels."""
    accuracy = []
    for first in range(0, BASELINE_TASKS, 50):
        tasks = source.tasks(first, 50, SHAPE)
        nearest = torch.cdist(tasks.query.x.flatten(2), tasks.support.x.flatten(2)).argmin(-1)  # [T, N*Q]
        accuracy.append((tasks.support.y.gather(1, nearest) == tasks.query.y).float().mean(1))
    per_task = torch.cat(accuracy)
    return {"accuracy": float(per_task.mean()), "ci95": interval95(per_task), "tasks": BASELINE_TASKS}


def measure(name: str, load: Callable[[], ImageClasses]) -> dict[str, Any]:
    loading = seconds(load)
    test = load().source("test", 0, torch.device("cpu"))
    rates = [TASKS_PER_ROUND / s for s in seconds(lambda: sample(test))]
    return {
        "dataset": name,
        "load_cached_seconds": statistics.median(loading),
        "tasks_per_second": statistics.median(rates),
        "tasks_per_second_range": [min(rates), max(rates)],
        "raw_pixel_nearest_neighbour": raw_pixels(test),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    rows = [measure("glyphs", lambda: glyphs.load(500, 20, 28, 0, 50, 100))]
    root = Path(os.environ.get("METALEARN_DATA", "no-such-folder")) / "omniglot"
    if root.is_dir():
        turned = dict.fromkeys(("train", "val", "test"), 4)
        rows.append(measure("omniglot", lambda: omniglot.load(str(root), False, "vinyals", 0, 28, "antialias", turned)))
    started = time.perf_counter()
    glyphs.draw(500, 20, 28, 0)
    drawing = time.perf_counter() - started

    table = Table(title=f"5-way 1-shot 15-query tasks, {arguments.threads} threads; median of {ROUNDS}")
    for column in ("dataset", "load from cache, s", "tasks/s", "raw-pixel nearest neighbour, %"):
        table.add_column(column, justify="left" if column == "dataset" else "right")
    for row in rows:
        raw = row["raw_pixel_nearest_neighbour"]
        table.add_row(
            row["dataset"],
            f"{row['load_cached_seconds']:.3f}",
            f"{row['tasks_per_second']:,.0f}",
            f"{100 * raw['accuracy']:.2f} ± {100 * raw['ci95']:.2f}",
        )
    console = Console()
    console.print(table)
    console.print(f"drawing the glyphs anew: {drawing:.2f} s")
    if arguments.json:
        write_json(arguments.json, {"rows": rows, "draw_seconds": drawing, "environment": environment("cpu")})


if __name__ == "__main__":
    main()
