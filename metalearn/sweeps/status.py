"""How far a sweep, or a single run, is, from files alone: whoever runs it may be another process, on another machine. Needs no torch."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from metalearn.errors import UserError
from metalearn.kinds import Scale, scale_of
from metalearn.runs.finding import read_run
from metalearn.runs.progress import Reach, reach
from metalearn.runs.quick_config import quick_config
from metalearn.status import Status
from metalearn.sweeps.directory import SweepDir
from metalearn.sweeps.pace import job_left, sweep_left
from metalearn.sweeps.slurm import arrays


def status_of(path: Path) -> dict[str, Any]:
    """How far the sweep or the run in `path` is.

    Returns:
        path, at (Unix time), sweep (whether it is one), total (of its jobs), counts (status -> jobs), left (seconds until all jobs have ended; None:
        not known), jobs, slurm (each array with id, jobs, logs, squeue), commands (those that continue the sweep). Each of `jobs` has job, status,
        dead (its process did not live to save), choices, step, steps, phase, val, score, ci95, kind, tasks_per_second, left, seconds, host, slurm,
        error, directory. Scores are as in results.json, times are seconds.

    Raises:
        UserError: it is neither a sweep nor a run.
    """
    if not path.is_dir():
        raise UserError(f"'{path}' is no directory")
    if (path / "sweep.json").is_file():
        return Watcher(SweepDir(path)).record()
    if not any((path / name).is_file() for name in ("config.yaml", "results.json")):
        raise UserError(f"'{path}' is neither a sweep nor a run{_newest_below(path)}")
    run = read_run(path)
    if not run.is_run or run.status not in set(Status):
        raise UserError(f"'{path}' cannot be read as a run: {'; '.join(run.unreadable) or 'other files'}")
    row = _row(path.name, Status(run.status), {}, path, run.results, run.error, _steps(run.config))
    row["left"] = job_left(row, [])
    return _record(path, [row], row["left"] if row["status"] == Status.RUNNING else None) | {"sweep": False}


class Watcher:
    """Looks at a sweep again and again; what has ended is read once.

    Args:
        names: of the jobs to look at; None: all.
        at_once: how many jobs are run at once; None: as many as run when it looks.
        total: how many jobs there will be, where a search draws more of them.
    """

    def __init__(
        self, sweep: SweepDir, names: list[str] | None = None, at_once: int | None = None, total: int = 0
    ) -> None:
        self._sweep, self._names, self._at_once, self._total = sweep, names, at_once, total
        self._ended: dict[str, dict[str, Any]] = {}
        self._steps: dict[str, int | None] = {}

    def arrays(self) -> set[str]:
        """The ids of what Slurm has of the sweep so far."""
        return {array["id"] for array in arrays(self._sweep.path)}

    def record(self) -> dict[str, Any]:
        """As `status_of`."""
        sweep, choices = self._sweep, self._sweep.choices()
        rows = [self._job(name, choices.get(name, {})) for name in self._names or choices]
        for row in rows:
            row["left"] = job_left(row, rows)
        running = sum(row["status"] == Status.RUNNING for row in rows)
        total = max(self._total, len(rows))
        to_draw = [_undrawn(rows) for _ in range(total - len(rows))] if rows else []
        left = sweep_left([*rows, *to_draw], max(running, self._at_once or 0))
        return _record(sweep.path, rows, left) | {
            "sweep": True,
            "total": total,
            "slurm": arrays(sweep.path),
            "commands": sweep.commands(),
        }

    def _job(self, name: str, choices: dict[str, Any]) -> dict[str, Any]:
        if name in self._ended:
            return self._ended[name]
        status, results = self._sweep.status(name), self._sweep.results(name) or {}
        if name not in self._steps:
            self._steps[name] = _stored_steps(self._sweep.path / "jobs" / f"{name}.yaml")
        error = None if status in (Status.DONE, Status.PENDING, Status.RUNNING) else self._sweep.error(name)
        row = _row(name, status, choices, self._sweep.run_dir(name), results, error, self._steps[name])
        if status == Status.DONE:
            self._ended[name] = row
        return row


def _undrawn(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A trial that the search has still to draw: it takes as long as the others do on the average."""
    row: dict[str, Any] = {"status": Status.PENDING, "phase": None, "per_step": None, "step": None, "choices": {}}
    row["steps"] = max((other["steps"] for other in rows if other["steps"]), default=None)
    return row | {"left": job_left(row, rows)}


def _row(
    name: str,
    status: Status,
    choices: dict[str, Any],
    run_dir: Path,
    results: dict[str, Any],
    error: str | None,
    steps: int | None,
) -> dict[str, Any]:
    """A job; `results` are those of its results.json, if there is one."""
    test, train = results.get("test") or {}, results.get("train") or {}
    now = Reach() if status in (Status.DONE, Status.PENDING) else reach(run_dir)
    kind: Scale = now.kind or scale_of(results)
    trained = train.get("steps")
    seconds = train["seconds"] + train.get("validation_seconds", 0.0) if train.get("seconds") is not None else None
    return {
        "job": name,
        "status": str(status),
        # Its process did not live to say that it was interrupted; the kernel has let go of its lock.
        "dead": status == Status.INTERRUPTED and results.get("status") != Status.INTERRUPTED,
        "choices": choices,
        "step": now.step if now.step is not None else trained,
        "steps": now.steps or steps or trained,
        "phase": now.phase if status == Status.RUNNING else None,
        "phase_left": now.phase_left if status == Status.RUNNING else None,
        "per_step": now.per_step or (seconds / trained if seconds is not None and trained else None),
        "test_seconds": test.get("seconds"),
        "kind": kind.record(),
        "val": now.val if now.val is not None else (results.get("val") or {}).get(kind.score),
        "score": test.get(kind.score),
        "ci95": test.get("ci95"),
        "tasks_per_second": now.tasks_per_second if now.tasks_per_second is not None else train.get("tasks_per_second"),
        "left": None,
        "seconds": None if seconds is None else seconds + (test.get("seconds") or 0.0),
        "host": now.host,
        "slurm": now.slurm,
        "error": error,
        "directory": str(run_dir),
    }


def _record(path: Path, rows: list[dict[str, Any]], left: float | None) -> dict[str, Any]:
    counts = {str(status): sum(row["status"] == status for row in rows) for status in Status}
    return {
        "path": str(path),
        "at": time.time(),
        "jobs": rows,
        "counts": {status: count for status, count in counts.items() if count},
        "left": left,
        "total": len(rows),
        "slurm": [],
        "commands": [],
    }


def _stored_steps(file: Path) -> int | None:
    try:
        return _steps(quick_config(file))
    except UserError:
        return None


def _steps(config: dict[str, Any]) -> int | None:
    steps = (config.get("train") or {}).get("steps")
    return steps if isinstance(steps, int) else None


def _newest_below(path: Path) -> str:
    """A hint: the sweep, or else the run, below `path` that was changed last."""
    below = [
        *path.glob("*/sweep.json"),
        *path.glob("*/*/sweep.json"),
        *path.glob("*/config.yaml"),
        *path.glob("*/*/config.yaml"),
    ]
    return f"; the newest below it is {max(below, key=lambda file: file.stat().st_mtime).parent}" if below else ""
