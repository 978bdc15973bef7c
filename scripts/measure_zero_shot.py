"""Measures learners without support examples, and beside them with 1 and 5: the tables of docs/zero-shot.md.

    python scripts/measure_zero_shot.py [--runs DIR] [--only ROW ...] [--check]

The files of the data sets and the sentence encoder lie in $METALEARN_DATA (docs/data, docs/text.md). Runs that are in DIR already, and numbers
that benchmarks/results/zero_shot.json holds, are not made again: the program can be stopped and goes on. --check only compares the page with the
file.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from measure_datasets import BEGIN, END, ROOT, TASKS, Record, text
from measured_page import bring_up_to_date, filled, stored

import metalearn
from metalearn.report.text import markdown_table
from metalearn.runs.record import is_done

RESULTS, PAGE = ROOT / "benchmarks" / "results" / "zero_shot.json", ROOT / "docs" / "zero-shot.md"
WAYS, SHOTS = (5, 10), (0, 1, 5)
SHARED = ("seed=0", "device=cpu", "task.shots=0", f"eval.tasks={TASKS}", "eval.pictures=0")


class Row(NamedTuple):
    """A row of a table."""

    dataset: str
    title: str
    overrides: tuple[str, ...]


_NO_TRAINING = ("algorithm=nearest_centroid", "backbone=sentence", "algorithm.transform=l2")
_ICONS = (
    *("dataset=icons", "algorithm=protonet", "backbone.filters=32", "train.steps=1000"),
    *("train.augment.translate=0.1", "train.augment.scale=0.1"),
)
ROWS = {
    "clinc150-sentence": Row(
        "clinc150", "nearest centroid, sentence embeddings, no training", ("dataset=clinc150", *_NO_TRAINING)
    ),
    "clinc150-sentence-weight1": Row(
        "clinc150",
        "the same, `description_weight=1`",
        ("dataset=clinc150", *_NO_TRAINING, "algorithm.description_weight=1"),
    ),
    "clinc150-protonet-sentence": Row(
        "clinc150",
        "ProtoNet, sentence embeddings and a trained head, 1,000 steps",
        ("dataset=clinc150", "algorithm=protonet", "backbone=sentence", "backbone.head=[256]", "train.steps=1000"),
    ),
    "clinc150-protonet-ngrams": Row(
        "clinc150",
        "ProtoNet, n-grams from scratch, 1,000 steps",
        ("dataset=clinc150", "algorithm=protonet", "train.steps=1000"),
    ),
    "icons-protonet-ngrams": Row(
        "icons",
        "ProtoNet, conv4 and n-grams, both from scratch, 1,000 steps",
        (*_ICONS, "algorithm.class_encoder=ngrams"),
    ),
    "icons-protonet-sentence": Row(
        "icons",
        "ProtoNet, conv4 from scratch and sentence embeddings, 1,000 steps",
        (*_ICONS, "algorithm.class_encoder=sentence"),
    ),
}


def measured(runs: Path, name: str) -> Iterator[Record]:
    """The numbers of one run, as far as they are not known yet."""
    for ways in WAYS:
        for shots in SHOTS:
            key = {"row": name, "ways": ways, "shots": shots}
            if any(key.items() <= known.items() for known in read()["measured"]):
                continue
            run_dir = runs / name
            if not is_done(run_dir):
                metalearn.train(*ROWS[name].overrides, *SHARED, f"hydra.run.dir={run_dir}")
            record = metalearn.evaluate(run_dir, f"task.ways={ways}", f"task.shots={shots}", f"eval.tasks={TASKS}")
            trained = json.loads((run_dir / "results.json").read_text())
            test = record["test"]
            kept = {name: test[name] for name in ("accuracy", "ci95", "ci95_classes", "tasks", "transductive")}
            yield key | kept | {"split": record["split"], "train": trained["train"]}


def read() -> Record:
    return stored(RESULTS)


def tables(record: Record) -> list[str]:
    """The part of the page that the record decides."""
    found = {(row["row"], row["ways"], row["shots"]): row for row in record["measured"]}
    lines: list[str] = []
    for dataset in dict.fromkeys(row.dataset for row in ROWS.values()):
        for ways in WAYS:
            rows = [
                [row.title, *(text(found.get((key, ways, shots))) for shots in SHOTS)]
                for key, row in ROWS.items()
                if row.dataset == dataset
            ]
            shown = [row for row in rows if any(row[1:])]
            if shown:
                header = [f"{dataset}, {ways}-way", *(f"{shots}-shot" for shots in SHOTS)]
                lines += [*markdown_table(header, shown), ""]
    if lines:
        about = record["environment"]
        lines += [f"Measured on one thread of {about['device']}, torch {about['torch']}.", ""]
    return lines[:-1]


def page(record: Record) -> str:
    return filled(PAGE, tables(record), (BEGIN, END))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--runs", type=Path, default=ROOT / "outputs" / "zero_shot")
    parser.add_argument("--only", nargs="+", choices=ROWS, default=[])
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args(argv)
    rows = (row for name in options.only or ROWS for row in measured(options.runs, name))
    bring_up_to_date(rows, RESULTS, PAGE, page, Path(__file__).name if options.check else None)


if __name__ == "__main__":
    main()
