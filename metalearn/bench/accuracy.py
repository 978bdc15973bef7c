"""Benchmark 3: time until validation reaches 95 %, and the band that counts as reproducing the paper."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from metalearn.bench.harness import Bench, Config, Record, Table
from metalearn.errors import UserError
from metalearn.runs.directory import read_config
from metalearn.runs.record import read_results
from metalearn.runs.reference import read_reference
from metalearn.runs.tracking import read_metrics

_LEVEL = 0.95
_SECONDS, _VALIDATION = "time/seconds", "val/accuracy"


def measure(bench: Bench) -> Record:
    rows = [_of_run(run) for run in bench.runs]
    for experiment in bench.train:
        with tempfile.TemporaryDirectory(prefix="metalearn-bench-") as folder:
            run = Path(folder) / "run"
            command = [sys.executable, "-m", "metalearn", "train", f"experiment={experiment}", f"hydra.run.dir={run}"]
            if subprocess.run(command, stdout=sys.stderr, env=os.environ).returncode:
                raise UserError(f"experiment={experiment} failed")
            rows.append(_of_run(run))
    return {"level": _LEVEL, "rows": rows}


def _of_run(run: Path) -> Record:
    config, results = read_config(run), read_results(run)
    band = _band(config, results["test"])
    validations = [row for row in read_metrics(run / "metrics.csv") if _VALIDATION in row]
    names, task = config["names"], config["task"]
    return {
        "label": names["experiment"] or f"{names['algorithm']}, {names['dataset']}, {task['ways']}w{task['shots']}s",
        "seed": config["seed"],
        "steps": results["train"]["steps"],
        "seconds": results["train"]["seconds"],
        "best": max(row[_VALIDATION] for row in validations),
        "test": results["test"]["accuracy"],
        "test_ci95": results["test"]["ci95"],
        "band": band,
        "to_level": reached(validations, _LEVEL),
        "to_band": None if band is None else reached(validations, band),
        "validated_every": config["train"]["val_every"],
        "device": results["environment"]["device"],
        "threads": results["environment"]["cpu_threads"],
    }


def _band(config: Config, test: Record) -> float | None:
    """The published number's band, of the row that is evaluated as the run's validation was."""
    try:
        rows = read_reference(config).rows
    except UserError:  # the run is of no experiment, or of one that has no published number
        return None
    fitting = [row.band for row in rows if row.transductive in (None, test["transductive"])]
    bands = [band for band in fitting if band is not None]
    return bands[0] / 100 if bands else None


def reached(validations: list[dict[str, float]], accuracy: float) -> Record | None:
    """Seconds of training and outer steps until the first validation of at least `accuracy`."""
    for row in validations:
        if row[_VALIDATION] >= accuracy:
            return {"seconds": row[_SECONDS], "step": int(row["step"])}
    return None


def tables(record: Record) -> list[Table]:
    def when(found: Record | None) -> str:
        return "not reached" if found is None else f"{found['seconds'] / 60:.1f} min, step {found['step']:,}"

    rows = [
        (
            f"{row['label']}, seed {row['seed']}",
            when(row["to_level"]),
            "no band" if row["band"] is None else f"{when(row['to_band'])} ({100 * row['band']:.1f} %)",
            f"{100 * row['test']:.2f} ± {100 * row['test_ci95']:.2f} %",
            f"{row['seconds'] / 60:.0f} min, {row['steps']:,} steps",
            f"{row['device']}, {row['threads']} threads",
        )
        for row in record["rows"]
    ]
    level = f"validation reaches {100 * record['level']:.0f} %"
    return [
        Table(
            "Training time until validation reaches an accuracy, without the time of validating",
            ("", level, "the paper's band", "test", "whole training", "machine"),
            rows,
        )
    ]
