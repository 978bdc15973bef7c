"""`metalearn compare`: rows of runs, each against a baseline on the same test tasks. The result is a record of plain values, as JSON holds it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from metalearn.errors import UserError
from metalearn.runs.baseline import baselines_of
from metalearn.runs.difference import holm
from metalearn.runs.filters import kept
from metalearn.runs.finding import found
from metalearn.runs.found import Found
from metalearn.runs.order import ordered
from metalearn.runs.pairing import TaskFiles, band_of, differences
from metalearn.runs.remarks import notes, warnings
from metalearn.runs.rows import NAMES, Row, differing, grouped, named, task_text


@dataclass(frozen=True)
class Wanted:
    """What `metalearn compare` is asked for; the help text says what each means."""

    paths: Sequence[str | Path]
    baseline: str | None = None
    equal: Mapping[str | None, float] = field(default_factory=dict)  # score's name -> band; None: of every score
    sort: str | None = None
    filters: Sequence[str] = ()
    top: int | None = None
    evaluations: bool = False


@dataclass(frozen=True)
class Comparison:
    """Rows in the order of the table, and what is said of them.

    Attributes:
        record: as `--json` writes it.
        rows: behind the rows of the record.
    """

    record: dict[str, Any]
    rows: list[Row]


def compare(wanted: Wanted) -> Comparison:
    """Reads the runs, groups and compares them.

    Raises:
        UserError: a path holds no run, a filter, the key to sort by or the baseline fits nothing, or the baseline fits several rows.
    """
    runs = kept(found(wanted.paths, wanted.evaluations), wanted.filters)
    if not runs:
        raise UserError("no run is left by --filter")
    rows = grouped(runs)
    columns = differing(rows)
    names = dict(zip(rows, named(rows, columns), strict=True))
    baselines = baselines_of(rows, names, wanted.baseline)
    tasks = TaskFiles()
    entries = {row: _entry(row, names[row], columns, tasks) for row in rows}
    compared = differences(rows, baselines, tasks, wanted.equal)
    adjusted = holm([math.nan if one is None or isinstance(one, str) else one.p for one in compared.values()])
    for (row, one), p in zip(compared.items(), adjusted, strict=True):
        base = baselines.get(row.family)
        entries[row] |= {
            "baseline": names[base] if base is not None else None,
            "is_baseline": row is base,
            "not_paired": one if isinstance(one, str) else tasks.why.get(row),
            "difference": None if one is None or isinstance(one, str) else {**asdict(one), "p_holm": p},
        }
    shown = ordered(rows, entries, columns, set(baselines.values()), wanted.top, wanted.sort)
    record = {
        "columns": [{"key": key, "name": short} for key, short in columns.items()],
        "rows": [entries[row] for row in shown],
        "equal": {
            kind.score: band_of(kind, wanted.equal, rows)
            for kind in {row.kind.score: row.kind for row in rows}.values()
        },
        "chosen_baseline": wanted.baseline is not None,
        "warnings": warnings(rows, names),
        "notes": notes(rows, names, tasks.partly(rows), list(tasks.faults.values()), wanted.baseline is not None),
        "left_out": [_left_out(run) for run in runs if run.score is None],
    }
    return Comparison(record, shown)


def _entry(row: Row, name: str, columns: Mapping[str, str], tasks: TaskFiles) -> dict[str, Any]:
    """A row of the record, without its difference."""
    first = row.first
    half_width, over = row.interval
    split = first.results.get("split") or {}
    return {
        "name": name,
        "label": row.label,
        "settings": {key: row.value(key) for key in columns if row.has(key)},
        **{what: first.name_of(what) for what in NAMES},
        "task": row.task,
        "task_text": task_text(row.task, row.kind),
        "kind": row.kind.record(),
        "split": split.get("name"),
        "split_sha256": split.get("sha256"),
        "eval_seed": first.eval_seed,
        "transductive": first.test.get("transductive"),
        "seen_classes": max((run.test.get("seen_classes", 0) for run in row.scored), default=0),
        "seen_in_pretraining": first.test.get("seen_in_pretraining"),
        "evaluation": first.evaluation is not None,
        "n": len(row.scored),
        "score": row.score,
        "std": row.std,
        "interval": half_width,
        "interval_over": over,
        "ci95_classes": _over_classes(row, tasks),
        "test_tasks": first.test.get("tasks"),
        "seconds": (first.results.get("train") or {}).get("seconds"),
        "status": dict(Counter(str(run.status) for run in row.runs)),
        "runs": [
            {
                "path": str(run.path),
                "file": run.file.name,
                "seed": run.seed,
                "status": str(run.status),
                "score": run.score,
            }
            for run in row.runs
        ],
    }


def _over_classes(row: Row, tasks: TaskFiles) -> float | None:
    """Half the width of the interval over classes: of a single run as its results say it, else of the mean over seeds."""
    if len(row.scored) < 2:
        width: float | None = row.first.test.get("ci95_classes")
        return width
    files = tasks.files(row)
    if len(files) < len(row.scored) or any(one.tasks != files[0].tasks for one in files):
        return None
    parts = tasks.classes(files[0], len(files[0].score))
    if len(parts) != 1 or parts[0][2] is None:
        return None
    width = parts[0][2].interval95(sum(one.score for one in files) / len(files))
    return None if math.isnan(width) else width


def _left_out(run: Found) -> dict[str, Any]:
    why = run.error or ("no score" if run.status == "done" else None)
    return {"path": str(run.path), "file": run.file.name, "status": str(run.status), "why": why}
