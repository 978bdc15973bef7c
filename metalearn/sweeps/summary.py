"""What came out of a sweep: a row for every job, a row for every group of seeds, as CSV, JSON and Markdown beside the jobs."""

from __future__ import annotations

import csv
import io
import math
import statistics
from typing import Any

from metalearn.runs import directory as files
from metalearn.sweeps.directory import SweepDir

# The 97.5 % point of Student's t for 1, 2, ... 30 degrees of freedom: with few seeds the normal's 1.96 is far too small.
_T = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
_COLUMNS = ("accuracy", "ci95", "std", "seeds", "val_accuracy", "steps", "seconds", "directory", "error")


def job_rows(sweep: SweepDir) -> list[dict[str, Any]]:
    """One row for every job, in the order of the sweep, of a search the best trial first; accuracies are fractions, ci95 is over test tasks."""
    rows = [_job_row(sweep, name, choices) for name, choices in sweep.choices().items()]
    return rows if sweep.search() is None else sorted(rows, key=_rank)


def seed_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Jobs that differ in their seed alone, together: mean accuracy, and ci95 and standard deviation over the seeds that are done."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if "seed" in row["choices"]:
            groups.setdefault(str(sorted(_without_seed(row["choices"]).items())), []).append(row)
    return [_seed_row(group) for group in groups.values() if len(group) > 1]


def write_summary(sweep: SweepDir) -> list[dict[str, Any]]:
    """Writes summary.csv, summary.json and summary.md, each of them atomically; returns the rows of the jobs."""
    with sweep.exclusive():  # else an older state might be written over a newer one
        rows = job_rows(sweep)
        over_seeds = seed_rows(rows)
        record = {"sweep": sweep.path.name, "commands": sweep.commands(), "jobs": rows, "over_seeds": over_seeds}
        files.write_json(sweep.path / "summary.json", record)
        files.write_text(sweep.path / "summary.csv", _csv(rows, over_seeds))
        files.write_text(sweep.path / "summary.md", _markdown(sweep, rows, over_seeds))
    return rows


def accuracy_text(row: dict[str, Any]) -> str:
    """`95.20 ± 0.31 %`, or nothing for a job without a result."""
    if row["accuracy"] is None:
        return ""
    interval = "" if row["ci95"] is None else f" ± {100 * row['ci95']:.2f}"
    return f"{100 * row['accuracy']:.2f}{interval} %"


def val_text(row: dict[str, Any]) -> str:
    """`95.20 %`, the best validation, or nothing for a job without one."""
    return "" if row["val_accuracy"] is None else f"{100 * row['val_accuracy']:.2f} %"


def seconds_text(seconds: float | None) -> str:
    """`1:02:03`, or nothing."""
    if seconds is None:
        return ""
    minutes, left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"


def _rank(row: dict[str, Any]) -> tuple[bool, bool, float]:
    """Of a trial: validation decides, and only among those that were trained to their end; of equal ones the earlier stays first."""
    accuracy = row["val_accuracy"]
    return row["status"] != "done", accuracy is None, -(accuracy or 0.0)


def _job_row(sweep: SweepDir, name: str, choices: dict[str, Any]) -> dict[str, Any]:
    status = sweep.status(name)
    results = sweep.results(name) or {}
    test, train = results.get("test") or {}, results.get("train") or {}
    return {
        "job": name,
        "status": status,
        "choices": choices,
        "accuracy": test.get("accuracy"),
        "ci95": test.get("ci95"),
        "val_accuracy": (results.get("val") or {}).get("accuracy"),
        "steps": train.get("steps"),
        "seconds": train["seconds"] + test.get("seconds", 0.0) if train else None,
        "directory": name,
        "error": sweep.error(name) if status in ("failed", "diverged", "interrupted") else None,
    }


def _seed_row(group: list[dict[str, Any]]) -> dict[str, Any]:
    choices = _without_seed(group[0]["choices"])
    accuracies = [row["accuracy"] for row in group if row["accuracy"] is not None and row["status"] == "done"]
    std = statistics.stdev(accuracies) if len(accuracies) > 1 else None
    return {
        "job": ", ".join(f"{key}={value}" for key, value in choices.items()) or "all",
        "status": f"{len(accuracies)} of {len(group)} done",
        "choices": choices,
        "accuracy": statistics.fmean(accuracies) if accuracies else None,
        "ci95": None if std is None else _t(len(accuracies) - 1) * std / math.sqrt(len(accuracies)),
        "std": std,
        "seeds": len(accuracies),
    }


def _without_seed(choices: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in choices.items() if key != "seed"}


def _t(degrees_of_freedom: int) -> float:
    return _T[degrees_of_freedom - 1] if degrees_of_freedom <= len(_T) else 1.96 + 2.5 / degrees_of_freedom


def _csv(rows: list[dict[str, Any]], over_seeds: list[dict[str, Any]]) -> str:
    varied = list(dict.fromkeys(key for row in rows for key in row["choices"]))
    text = io.StringIO()
    writer = csv.DictWriter(text, ["kind", "job", *varied, "status", *_COLUMNS], extrasaction="ignore")
    writer.writeheader()
    for kind, some in (("job", rows), ("seeds", over_seeds)):
        for row in some:
            writer.writerow({**row, "kind": kind, **row["choices"]})
    return text.getvalue()


def _markdown(sweep: SweepDir, rows: list[dict[str, Any]], over_seeds: list[dict[str, Any]]) -> str:
    searched = sweep.search() is not None
    head = ["job", "status", *(["validation"] if searched else []), "accuracy", "time", "error"]
    lines = [f"# {sweep.path.name}", "", *_table(head, (_job_cells(row, searched) for row in rows))]
    if over_seeds:
        head = ["over seeds", "seeds", "mean accuracy, ± 95 % interval over seeds", "standard deviation"]
        lines += ["", *_table(head, map(_seed_cells, over_seeds))]
    return "\n".join(lines) + "\n"


def _job_cells(row: dict[str, Any], searched: bool) -> list[str]:
    name = f"[{row['job']}]({row['directory']})"
    validation = [val_text(row)] if searched else []
    return [name, row["status"], *validation, accuracy_text(row), seconds_text(row["seconds"]), row["error"] or ""]


def _seed_cells(row: dict[str, Any]) -> list[str]:
    std = "" if row["std"] is None else f"{100 * row['std']:.2f} %"
    return [row["job"], row["status"], accuracy_text(row), std]


def _table(head: list[str], rows: Any) -> list[str]:
    cells = [[" ".join(cell.replace("|", "\\|").split()) for cell in row] for row in rows]
    return [f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *cells]]
