"""Measures learners on CLINC150: the tables of texts in docs/results.md.

    python scripts/measure_texts.py [--runs DIR] [--only LEARNER ...] [--check]

The data set's file lies in $METALEARN_DATA, the encoder where `backbone.name` finds it (docs/text.md). Runs that are in DIR already, and numbers that
benchmarks/results/texts.json holds, are not made again: the program can be stopped and goes on. --check only compares the page with the file.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from measure_datasets import ROOT, TASKS, Record, text
from measured_page import bring_up_to_date, filled, stored

import metalearn
from metalearn.report.text import markdown_table
from metalearn.runs.record import is_done

RESULTS, PAGE = ROOT / "benchmarks" / "results" / "texts.json", ROOT / "docs" / "results.md"
MARKERS = "<!-- texts:begin -->", "<!-- texts:end -->"
SHAPES = ((5, 1), (5, 5), (10, 1), (10, 5))  # ways, shots
SHARED = ("dataset=clinc150", "seed=0", "device=cpu", f"eval.tasks={TASKS}", "eval.pictures=0", "train.val_tasks=100")
SENTENCE = ("backbone=sentence", "backbone.name=all-MiniLM-L6-v2")


class Learner(NamedTuple):
    """A row of the tables."""

    title: str
    overrides: tuple[str, ...]
    own_ways: bool = False  # whether it is trained for each number of ways by itself


def trained(steps: int) -> tuple[str, ...]:
    """So many outer steps, five validations of them."""
    return (f"train.steps={steps}", f"train.val_every={steps // 5}", f"train.checkpoint_every={steps // 5}")


LEARNERS = {
    "nearest_centroid": Learner("nearest centroid", (*SENTENCE, "algorithm=nearest_centroid")),
    "knn": Learner("k-NN", (*SENTENCE, "algorithm=knn")),
    "ridge": Learner("ridge", (*SENTENCE, "algorithm=ridge")),
    "logistic": Learner("logistic", (*SENTENCE, "algorithm=logistic")),
    "protonet_head": Learner(
        "ProtoNet, head of 256", (*SENTENCE, "backbone.head=[256]", "algorithm=protonet", *trained(500))
    ),
    "anil_head": Learner(
        "ANIL, head of 256", (*SENTENCE, "backbone.head=[256]", "algorithm=anil", *trained(300)), own_ways=True
    ),
    "maml_head": Learner(
        "MAML, head of 256", (*SENTENCE, "backbone.head=[256]", "algorithm=maml", *trained(300)), own_ways=True
    ),
    "protonet_ngrams": Learner(
        "ProtoNet, n-grams, from scratch", ("backbone=ngrams", "algorithm=protonet", *trained(300))
    ),
}


def measured(runs: Path, learner: str) -> Iterator[Record]:
    """The numbers of a learner for each shape of task, as far as they are not known yet."""
    row = LEARNERS[learner]
    for ways, shots in SHAPES:
        key = {"learner": learner, "ways": ways, "shots": shots}
        if any(key.items() <= known.items() for known in read()["measured"]):
            continue
        first = ways if row.own_ways else SHAPES[0][0]
        run_dir, shape = runs / f"{learner}-{first}", (f"task.ways={ways}", f"task.shots={shots}")
        if not is_done(run_dir):
            own = (f"task.ways={first}", *((f"task.train.ways={first}",) if row.own_ways else ()))
            metalearn.train(*SHARED, *row.overrides, *own, "task.shots=1", f"hydra.run.dir={run_dir}")
        record = json.loads((run_dir / "results.json").read_text())
        if (ways, shots) != (first, 1):
            record = metalearn.evaluate(run_dir, *shape)
        test = record["test"]
        kept = ("accuracy", "ci95", "ci95_classes", "tasks", "transductive", "seen_in_pretraining")
        yield key | {name: test.get(name) for name in kept} | {"split": record["split"]}


def read() -> Record:
    return stored(RESULTS)


def tables(record: Record) -> list[str]:
    """The part of the page that the record decides."""
    found = {(row["learner"], row["ways"], row["shots"]): row for row in record["measured"]}
    rows = [[learner.title, *(text(found.get((key, *shape))) for shape in SHAPES)] for key, learner in LEARNERS.items()]
    if not any(any(row[1:]) for row in rows):
        return []
    about = record["environment"]
    return [
        *markdown_table(
            ["", *(f"{ways}-way {shots}-shot" for ways, shots in SHAPES)], [row for row in rows if any(row[1:])]
        ),
        "",
        f"Measured on one thread of {about['device']}, beside other work, torch {about['torch']}.",
    ]


def page(record: Record) -> str:
    return filled(PAGE, tables(record), MARKERS)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--runs", type=Path, default=ROOT / "outputs" / "texts")
    parser.add_argument("--only", nargs="+", choices=LEARNERS, default=[])
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args(argv)
    rows = (row for learner in options.only or LEARNERS for row in measured(options.runs, learner))
    bring_up_to_date(rows, RESULTS, PAGE, page, Path(__file__).name if options.check else None)


if __name__ == "__main__":
    main()
