"""`metalearn reproduce` of several runs that differ in their seed: each is compared with the paper, then their mean. Accuracies are in percent."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from metalearn.errors import UserError
from metalearn.intervals import interval95
from metalearn.runs.reference import Row
from metalearn.runs.reproduce import Paper, compared_with_paper, other_question

_OF_THE_PAPER = ("experiment", "paper", "table", "url", "interval_over", "differences")
FILE = "reproduction.json"


def reproduce_seeds(
    runs: Sequence[tuple[Path, dict[str, Any]]],
    paper: Paper,
    folder: Path | None = None,
) -> dict[str, Any]:
    """Scores finished runs as the paper does, prints one table of their means, and writes `reproduction.json` beside each run.

    Args:
        runs: run directories with their configurations, each with another seed.
        folder: where `reproduction.json` of the whole is written, such as the sweep's directory; None: nowhere.

    Returns:
        The record of the whole: `seeds`, `runs`, and `rows` with `ours` (mean over seeds), `std`, `ci95_seeds`, `ci95`, `ci95_classes`, `each`,
        `verdict`.

    Raises:
        UserError: a run is not finished, two have one seed, or one cannot be evaluated as a row wants.
        RunFailed: test tasks have no score, or a file cannot be written; the console said so.
    """
    from metalearn.report import reproductions as shown
    from metalearn.report import terminal
    from metalearn.runs.evaluation import write_or_say

    _check_seeds(runs)
    records = []
    for path, config in runs:
        terminal.say(f"seed {config['seed']}: {path}")
        record = compared_with_paper(path, config, paper)
        write_or_say(path / FILE, record)
        records.append(record)
    whole = over_seeds(records, other_question(paper.protocol, runs[0][1]))
    whole["runs"] = [os.path.relpath(path, folder) if folder else str(path) for path, _ in runs]
    shown.over_seeds(whole)
    if folder is not None:
        write_or_say(folder / FILE, whole)
        terminal.say(f"written to: {folder / FILE}, and to {FILE} of each run")
    return whole


def over_seeds(records: Sequence[dict[str, Any]], incomparable: Sequence[str]) -> dict[str, Any]:
    """The records of several runs, one for each seed, as one.

    Args:
        records: what `reproduce_run` writes, of the same experiment.
        incomparable: changed settings with which the number cannot be compared with the published one.
    """
    first = records[0]
    changed = {key: value for record in records for key, value in record["changed"].items()}
    return {
        **{key: first[key] for key in _OF_THE_PAPER},
        "date": f"{datetime.now():%Y-%m-%d}",
        "seeds": [record["seed"] for record in records],
        "rows": [_mean(rows, incomparable) for rows in zip(*(record["rows"] for record in records), strict=True)],
        "overrides": first["overrides"],
        "changed": changed,
    }


def _mean(rows: Sequence[dict[str, Any]], incomparable: Sequence[str]) -> dict[str, Any]:
    """One row of the paper over the seeds.

    All seeds are tested on the same tasks. The interval of their mean over tasks (or classes) is at most as wide as the mean of their intervals:
    the standard deviation of a sum is at most the sum of the standard deviations. This mean is what is written. For the verdict, the seeds add
    to it as an independent source.
    """
    first, ours = rows[0], [row["ours"] for row in rows]
    row = Row(**{name: first[name] for name in Row._fields if name in first})  # older records lack the last ones
    higher = first.get("higher_is_better", True)  # records of earlier versions are of accuracies
    if any(score is None for score in ours):
        empty = dict.fromkeys(("ours", "std", "ci95_seeds", "ci95", "ci95_classes", "difference"))
        return {**first, **empty, "each": ours, "verdict": row.verdict(None, 0.0, incomparable, higher)}
    mean = statistics.fmean(ours)
    ci95, classes = (_mean_of([one[key] for one in rows]) for key in ("ci95", "ci95_classes"))
    of_seeds = interval95(ours) if len(ours) > 1 else None
    return {
        **first,
        "ours": mean,
        "std": statistics.stdev(ours) if len(ours) > 1 else None,
        "ci95_seeds": of_seeds,
        "ci95": ci95,
        "ci95_classes": classes,
        "each": ours,
        "difference": None if row.reported is None else mean - row.reported,
        "verdict": row.verdict(mean, math.hypot(classes or ci95 or 0.0, of_seeds or 0.0), incomparable, higher),
    }


def _mean_of(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return statistics.fmean(there) if len(there) == len(values) else None


def _check_seeds(runs: Sequence[tuple[Path, dict[str, Any]]]) -> None:
    seeds: dict[Any, Path] = {}
    for path, config in runs:
        if (other := seeds.setdefault(config["seed"], path)) != path:
            raise UserError(f"'{other}' and '{path}' have the same seed, {config['seed']}")
