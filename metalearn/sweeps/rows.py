"""What came out of a sweep: a row for every job, a row for every group of seeds."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from typing import Any

from metalearn.config.tree import leaves
from metalearn.intervals import interval95
from metalearn.kinds import CLASSIFICATION, Scale, scale_of
from metalearn.status import Status
from metalearn.sweeps.directory import SweepDir


def job_rows(sweep: SweepDir) -> list[dict[str, Any]]:
    """One row for every job, in the order of the sweep, of a search the best trial first.

    Accuracies are fractions, ci95 is over test tasks, ci95_classes over tasks and classes.
    The score stands under its kind's name: `accuracy` and `val_accuracy`, or `mse` and `val_mse`. `nll` is that of distributions of numbers.
    """
    by_job = sweep.choices() if sweep.search() is not None else _what_varies(sweep)
    results = {name: sweep.results(name) or {} for name in by_job}
    kind = _kind(results.values())
    rows = [_job_row(sweep, name, choices, results[name], kind) for name, choices in by_job.items()]
    return rows if sweep.search() is None else sorted(rows, key=_rank)


def _what_varies(sweep: SweepDir) -> dict[str, dict[str, Any]]:
    """What tells each job from the others.

    Jobs of several commands that joined one sweep, such as the tasks of an array job that set a seed each, name what their command set.
    What a job's command left out comes from its configuration, and what all of them share is left out.
    """
    by_job = sweep.choices()
    keys = list(dict.fromkeys(key for choices in by_job.values() for key in choices))
    if all(len(choices) == len(keys) for choices in by_job.values()):
        filled = by_job
    else:
        filled = {name: {**_configured(sweep.config(name), keys), **choices} for name, choices in by_job.items()}
    varied = [
        key
        for key in keys
        if key == "seed" or len({json.dumps(all_of.get(key), default=str) for all_of in filled.values()}) > 1
    ]
    if not varied:
        return by_job
    return {name: {key: all_of[key] for key in varied if key in all_of} for name, all_of in filled.items()}


def _configured(config: dict[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """The values of settings in a job's configuration; of a group such as `dataset`, the name of the choice."""
    plain = dict(leaves(config))
    names = {key: config.get("names", {}).get(key) for key in keys}
    return {key: names[key] or plain[key] for key in keys if names[key] or key in plain}


def seed_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Jobs that differ in their seed alone, together: mean score, and ci95 and standard deviation over the seeds that are done."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if "seed" in row["choices"]:
            groups.setdefault(str(sorted(_without_seed(row["choices"]).items())), []).append(row)
    return [_seed_row(group) for group in groups.values() if len(group) > 1]


def _kind(results: Iterable[dict[str, Any]]) -> Scale:
    """The kind of the tasks that the jobs are about; the jobs of a sweep that are compared share it."""
    known = (result for result in results if result.get("kind") or result.get("test") or result.get("val"))
    return next((scale_of(result) for result in known), CLASSIFICATION)


def scale_in(row: dict[str, Any]) -> Scale:
    """How the score of a row of a job, or of a group of seeds, is written."""
    return scale_of({"kind": row["scale"]})


def _rank(row: dict[str, Any]) -> tuple[bool, bool, float]:
    """How a trial is ordered: validation decides, and only among those trained to their end; of equal ones the earlier stays first."""
    kind = scale_in(row)
    score = row[f"val_{kind.score}"]
    return row["status"] != Status.DONE, score is None, (-1 if kind.higher_is_better else 1) * (score or 0.0)


def _job_row(
    sweep: SweepDir, name: str, choices: dict[str, Any], results: dict[str, Any], kind: Scale
) -> dict[str, Any]:
    status = sweep.status(name)
    test, train = results.get("test") or {}, results.get("train") or {}
    return {
        "job": name,
        "status": status,
        "choices": choices,
        "kind": kind.name,
        "scale": kind.record(),
        kind.score: test.get(kind.score),
        "ci95": test.get("ci95"),
        "ci95_classes": test.get("ci95_classes"),
        "nll": ((test.get("further") or {}).get("nll") or {}).get("mean"),
        "transductive": test.get("transductive"),
        "seen_classes": test.get("seen_classes", 0),
        "seen_in_pretraining": test.get("seen_in_pretraining"),
        f"val_{kind.score}": (results.get("val") or {}).get(kind.score),
        "steps": train.get("steps"),
        "seconds": _seconds(train, test) if train else None,
        "directory": name,
        "error": sweep.error(name) if status in (Status.FAILED, Status.DIVERGED, Status.INTERRUPTED) else None,
    }


def _seconds(train: dict[str, Any], test: dict[str, Any]) -> float:
    """Training, validation and test; runs of earlier versions do not say how long validation took."""
    return float(train["seconds"] + train.get("validation_seconds", 0.0) + test.get("seconds", 0.0))


def _seed_row(group: list[dict[str, Any]]) -> dict[str, Any]:
    kind, choices = scale_in(group[0]), _without_seed(group[0]["choices"])
    scores = [row[kind.score] for row in group if row[kind.score] is not None and row["status"] == Status.DONE]
    std = statistics.stdev(scores) if len(scores) > 1 else None
    return {
        "job": ", ".join(f"{key}={value}" for key, value in choices.items()) or "all",
        "status": f"{len(scores)} of {len(group)} done",
        "choices": choices,
        "kind": kind.name,
        "scale": kind.record(),
        kind.score: statistics.fmean(scores) if scores else None,
        "ci95": None if std is None else interval95(scores),
        "std": std,
        "seeds": len(scores),
        "transductive": any(row["transductive"] for row in group),
        "seen_classes": max(row["seen_classes"] for row in group),
        "seen_in_pretraining": group[0].get("seen_in_pretraining"),
    }


def _without_seed(choices: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in choices.items() if key != "seed"}
