"""`metalearn eval` with several values or runs: a grid of evaluations, computed in one process.

Each cell has files of its own in its run directory, as a single evaluation has: eval-<time>.json and eval-<time>-tasks.npz. The grid's file,
grid-<hash>.json in the directory of the first run, holds all cells; it is written after each of them.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metalearn.errors import UserError, one_line, shortened
from metalearn.report import terminal
from metalearn.report.progress import TaskProgress
from metalearn.runs import directory as files
from metalearn.status import Status

if TYPE_CHECKING:  # torch comes with the first cell that is computed
    from metalearn.runs.evaluation import Evaluator

log = logging.getLogger("metalearn")

_SHOWN = (
    "algorithm",
    "backbone",
    "dataset",
    "seed",
    "split",
    "notes",
    "images",
    "kind",
    "task",
    "test",
    "curves",
    "seconds",
)
Told = Callable[[dict[str, Any], int, int], None]  # (a cell of the record, its number from 1, how many there are)


@dataclass(frozen=True)
class Cell:
    """A run under one combination of settings.

    Attributes:
        choices: the settings that the grid varies, with this cell's values.
        overrides: all that was asked for.
        config: the run's configuration with them; None where the run has no such setting.
        error: why it cannot be tested.
    """

    run_dir: Path
    choices: dict[str, Any]
    overrides: list[str]
    config: dict[str, Any] | None
    error: str | None = None


def evaluate_grid(
    cells: Sequence[Cell], asked: list[str], fresh: bool = False, told: Told | None = None
) -> dict[str, Any]:
    """Computes the cells that are not on disk yet. A cell that cannot be done does not keep the others from it.

    Args:
        asked: the overrides as the user wrote them.
        fresh: compute also what an earlier call has computed already.
        told: called after each cell.

    Returns:
        What the grid's file holds, and `written`, that file: `overrides`, `varied`, `runs`, and `cells`, each with `run`, `choices`, `status`,
        `error`, `file`, `earlier` (whether an earlier call computed it) and what its own file holds of the test.
    """
    grid = _Grid(cells, asked)
    for place in sorted(range(len(cells)), key=grid.order):
        grid.finish(place, fresh)
        if told is not None:
            told(grid.record["cells"][place], grid.finished, len(cells))
    return grid.record | {"written": str(grid.file) if grid.is_written else None}


class _Grid:
    """The record of a grid while its cells are computed."""

    def __init__(self, cells: Sequence[Cell], asked: list[str]) -> None:
        runs = list(dict.fromkeys(cell.run_dir for cell in cells))
        question = json.dumps([[str(run.resolve()) for run in runs], asked])
        self.file = runs[0] / f"grid-{hashlib.blake2b(question.encode(), digest_size=4).hexdigest()}.json"
        self.is_written, self.failed, self.finished = False, False, 0
        self.record: dict[str, Any] = {
            "overrides": asked,
            "varied": list(dict.fromkeys(key for cell in cells for key in cell.choices)),
            "runs": [str(run) for run in runs],
            "cells": [_entry(cell) for cell in cells],
        }
        self._cells, self._runs, self._earlier = cells, runs, {run: _earlier(run) for run in runs}
        self._nodes = [json.dumps((cell.config or {}).get("dataset"), sort_keys=True) for cell in cells]
        self._tasks = [
            cell.config["eval"]["tasks"] * cell.config["eval"]["ensemble"] if cell.config else 0 for cell in cells
        ]
        self._done = 0  # tasks of cells that were computed
        self._evaluator: Evaluator | None = None

    def order(self, place: int) -> tuple[int, int, int]:
        """Cells of one data set one after the other, and of these those of one run, as two data sets and the features of one run stay in memory."""
        return self._nodes.index(self._nodes[place]), self._runs.index(self._cells[place].run_dir), place

    def finish(self, place: int, fresh: bool) -> None:
        """Finds or computes a cell, and writes the grid's file."""
        cell, entry = self._cells[place], self.record["cells"][place]
        if cell.config is not None:
            try:
                entry |= self._found(cell, cell.config, fresh) or self._computed(cell, cell.config, place)
            except UserError as error:
                entry |= {"status": str(Status.FAILED), "error": one_line(error)}
            except Exception as error:  # such as memory that does not suffice for this cell
                log.debug("%s", cell, exc_info=error)
                entry |= {
                    "status": str(Status.FAILED),
                    "error": f"{type(error).__name__}: {shortened(one_line(error), 300)}",
                }
        self.finished += 1
        if entry["status"] == Status.DONE and not entry["earlier"]:
            self._done += self._tasks[place]
        self._tasks[place] = 0
        if any(one["status"] == Status.DONE for one in self.record["cells"]):
            self._write()

    def _write(self) -> None:
        try:
            files.write_json(self.file, self.record)
            self.is_written = not self.failed
        except OSError as error:
            if not self.failed:
                terminal.error_line(f"{self.file} cannot be written: {error.strerror or error}")
            self.is_written, self.failed = False, True

    def _found(self, cell: Cell, config: dict[str, Any], fresh: bool) -> dict[str, Any] | None:
        """What an earlier call computed of the same checkpoint under the same conditions, where the data set is still what it was."""
        if fresh or not self._earlier[cell.run_dir]:
            return None
        from metalearn.runs.evaluation import conditions_of, split_of

        file, record = self._earlier[cell.run_dir].get(conditions_of(cell.run_dir, config), (None, {}))
        if file is None or (record.get("split") or {}).get("sha256") != split_of(config):
            return None
        return _shown(record, file) | {"earlier": True}

    def _computed(self, cell: Cell, config: dict[str, Any], place: int) -> dict[str, Any]:
        from metalearn.data.features import FeatureMemory
        from metalearn.engine.host_memory import keep_freed_memory
        from metalearn.garbage import collect_as_usual
        from metalearn.runs.evaluation import Evaluator, new_file, tasks_file
        from metalearn.runs.per_task import write_tasks

        if self._evaluator is None:
            keep_freed_memory()
            collect_as_usual()
            self._evaluator = Evaluator(FeatureMemory())
        tested = self._evaluator.test(cell.run_dir, config, cell.overrides, progress=lambda tasks: self._bar(place))
        file, record = new_file(cell.run_dir), tested.results.to_json()
        try:
            files.write_json(file, record)
        except OSError as error:
            terminal.error_line(f"{file} cannot be written: {error.strerror or error}")
            self.failed = True
            return _shown(record, None)
        write_tasks(tasks_file(file), tested.scores)
        return _shown(record, file)

    def _bar(self, place: int) -> TaskProgress:
        """A bar over the tasks of all cells that are not finished, with the name of this one."""
        name = " ".join(f"{key}={_text(value)}" for key, value in self._cells[place].choices.items())
        number = f"cell {self.finished + 1} of {len(self._cells)}"
        return TaskProgress(self._done + sum(self._tasks), f"{number}: {name}" if name else number, done=self._done)


def _entry(cell: Cell) -> dict[str, Any]:
    """Of a cell that is not computed."""
    return {
        "run": str(cell.run_dir),
        "choices": cell.choices,
        "status": str(Status.PENDING if cell.error is None else Status.FAILED),
        "error": cell.error,
        "file": None,
        "earlier": False,
    }


def _shown(record: dict[str, Any], file: Path | None) -> dict[str, Any]:
    said = {key: record[key] for key in _SHOWN if key in record}
    return {"status": str(record["status"]), "error": record["error"], "file": file and file.name, **said}


def _earlier(run_dir: Path) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Conditions -> the newest evaluation of them that is whole, with what it holds."""
    found = {}
    for file in sorted(run_dir.glob("eval-*.json")):
        try:
            record = json.loads(files.read_text(file))
            if record["status"] == Status.DONE and record["test"] and "conditions" in record:
                found[str(record["conditions"])] = (file, record)
        except (ValueError, KeyError, TypeError):  # UserError too: it is computed anew
            continue
    return found


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
