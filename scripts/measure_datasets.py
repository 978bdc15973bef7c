"""Measures learners on data sets that need no download site: the tables of docs/data/measured.md.

    python scripts/measure_datasets.py [--runs DIR] [--only SET ...] [--check]

For each data set: the nearest support image by pixels, and four learners after a short schedule on a CPU, each tested on 5-way 1-shot and 5-way
5-shot tasks. Each trained model is then tested on the other data sets, 5-way 1-shot. The files of the data sets lie in $METALEARN_DATA
(docs/data/ says where they come from). Runs that are in DIR already are not trained again, and numbers that benchmarks/results/datasets.json
holds for them are not measured again: the program can be stopped and goes on. --check only compares the tables with that file.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from measured_page import Record, bring_up_to_date, filled, stored
from torch import Tensor

import metalearn
from metalearn.algorithms.base import Algorithm
from metalearn.compose.composer import composer
from metalearn.engine.build import build_dataset
from metalearn.engine.evaluate import Scores, evaluate
from metalearn.report.text import duration, markdown_table
from metalearn.runs.record import is_done
from metalearn.tasks import Examples, TaskShape

ROOT = Path(__file__).resolve().parent.parent
RESULTS, PAGE = ROOT / "benchmarks" / "results" / "datasets.json", ROOT / "docs" / "data" / "measured.md"
BEGIN, END = "<!-- measured:begin -->", "<!-- measured:end -->"
SHOTS = (1, 5)
TASKS = 1000
PIXELS = "nearest pixels"


class DataSet(NamedTuple):
    """A data set as it is measured: `queries` of a class, so that five shots and the queries fit into the smallest class."""

    overrides: tuple[str, ...]
    queries: int


SETS = {
    "icons": DataSet(("dataset=icons",), 10),
    "emoji": DataSet(("dataset=emoji",), 4),
    "fonts": DataSet(("dataset=fonts", "dataset.characters=kanji", "dataset.unseen_typefaces=true"), 4),
    "fashionmnist": DataSet(("dataset=fashionmnist",), 15),
}

# Learner -> its schedule, one to three minutes on one quiet core. What is not named here has its default.
LEARNERS: dict[str, tuple[str, ...]] = {
    "baseline": ("algorithm=pretrain", "train.steps=600"),
    "matching": ("algorithm=matching", "train.steps=600", "task.train.queries=4"),
    "maml": (
        "algorithm=maml",
        "train.steps=600",
        "train.meta_batch_size=4",
        "task.train.queries=4",
        "backbone.filters=32",
    ),
    "protonet": ("algorithm=protonet", "train.steps=600", "task.train.queries=4"),
}
SHARED = ("seed=0", "device=cpu", "train.val_every=200", "train.val_tasks=100", f"eval.tasks={TASKS}")


class Nearest(Algorithm):
    """Takes the class of the support image whose pixels are nearest; learns nothing."""

    def adapt(self, support: Examples) -> Examples:
        return support

    def predict(self, adapted: Examples, query_x: Tensor) -> Tensor:
        distances = torch.cdist(query_x.flatten(2), adapted.x.flatten(2))  # [T, N*Q, N*K]
        of_class = torch.arange(adapted.ways) == adapted.y.unsqueeze(-1)  # [T, N*K, N]
        return -distances.unsqueeze(-1).where(of_class.unsqueeze(1), torch.inf).amin(2)


def measured(runs: Path, only: list[str]) -> Iterator[Record]:
    """Every number, in the order of SETS; the dear ones are trained on the way."""
    for name, data in SETS.items():
        if only and name not in only:
            continue
        for shots in SHOTS:
            yield from once(PIXELS, name, name, shots, lambda data=data, shots=shots: by_pixels(data, shots))  # type: ignore[misc]
        for learner, schedule in LEARNERS.items():
            run_dir = runs / f"{name}-{learner}"
            shape = (f"task.queries={data.queries}", "task.ways=5", "task.shots=1")
            if not is_done(run_dir):
                metalearn.train(*data.overrides, *schedule, *SHARED, *shape, f"hydra.run.dir={run_dir}")
            for shots in SHOTS:
                more = (*shape[:2], f"task.shots={shots}")
                yield from once(learner, name, name, shots, lambda r=run_dir, m=more: of_run(r, m))  # type: ignore[misc]
            for other, its in SETS.items():
                if other != name and (not only or other in only):
                    more = (*its.overrides, f"task.queries={its.queries}", *shape[1:])
                    yield from once(learner, name, other, 1, lambda r=run_dir, m=more: of_run(r, m))  # type: ignore[misc]


def once(learner: str, trained: str, tested: str, shots: int, measure: Any) -> Iterator[Record]:
    """The number, if it is not known yet."""
    key = {"learner": learner, "trained": trained, "tested": tested, "shots": shots}
    if not any(key.items() <= known.items() for known in read()["measured"]):
        yield key | measure()


def by_pixels(data: DataSet, shots: int) -> Record:
    with composer() as composing:
        config, _ = composing.job([*data.overrides, f"task.queries={data.queries}", "task.ways=5"], 0)
    source = build_dataset(config).source("test", config["eval"]["seed"], torch.device("cpu"))
    scores = evaluate(Nearest(), source, TaskShape(5, shots, data.queries), TASKS, 20, stepwise=False)
    return number(scores)


def number(scores: Scores) -> Record:
    return {"accuracy": scores.mean, "ci95": scores.ci95, "ci95_classes": scores.ci95_classes(scores.score[-1])}


def of_run(run_dir: Path, overrides: tuple[str, ...]) -> Record:
    record = metalearn.evaluate(run_dir, *overrides)
    trained = json.loads((run_dir / "results.json").read_text())["train"]
    kept = {key: record["test"][key] for key in ("accuracy", "ci95", "ci95_classes")}
    return kept | {"seconds": trained["seconds"], "split": record["split"], "images": record.get("images")}


def read() -> Record:
    return stored(RESULTS)


def text(row: Record | None) -> str:
    """`95.2 ± 0.3/0.8`: half the widths of the 95 % intervals over tasks and over classes."""
    if row is None:
        return ""
    widths = [row["ci95"], row["ci95_classes"]]
    return f"{100 * row['accuracy']:.1f} ± " + "/".join(f"{100 * width:.1f}" for width in widths if width is not None)


def tables(record: Record) -> list[str]:
    """The part of the page that the record decides."""
    found = {(row["learner"], row["trained"], row["tested"], row["shots"]): row for row in record["measured"]}
    sets = [name for name in SETS if any(row["tested"] == name for row in record["measured"])]
    lines: list[str] = []
    for shots in SHOTS if sets else ():
        rows = [
            [learner, *(text(found.get((learner, name, name, shots))) for name in sets)]
            for learner in (PIXELS, *LEARNERS)
        ]
        lines += [f"5-way {shots}-shot, tested on classes of the data set that was trained on:", ""]
        lines += [*markdown_table(["", *sets], rows), ""]
    for learner in LEARNERS if len(sets) > 1 else ():
        rows = [[name, *(text(found.get((learner, name, other, 1))) for other in sets)] for name in sets]
        lines += [f"`{learner}`, 5-way 1-shot: trained on the row's data set, tested on the column's:", ""]
        lines += [*markdown_table(["", *sets], rows), ""]
    seconds = [row["seconds"] for row in record["measured"] if "seconds" in row]
    if seconds:
        lines += [
            f"Training took {duration(min(seconds))} to {duration(max(seconds))} for one model, on one thread of {record['environment']['device']}, "
            "beside other work.",
            "",
        ]
    return lines[:-1]


def page(record: Record) -> str:
    return filled(PAGE, tables(record), (BEGIN, END))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--runs", type=Path, default=ROOT / "outputs" / "datasets")
    parser.add_argument("--only", nargs="+", choices=SETS, default=[])
    parser.add_argument("--check", action="store_true")
    asked = parser.parse_args(argv)
    rows = measured(asked.runs, asked.only)
    bring_up_to_date(rows, RESULTS, PAGE, page, Path(__file__).name if asked.check else None)


if __name__ == "__main__":
    main()
