"""Which runs TensorBoard shows, what it calls them, and by which settings they differ."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metalearn.errors import UserError
from metalearn.runs.filters import kept
from metalearn.runs.finding import found
from metalearn.runs.found import UNREADABLE, Found
from metalearn.runs.rows import NAMES, Row, differing, grouped, named, value_text
from metalearn.status import Status

_LOST = re.compile(r"[/\\:\0]+")  # what the name of a folder cannot hold, or should not


@dataclass(frozen=True)
class Shown:
    """A run as TensorBoard calls it."""

    name: str
    run: Found
    settings: dict[str, Any]  # by which it differs from the others


def chosen(paths: Sequence[str | Path], filters: Sequence[str] = ()) -> tuple[list[Shown], list[Found]]:
    """The runs that can be shown, each with a name, and those that have written nothing to show.

    Args:
        paths: as `metalearn compare` takes them: runs, sweeps, folders with runs, patterns.
        filters: `key=value` and the like.

    Raises:
        UserError: a path holds no run, a filter fits no run or has a key that no run has, or no run has curves.
    """
    runs = kept(found(paths), filters)
    if not runs:
        raise UserError(f"no run is left by {' '.join(filters)}")
    there = [
        run for run in runs if run.status != UNREADABLE and run.config and (event_files(run.path) or from_metrics(run))
    ]
    if not there:
        raise UserError(f"{'these runs have' if len(runs) > 1 else 'this run has'} written no curves yet")
    return _named(there), [run for run in runs if run not in there]


def _named(runs: Sequence[Found]) -> list[Shown]:
    """A name for each run: what tells it apart, and its seed where seeds differ."""
    rows = grouped(runs)
    columns = differing(rows)
    seeds = len({run.seed for run in runs}) > 1
    shown, taken = [], set()
    for row, text in zip(rows, named(rows, columns), strict=True):
        for run in row.runs:
            words = f"{text} seed={run.seed}" if seeds else text
            plain = _LOST.sub("-", words).strip() or run.path.name
            name = next(
                one for n in range(1, len(runs) + 2) if (one := plain if n == 1 else f"{plain} #{n}") not in taken
            )
            taken.add(name)
            shown.append(
                Shown(name, run, _settings(row, columns) | ({"seed": run.seed} if seeds or not columns else {}))
            )
    left_out = implied(shown)
    if set(columns) - left_out - {*NAMES, "seed"}:  # TensorBoard's table shows five columns at once
        shown = [
            Shown(one.name, one.run, {key: value for key, value in one.settings.items() if key not in left_out})
            for one in shown
        ]
    order = {run.path: place for place, run in enumerate(runs)}
    return sorted(shown, key=lambda one: order[one.run.path])


def implied(shown: Sequence[Shown]) -> set[str]:
    """The settings that say no more than the names of the parts do: that are alike in all runs of one algorithm, say."""
    told: dict[str, dict[tuple[Any, ...], set[str]]] = {}
    for one in shown:
        names = tuple(one.run.name_of(name) for name in NAMES)
        for key, value in one.settings.items():
            told.setdefault(key, {}).setdefault(names, set()).add(value_text(value))
    several = len({names for by_names in told.values() for names in by_names}) > 1
    return {
        key
        for key, by_names in told.items()
        if several and key not in NAMES and all(len(values) == 1 for values in by_names.values())
    }


def _settings(row: Row, columns: dict[str, str]) -> dict[str, Any]:
    """What the table shows of the runs of a row: what differs, or, where nothing does, which algorithm, backbone and data set."""
    return {key: row.value(key) for key in columns or NAMES if row.has(key)}


def event_files(path: Path) -> list[Path]:
    """Those of a run directory, the earliest first."""
    return sorted(path.glob("events.out.tfevents.*"))


def from_metrics(run: Found) -> bool:
    """Whether the curves are taken from metrics.csv: in event files of earlier versions they have other tags."""
    ended = run.status not in (Status.RUNNING, Status.INTERRUPTED)
    return ended and "pictures" not in (run.config.get("eval") or {}) and (run.path / "metrics.csv").is_file()
