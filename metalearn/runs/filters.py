"""`--filter`: which runs a command looks at, by their settings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from metalearn.errors import UserError, nearest
from metalearn.runs.found import Found

_FILTER = re.compile(r"([\w.@/-]+?)(!=|<=|>=|=|<|>)(.*)", re.DOTALL)


def kept(runs: Sequence[Found], filters: Iterable[str]) -> list[Found]:
    """The runs that all filters let through: `algorithm=maml`, `lr>0.001`, `label=paper*`, `status!=done`.

    A key is a dotted path or enough of its end. Texts are compared with shell patterns; `a,b` lets both through.

    Raises:
        UserError: a filter has another form, or a key that no run has.
    """
    chosen = list(runs)
    for text in filters:
        parts = _FILTER.fullmatch(text)
        if parts is None:
            raise UserError(f"--filter: '{text}' is not of the form key=value (also !=, <, <=, >, >=)")
        key, sign, wanted = parts.groups()
        keys = key_of(key, {name: None for run in runs for name in run.settings}, "--filter")
        chosen = [run for run in chosen if any(_fits(run.settings.get(one), sign, wanted) for one in keys)]
    return chosen


def key_of(text: str, known: Mapping[str, Any], flag: str) -> list[str]:
    """The dotted paths that end with `text`, the shortest alone where it is one itself.

    Raises:
        UserError: there is none.
    """
    if text in known:
        return [text]
    ends = [name for name in known if name.endswith(f".{text}") and not name.startswith("task.train.")]
    if not ends:
        raise UserError(f"{flag}: no run has a setting '{text}'{nearest(text, known)}")
    return ends


def _fits(value: Any, sign: str, wanted: str) -> bool:
    import fnmatch

    if sign in ("=", "!="):
        said = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
        equal = any(
            fnmatch.fnmatchcase(said, one) or _number(one) == _number(value) is not None for one in wanted.split(",")
        )
        return equal == (sign == "=")
    number, limit = _number(value), _number(wanted)
    if limit is None:
        raise UserError(f"--filter: '{wanted}' is not a number")
    if number is None:
        return False
    return {"<": number < limit, "<=": number <= limit, ">": number > limit, ">=": number >= limit}[sign]


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
