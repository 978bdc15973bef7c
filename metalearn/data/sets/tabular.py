"""Your own tables: a CSV file of numbers, whose rows belong to tasks: to cities, patients, machines. What is learned is to predict some columns
from others for a task of which a few rows are known.

A task is drawn from the rows of one value of the task column; support and query points are different rows. Inputs and targets are standardised by
the mean and the deviation of the training tasks' rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metalearn.data.base import Dataset, TaskSource, TrainedOn
from metalearn.data.classes import ClassId, ClassSplit
from metalearn.data.columns import Columns
from metalearn.data.files.published import About
from metalearn.data.numbers import Stream, unit
from metalearn.data.own.table import Table, checked_file, read_table
from metalearn.data.own.task_rows import SPLIT, TaskRows, divided
from metalearn.data.source import distinct
from metalearn.errors import UserError, nearest
from metalearn.kinds import REGRESSION
from metalearn.sizes import count_text
from metalearn.tasks import Examples, Shape, TaskBatch, TaskShape

ABOUT = About("your own table, a CSV file", "", "yours", by_hand="dataset.file=PATH names your table")
_AT_ONCE = 65536  # rows that `every_example` gives together


def load(
    file: str | None,
    task: str,
    target: str | Sequence[str],
    inputs: Sequence[str] | None,
    split: str,
    split_seed: int,
    val_share: float,
    test_share: float,
    min_rows: int | None,
    standardize: bool,
    origin: str,
) -> Tabular:
    """The tasks of a CSV file.

    Args:
        file: its first line names the columns.
        task: the column that names the task of each row.
        target: the columns to predict.
        inputs: the columns to predict them from; None: all others that hold numbers.
        split: "auto" (as the column `split` says, where there is one, else drawn), "given", "random", or "test_only": all tasks are for test.
        split_seed: of a division that is drawn.
        val_share, test_share: of the tasks, in a division that is drawn.
        min_rows: leaves out tasks of fewer rows, before they are divided.
        standardize: inputs and targets, by the training tasks' mean and deviation.
        origin: what the names of the tasks belong to; "auto": the name of the file.

    Raises:
        UserError: the file, a column or a cell is not what it must be, or there are too few tasks.
    """
    path = checked_file(file, "dataset.file")
    targets = [target] if isinstance(target, str) else list(target)
    _check_names(task, targets, inputs)
    asked = dict.fromkeys(targets, "dataset.target") | dict.fromkeys(inputs or (), "dataset.inputs")
    table = read_table(path, {task: "dataset.task"}, asked, (SPLIT,), others=inputs is None)
    chosen = tuple(inputs or (name for name in table.numbers if name not in targets))
    if not chosen:
        raise UserError(f"{path.name} has no column of numbers beside dataset.task={task} and dataset.target")
    belongs = f"tabular-{path.stem}".replace(":", "-") if origin == "auto" else origin
    if ":" in belongs:
        raise UserError(f"dataset.origin={origin} is not allowed (a name without colon)")
    rows = TaskRows.of(table, table.labels[task], min_rows or 1)
    division = divided(table, rows, task, split, split_seed, (val_share, test_share))
    columns = Columns.plain(len(chosen), len(targets))
    columns = replace(columns, inputs=chosen, targets=tuple(targets), task=task)
    dataset = Tabular(table, rows, division, columns, belongs, standardize)
    return dataset.standardized() if standardize else dataset


class Tabular(Dataset):
    """The tasks of a table. Its classes are the values of the task column: the families that tasks are drawn from."""

    def __init__(
        self, table: Table, rows: TaskRows, split: ClassSplit, columns: Columns, origin: str, standardize: bool
    ) -> None:
        self.name, self.kind = "tabular", REGRESSION
        self.input_shape, self.outputs = (len(columns.inputs),), len(columns.targets)
        self.columns = columns
        self._table, self._rows, self._division, self._origin = table, rows, split, origin
        self._standardize = standardize
        self.split = TableSplit(split.name, self._hash())

    def _hash(self) -> str:
        """Changes with the division, the columns and the numbers: what test tasks are made of."""
        content = hashlib.sha256(self._division.sha256.encode())
        for name in (*self.columns.inputs, "", *self.columns.targets):
            content.update(name.encode() + b"\0")
            if name:
                content.update(np.ascontiguousarray(self._table.numbers[name]).data)
        return content.hexdigest()

    def standardized(self) -> Tabular:
        """Its numbers by the mean and deviation of the training tasks' rows."""
        found, _ = self._rows.of_tasks(self._division.classes["train"])
        if not len(found):  # only tasks to test a model on, which brings its own units
            return self
        x, y = self._numbers("inputs", found), self._numbers("targets", found)
        columns = Columns.fitted(x, y, self.columns.inputs, self.columns.targets, self.columns.task)
        constant = [name for name, values in zip(columns.targets, y.T, strict=True) if values.min() == values.max()]
        if constant:
            raise UserError(f"dataset.target={constant[0]}: all rows of the training tasks have {y[0, 0]:g} there")
        return self._with(columns)

    def _with(self, columns: Columns) -> Tabular:
        return Tabular(self._table, self._rows, self._division, columns, self._origin, self._standardize)

    def _numbers(self, which: str, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        return self._table.matrix(getattr(self.columns, which))[rows]

    def check(self, split: str, shape: Shape) -> None:
        """See Dataset."""
        key = "task.train" if split == "train" else "task"
        if shape.ways != 1:
            raise UserError(
                f"{key}.ways={shape.ways}: the tasks of {self.name} have no classes (needed: 1, as task=10shot_regression has it)"
            )
        assert isinstance(shape, TaskShape)  # the data set does not say that its tasks vary
        names = self._division.classes[split]
        if not names:
            raise UserError(f"{self._table.name} has no {split} task")
        _, counts = self._rows.of_tasks(names)
        needed, least = shape.shots + shape.queries, int(counts.argmin())
        if counts[least] < needed:
            fewer = int((counts < needed).sum())
            more = f" and {fewer - 1} more of the {split} tasks have too few" if fewer > 1 else ""
            raise UserError(
                f"{key}.shots={shape.shots} + {key}.queries={shape.queries} need {needed} rows of every task, '{names[least]}' has "
                f"{counts[least]}{more} (dataset.min_rows={needed} leaves such tasks out)"
            )

    def source(
        self, split: str, seed: int, device: torch.device, augment: Mapping[str, float] | None = None
    ) -> TaskSource:
        """See Dataset."""
        self.check_augment(augment or {})
        rows, counts = self._rows.of_tasks(self._division.classes[split])
        x, y = (self.columns.of_model(self._numbers(which, rows), which).to(device) for which in ("inputs", "targets"))
        return TableTasks(self, split, Stream(seed, split), x, y, counts)

    def classes(self, split: str) -> tuple[ClassId, ...]:
        """The tasks' names: what a task of the stream is drawn from."""
        return tuple(ClassId(self._origin, name) for name in self._division.classes[split])

    def described(self, split: str) -> str:
        """See Dataset."""
        _, counts = self._rows.of_tasks(self._division.classes[split])
        if not len(counts):
            return "no task"
        each = f"{counts.min()} to {counts.max()} (median {np.median(counts):g})"
        size = f"{count_text(len(counts), 'task')}, {count_text(int(counts.sum()), 'row')}"
        return f"{size}, {each} a task; shots and queries together {counts.min()} at most"

    @property
    def trained_on(self) -> TrainedOn:
        return TrainedOn(
            self.input_shape,
            len(self.classes("train")),
            form=self.form,
            outputs=self.outputs,
            columns=self.columns.record(),
        )

    def brought_to(self, trained_on: TrainedOn) -> Tabular:
        """The columns that a model was trained on, in its units."""
        if trained_on.columns is None:
            raise UserError(f"the model was trained on data without named columns, {self._table.name} has some")
        columns = Columns.of(trained_on.columns)
        for name in (*columns.inputs, *columns.targets):
            if name not in self._table.numbers:
                raise UserError(
                    f"the model was trained with the column '{name}', which {self._table.name} does not have as numbers"
                    f"{nearest(name, self._table.numbers)}"
                )
        return self._with(columns)

    @property
    def notes(self) -> tuple[str, ...]:
        columns, left = self.columns, [name for name in self._table.others if name]
        about = f"inputs {', '.join(columns.inputs)}" + (f"; not numbers, left out: {', '.join(left)}" if left else "")
        if not columns.standardized:
            return (about, "mse is in the units of the table, squared")
        units = ", ".join(
            f"{std**2:.4g} of {name}" for name, std in zip(columns.targets, columns.target_std, strict=True)
        )
        return (
            about,
            f"mse is of standardised targets: 1 is their variance over the training tasks' rows ({units}, in the table's units squared)",
        )


@dataclass(frozen=True)
class TableSplit:
    """See Split."""

    name: str
    sha256: str


class TableTasks(TaskSource):
    """The tasks of one split. Of the random numbers of task i, the first one draws its value of the task column, the others its rows.

    Args:
        x, y: standardised rows [n, d] and [n, D], task by task.
        counts: rows of each value of the task column.
    """

    def __init__(
        self, dataset: Tabular, split: str, stream: Stream, x: Tensor, y: Tensor, counts: NDArray[np.int64]
    ) -> None:
        self.name, self.kind, self.split, self.device = dataset.name, dataset.kind, split, x.device
        self.classes = dataset.classes(split)
        self._columns, self._stream, self._x, self._y, self._counts = dataset.columns, stream, x, y, counts
        self._starts = np.cumsum(counts) - counts

    def tasks(self, first: int, count: int, shape: Shape) -> TaskBatch:
        """See TaskSource: x [count, K, d], y [count, K, D] of the support set, Q of the query set."""
        assert isinstance(shape, TaskShape)
        points = shape.shots + shape.queries
        numbers = unit(self._stream.words(first, count, 1 + points, purpose=0))
        families = (numbers[:, 0] * len(self._counts)).astype(np.int64)  # [T]
        rows = self._starts[families, None] + distinct(numbers[:, 1:], self._counts[families])  # [T, K + Q]
        found = torch.from_numpy(rows).to(self.device, non_blocking=True)
        x, y = self._x[found], self._y[found]
        return TaskBatch(
            support=Examples(x[:, : shape.shots], y[:, : shape.shots], y.shape[-1]),
            query=Examples(x[:, shape.shots :], y[:, shape.shots :], y.shape[-1]),
            classes=torch.from_numpy(families[:, None]).to(self.device, non_blocking=True),
        )

    def every_example(self) -> Iterator[Tensor]:
        """See TaskSource."""
        yield from torch.split(self._x, _AT_ONCE)

    def further_scores(self, tasks: TaskBatch, outputs: Tensor) -> dict[str, Tensor]:
        """Of each target, `mse_NAME` and `mae_NAME` in the table's units, where the score is of standardised ones: [T]."""
        if not self._columns.standardized:
            return {}
        error = self._columns.in_units(outputs) - self._columns.in_units(tasks.query.y)
        found: dict[str, Tensor] = {}
        for i, name in enumerate(self._columns.targets):
            found |= {f"mse_{name}": error[..., i].square().mean(1), f"mae_{name}": error[..., i].abs().mean(1)}
        return found


def _check_names(task: str, targets: Sequence[str], inputs: Sequence[str] | None) -> None:
    """Raises UserError where one column is to be two things."""
    names = [task, *targets, *(inputs or ())]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"dataset.task, dataset.target and dataset.inputs name the column '{twice}' twice")
