"""Benchmark 9: seconds to a stated accuracy on TEST tasks, the mean of several seeds: the record table.

Each of `conf/experiment/record` is one record: a schedule whose mean test accuracy has to reach the `mark` of its cell in
`conf/reference/record.yaml`. Every seed is a `metalearn train` of its own. Two times count: of training alone, and from the command to the number.
Seeds may be measured in several calls: `add` puts them together.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from metalearn.bench.harness import Bench, Config, Record, Table, conditions, spread, with_spread
from metalearn.config.files import choices
from metalearn.config.identity import SAME_PROTOCOL, compared, config_hash
from metalearn.errors import UserError
from metalearn.intervals import interval95
from metalearn.runs.record import read_results
from metalearn.runs.reference import read_reference

_FOLDER = "record/"
_QUICK_STEPS = 2
_MACHINE = ("device", "cpu_capability", "cpu_threads", "torch")  # of a record's environment: what times depend on


def measure(bench: Bench) -> Record:
    """Trains `bench.seeds`, or `bench.rounds` of them from 0 on, of each record, or of those that --train names."""
    experiments = bench.train or tuple(name for name in choices("experiment") if name.startswith(_FOLDER))
    return {"rows": [_record(bench, experiment) for experiment in experiments]}


def _record(bench: Bench, experiment: str) -> Record:
    config = bench.config(f"experiment={experiment}")
    mark = mark_of(config)
    runs = []
    for seed in bench.seeds or range(bench.rounds):
        bench.say(f"{experiment}, seed {seed}")
        runs.append(_of_seed(bench, experiment, seed))
    names, task = config["names"], config["task"]
    return {
        "label": experiment,
        "algorithm": names["algorithm"],
        "dataset": names["dataset"],
        "task": f"{task['ways']}-way {task['shots']}-shot",
        "mark": mark,
        "protocol": config_hash(compared(config, SAME_PROTOCOL)),
        **_summary(mark, runs),
    }


def _summary(mark: float, runs: list[Record]) -> Record:
    """What the runs of a record come to."""
    accuracies = [run["accuracy"] for run in runs]
    mean = statistics.fmean(accuracies)
    return {
        "mean": mean,
        "ci95_seeds": interval95(accuracies) if len(accuracies) > 1 else None,
        "reached": mean >= mark,
        "seconds": spread([run["seconds"] for run in runs]),
        "to_number": spread([run["to_number"] for run in runs]),
        "steps": runs[0]["steps"],
        "runs": runs,
    }


def add(before: Record, now: Record) -> Record:
    """What was measured now, with what an earlier call measured: other records, and other seeds of these.

    A record that another machine measured keeps the conditions of its own, as `conditions`. Of one that was measured now, seeds of another machine
    or of settings that have changed since are dropped.
    """
    if now["quick"] != before["quick"]:
        return now
    here, there = ([record["environment"].get(key) for key in _MACHINE] for record in (now, before))
    own = {} if here == there else {"conditions": conditions(before)}
    rows = {row["label"]: own | row for row in before["rows"]}
    for row in now["rows"]:
        old = rows.get(row["label"], {})
        kept = old["runs"] if old.get("protocol") == row["protocol"] and "conditions" not in old else []
        runs = {run["seed"]: run for run in [*kept, *row["runs"]]}
        rows[row["label"]] = row | _summary(row["mark"], [runs[seed] for seed in sorted(runs)])
    rounds = max(len(row["runs"]) for row in rows.values() if "conditions" not in row)
    return {**now, "rounds": rounds, "rows": list(rows.values())}


def mark_of(config: Config) -> float:
    """The accuracy that a record has to reach, a fraction.

    Raises:
        UserError: the experiment states none.
    """
    mark = read_reference(config).mark
    if mark is None:
        raise UserError(
            f"experiment={config['names']['experiment']} states no mark in its reference, as those of {_FOLDER} do"
        )
    return mark / 100


def _of_seed(bench: Bench, experiment: str, seed: int) -> Record:
    with tempfile.TemporaryDirectory(prefix="metalearn-bench-") as folder:
        run = Path(folder) / "run"
        asked = [f"experiment={experiment}", f"seed={seed}", f"device={bench.device.type}", f"hydra.run.dir={run}"]
        if bench.quick:
            asked += [f"train.steps={_QUICK_STEPS}", f"train.val_every={_QUICK_STEPS}", "eval.tasks=2"]
        started = time.perf_counter()
        command = [sys.executable, "-m", "metalearn", "train", *asked]
        if subprocess.run(command, stdout=sys.stderr, env=os.environ, check=False).returncode:
            raise UserError(f"experiment={experiment} seed={seed} failed")
        to_number = time.perf_counter() - started
        results = read_results(run)
    test = results["test"]
    return {
        "seed": seed,
        "accuracy": test["accuracy"],
        "ci95": test["ci95"],
        "ci95_classes": test.get("ci95_classes"),
        "tasks": test["tasks"],
        "seconds": results["train"]["seconds"],
        "to_number": to_number,
        "steps": results["train"]["steps"],
    }


def tables(record: Record) -> list[Table]:
    """The record table."""
    rows = [
        (
            f"{row['algorithm']}, {row['dataset']} {row['task']}",
            f"{100 * row['mark']:.0f} %",
            _with_interval(row["mean"], row["ci95_seeds"]),
            "yes" if row["reached"] else "no",
            with_spread(row["seconds"], lambda value: f"{value:,.0f}"),
            with_spread(row["to_number"], lambda value: f"{value:,.0f}"),
            f"{row['steps']:,}",
            str(len(row["runs"])),
            f"`{row['label']}`",
        )
        for row in record["rows"]
    ]
    columns = (
        "",
        "mark",
        "test, mean of seeds",
        "reached",
        "training, s",
        "command to number, s",
        "steps",
        "seeds",
        "experiment=",
    )
    return [Table("Seconds to a stated accuracy on test tasks", columns, rows)]


def _with_interval(mean: float, half_width: float | None) -> str:
    interval = "" if half_width is None else f" ± {100 * half_width:.2f}"
    return f"{100 * mean:.2f}{interval} %"
