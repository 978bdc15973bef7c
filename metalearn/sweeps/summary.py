"""The rows of a sweep as CSV, JSON and Markdown beside the jobs, and as tables on the console."""

from __future__ import annotations

import csv
import io
import json
from typing import Any, NamedTuple

from metalearn.kinds import CLASSIFICATION
from metalearn.report import terminal
from metalearn.report.results import sweep_table
from metalearn.report.seen import marks, pretraining_mark
from metalearn.report.text import duration, markdown_table
from metalearn.runs import directory as files
from metalearn.sweeps.directory import SweepDir
from metalearn.sweeps.rows import job_rows, scale_in, seed_rows

_BEST = "  (best)"


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
    kind = scale_in(row)
    score = row[kind.score]
    transductive = " (transductive)" if row["transductive"] else ""
    return "" if score is None else kind.text(score, row["ci95"]) + transductive + marks(row)


def val_text(row: dict[str, Any]) -> str:
    """`95.20 %`, the best validation, or nothing for a job without one."""
    kind = scale_in(row)
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
    scored = [row for row in rows if row[scale_in(row).score] is not None]
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


def _score_rank(row: dict[str, Any]) -> tuple[bool, float]:
    kind = scale_in(row)
    score = row[kind.score]
    return score is None, (-1 if kind.higher_is_better else 1) * (score or 0.0)


def _shown(sweep: SweepDir, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As tables show them: the best first. A search has ordered its trials by validation."""
    return rows if sweep.search() is not None else by_score(rows)


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
    return scale_in(rows[0]).score if rows else CLASSIFICATION.score


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
    std = "" if row["std"] is None else scale_in(row).text(row["std"])
    return [row["status"], score_text(row) + (_BEST if row["job"] == best else ""), std]
