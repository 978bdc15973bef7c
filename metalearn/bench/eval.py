"""Benchmark 4: seconds for 1,000 test tasks, for every algorithm with its defaults."""

from __future__ import annotations

import time

from metalearn.bench.harness import Bench, Record, Table
from metalearn.bench.ours import images
from metalearn.engine.able import learners
from metalearn.engine.build import assemble
from metalearn.engine.evaluate import evaluate
from metalearn.kinds import CLASSIFICATION

_TASKS = 1000
_SECONDS = 5.0  # for one algorithm; what would take longer is measured on fewer tasks


def measure(bench: Bench) -> Record:
    data = images(bench)
    rows = []
    for name in learners(CLASSIFICATION):
        bench.say(name)
        config = bench.config(*data, f"algorithm={name}", "task=5way_1shot")
        parts = assemble(config)
        algorithm, source = parts.algorithm, parts.source("test")
        shape, chunk = parts.settings.task, parts.settings.eval.task_chunk

        def seconds(tasks: int) -> float:
            started = time.perf_counter()
            evaluate(algorithm, source, shape, tasks, chunk, stepwise=False)  # noqa: B023
            return time.perf_counter() - started

        seconds(chunk)
        fitting = int(_SECONDS / seconds(chunk))  # chunks
        tasks = min(_TASKS, chunk * max(1, fitting))
        taken = seconds(tasks)
        rows.append(
            {
                "label": name,
                "backbone": config["names"]["backbone"],
                "seconds": taken * _TASKS / tasks,
                "tasks": tasks,
                "transductive": algorithm.transductive,
            }
        )
    return {"dataset": config["names"]["dataset"], "rows": rows}


def tables(record: Record) -> list[Table]:
    rows = [
        (row["label"], row["backbone"], f"{row['seconds']:.1f}", f"{row['tasks']:,}", _yes(row["transductive"]))
        for row in record["rows"]
    ]
    return [
        Table(
            f"{_TASKS:,} test tasks, 5-way 1-shot 15-query, {record['dataset']}, each algorithm's defaults",
            ("", "backbone", "seconds", "measured on tasks", "transductive"),
            rows,
        )
    ]


def _yes(value: bool) -> str:
    return "yes" if value else "no"
