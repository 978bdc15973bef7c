"""Which row the others are compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from metalearn.errors import UserError, nearest
from metalearn.runs.filters import kept
from metalearn.runs.rows import Row


def baselines_of(rows: Sequence[Row], names: Mapping[Row, str], asked: str | None) -> dict[str, Row]:
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
