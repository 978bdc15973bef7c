"""Measures what probabilistic learners predict of functions: the tables of docs/algorithms/distributions.md.

    python scripts/measure_functions.py [--runs DIR] [--only SET ...] [--check]

For each data set: every learner that predicts distributions, after a short schedule on a CPU, tested on tasks of several numbers of support points;
and, where the functions are drawn from Gaussian processes, the posterior of the process that each task was drawn from, which nobody can better.
Runs that are in DIR already are not trained again, and numbers that benchmarks/results/functions.json holds are not measured again: the program can
be stopped and goes on. --check only compares the tables with that file.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from measured_page import Record, bring_up_to_date, filled, stored
from scipy import stats

import metalearn
from metalearn.compose.composer import composer
from metalearn.data.sets.gp import GaussianProcesses
from metalearn.engine.build import build_dataset
from metalearn.engine.evaluate import NLL
from metalearn.intervals import interval95
from metalearn.report.text import duration, markdown_table
from metalearn.runs.record import is_done
from metalearn.tasks import TaskShape

ROOT = Path(__file__).resolve().parent.parent
RESULTS, PAGE = ROOT / "benchmarks" / "results" / "functions.json", ROOT / "docs" / "algorithms" / "distributions.md"
BEGIN, END = "<!-- functions:begin -->", "<!-- functions:end -->"
TASKS = 1000
ORACLE = "the process itself"


class Functions(NamedTuple):
    """A data set as it is measured."""

    overrides: tuple[str, ...]  # of training
    steps: dict[str, int]  # outer steps of each learner: what there was time for on a busy machine
    shots: tuple[int, ...]  # support points of test tasks
    queries: int  # query points of test tasks
    about: str


SETS = {
    "gp": Functions(
        ("dataset=gp", "task.train.queries=20"),
        {"cnp": 3000, "np": 3000, "anp": 1000, "bayesian": 700},
        (5, 10, 30),
        50,
        "`dataset=gp`, trained on 16 tasks an outer step, with 3 to 50 support points and 20 queries",
    ),
    "sinusoid": Functions(
        ("dataset=sinusoid", "task=varying_regression", "task.max_shots=10", "task.queries=10"),
        {"cnp": 1000, "np": 800, "anp": 500, "bayesian": 500},
        (5, 10),
        100,
        "`dataset=sinusoid`, trained on 16 tasks an outer step, with 3 to 10 support points and 10 queries",
    ),
}
LEARNERS = ("cnp", "np", "anp", "bayesian")
SHARED = ("seed=0", "device=cpu", f"eval.tasks={TASKS}", "eval.pictures=4")


def measured(runs: Path, only: list[str]) -> Iterator[Record]:
    """Every number, in the order of SETS; the dear ones are trained on the way."""
    for name, of in SETS.items():
        if only and name not in only:
            continue
        for shots in of.shots:
            yield from once(ORACLE, name, shots, lambda of=of, shots=shots: oracle(of, shots))  # type: ignore[misc]
        for learner in LEARNERS:
            run_dir = runs / f"{name}-{learner}"
            if not is_done(run_dir):
                steps = of.steps[learner]
                schedule = (f"train.steps={steps}", f"train.val_every={min(steps, 1000)}")
                metalearn.train(*of.overrides, *schedule, f"algorithm={learner}", *SHARED, f"hydra.run.dir={run_dir}")
            for shots in of.shots:
                yield from once(learner, name, shots, lambda r=run_dir, of=of, k=shots: of_run(r, of, k))  # type: ignore[misc]


def once(learner: str, dataset: str, shots: int, measure: Any) -> Iterator[Record]:
    """The number, if it is not known yet and there is one."""
    key = {"learner": learner, "dataset": dataset, "shots": shots}
    if not any(key.items() <= known.items() for known in read()["measured"]) and (found := measure()):
        yield key | found


def of_run(run_dir: Path, of: Functions, shots: int) -> Record:
    record = metalearn.evaluate(run_dir, f"task.shots={shots}", f"task.queries={of.queries}")
    test, trained = record["test"], json.loads((run_dir / "results.json").read_text())["train"]
    mse, nll = {"mean": test["mse"], "ci95": test["ci95"]}, test["further"][NLL]
    said = {"steps": trained["steps"], "seconds": trained["seconds"], "split": record["split"]}
    return {"mse": mse, "nll": {key: nll[key] for key in mse}, **said}


def oracle(of: Functions, shots: int) -> Record | None:
    """The score of the posterior of the process that each test task was drawn from; None where there is none."""
    with composer() as composing:
        config, _ = composing.job([*of.overrides, "algorithm=maml"], 0)
    dataset = build_dataset(config)
    if not isinstance(dataset, GaussianProcesses):
        return None
    source = dataset.source("test", config["eval"]["seed"], torch.device("cpu"))
    tasks = source.tasks(0, TASKS, TaskShape(1, shots, of.queries))
    x, y, at, targets = (part[..., 0].double().numpy() for part in (*tasks.support[:2], *tasks.query[:2]))
    mean, std = dataset.exact(source, 0, TASKS).posterior(x, y, at)
    squares, nll = (mean - targets) ** 2, -stats.norm.logpdf(targets, mean, std)
    each = {"mse": torch.from_numpy(squares.mean(1)), "nll": torch.from_numpy(nll.mean(1))}
    within = float((abs(targets - mean) < 2 * std).mean())
    return {name: {"mean": float(of.mean()), "ci95": interval95(of)} for name, of in each.items()} | {
        "within_2_std": within
    }


def read() -> Record:
    return stored(RESULTS)


def text(row: Record | None, score: str) -> str:
    """`0.0312 ± 0.0014`: half the width of the 95 % interval over tasks."""
    return "" if row is None else f"{row[score]['mean']:.4f} ± {row[score]['ci95']:.4f}"


def tables(record: Record) -> list[str]:
    """The part of the page that the record decides."""
    found = {(row["learner"], row["dataset"], row["shots"]): row for row in record["measured"]}
    lines: list[str] = []
    for name, of in SETS.items():
        there = [one for one in (ORACLE, *LEARNERS) if any((one, name, shots) in found for shots in of.shots)]
        if not there:
            continue
        head = [
            "",
            *(f"{score}, {shots} points" for shots in of.shots for score in ("mse", "nll")),
            "outer steps",
            "training",
        ]
        rows = []
        for learner in there:
            of_learner = [found.get((learner, name, shots)) for shots in of.shots]
            trained = next((row for row in of_learner if row and "seconds" in row), None)
            training = ["", ""] if trained is None else [f"{trained['steps']:,}", duration(trained["seconds"])]
            cells = [text(row, score) for row in of_learner for score in ("mse", "nll")]
            rows.append([f"`{learner}`" if learner in LEARNERS else learner, *cells, *training])
        lines += [
            f"{of.about}; tested on {TASKS:,} tasks with {of.queries} queries:",
            "",
            *markdown_table(head, rows),
            "",
        ]
    if lines:
        lines += [
            f"One seed, on one thread of {record['environment']['device']} with 2 cores, beside much other work: times are upper bounds.",
            "",
        ]
    return lines[:-1]


def page(record: Record) -> str:
    return filled(PAGE, tables(record), (BEGIN, END))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--runs", type=Path, default=ROOT / "outputs" / "functions")
    parser.add_argument("--only", nargs="+", choices=SETS, default=[])
    parser.add_argument("--check", action="store_true")
    asked = parser.parse_args(argv)
    rows = measured(asked.runs, asked.only)
    bring_up_to_date(rows, RESULTS, PAGE, page, Path(__file__).name if asked.check else None)


if __name__ == "__main__":
    main()
