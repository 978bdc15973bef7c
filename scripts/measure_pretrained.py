"""Measures learners on the features of a frozen MobileNetV2: the tables of docs/results.md.

    python scripts/measure_pretrained.py [--runs DIR] [--only SET ...] [--learners LEARNER ...] [--shots K ...]
        [--check]

The files of the data sets and the network's weights lie in $METALEARN_DATA (docs/data, docs/pretrained.md). Rows of learners that were trained
from scratch are those that scripts/measure_datasets.py and `metalearn reproduce` measured. Runs that are in DIR already, and numbers that
benchmarks/results/pretrained.json holds, are not made again: the program can be stopped and goes on. --check only compares the page with the
files.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from measure_datasets import BEGIN, END, ROOT, SETS, SHOTS, TASKS, DataSet, Record, text
from measure_datasets import RESULTS as FROM_SCRATCH
from measured_page import bring_up_to_date, filled, stored

import metalearn
from metalearn.report.seen import pretraining_mark
from metalearn.report.text import markdown_table
from metalearn.runs.record import is_done

RESULTS, PAGE = ROOT / "benchmarks" / "results" / "pretrained.json", ROOT / "docs" / "results.md"
SPEED = RESULTS.with_name("features.json")  # of scripts/bench_features.py
REPRODUCED = ROOT / "benchmarks" / "reproduction"
NETWORK, WEIGHTS, SIZE = "mobilenet_v2", "IMAGENET1K_V1", 96
FROZEN = ("backbone=torchvision", f"backbone.name={NETWORK}", f"backbone.weights={WEIGHTS}")
SHARED = ("seed=0", "device=cpu", "task.ways=5", "train.val_tasks=20", "eval.pictures=0")

# Turned copies make more classes; pre-trained features of upright training characters are enough for the mean feature.
OMNIGLOT = DataSet(("dataset=omniglot", "dataset.rotations.train=1", "dataset.rotations.val=1"), 15)
TESTED = {**SETS, "omniglot": OMNIGLOT}


# Queries of a class in the tasks of five shots that choose a checkpoint or a step size, where a validation class has too few images for as many
# as the test tasks have.
VALIDATED = {"fonts": 3}


class Learner(NamedTuple):
    """A row of the tables."""

    title: str
    overrides: tuple[str, ...]
    tasks: tuple[int, ...] = (TASKS, TASKS)  # test tasks, for each of SHOTS
    each: bool = False  # whether it learns for each number of shots anew, not once for tasks of one shot

    def titled(self, number: int) -> str:
        """With the number of tasks where it is not that of the other rows, for number `number` of SHOTS."""
        tasks = self.tasks[number]
        return self.title if tasks == TASKS else f"{self.title}, {tasks} tasks"


FINE_TUNED = ("algorithm=finetune", "backbone.train=last_block", "train.steps=0", "train.val_tasks=5")

LEARNERS = {
    "nearest_centroid": Learner("nearest centroid", ("algorithm=nearest_centroid",)),
    "protonet": Learner("ProtoNet", ("algorithm=protonet", "train.steps=0")),
    "knn": Learner("k-NN", ("algorithm=knn",)),
    "ridge": Learner("ridge", ("algorithm=ridge",)),
    "logistic": Learner("logistic", ("algorithm=logistic",)),
    # The squared length of these features is in the hundreds: steps of the default size would be far too long.
    "anil": Learner(
        "ANIL, 600 steps", ("algorithm=anil", "algorithm.inner_lr=0.01", "train.steps=600", "train.val_every=200")
    ),
    "caml": Learner(
        "CAML, 600 steps",
        ("algorithm=caml", "train.steps=600", "train.meta_batch_size=4", "train.val_every=200"),
        each=True,
    ),
    "finetune": Learner("fine-tuning (P>M>F without M)", FINE_TUNED, (50, 20), each=True),
    "laplacianshot": Learner("LaplacianShot (transductive)", ("algorithm=laplacianshot",)),
    "transductive": Learner(
        "transductive fine-tuning (transductive)",
        (
            *FINE_TUNED,
            *("algorithm.prototypes=learned", "algorithm.entropy=1", "algorithm.augment=0"),
            *("algorithm.steps=25", "algorithm.lr=5.0e-5"),
        ),
        (50, 20),
        each=True,
    ),
}

LARGER = {"emoji": 224}  # data set -> a second size of the network's images
AT_THE_LARGER = ("nearest_centroid", "ridge", "logistic")
SCRATCH = {"protonet": "ProtoNet, from scratch", "maml": "MAML, from scratch (transductive)"}
# Where measure_datasets.py has no row: the experiments that were reproduced, one for each of SHOTS, and which of their rows.
SCRATCH_OMNIGLOT = {
    "protonet": (("short_protonet_omniglot_5w1s-seed0", "short_protonet_omniglot_5w5s-seed0"), "not transductive"),
    "maml": (("short_maml_omniglot_5w1s-seed1", "short_maml_omniglot_5w5s-seed0"), "transductive"),
}


def asked(only: list[str], learners: list[str]) -> Iterator[tuple[str, str, int]]:
    """(data set, learner, size of the network's images) of every run."""
    for name in TESTED:
        if not only or name in only:
            yield from ((name, learner, SIZE) for learner in learners or LEARNERS)
            larger = [learner for learner in AT_THE_LARGER if name in LARGER and (not learners or learner in learners)]
            yield from ((name, learner, LARGER[name]) for learner in larger)


def measured(runs: Path, name: str, learner: str, size: int, only: list[int]) -> Iterator[Record]:
    """The numbers of one run, or of one for each number of shots, as far as they are not known yet."""
    data, about = TESTED[name], LEARNERS[learner]
    for shots, tasks in zip(SHOTS, about.tasks, strict=True):
        key = {"learner": learner, "tested": name, "shots": shots, "size": size}
        if (only and shots not in only) or any(key.items() <= known.items() for known in read()["measured"]):
            continue
        of_run = shots if about.each else SHOTS[0]
        queries = data.queries if of_run == SHOTS[0] else VALIDATED.get(name, data.queries)
        run_dir = runs / f"{name}-{learner}-{size}{f'-{shots}' if of_run != SHOTS[0] else ''}"
        if not is_done(run_dir):
            overrides = (
                *data.overrides,
                *FROZEN,
                f"backbone.size={size}",
                *SHARED,
                *(f"task.queries={queries}", f"task.shots={of_run}", f"eval.tasks={tasks}"),
                *about.overrides,
            )
            metalearn.train(*overrides, f"hydra.run.dir={run_dir}")
        record = json.loads((run_dir / "results.json").read_text())
        if (shots, data.queries) != (of_run, queries):
            record = metalearn.evaluate(run_dir, f"task.queries={data.queries}", f"task.shots={shots}")
        test = record["test"]
        kept = ("accuracy", "ci95", "ci95_classes", "tasks", "transductive", "seen_in_pretraining")
        yield key | {name: test[name] for name in kept} | {"split": record["split"]}


def read() -> Record:
    return stored(RESULTS)


def from_scratch() -> dict[tuple[str, str, int], Record]:
    """(learner, data set, shots) -> the row of a learner that was trained on the data set's own classes, from random weights."""
    rows = json.loads(FROM_SCRATCH.read_text())["measured"]
    found = {(row["learner"], row["tested"], row["shots"]): row for row in rows if row["trained"] == row["tested"]}
    for learner, (experiments, name) in SCRATCH_OMNIGLOT.items():
        for shots, experiment in zip(SHOTS, experiments, strict=True):
            file = REPRODUCED / f"{experiment}.json"
            if file.exists():
                (row,) = (row for row in json.loads(file.read_text())["rows"] if row["name"] == name)
                found[learner, "omniglot", shots] = {
                    "accuracy": row["ours"] / 100,
                    "ci95": row["ci95"] / 100,
                    "ci95_classes": None if row["ci95_classes"] is None else row["ci95_classes"] / 100,
                }
    return found


def tables(record: Record) -> list[str]:
    """The part of the page that the record decides."""
    found: dict[Any, Record] = {
        (row["learner"], row["tested"], row["shots"], row["size"]): row for row in record["measured"]
    }
    sets = [name for name in TESTED if any(row["tested"] == name for row in record["measured"])]
    scratch, lines = from_scratch(), []
    for number, shots in enumerate(SHOTS if sets else ()):
        rows = [
            [learner.titled(number), *(text(found.get((key, name, shots, SIZE))) for name in sets)]
            for key, learner in LEARNERS.items()
        ]
        for size in sorted(set(LARGER.values())):
            rows += [
                [f"{LEARNERS[key].title}, {size} pixels", *(text(found.get((key, name, shots, size))) for name in sets)]
                for key in AT_THE_LARGER
            ]
        rows += [[title, *(text(scratch.get((key, name, shots))) for name in sets)] for key, title in SCRATCH.items()]
        lines += [f"5-way {shots}-shot:", "", *markdown_table(["", *sets], [row for row in rows if any(row[1:])]), ""]
    if sets:
        lines += [
            "Test classes that pre-training saw:",
            "",
            *markdown_table(["data set", "mark"], marks(record, sets)),
            "",
        ]
        lines += speed()
        about = record["environment"]
        lines += [
            f"Measured on one thread of {about['device']}, torch {about['torch']}, torchvision {about['torchvision']}.",
            "",
        ]
    return lines[:-1]


def speed() -> list[str]:
    """How long test tasks take, where scripts/bench_features.py measured it."""
    if not SPEED.exists():
        return []
    rows = [
        [
            row["title"],
            "embeds its images anew" if row["features"] == "none" else "gathers features",
            f"{row['tasks']:,}",
            f"{1000 * row['cpu_seconds'] / row['tasks']:.2f}",
            f"{row['cpu_seconds']:.1f}",
            f"{row['seconds']:.1f}",
            f"{row['load']:.0f}",
        ]
        for row in json.loads(SPEED.read_text())["rows"]
    ]
    header = [
        "5-way 1-shot, 15 queries",
        "each task",
        "tasks",
        "CPU seconds per 1,000",
        "CPU seconds",
        "seconds",
        "load",
    ]
    return ["Test tasks on one thread, the first pass over the images included:", "", *markdown_table(header, rows), ""]


def marks(record: Record, sets: list[str]) -> list[list[str]]:
    """For each data set, how many of its test classes were in the pre-training data."""
    entries = {row["tested"]: row["seen_in_pretraining"] for row in record["measured"]}
    return [
        [name, pretraining_mark(entries[name]) or f"none of {entries[name]['of']} classes, by name"] for name in sets
    ]


def page(record: Record) -> str:
    return filled(PAGE, tables(record), (BEGIN, END))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--runs", type=Path, default=ROOT / "outputs" / "pretrained")
    parser.add_argument("--only", nargs="+", choices=TESTED, default=[])
    parser.add_argument("--learners", nargs="+", choices=LEARNERS, default=[])
    parser.add_argument("--shots", nargs="+", type=int, choices=SHOTS, default=[])
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args(argv)
    rows = (row for run in asked(options.only, options.learners) for row in measured(options.runs, *run, options.shots))
    bring_up_to_date(rows, RESULTS, PAGE, page, Path(__file__).name if options.check else None)


if __name__ == "__main__":
    main()
