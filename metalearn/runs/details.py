"""What a page about a comparison shows beside its table: learning curves, inner steps, tasks, classes.

It is read from small files; no event file is opened.
"""

from __future__ import annotations

import csv
import json
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from metalearn.errors import UserError
from metalearn.runs.directory import mapping, read_text
from metalearn.runs.found import Found
from metalearn.runs.per_task import TaskScores
from metalearn.runs.rows import Row

SHOWN = 8  # rows that charts have a colour for
_HARDEST = 8
_BINS = 15  # as the test's own


def details(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """A mapping for each of the first rows that have a score.

    Returns:
        place: of the row in the table.
        curve, train_curve: [(outer step, mean over seeds, lowest, highest)] of the validation's and of the training tasks' score.
        steps: [(inner steps done, mean over seeds)] of the test.
        tasks: the scores of the test tasks, each the mean over seeds.
        reliability: [(queries, mean of their largest probabilities, share of right ones)] of each bin, all seeds together; results of earlier
            versions lack it.
        classes: the hardest ones, each with its name, accuracy, queries, and what it was most often taken for.
    """
    chosen = [(place, row) for place, row in enumerate(rows) if row.score is not None][:SHOWN]
    return [
        {
            "place": place,
            "curve": _curve(row.scored, f"val/{row.kind.score}"),
            "train_curve": _curve(row.scored, f"train/{row.kind.score}"),
            "steps": _inner_steps(row.scored),
            "tasks": _tasks(row.scored),
            "reliability": bins_of([run.test for run in row.scored]),
            "classes": _hardest(row.scored),
        }
        for place, row in chosen
    ]


def _curve(runs: Iterable[Found], tag: str) -> list[tuple[int, float, float, float]]:
    """Of the steps that every run has which got that far: seeds that ended earlier say nothing of later steps."""
    at: dict[int, list[float]] = defaultdict(list)
    own = list(runs)
    if all(run.evaluation for run in own):
        return []  # the curve stands where the runs' own test does
    for run in own:
        for step, value in _logged(run.path / "metrics.csv", tag).items():
            at[step].append(value)
    most = max((len(values) for values in at.values()), default=0)
    return [
        (step, statistics.fmean(values), min(values), max(values))
        for step, values in sorted(at.items())
        if len(values) == most
    ]


def _logged(path: Path, tag: str) -> dict[int, float]:
    """Outer step -> value; empty where the file has none or cannot be read."""
    found = {}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                if row.get(tag) and row.get("step"):
                    value = float(row[tag])
                    if math.isfinite(value):
                        found[int(row["step"])] = value
    except (OSError, ValueError, csv.Error):
        return {}
    return found


def _inner_steps(runs: Sequence[Found]) -> list[tuple[int, float]]:
    tests = [run.test for run in runs if run.test.get("per_step")]
    if not tests or len({len(test["per_step"]) for test in tests}) > 1:
        return []
    steps = tests[0].get("scored_steps") or list(range(len(tests[0]["per_step"])))
    means = [statistics.fmean(values) for values in zip(*(test["per_step"] for test in tests), strict=True)]
    return list(zip(steps, means, strict=True)) if len(steps) == len(means) else []


def _tasks(runs: Sequence[Found]) -> list[float]:
    files = []
    for run in runs:
        try:
            files.append(TaskScores.read(run.tasks_file).score)
        except UserError:
            continue
    n = min((len(scores) for scores in files), default=0)
    return [float(sum(scores[task] for scores in files) / len(files)) for task in range(n)]


def bins_of(tests: Iterable[Mapping[str, Any]]) -> list[tuple[int, float, float]]:
    """The bins of a reliability diagram of several tests together; none where one of them has none."""
    sums: dict[int, list[float]] = defaultdict(lambda: [0, 0.0, 0.0])
    for test in tests:
        bins = (test.get("calibration") or {}).get("bins")
        if not bins:
            return []
        for count, confidence, right in bins:
            place = min(int(confidence * _BINS), _BINS - 1)
            for of, value in enumerate((count, count * confidence, count * right)):
                sums[place][of] += value
    return [(int(n), confidence / n, right / n) for _, (n, confidence, right) in sorted(sums.items())]


def _hardest(runs: Sequence[Found]) -> list[dict[str, Any]]:
    """Classes by their accuracy over all seeds; of two that are equal the one with more queries, then by name."""
    right: Counter[str] = Counter()
    queries: Counter[str] = Counter()
    taken: dict[str, Counter[str]] = defaultdict(Counter)
    for run in runs:
        file = run.path / "test_classes.json"
        if run.evaluation is not None or not file.exists():
            continue
        try:
            entries = mapping(file, json.loads(read_text(file)))
            for name, entry in entries.items():
                right[name] += round(entry["accuracy"] * entry["n"])
                queries[name] += entry["n"]
                taken[name].update(entry.get("taken_for", {}))
        except (ValueError, KeyError, TypeError, AttributeError):  # UserError too
            continue
    order = sorted(queries, key=lambda name: (right[name] / max(queries[name], 1), -queries[name], name))
    return [
        {
            "name": name,
            "accuracy": right[name] / max(queries[name], 1),
            "queries": queries[name],
            "taken_for": [other for other, _ in taken[name].most_common(2)],
        }
        for name in order[:_HARDEST]
    ]
