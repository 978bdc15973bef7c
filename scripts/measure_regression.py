"""Measures learners of sine waves: the table of regression in docs/results.md.

    python scripts/measure_regression.py [--runs DIR] [--only LEARNER ...] [--check]

All are trained on the same number of waves with 10 support points and tested with 5, 10 and 20 of them, on the same waves. Runs that are in DIR
already, and numbers that benchmarks/results/regression.json holds, are not made again: the program can be stopped and goes on. --check only compares
the page with the file.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from measure_datasets import ROOT, Record
from measured_page import bring_up_to_date, filled, stored

import metalearn
from metalearn.report.text import markdown_table
from metalearn.runs.record import is_done

RESULTS, PAGE = ROOT / "benchmarks" / "results" / "regression.json", ROOT / "docs" / "results.md"
MARKERS = ("<!-- regression:begin -->", "<!-- regression:end -->")
POINTS = (5, 10, 20)  # support points in the test
STATES = (0, 1, 5, 10)  # inner steps after which the error is shown, beside the last state
# 100,000 waves for each learner.
SHARED = (
    *("dataset=sinusoid", "seed=0", "device=cpu", "train.steps=4000", "train.meta_batch_size=25", "train.lr=2e-3"),
    *(
        "train.val_every=1000",
        "train.val_tasks=200",
        "train.checkpoint_every=1000",
        "eval.tasks=2000",
        "eval.pictures=0",
    ),
)


class Learner(NamedTuple):
    """A row of the table."""

    title: str
    overrides: tuple[str, ...]


LEARNERS = {
    "maml": Learner("MAML", ("algorithm=maml", "algorithm.test_inner_steps=10")),
    "fomaml": Learner("first-order MAML", ("algorithm=fomaml", "algorithm.test_inner_steps=10")),
    "metasgd": Learner("Meta-SGD", ("algorithm=metasgd",)),
    "anil": Learner("ANIL", ("algorithm=anil", "algorithm.inner_lr=0.05", "algorithm.test_inner_steps=10")),
    "reptile": Learner(
        "Reptile",
        (
            *("algorithm=reptile", "algorithm.inner_optimizer=sgd", "algorithm.inner_lr=0.01"),
            *("algorithm.test_inner_steps=32", "algorithm.test_inner_batch=10"),
            "train.lr=0.5",
        ),
    ),
}


def measured(runs: Path, name: str) -> Iterator[Record]:
    """The numbers of one learner, for each number of support points, as far as they are not known yet."""
    run_dir = runs / name
    for points in POINTS:
        key = {"learner": name, "points": points}
        if any(key.items() <= known.items() for known in read()["measured"]):
            continue
        if not is_done(run_dir):
            metalearn.train(*SHARED, *LEARNERS[name].overrides, f"hydra.run.dir={run_dir}")
        trained = json.loads((run_dir / "results.json").read_text())
        record = trained if points == trained["task"]["shots"] else metalearn.evaluate(run_dir, f"task.shots={points}")
        kept = ("mse", "ci95", "ci95_classes", "tasks", "per_step", "per_step_ci95", "scored_steps")
        training = {name: trained["train"][name] for name in ("steps", "seconds")}
        yield key | {name: record["test"][name] for name in kept} | {"train": training}


def read() -> Record:
    return stored(RESULTS)


def table(record: Record) -> list[str]:
    """The part of the page that the record decides."""
    lines: list[str] = []
    for points in POINTS:
        rows = [
            [LEARNERS[row["learner"]].title, *(after(row, step) for step in STATES), last(row), minutes(row)]
            for row in record["measured"]
            if row["points"] == points
        ]
        head = ["", "before", *(f"{step} step{'s' * (step > 1)}" for step in STATES[1:]), "last state", "training"]
        lines += [f"{points} support points:", "", *markdown_table(head, rows), ""] if rows else []
    if lines:
        tasks, about = {row["tasks"] for row in record["measured"]}, record["environment"]
        many = ", ".join(f"{one:,}" for one in sorted(tasks))
        lines.append(
            f"{many} test tasks, seed 0, one thread of {about['device']}, beside other work; torch {about['torch']}."
        )
    return lines


def after(row: Record, step: int) -> str:
    """`0.691 ± 0.038` after so many inner steps; nothing where that state was not scored."""
    if step not in row["scored_steps"]:
        return ""
    state = row["scored_steps"].index(step)
    return f"{row['per_step'][state]:.3f} ± {row['per_step_ci95'][state]:.3f}"


def last(row: Record) -> str:
    """The last state, where it stands in no other column."""
    steps = row["scored_steps"][-1]
    return "" if steps in STATES else f"{row['mse']:.3f} ± {row['ci95']:.3f} ({steps} steps)"


def minutes(row: Record) -> str:
    return f"{row['train']['seconds'] / 60:.0f} min"


def page(record: Record) -> str:
    return filled(PAGE, table(record), MARKERS)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--runs", type=Path, default=ROOT / "outputs" / "regression")
    parser.add_argument("--only", nargs="+", choices=LEARNERS, default=[])
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args(argv)
    rows = (row for name in options.only or LEARNERS for row in measured(options.runs, name))
    bring_up_to_date(rows, RESULTS, PAGE, page, Path(__file__).name if options.check else None)


if __name__ == "__main__":
    main()
