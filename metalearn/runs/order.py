"""The order of the rows of a comparison, and which of them are shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from metalearn.runs.filters import key_of
from metalearn.runs.rows import Row


def ordered(
    rows: Sequence[Row],
    entries: Mapping[Row, dict[str, Any]],
    columns: Mapping[str, str],
    baselines: set[Row],
    top: int | None = None,
    sort: str | None = None,
) -> list[Row]:
    """Families in the order of their first row with a score, the best row first.

    Args:
        entries: of each row, its entry in the record.
        columns: dotted path of a setting -> its short name.
        baselines: stay, whatever `top` says.
        top: leave the best so many of each family.
        sort: a column to order by instead, downwards with a `-` before it; rows without a value come last.

    Raises:
        UserError: no column is named `sort`.
    """
    families = list(dict.fromkeys(row.family for row in sorted(rows, key=lambda row: row.score is None)))

    def quality(row: Row) -> tuple[int, float]:
        score = row.score if row.score is not None else row.kind.worst
        return families.index(row.family), -score if row.kind.higher_is_better else score

    best_first = sorted(rows, key=quality)
    if top is not None:
        seen: Counter[str] = Counter()
        kept_rows = []
        for row in best_first:
            seen[row.family] += 1
            if seen[row.family] <= top or row in baselines:
                kept_rows.append(row)
        best_first = kept_rows
    if sort is None:
        return best_first
    downwards, key = sort.startswith("-"), sort.lstrip("-")
    values = {row: _sort_value(entries[row], key, columns) for row in best_first}
    there = [row for row in best_first if values[row] is not None]
    texts = any(isinstance(values[row], str) for row in there)
    by_value = sorted(there, key=lambda row: str(values[row]) if texts else values[row], reverse=downwards)
    return by_value + [row for row in best_first if values[row] is None]


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
