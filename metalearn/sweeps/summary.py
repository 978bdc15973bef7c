"""What came out of a sweep: a row for every job, a row for every group of seeds, as CSV, JSON and Markdown beside the jobs."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Iterable
from typing import Any, NamedTuple

from metalearn.config.tree import leaves
from metalearn.intervals import interval95
from metalearn.kinds import CLASSIFICATION, Scale, scale_of
from metalearn.report import terminal
from metalearn.report.results import sweep_table
from metalearn.report.seen import marks, pretraining_mark
from metalearn.report.text import duration, markdown_table
from metalearn.runs import directory as files
from metalearn.status import Status
from metalearn.sweeps.directory import SweepDir

_BEST = "  (best)"


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


def report(sweep: SweepDir) -> list[dict[str, Any]]:
    """Writes the summary and prints its tables, the best on top; returns the rows of the jobs in the order of the sweep."""
    rows = write_summary(sweep)
    columns, searched, over_seeds = _Columns.of(rows), sweep.search() is not None, seed_rows(rows)
    head = [*columns.head, *_head(rows, searched), "directory"]
    best = None if over_seeds or searched else best_of(rows)
    sweep_table(
        head,
        [
            [*columns.cells(row), *_cells(row, searched, best, _have_likelihood(rows)), str(sweep.run_dir(row["job"]))]
            for row in _shown(sweep, rows)
        ],
        status_column=len(columns.head),
    )
    if over_seeds:
        columns, best = _Columns.of(over_seeds), best_of(over_seeds)
        terminal.say("over seeds:")
        sweep_table(
            [*columns.head, *_seed_head(over_seeds)],
            [[*columns.cells(row), *_seed_cells(row, best)] for row in by_score(over_seeds)],
        )
    terminal.say(f"summary: {sweep.path / 'summary.md'} (and .csv, .json)")
    return rows


def score_text(row: dict[str, Any]) -> str:
    """`95.20 ± 0.31 %`, or nothing for a job without a result; transductive ones say so."""
    kind = _scale(row)
    score = row[kind.score]
    transductive = " (transductive)" if row["transductive"] else ""
    return "" if score is None else kind.text(score, row["ci95"]) + transductive + marks(row)


def val_text(row: dict[str, Any]) -> str:
    """`95.20 %`, the best validation, or nothing for a job without one."""
    kind = _scale(row)
    score = row[f"val_{kind.score}"]
    return "" if score is None else kind.text(score)


def seconds_text(row: dict[str, Any]) -> str:
    """`1:02:03`, or nothing for a job that has not ended."""
    return "" if row["seconds"] is None else duration(row["seconds"])


def by_score(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of jobs, or of groups of seeds, the best test score first; those without one follow in their order."""
    return sorted(rows, key=_score_rank)


def best_of(rows: list[dict[str, Any]]) -> str | None:
    """The name of the row with the best test score; None where fewer than two have one."""
    scored = [row for row in rows if row[_scale(row).score] is not None]
    return by_score(scored)[0]["job"] if len(scored) > 1 else None


class _Columns(NamedTuple):
    """What tells the rows of a table apart: one column for every setting that varies; the name where none does."""

    keys: list[str]  # the settings

    @classmethod
    def of(cls, rows: list[dict[str, Any]]) -> _Columns:
        return cls(list(dict.fromkeys(key for row in rows for key in row["choices"])))

    @property
    def head(self) -> list[str]:
        return self.keys or ["job"]

    def cells(self, row: dict[str, Any]) -> list[str]:
        if not self.keys:
            return [str(row["job"])]
        return [_value_text(row["choices"][key]) if key in row["choices"] else "" for key in self.keys]


def _value_text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _kind(results: Iterable[dict[str, Any]]) -> Scale:
    """The kind of the tasks that the jobs are about; the jobs of a sweep that are compared share it."""
    known = (result for result in results if result.get("kind") or result.get("test") or result.get("val"))
    return next((scale_of(result) for result in known), CLASSIFICATION)


def _scale(row: dict[str, Any]) -> Scale:
    return scale_of({"kind": row["scale"]})


def _rank(row: dict[str, Any]) -> tuple[bool, bool, float]:
    """How a trial is ordered: validation decides, and only among those trained to their end; of equal ones the earlier stays first."""
    kind = _scale(row)
    score = row[f"val_{kind.score}"]
    return row["status"] != Status.DONE, score is None, (-1 if kind.higher_is_better else 1) * (score or 0.0)


def _score_rank(row: dict[str, Any]) -> tuple[bool, float]:
    kind = _scale(row)
    score = row[kind.score]
    return score is None, (-1 if kind.higher_is_better else 1) * (score or 0.0)


def _shown(sweep: SweepDir, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As tables show them: the best first. A search has ordered its trials by validation."""
    return rows if sweep.search() is not None else by_score(rows)


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
    kind, choices = _scale(group[0]), _without_seed(group[0]["choices"])
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


def _csv(rows: list[dict[str, Any]], over_seeds: list[dict[str, Any]]) -> str:
    varied = list(dict.fromkeys(key for row in rows for key in row["choices"]))
    score = _score_name(rows)
    columns = [score, "ci95", "ci95_classes", "std", "seeds", f"val_{score}", "steps", "seconds", "directory", "error"]
    columns[3:3] = ["nll"] if any(row.get("nll") is not None for row in rows) else []
    columns += ["transductive"] if any(row["transductive"] for row in rows) else []
    columns += [name for name in ("seen_classes", "seen_in_pretraining") if any(row.get(name) for row in rows)]
    text = io.StringIO()
    writer = csv.DictWriter(text, ["kind", "job", *varied, "status", *columns], extrasaction="ignore")
    writer.writeheader()
    for kind, some in (("job", rows), ("seeds", over_seeds)):
        for row in some:
            seen = pretraining_mark(row.get("seen_in_pretraining"))
            writer.writerow({**row, "seen_in_pretraining": seen, "kind": kind, **row["choices"]})
    return text.getvalue()


def _markdown(sweep: SweepDir, rows: list[dict[str, Any]], over_seeds: list[dict[str, Any]]) -> str:
    searched, columns = sweep.search() is not None, _Columns.of(rows)
    best = None if over_seeds or searched else best_of(rows)
    cells = [
        [
            f"[{row['job'].partition('-')[0] if searched else 'run'}]({row['directory']})",
            *columns.cells(row),
            *_cells(row, searched, best, _have_likelihood(rows)),
            row["error"] or "",
        ]
        for row in _shown(sweep, rows)
    ]
    jobs = markdown_table(["run", *columns.head, *_head(rows, searched), "error"], cells)
    lines = [f"# {sweep.path.name}", "", *jobs]
    if over_seeds:
        columns, best = _Columns.of(over_seeds), best_of(over_seeds)
        means = [[*columns.cells(row), *_seed_cells(row, best)] for row in by_score(over_seeds)]
        lines = [lines[0], "", *markdown_table([*columns.head, *_seed_head(over_seeds)], means), "", *jobs]
    return "\n".join(lines) + "\n"


def _score_name(rows: list[dict[str, Any]]) -> str:
    return _scale(rows[0]).score if rows else CLASSIFICATION.score


def _head(rows: list[dict[str, Any]], searched: bool) -> list[str]:
    likelihood = ["nll"] if _have_likelihood(rows) else []
    return ["status", *(["validation"] if searched else []), _score_name(rows), *likelihood, "time"]


def _cells(row: dict[str, Any], searched: bool, best: str | None, likelihood: bool) -> list[str]:
    """The cells under `_head`; `likelihood`: whether one of them is `nll`."""
    score = score_text(row) + (_BEST if row["job"] == best else "")
    nll = ["" if row["nll"] is None else f"{row['nll']:.4f}"] if likelihood else []
    return [row["status"], *([val_text(row)] if searched else []), score, *nll, seconds_text(row)]


def _have_likelihood(rows: list[dict[str, Any]]) -> bool:
    """Whether a job predicted distributions of numbers."""
    return any(row["nll"] is not None for row in rows)


def _seed_head(rows: list[dict[str, Any]]) -> list[str]:
    return ["seeds", f"mean {_score_name(rows)}, ± 95 % interval over seeds", "standard deviation"]


def _seed_cells(row: dict[str, Any], best: str | None) -> list[str]:
    std = "" if row["std"] is None else _scale(row).text(row["std"])
    return [row["status"], score_text(row) + (_BEST if row["job"] == best else ""), std]
