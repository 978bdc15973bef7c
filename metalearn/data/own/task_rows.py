"""The rows of a table by their task, and the division of the tasks into training, validation and test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metalearn.data.classes import SPLITS, TEST_ONLY, ClassSplit, random_split, test_only
from metalearn.data.own.labels import SPLIT_NAMES
from metalearn.data.own.table import Labels, Table
from metalearn.errors import UserError, nearest
from metalearn.sizes import count_text

SPLIT = "split"  # the column that may say which tasks are for training, validation and test


@dataclass(frozen=True)
class TaskRows:
    """Which rows each task has.

    Attributes:
        tasks: names, in the order of their first rows.
        order: the rows, task by task.
        counts: of each task.
    """

    tasks: tuple[str, ...]
    order: NDArray[np.int64]
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, table: Table, labels: Labels, least: int) -> TaskRows:
        """Those of the tasks with at least `least` rows.

        Args:
            labels: the task of each row.

        Raises:
            UserError: no task has so many.
        """
        counts = np.bincount(labels.codes, minlength=len(labels.names))
        order = np.argsort(labels.codes, kind="stable")
        kept = counts >= least
        if not kept.any():
            raise UserError(
                f"dataset.min_rows={least}: no task of {table.name} has so many rows (most: {counts.max()})"
            )
        names = tuple(name for name, keep in zip(labels.names, kept.tolist(), strict=True) if keep)
        return cls(names, order[kept[labels.codes[order]]], counts[kept])

    def of_tasks(self, names: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The rows of some tasks, task by task, and how many each has."""
        number = {name: i for i, name in enumerate(self.tasks)}
        chosen = np.array([number[name] for name in names], dtype=np.int64)
        starts = np.concatenate([[0], np.cumsum(self.counts)])
        parts = [self.order[starts[i] : starts[i + 1]] for i in chosen]
        return np.concatenate(parts) if parts else np.empty(0, np.int64), self.counts[chosen]


def divided(table: Table, rows: TaskRows, task: str, split: str, seed: int, shares: tuple[float, float]) -> ClassSplit:
    """Which tasks are for training, validation and test.

    Args:
        task: the column of the tasks.
        split: `random`, `given` (by the column `split`), `test_only`, or `auto`: given where there is such a column.
        seed: of a random division.
        shares: of validation and test, of a random division.

    Raises:
        UserError: there is no such column, a value of it is no split, a task is in two, or too few tasks are there.
    """
    there = table.labels.get(SPLIT)
    if split == TEST_ONLY:
        return test_only(rows.tasks)
    if split == "given" and there is None:
        raise UserError(f"dataset.split=given: {table.name} has no column '{SPLIT}'")
    if there is not None and split != "random":
        return _given(table, rows, table.labels[task], there)
    names, (val, test) = rows.tasks, (max(1, round(share * len(rows.tasks))) for share in shares)
    if val + test >= len(names):
        raise UserError(
            f"{table.name} has {count_text(len(names), 'task')}: {val} for validation and {test} for test leave none for training "
            "(dataset.val_share, dataset.test_share; 3 tasks are needed)"
        )
    return random_split(names, val, test, seed)


def _given(table: Table, rows: TaskRows, tasks: Labels, there: Labels) -> ClassSplit:
    """The division that the column `split` says."""
    parts: dict[str, list[str]] = {split: [] for split in SPLITS}
    meant = [SPLIT_NAMES.get(name.lower(), "") for name in there.names]
    if "" in meant:
        written = there.names[meant.index("")]
        raise UserError(
            f"{table.name}: no split '{written}' in column '{SPLIT}'{nearest(written.lower(), SPLIT_NAMES)} "
            "(allowed: train, val, test; dataset.split=random draws one)"
        )
    of_row = np.array([SPLITS.index(name) for name in meant])[there.codes]
    ends = np.full((2, len(tasks.names)), len(SPLITS)) * [[1], [-1]]
    np.minimum.at(ends[0], tasks.codes, of_row)
    np.maximum.at(ends[1], tasks.codes, of_row)
    kept = set(rows.tasks)
    for name, first, last in zip(tasks.names, *ends.tolist(), strict=True):
        if first != last:
            raise UserError(
                f"{table.name}: the task '{name}' has rows of the splits {SPLITS[first]} and {SPLITS[last]}; a split divides the tasks, not "
                "their rows (dataset.split=random draws one)"
            )
        if name in kept:
            parts[SPLITS[first]].append(name)
    return ClassSplit("given", {split: tuple(names) for split, names in parts.items()})
