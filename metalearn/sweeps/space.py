"""What `sweep.search` may say, and the corners of its space: known to be wrong before anything is written, without Optuna."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any

from metalearn.errors import UserError, nearest

_SETTINGS = ("trials", "space", "seed", "startup_trials", "pruner")
_PRUNER = ("keep_percent", "startup_trials", "warmup_steps")
_AXIS = ("low", "high", "log", "step", "choices")
# With these, two trials' validation scores would answer two questions.
_ASKS_ELSE = re.compile(r"dataset(\..*)?|task(\.(?!train\b).*)?|eval\..*|train\.val_(tasks|every)|experiment")


def check_search(search: dict[str, Any], fixed: set[str]) -> None:
    """Raises UserError with one line about what is wrong; `fixed` are the settings that the command line gives a value."""
    for key in search:
        if key in ("metric", "direction"):
            raise UserError(
                f"no setting 'sweep.search.{key}': a search is for the best validation score, never for the score on test tasks"
            )
        if key not in _SETTINGS:
            raise UserError(f"no setting 'sweep.search.{key}'{nearest(key, _SETTINGS)}")
    for key in search["pruner"] or {}:
        if key not in _PRUNER:
            raise UserError(f"no setting 'sweep.search.pruner.{key}'{nearest(key, _PRUNER)}")
    if not isinstance(search["space"], dict):
        raise UserError("sweep.search.space is a mapping from settings to {low, high} or {choices}")
    for key, axis in search["space"].items():
        if key.partition(".")[0] in ("sweep", "sweep_name", "hydra"):
            raise UserError(f"sweep.search.space: {key} is no setting of a run")
        if _ASKS_ELSE.fullmatch(key):
            raise UserError(f"sweep.search.space: {key} changes what is validated; trials could not be compared")
        if key in fixed:
            raise UserError(f"{key} is varied by the search and set on the command line as well")
        if wrong := _wrong(axis):
            raise UserError(f"sweep.search.space: {key}: {wrong}")


def corners(space: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every bound and every choice at least once, the other settings at their first ones."""
    ends = {key: axis.get("choices") or [axis["low"], axis["high"]] for key, axis in space.items()}
    first = {key: values[0] for key, values in ends.items()}
    yield first
    for key, values in ends.items():
        for value in values[1:]:
            yield first | {key: value}


def trial_text(number: int, values: dict[str, Any]) -> str:
    """`trial=7-train.lr=0.000561`, a job's name before it is made safe; its configuration has the whole number."""
    shown = {key: f"{value:.3g}" if isinstance(value, float) else _plain(value) for key, value in values.items()}
    return "-".join([f"trial={number}", *(f"{key}={value}" for key, value in shown.items())])


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _wrong(axis: Any) -> str | None:
    """What is wrong with the range or the choices of one setting."""
    if not isinstance(axis, dict) or not ({"low", "high"} <= set(axis) or "choices" in axis):
        return "needs {low, high}, with log: true or step if wanted, or {choices: [...]}"
    if unknown := sorted(set(axis) - set(_AXIS)):
        return f"no setting '{unknown[0]}'{nearest(unknown[0], _AXIS)} (available: {', '.join(_AXIS)})"
    if "choices" in axis:
        choices = axis["choices"]
        if len(axis) > 1:
            return "has choices, and so neither low, high, log nor step"
        if not isinstance(choices, list) or not choices:
            return "choices is a list of values"
        texts = [json.dumps(choice) for choice in choices]
        return f"has the choice {again[0]} twice" if (again := [t for t in texts if texts.count(t) > 1]) else None
    low, high, log, step = axis["low"], axis["high"], axis.get("log", False), axis.get("step")
    for name, value in (("low", low), ("high", high), ("step", 1 if step is None else step)):
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            return f"{name}={_plain(value)} is no number"
    if not isinstance(log, bool):
        return f"log={_plain(log)} is not allowed (bool)"
    if low >= high:
        return f"low={low} is not below high={high}"
    if log and (low <= 0 or step is not None):
        return f"low={low} must be above 0 for log: true" if low <= 0 else "takes log: true or a step, not both"
    if step is not None and (step <= 0 or abs((high - low) / step - round((high - low) / step)) > 1e-9):
        return f"step={step} does not divide the range from {low} to {high}"
    return None
