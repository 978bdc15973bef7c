"""How a grid of evaluations is shown: lines while it is computed, a table, CSV. The record is what its file holds."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metalearn.kinds import Scale, scale_of
from metalearn.report import terminal
from metalearn.report.comparison import setting_text
from metalearn.report.results import gain_text
from metalearn.report.seen import marks
from metalearn.report.text import duration
from metalearn.sizes import count_text
from metalearn.status import Status

Record = Mapping[str, Any]
_FIXED = 11  # columns behind those that say what a row is


def show(record: Record) -> None:
    """Prints what was tested, the table, and what a reader has to know."""
    for line in heading(record):
        terminal.say(line)
    head, rows = table(record)
    terminal.table(head, rows, lambda column, cell: "red" if head[column] == "note" and cell else "")
    for line in remarks(record):
        terminal.say(line)


def is_done(cell: Record) -> bool:
    """Whether it has a score."""
    return bool(cell["status"] == Status.DONE and cell.get("test"))


def heading(record: Record) -> list[str]:
    """A line for each run: what it is, where it lies, what it was tested on."""
    lines = []
    for run in record["runs"]:
        done = [cell for cell in record["cells"] if cell["run"] == run and is_done(cell)]
        if not done:
            continue
        first = done[0]
        tested = ", ".join(dict.fromkeys(f"{cell['dataset']} ({cell['split']['name']})" for cell in done))
        tasks = "/".join(dict.fromkeys(count_text(cell["test"]["tasks"], "task") for cell in done))
        name = f"{run_name(record, run)}: " if len(record["runs"]) > 1 else ""
        lines.append(
            f"{name}{first['algorithm']}, {first['backbone']}, seed {first['seed']} ({run}); tested on {tested}, {tasks}, "
            f"{'/'.join(dict.fromkeys(cell['test']['checkpoint'] for cell in done))} checkpoint"
        )
    return lines


def run_name(record: Record, run: str) -> str:
    """The algorithm where that tells the runs apart, else the directory's name, else the whole path."""
    of_runs = {one: _algorithm(record, one) for one in record["runs"]}
    for names in (of_runs, {one: Path(one).name for one in record["runs"]}):
        if names[run] and list(names.values()).count(names[run]) == 1:
            return str(names[run])
    return run


def _algorithm(record: Record, run: str) -> str | None:
    return next(
        (str(cell["algorithm"]) for cell in record["cells"] if cell["run"] == run and "algorithm" in cell), None
    )


def short_keys(record: Record) -> dict[str, str]:
    """The varied settings by their last word, or as they are where that is not enough."""
    lasts = [key.rpartition(".")[2] for key in record["varied"]]
    return {key: last if lasts.count(last) == 1 else key for key, last in zip(record["varied"], lasts, strict=True)}


def table(record: Record) -> tuple[list[str], list[list[str]]]:
    """The head and the rows, a row for each cell; columns without a word are left out."""
    kinds = {scale_of(cell) for cell in record["cells"] if is_done(cell)}
    score, drawn = (next(iter(kinds)).score, next(iter(kinds)).drawn) if len(kinds) == 1 else ("score", "classes")
    keys = short_keys(record)
    head = [
        *(["run"] if len(record["runs"]) > 1 else []),
        *keys.values(),
        f"{score} ± over tasks",
        f"± over {drawn}",
        *("before", "alone", "gain", "ECE", "NLL", "Brier", "transductive", "time", "note"),
    ]
    rows = [
        [
            *([run_name(record, cell["run"])] if len(record["runs"]) > 1 else []),
            *(setting_text(cell["choices"].get(key), key in cell["choices"]) for key in keys),
            *_numbers(cell),
            note(cell),
        ]
        for cell in record["cells"]
    ]
    # Where it is varied, true and false stand in the first columns already.
    told = all(isinstance(cell["choices"].get("eval.transductive"), bool) for cell in record["cells"])
    keep = [
        place
        for place, title in enumerate(head)
        if place < len(head) - _FIXED or (any(row[place] for row in rows) and not (told and title == "transductive"))
    ]
    return [head[place] for place in keep], [[row[place] for place in keep] for row in rows]


def _numbers(cell: Record) -> list[str]:
    """Score, interval over classes, score before adaptation, ECE, NLL, Brier, transductive, time."""
    if not is_done(cell):
        return [""] * 10
    kind, test = scale_of(cell), cell["test"]
    calibration, before = test.get("calibration") or {}, test.get(f"{kind.score}_before")
    classes = test.get("ci95_classes")
    return [
        kind.text(test[kind.score], test["ci95"]),
        "" if classes is None else kind.text(classes, digits=kind.digits(test[kind.score])),
        "" if before is None else kind.text(before, digits=1 if kind.percent else None),
        *_of_ensemble(kind, test.get("ensemble")),
        "" if calibration.get("ece") is None else f"{100 * calibration['ece']:.2f} %",
        _likelihood(test),
        "" if calibration.get("brier") is None else f"{calibration['brier']:.4f}",
        "yes" if test["transductive"] else "no",
        duration(cell["seconds"]),
    ]


def _likelihood(test: Record) -> str:
    """The mean log loss of classes, or of numbers that are predicted as distributions with its interval over tasks."""
    if likelihood := (test.get("further") or {}).get("nll"):
        return f"{likelihood['mean']:.4f} ± {likelihood['ci95']:.4f}"
    found = (test.get("calibration") or {}).get("nll")
    return "" if found is None else f"{found:.4f}"


def _of_ensemble(kind: Scale, ensemble: Record | None) -> list[str]:
    """The best or last checkpoint alone, and what the ensemble gains on the same tasks."""
    if ensemble is None or ensemble["alone"]["mean"] is None:
        return ["", ""]
    alone, gain = ensemble["alone"], ensemble["difference"]
    points = f"{gain_text(kind, gain['mean'], sign=True)} ± {gain_text(kind, gain['ci95'])}"
    return [kind.text(alone["mean"], alone["ci95"]), points]


def note(cell: Record) -> str:
    """Why a cell has no score, or what has to be known of it."""
    if not is_done(cell):
        return str(cell["error"] or cell["status"])
    return marks(cell["test"]).strip()


def remarks(record: Record) -> list[str]:
    """The lines below the table."""
    cells = record["cells"]
    done = [cell for cell in cells if is_done(cell)]
    lines = list(dict.fromkeys(text for cell in done for text in cell.get("notes", ())))
    if done and all(cell["test"]["transductive"] for cell in done):
        lines.append("all evaluations are transductive: the queries of a task influence each other's predictions")
    elif any(cell["test"]["transductive"] for cell in done):
        lines.append(
            "transductive: the queries of a task influence each other's predictions; do not rank such numbers with others"
        )
    if earlier := sum(cell["earlier"] for cell in cells):
        lines.append(
            f"computed by an earlier call: {earlier} of {count_text(len(cells), 'cell')}; --fresh computes them again"
        )
    if missing := len(cells) - len(done):
        lines.append(f"without a score: {missing} of {count_text(len(cells), 'cell')}")
    if record.get("written"):
        lines.append(
            f"written to: {record['written']}, and eval-*.json and -tasks.npz of each cell in its run directory"
        )
    return lines


def progress_line(cell: Record, number: int, cells: int) -> str:
    """`2/4 RUN task.ways=5 task.shots=1: 97.31 ± 0.18 %`, RUN being the name of the run directory."""
    words = [Path(cell["run"]).name, *(f"{key}={setting_text(value)}" for key, value in cell["choices"].items())]
    said = _numbers(cell)[0] if is_done(cell) else note(cell)
    return f"{number}/{cells} {' '.join(words)}: {said}{' (computed earlier)' if cell['earlier'] else ''}"


_SHAPE = ("ways", "shots", "queries")
_OF_TEST = (
    "ci95",
    "ci95_classes",
    "tasks",
    "loss",
    "transductive",
    "checkpoint",
    "step",
    "adapt_steps",
    "seen_classes",
)
_LAST = ("seconds", "status", "error", "file")
_OF_CALIBRATION = ("ece", "nll", "brier")


def csv_text(record: Record) -> str:
    """One line for each cell, numbers as they are: scores are fractions."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = ("run", "algorithm", "backbone", "dataset", "seed")
    others = [key for key in record["varied"] if key not in ("dataset", *(f"task.{name}" for name in _SHAPE))]
    ensemble = ("alone", "alone_ci95", "gain", "gain_ci95")
    writer.writerow([*names, *_SHAPE, *others, "score_name", "score", *_OF_TEST, *_OF_CALIBRATION, *ensemble, *_LAST])
    for cell in record["cells"]:
        test, shape = cell.get("test") or {}, cell.get("task") or {}
        score = scale_of(cell).score if test else None
        calibration, of = test.get("calibration") or {}, test.get("ensemble") or {}
        likelihood = (test.get("further") or {}).get("nll") or {}
        pairs: Sequence[Record] = (of.get("alone") or {}, of.get("difference") or {})
        writer.writerow(
            [cell.get(name) for name in names]
            + [shape.get(name, cell["choices"].get(f"task.{name}")) for name in _SHAPE]
            + [cell["choices"].get(key) for key in others]
            + [score, test.get(score), *(test.get(name) for name in _OF_TEST)]
            + [({"nll": likelihood.get("mean")} | calibration).get(name) for name in _OF_CALIBRATION]
            + [one.get(name) for one in pairs for name in ("mean", "ci95")]
            + [cell.get("seconds"), cell["status"], cell["error"], cell["file"]]
        )
    return text.getvalue()
