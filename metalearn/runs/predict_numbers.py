"""`metalearn predict` of a run that predicts numbers: it learns one function from the points of a CSV file and predicts those of others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metalearn.data.columns import Columns
from metalearn.data.own.table import Table, checked_file, header_of, read_table
from metalearn.errors import UserError
from metalearn.runs.loaded import LoadedRun
from metalearn.runs.regressor import Checked, Predicted, Regressor, check

Numbers = NDArray[np.float64]
NORMAL_95 = 1.96  # deviations of a normal distribution that hold 95 % of it


@dataclass(frozen=True)
class Learned:
    """A regressor and how it came about.

    Attributes:
        regressor: ready to predict.
        checked: support points predicted from the others; None: there is only one, or the regressor was saved by an earlier call.
        notes: what the user has to know.
        support: inputs and targets of the points that it learned from, in the units of the columns; empty where it was saved by an earlier call.
    """

    regressor: Regressor
    checked: Checked | None
    notes: tuple[str, ...]
    support: tuple[tuple[list[float], list[float]], ...] = ()


@dataclass(frozen=True)
class Queries:
    """The rows of one file.

    Attributes:
        file: as the user names it.
        x: inputs [Q, d].
        y: targets [Q, D]; None where the file has none.
    """

    file: str
    x: Numbers
    y: Numbers | None


def learn(run: LoadedRun, support: str) -> Learned:
    """Adapts the run's algorithm to the points of a CSV file with the columns of inputs and targets.

    Raises:
        UserError: the file cannot be used.
    """
    from metalearn.runs.regressor import columns_of

    columns = columns_of(run.trained_on)
    table = _table(support, "--support", columns, targets=True)
    x, y = table.matrix(columns.inputs), table.matrix(columns.targets)
    regressor = Regressor.of(run, x, y)
    points = tuple(zip(x.tolist(), y.tolist(), strict=True))
    return Learned(regressor, check(regressor, x, y), notes_of(regressor), points)


def notes_of(regressor: Regressor) -> tuple[str, ...]:
    """What the user has to know of a regressor."""
    if regressor.algorithm.transductive:
        return ("this model predicts rows together: what it says of one depends on the others of the same call",)
    return ()


def queries_of(files: Sequence[str], columns: Columns) -> list[Queries]:
    """The rows of the user's files.

    Raises:
        UserError: one of them cannot be read, or lacks an input.
    """
    found = []
    for file in files:
        names = header_of(checked_file(file, "--query"))
        targets = all(name in names for name in columns.targets)
        table = _table(file, "--query", columns, targets)
        found.append(Queries(file, table.matrix(columns.inputs), table.matrix(columns.targets) if targets else None))
    return found


def _table(file: str, flag: str, columns: Columns, targets: bool) -> Table:
    """The columns of a file; UserError where it lacks one, or where its rows are of several tasks."""
    needed = dict.fromkeys((*columns.inputs, *(columns.targets if targets else ())), "")
    path: Path = checked_file(file, flag)
    table = read_table(path, numbers=needed, if_there=[columns.task] if columns.task else [])
    if columns.task in table.labels and len(names := table.labels[columns.task].names) > 1:
        raise UserError(
            f"{flag} {file} has rows of {len(names)} tasks in its column '{columns.task}' ('{names[0]}', '{names[1]}'): predict learns one; "
            "put the rows of each into a file of its own"
        )
    return table


def record(learned: Learned, queries: Sequence[Queries]) -> dict[str, Any]:
    """All of it as plain values: what --json prints. Numbers are in the units of the columns."""
    regressor, columns = learned.regressor, learned.regressor.columns
    predicted = [regressor.predict(one.x) for one in queries]
    measured = [(one.y, found) for one, found in zip(queries, predicted, strict=True) if one.y is not None]
    return {
        "run": regressor.run,
        "step": regressor.step,
        "inputs": list(columns.inputs),
        "targets": list(columns.targets),
        "points": regressor.points,
        "transductive": regressor.algorithm.transductive,
        "notes": list(learned.notes),
        "support_check": learned.checked
        and {
            "points": learned.checked.points,
            "mse": dict(zip(columns.targets, learned.checked.mse, strict=True)),
            "mse_of_mean": dict(zip(columns.targets, learned.checked.of_mean, strict=True)),
        },
        "error": _errors(columns, measured) if measured else None,
        "predictions": [
            row for one, found in zip(queries, predicted, strict=True) for row in _rows(one, found, columns)
        ],
    }


def _errors(columns: Columns, measured: Sequence[tuple[Numbers, Predicted]]) -> dict[str, Any]:
    gap = np.concatenate([found.values.numpy() - targets for targets, found in measured])
    within = {}
    if all(found.deviations is not None for _, found in measured):
        spread = np.concatenate([found.deviations.numpy() for _, found in measured if found.deviations is not None])
        inside = np.abs(gap) <= NORMAL_95 * spread
        within = {"within_95": dict(zip(columns.targets, inside.mean(0).tolist(), strict=True))}
    return {
        "rows": len(gap),
        "mse": dict(zip(columns.targets, np.square(gap).mean(0).tolist(), strict=True)),
        "mae": dict(zip(columns.targets, np.abs(gap).mean(0).tolist(), strict=True)),
        **within,
    }


def _rows(queries: Queries, found: Predicted, columns: Columns) -> list[Mapping[str, Any]]:
    rows: list[Mapping[str, Any]] = []
    for i, (x, predicted) in enumerate(zip(queries.x.tolist(), found.values.tolist(), strict=True)):
        row: dict[str, Any] = {"file": queries.file, "row": i + 1}
        row["inputs"] = dict(zip(columns.inputs, x, strict=True))
        row["predicted"] = dict(zip(columns.targets, predicted, strict=True))
        if found.deviations is not None:
            row["deviations"] = dict(zip(columns.targets, found.deviations[i].tolist(), strict=True))
        if queries.y is not None:
            row["targets"] = dict(zip(columns.targets, queries.y[i].tolist(), strict=True))
        rows.append(row)
    return rows
