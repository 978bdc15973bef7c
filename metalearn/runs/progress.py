"""How far a run is, for other processes to read: RUN_DIR/progress.json while it is at work, else what its other files say. Needs no torch.

progress.json is rewritten every two seconds and removed when the run ends. It stays where the process dies: it then says how far that came.

    phase               start | train | test
    step, steps         outer steps done, and of the whole run
    since, seconds      outer step from which the speed is counted, and how long the steps after it took (validation included)
    tasks, all_tasks    of the test: tasks done, and all
    val                 the latest validation score
    kind                of the tasks, as in results.json
    tasks_per_second    of the last steps that were reported
    at, host, pid       when this was written (Unix time), and by whom
    slurm               the job's id in Slurm's queue, `ARRAY_TASK`, where Slurm started it
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from metalearn.kinds import Scale, scale_of

FILE = "progress.json"
_SECONDS = 2.0  # between two writings


class ProgressFile:
    """Writes progress.json while the context lasts. A file that cannot be written costs the run nothing.

    Args:
        run_dir: of the run.
        steps: outer steps of the whole run.
        done: outer steps that earlier processes did.
        kind: of the tasks, which names the score.
    """

    def __init__(self, run_dir: Path, steps: int, done: int, kind: Scale) -> None:
        self._path, self._kind = run_dir / FILE, kind
        self._counted: tuple[int, float] | None = None  # first step that is counted, and when it was done
        self._written = 0.0
        self._said: dict[str, Any] = {"phase": "start", "step": done, "steps": steps}
        self._said |= {"kind": kind.record(), "host": socket.gethostname(), "pid": os.getpid()}
        if (slurm := _slurm_id()) is not None:
            self._said["slurm"] = slurm

    def __enter__(self) -> ProgressFile:
        self._write()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)

    def passed(self, step: int) -> None:
        """Outer step `step` is done. The speed is counted from the first such call on: start-up is no part of a step."""
        now = time.monotonic()
        self._counted = self._counted or (step, now)
        if now - self._written < _SECONDS:
            return
        first, since = self._counted
        self._said |= {"phase": "train", "step": step, "since": first, "seconds": round(now - since, 3)}
        self._write()

    def reported(self, step: int, values: dict[str, float]) -> None:
        """These values, by tag, belong to outer step `step`."""
        if (score := values.get(f"val/{self._kind.score}")) is not None:
            self._said["val"] = score
        if (speed := values.get("time/tasks_per_second")) is not None:
            self._said["tasks_per_second"] = round(speed, 3)

    def tested(self, done: int, tasks: int) -> None:
        """So many test tasks of so many are done; the first call says when the test begins."""
        now = time.monotonic()
        if self._said["phase"] != "test":
            self._said |= {"phase": "test", "step": self._said["steps"]}
            self._counted, self._written = (done, now), 0.0
        assert self._counted is not None
        if now - self._written < _SECONDS:
            return
        first, since = self._counted
        self._said |= {"tasks": done, "all_tasks": tasks, "since": first, "seconds": round(now - since, 3)}
        self._write()

    def _write(self) -> None:
        """Whole, but not synced to the disk: after a power cut nobody wants it."""
        self._written = time.monotonic()
        temporary = self._path.with_name(f".{FILE}.{os.getpid()}")
        with contextlib.suppress(OSError):
            temporary.write_text(json.dumps(self._said | {"at": round(time.time(), 3)}), encoding="utf-8")
            temporary.replace(self._path)


class Reach(NamedTuple):
    """How far a run is, as far as its files say."""

    phase: str | None = None  # start, train or test; None: no process has written it
    step: int | None = None
    steps: int | None = None
    val: float | None = None  # the latest validation score
    kind: Scale | None = None  # how that is read
    tasks_per_second: float | None = None
    per_step: float | None = None  # seconds of an outer step, validation included
    phase_left: float | None = None  # seconds until the end of the phase
    host: str | None = None
    slurm: str | None = None


def reach(run_dir: Path) -> Reach:
    """How far the run in `run_dir` is, from progress.json or, without it, from metrics.csv."""
    try:
        return _of_file(json.loads((run_dir / FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return _of_metrics(run_dir / "metrics.csv")


def _of_file(said: dict[str, Any]) -> Reach:
    per_step = left = None
    if said["phase"] == "train" and said["step"] > said["since"]:
        per_step = said["seconds"] / (said["step"] - said["since"])
        left = per_step * (said["steps"] - said["step"])
    elif said["phase"] == "test" and said["tasks"] > said["since"]:
        left = said["seconds"] / (said["tasks"] - said["since"]) * (said["all_tasks"] - said["tasks"])
    return Reach(
        phase=said["phase"],
        step=int(said["step"]),
        steps=int(said["steps"]),
        val=said.get("val"),
        kind=scale_of(said),
        tasks_per_second=said.get("tasks_per_second"),
        per_step=per_step,
        phase_left=left,
        host=said.get("host"),
        slurm=said.get("slurm"),
    )


def _of_metrics(path: Path) -> Reach:
    """The last row of training, and the last validation."""
    try:
        with path.open(encoding="utf-8", newline="", errors="replace") as file:
            rows = list(csv.DictReader(file))
        trained = [row for row in rows if row.get("train/loss")]
        scores = [
            tag for tag in (rows[0] if rows else ()) if tag.startswith("val/") and tag[4:] not in ("ci95", "loss")
        ]
        val = [row[scores[0]] for row in rows if row.get(scores[0])] if scores else []
        speed = [row["time/tasks_per_second"] for row in trained if row.get("time/tasks_per_second")]
        return Reach(
            step=int(trained[-1]["step"]) if trained else None,
            val=float(val[-1]) if val else None,
            kind=scale_of({"val": {scores[0][4:]: None}}) if scores else None,
            tasks_per_second=float(speed[-1]) if speed else None,
        )
    except (OSError, ValueError, KeyError, TypeError, csv.Error):  # not there yet, or cut by a process that died
        return Reach()


def _slurm_id() -> str | None:
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")
