"""The difference of a row to its baseline: task by task where both were tested on the same tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metalearn.config.tree import leaves
from metalearn.errors import UserError
from metalearn.intervals import SharedClasses
from metalearn.kinds import Scale
from metalearn.runs.difference import Difference, paired_difference, unpaired_difference
from metalearn.runs.found import Found
from metalearn.runs.per_task import TaskScores
from metalearn.runs.rows import Row

POINTS = 0.5  # of accuracy: less than this is practically no difference, unless the user says otherwise


class TaskFiles:
    """The scores of single tasks, each file read once; and why something could not be paired."""

    def __init__(self) -> None:
        self.why: dict[Row, str] = {}
        self.faults: dict[Path, str] = {}
        self._read: dict[Path, TaskScores | None] = {}
        self._shared: dict[tuple[Any, ...], list[Any]] = {}

    def of(self, run: Found) -> TaskScores | None:
        """Those of a run; None where it has none: an older version wrote none."""
        path = run.tasks_file
        if path not in self._read:
            try:
                self._read[path] = TaskScores.read(path)
            except UserError as error:
                self._read[path] = None
                if path.exists():
                    self.faults[path] = str(error)
        return self._read[path]

    def files(self, row: Row) -> list[TaskScores]:
        """Those of the runs of a row that have them."""
        return [scores for run in row.scored if (scores := self.of(run)) is not None]

    def partly(self, rows: Sequence[Row]) -> dict[Row, str]:
        """Rows of which some runs have scores of single tasks and others have none."""
        numbers = {row: (len(self.files(row)), len(row.scored)) for row in rows}
        return {
            row: f"{some} of {all_} runs: the others have no {row.first.tasks_file.name}"
            for row, (some, all_) in numbers.items()
            if 0 < some < all_
        }

    def classes(self, scores: TaskScores, n: int) -> list[tuple[float, Any, SharedClasses | None]]:
        """For each data set that the first n tasks are from: its part, which these are, the classes they share."""
        import numpy as np

        key = (scores.tasks, n)
        if key not in self._shared:
            parts: list[Any] = []
            if (known := scores.classes()) is not None:
                of_tasks, sources = known[0][:n], known[1][:n]
                for source in np.unique(sources):
                    here = sources == source
                    parts.append((float(here.mean()), None if here.all() else here, SharedClasses.of(of_tasks[here])))
            self._shared[key] = parts
        return self._shared[key]


def differences(
    rows: Sequence[Row], baselines: Mapping[str, Row], tasks: TaskFiles, equal: Mapping[str | None, float]
) -> dict[Row, Difference | str | None]:
    """Of each row: its difference to the baseline, why there is none, or None of the baseline itself."""
    found: dict[Row, Difference | str | None] = {}
    for row in rows:
        base = baselines.get(row.family)
        if base is row or row.score is None:
            found[row] = None
        elif base is None:
            found[row] = "no baseline of these tasks"
        else:
            found[row] = _difference(row, base, tasks, band_of(row.kind, equal, rows))
    return found


def _difference(row: Row, base: Row, tasks: TaskFiles, band: float) -> Difference:
    ours, theirs = tasks.files(row), tasks.files(base)
    why = _not_paired(row, base, ours, theirs)
    n = 0
    if why is None:
        n = min(ours[0].shared(other) for other in (*ours, *theirs))
        why = None if n else "other test tasks"
    if why is not None:
        tasks.why[row] = why
        return unpaired_difference(
            row.scores, base.scores, (_width(row), _width(base)), row.kind.higher_is_better, band
        )
    classes = tasks.classes(ours[0], n)
    sides = ([one.score[:n] for one in ours], [one.score[:n] for one in theirs])
    return paired_difference(*sides, classes, row.kind.higher_is_better, band)


def _not_paired(row: Row, base: Row, ours: Sequence[TaskScores], theirs: Sequence[TaskScores]) -> str | None:
    """Why the two cannot be compared task by task, as far as settings say it."""
    first, other = row.first, base.first
    hashes = {(run.results.get("split") or {}).get("sha256") for run in (*row.scored, *base.scored)}
    if len(hashes) > 1:
        return "another split"
    if len({str(run.eval_seed) for run in (*row.scored, *base.scored)}) > 1:
        return "another eval.seed"
    if row.task != base.task:
        return "another number of queries"
    if not ours or not theirs:
        return "no scores of single tasks"
    if ours[0].tasks[0] is None and _data(first) != _data(other):
        return "other settings of the data set"  # tasks without classes have nothing else to tell them apart
    return None


def _data(run: Found) -> dict[str, Any]:
    return dict(leaves(run.config.get("dataset") or {}))


def _width(row: Row) -> tuple[float, int, bool] | None:
    """(the widest interval of its runs, the tasks behind it, whether it is over classes too)."""
    key = "ci95_classes" if all(run.test.get("ci95_classes") is not None for run in row.scored) else "ci95"
    widths = [(run.test.get(key), run.test.get("tasks", 0)) for run in row.scored]
    known = [(float(width), int(n)) for width, n in widths if width is not None]
    return (max(known)[0], min(n for _, n in known), key == "ci95_classes") if known else None


def band_of(kind: Scale, equal: Mapping[str | None, float], rows: Sequence[Row]) -> float:
    """How far apart two scores of a kind are practically equal, in the score's own unit: what is asked for under its name, or for every score.

    Scores in percent are asked for in points.
    """
    given = equal.get(
        kind.score, equal.get(None) if kind.percent or not any(row.kind.percent for row in rows) else None
    )
    if given is None:
        return POINTS / 100 if kind.percent else 0.0
    return given / 100 if kind.percent else given
