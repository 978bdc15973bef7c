"""Benchmark 4: MAML's time per task over the tasks of an outer step: in chunks as chosen, all at once, one by one; and parallel-metalearn's."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from metalearn.bench import rival
from metalearn.bench.harness import Bench, Record, Table, interleave, spread
from metalearn.bench.ours import images
from metalearn.bench.rivals import CASES, Case, ours_of, rival_loop, workers
from metalearn.bench.steps import counted
from metalearn.engine.build import build_dataset
from metalearn.sizes import count_text

SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 200)  # tasks of an outer step
_QUICK_SIZES = (1, 8)
_SUBJECTS = ("MAML, fully connected, 15 queries, second order", "MAML, strided conv, 1 query, second order")
_AUTO, _ALL, _ONE = "task_chunk=auto", "all at once", "one by one"


def labels(bench: Bench) -> list[str]:
    """Of the rows that a call can measure."""
    return list(_pairs(bench))


def _pairs(bench: Bench) -> dict[str, tuple[Case, int]]:
    return {
        f"{case.label}; {count_text(size, 'task')}": (case, size)
        for case in CASES
        if case.label in _SUBJECTS[: 1 if bench.quick else None]
        for size in (_QUICK_SIZES if bench.quick else SIZES)
    }


def measure(bench: Bench) -> Record:
    data, rows = images(bench), []
    with workers(bench) as worker, tempfile.TemporaryDirectory(prefix="metalearn-bench-") as folder:
        written = None if worker is None else rival.write_images(build_dataset(bench.config(*data)), Path(folder))
        pairs = _pairs(bench)
        for label in bench.chosen(list(pairs)):
            bench.say(label)
            case, size = pairs[label]
            rows.append({"label": label, **_measure(bench, case, data, size, worker, written)})
    return {"rows": rows}


def _measure(
    bench: Bench,
    case: Case,
    data: tuple[str, ...],
    size: int,
    worker: rival.Worker | None,
    written: dict[str, Any] | None,
) -> Record:
    overrides = (*(one for one in case.overrides if "meta_batch_size" not in one), f"train.meta_batch_size={size}")
    chunks = {_AUTO: "auto", _ALL: size, _ONE: 1}
    ours = {
        name: ours_of(case, bench.config(*data, *overrides, f"train.task_chunk={chunk}"))
        for name, chunk in chunks.items()
    }
    sides: dict[str, Any] = dict(ours)
    if worker is not None:
        for backend in rival.BACKENDS:
            sides[backend] = rival_loop(worker, case, ours[_AUTO], written, backend)
    making: dict[str, list[float]] = {name: [] for name in sides}
    seconds = interleave(
        {name: counted(side, making[name]) for name, side in sides.items()}, bench.rounds, bench.device
    )
    # The first calls warm up, and a call is one of several in its turn: so each side's making of tasks is its median over all of them.
    per_task = {
        name: spread([(taken - spread(making[name])["median"]) / size for taken in values])
        for name, values in seconds.items()
    }
    return {
        "case": case.label,
        "tasks": size,
        "seconds_per_task": per_task,
        "making_per_task": {name: spread(values)["median"] / size for name, values in making.items()},
        "task_chunk": ours[_AUTO].task_chunk,
    }


def tables(record: Record) -> list[Table]:
    def per_task(row: Record, name: str) -> str:
        found = row["seconds_per_task"].get(name)
        return "not measured" if found is None else f"{1000 * found['median']:.2f}"

    found = []
    for case in dict.fromkeys(row["case"] for row in record["rows"]):
        rows = [
            (
                f"{row['tasks']}",
                per_task(row, _AUTO),
                f"{row['task_chunk']}",
                *(per_task(row, name) for name in (_ALL, _ONE, *rival.BACKENDS)),
            )
            for row in record["rows"]
            if row["case"] == case
        ]
        columns = (
            *("tasks per step", f"ours, {_AUTO}", "chosen", f"ours, {_ALL}", f"ours, {_ONE}"),
            *(f"{rival.NAME}, {backend}" for backend in rival.BACKENDS),
        )
        note = "Without making the tasks."
        found.append(Table(f"ms per task of one meta-training step: {case}", columns, rows, note))
    return found
