"""How long a sweep still takes: from the speeds of its jobs that run or have ended, and the number of jobs at once."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from typing import Any

from metalearn.status import Status

Row = Mapping[str, Any]  # a job as `metalearn.sweeps.status` describes it


def job_left(row: Row, others: Sequence[Row]) -> float | None:
    """Seconds that a job still takes, its test included; None where nothing is measured yet.

    A job that has no speed of its own is taken to be as fast as the measured jobs that share most of its settings.
    """
    if Status(row["status"]).finished:
        return 0.0
    if row["phase"] == "test" and row["phase_left"] is not None:
        return float(row["phase_left"])
    alike = _alike(row, [other for other in others if other["per_step"] is not None])
    per_step = row["per_step"] if row["status"] == Status.RUNNING else None
    if per_step is None:
        per_step = _mean([other["per_step"] for other in alike])
    if per_step is None or row["steps"] is None:
        return None
    tests = [other["test_seconds"] for other in _alike(row, [one for one in others if one["test_seconds"] is not None])]
    done = row["steps"] if row["phase"] == "test" else row["step"] or 0
    return float(per_step * max(row["steps"] - done, 0) + (_mean(tests) or 0.0))


def sweep_left(rows: Sequence[Row], at_once: int) -> float | None:
    """Seconds until the last job ends, `at_once` of them at work; None where a job's time is not known, or none is at work.

    Those that run come first; the others follow in their order, each where a place gets free.
    """
    open_rows = [row for row in rows if not Status(row["status"]).finished]
    if not open_rows:
        return 0.0
    if at_once < 1 or any(row["left"] is None for row in open_rows):
        return None
    ends = sorted(row["left"] for row in open_rows if row["status"] == Status.RUNNING)
    places = [*ends, *([0.0] * (at_once - len(ends)))]
    heapq.heapify(places)
    last: float = max(places)
    for row in open_rows:
        if row["status"] != Status.RUNNING:
            end = heapq.heappop(places) + row["left"]
            heapq.heappush(places, end)
            last = max(last, end)
    return last


def _alike(row: Row, others: Sequence[Row]) -> list[Row]:
    """Those that share the most settings with the job, its seed aside."""
    mine = _without_seed(row["choices"])
    shared = [sum(other["choices"].get(key) == value for key, value in mine.items()) for other in others]
    return [other for other, count in zip(others, shared, strict=True) if count == max(shared)]


def _without_seed(choices: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in choices.items() if key != "seed"}


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
