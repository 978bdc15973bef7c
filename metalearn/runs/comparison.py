"""`metalearn compare`: rows of runs, each against a baseline on the same test tasks. The result is a record of plain values, as JSON holds it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from metalearn.config.tree import leaves
from metalearn.errors import UserError, nearest
from metalearn.intervals import SharedClasses
from metalearn.kinds import Scale
from metalearn.runs.difference import Difference, holm, paired_difference, unpaired_difference
from metalearn.runs.found import Found, found, kept, key_of
from metalearn.runs.per_task import TaskScores
from metalearn.runs.remarks import notes, warnings
from metalearn.runs.rows import NAMES, Row, differing, grouped, named, task_text

POINTS = 0.5  # of accuracy: less than this is practically no difference, unless the user says otherwise


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
    baselines = _baselines(rows, names, wanted.baseline)
    tasks = _Tasks()
    entries = {row: _entry(row, names[row], columns, tasks) for row in rows}
    differences = _differences(rows, baselines, tasks, wanted.equal)
    adjusted = holm([math.nan if one is None or isinstance(one, str) else one.p for one in differences.values()])
    for (row, one), p in zip(differences.items(), adjusted, strict=True):
        base = baselines.get(row.family)
        entries[row] |= {
            "baseline": names[base] if base is not None else None,
            "is_baseline": row is base,
            "not_paired": one if isinstance(one, str) else tasks.why.get(row),
            "difference": None if one is None or isinstance(one, str) else {**asdict(one), "p_holm": p},
        }
    shown = _ordered(rows, entries, columns, wanted, set(baselines.values()))
    record = {
        "columns": [{"key": key, "name": short} for key, short in columns.items()],
        "rows": [entries[row] for row in shown],
        "equal": {
            kind.score: _band(kind, wanted.equal, rows) for kind in {row.kind.score: row.kind for row in rows}.values()
        },
        "chosen_baseline": wanted.baseline is not None,
        "warnings": warnings(rows, names),
        "notes": notes(rows, names, tasks.partly(rows), list(tasks.faults.values()), wanted.baseline is not None),
        "left_out": [_left_out(run) for run in runs if run.score is None],
    }
    return Comparison(record, shown)


class _Tasks:
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


def _entry(row: Row, name: str, columns: Mapping[str, str], tasks: _Tasks) -> dict[str, Any]:
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


def _over_classes(row: Row, tasks: _Tasks) -> float | None:
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


def _baselines(rows: Sequence[Row], names: Mapping[Row, str], asked: str | None) -> dict[str, Row]:
    """Family -> what its other rows are compared with: what was asked for, else the best."""
    chosen: dict[str, Row] = {}
    if asked is None:
        for row in rows:
            if row.score is not None and (row.family not in chosen or row.better(chosen[row.family])):
                chosen[row.family] = row
        return chosen
    fitting = [row for row in rows if _is_asked(row, names[row], asked)] or _fitting(rows, asked)
    if not fitting:
        raise UserError(
            f"--baseline: no row is '{asked}'{nearest(asked, names.values())} (rows: {'; '.join(list(names.values())[:8])})"
        )
    for row in fitting:
        if row.family in chosen:
            raise UserError(f"--baseline: '{asked}' fits several rows: {names[chosen[row.family]]}; {names[row]}")
        chosen[row.family] = row
    if all(row.score is None for row in fitting):
        raise UserError(f"--baseline: '{names[fitting[0]]}' has no score ({fitting[0].runs[0].status})")
    return {family: row for family, row in chosen.items() if row.score is not None}


def _is_asked(row: Row, name: str, asked: str) -> bool:
    if asked in (name, row.label, row.first.name_of("algorithm")):
        return True
    path = Path(asked).expanduser()
    if not path.exists():
        return False
    whole = path.resolve()
    return any(whole in (run.path.resolve(), run.file.resolve()) for run in row.runs)


def _fitting(rows: Sequence[Row], asked: str) -> list[Row]:
    if "=" not in asked:
        return []
    runs = [run for row in rows for run in row.runs]
    fitting = {id(run) for run in kept(runs, asked.split())}
    return [row for row in rows if all(id(run) in fitting for run in row.runs)]


def _differences(
    rows: Sequence[Row], baselines: Mapping[str, Row], tasks: _Tasks, equal: Mapping[str | None, float]
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
            found[row] = _difference(row, base, tasks, _band(row.kind, equal, rows))
    return found


def _difference(row: Row, base: Row, tasks: _Tasks, band: float) -> Difference:
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


def _band(kind: Scale, equal: Mapping[str | None, float], rows: Sequence[Row]) -> float:
    """In the score's own unit: asked for under its name, or for every score; points of scores in percent."""
    given = equal.get(
        kind.score, equal.get(None) if kind.percent or not any(row.kind.percent for row in rows) else None
    )
    if given is None:
        return POINTS / 100 if kind.percent else 0.0
    return given / 100 if kind.percent else given


def _ordered(
    rows: Sequence[Row],
    entries: Mapping[Row, dict[str, Any]],
    columns: Mapping[str, str],
    wanted: Wanted,
    baselines: set[Row],
) -> list[Row]:
    """Families in the order of their first row with a score, the best row first; or as asked. The best `top` of each family, and its baseline."""
    families = list(dict.fromkeys(row.family for row in sorted(rows, key=lambda row: row.score is None)))

    def quality(row: Row) -> tuple[int, float]:
        score = row.score if row.score is not None else row.kind.worst
        return families.index(row.family), -score if row.kind.higher_is_better else score

    best_first = sorted(rows, key=quality)
    if wanted.top is not None:
        seen: Counter[str] = Counter()
        kept_rows = []
        for row in best_first:
            seen[row.family] += 1
            if seen[row.family] <= wanted.top or row in baselines:
                kept_rows.append(row)
        best_first = kept_rows
    if wanted.sort is None:
        return best_first
    downwards, key = wanted.sort.startswith("-"), wanted.sort.lstrip("-")
    values = {row: _sort_value(entries[row], key, columns) for row in best_first}
    there = [row for row in best_first if values[row] is not None]
    texts = any(isinstance(values[row], str) for row in there)
    ordered = sorted(there, key=lambda row: str(values[row]) if texts else values[row], reverse=downwards)
    return ordered + [row for row in best_first if values[row] is None]


_SORTED_BY = ("score", "name", "n", "std", "interval", "seconds", "label", "task_text")


def _sort_value(entry: Mapping[str, Any], key: str, columns: Mapping[str, str]) -> Any:
    if key in _SORTED_BY:
        return entry[key]
    if key in ("difference", "p", "verdict"):
        return (entry["difference"] or {}).get("value" if key == "difference" else key)
    names = {short: full for full, short in columns.items()}
    if key in names:
        return entry["settings"].get(names[key])
    known = {**dict.fromkeys(columns), **dict.fromkeys((*_SORTED_BY, "difference", "p", "verdict"))}
    return entry["settings"].get(key_of(key, known, "--sort")[0])


def _left_out(run: Found) -> dict[str, Any]:
    why = run.error or ("no score" if run.status == "done" else None)
    return {"path": str(run.path), "file": run.file.name, "status": str(run.status), "why": why}
