"""`metalearn runs`: what ran, removing runs, giving them a label."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metalearn.errors import UserError
from metalearn.runs.directory import in_use, write_text
from metalearn.runs.filters import kept
from metalearn.runs.finding import LABEL, found, read_run
from metalearn.runs.found import Found
from metalearn.runs.rows import task_text
from metalearn.runs.waiting import waiting_jobs
from metalearn.status import Status

# What a run, its evaluations, reproductions and predictions write.
_OURS = re.compile(
    r"(config\.yaml|results\.json|progress\.json|metrics\.csv|test_tasks\.npz|test_classes\.json|run\.log|reproduction\.json|label\.txt|"
    r"(best|last|previous|snapshot-\d+)\.pt|events\.out\.tfevents\..*|projector_config\.pbtxt|embeddings(_classes)?\.(tsv|png)|"
    r"eval-.*\.(json|npz)|grid-.*\.json|calibration-\w+\.json|(predict|export)[-\w.]*|\..*\.\d+|\.lock)"
)
_SORTED_BY = ("age", "size", "score", "status", "algorithm", "dataset", "path")


def listed(paths: Sequence[str | Path], filters: Sequence[str] = (), sort: str | None = None) -> list[dict[str, Any]]:
    """A mapping for each run at or below the paths, the newest first; jobs of a sweep that have not started are among them.

    Returns:
        path, status, error, algorithm, dataset, backbone, task, seed, kind, score, ci95 and transductive (as in results.json), label, age (seconds
        since its last file was written), size (bytes on disk).

    Raises:
        UserError: a path holds no run, or a filter or the key to sort by is not known.
    """
    runs = {run.path: run for path in paths for run in _found(path)}
    rows = [_row(run) for run in kept(list(runs.values()), filters)]
    key = (sort or "age").lstrip("-")
    if key not in _SORTED_BY:
        raise UserError(f"--sort: '{key}' is not allowed ({', '.join(_SORTED_BY)})")
    there = [row for row in rows if row[key] is not None]
    there.sort(key=lambda row: row[key], reverse=(sort or "").startswith("-"))
    return there + [row for row in rows if row[key] is None]


def _found(path: str | Path) -> list[Found]:
    waiting = waiting_jobs(path)
    try:
        return [*found([path]), *waiting]
    except UserError:
        if not waiting:
            raise
        return waiting


def _row(run: Found) -> dict[str, Any]:
    size, changed = _on_disk(run.path)
    shape = {
        key: value for key, value in (run.results.get("task") or run.config.get("task") or {}).items() if key != "train"
    }
    return {
        "path": str(run.path),
        "status": str(run.status),
        "error": run.error,
        "algorithm": run.name_of("algorithm"),
        "dataset": run.name_of("dataset"),
        "backbone": run.name_of("backbone"),
        "task": task_text(shape, run.kind),
        "seed": run.seed,
        "kind": run.kind.record(),
        "score": run.score,
        "ci95": run.test.get("ci95"),
        "transductive": run.test.get("transductive"),
        "seen_classes": run.test.get("seen_classes", 0),
        "seen_in_pretraining": run.test.get("seen_in_pretraining"),
        "label": run.label,
        "age": max(time.time() - changed, 0.0),
        "size": size,
    }


def _on_disk(path: Path) -> tuple[int, float]:
    """(bytes of the files below a folder, when the newest of them was written)."""
    if not path.is_dir():  # a job that has not started
        stored = path.parent / "jobs" / f"{path.name}.yaml"
        return 0, stored.stat().st_mtime if stored.exists() else time.time()
    size, newest = 0, path.stat().st_mtime
    for folder, _, names in os.walk(path):
        for name in names:
            about = (Path(folder) / name).lstat()
            size, newest = size + about.st_size, max(newest, about.st_mtime)
    return size, newest


def run_of(path: str | Path) -> Found:
    """The run in a directory.

    Raises:
        UserError: it is none.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise UserError(f"'{path}' is no directory")
    if not ({"config.yaml", "results.json"} & set(os.listdir(folder))):
        raise UserError(f"'{path}' is no run directory: it has no config.yaml and no results.json")
    run = read_run(folder)
    if not (run.config or run.results) or not run.is_run:
        raise UserError(f"'{path}' is no run directory: its config.yaml and results.json are not those of a run")
    return run


def removable(path: str | Path) -> Found:
    """The run in a directory, where it may be removed whole.

    Raises:
        UserError: it is no run, is at work, is a link, or holds what no run writes.
    """
    run = run_of(path)
    if run.path.is_symlink():
        raise UserError(f"'{path}' is a link, not a run directory")
    strange = [
        entry.name
        for entry in os.scandir(run.path)
        if not _OURS.fullmatch(entry.name) or entry.is_dir(follow_symlinks=False)
    ]
    if strange:
        raise UserError(f"'{path}' holds what no run writes: {', '.join(sorted(strange)[:5])}; move it away first")
    if run.status == Status.RUNNING:
        raise UserError(f"'{path}': another process is at work there")
    return run


def remove(runs: Sequence[Found]) -> None:
    """Removes the directories of runs, each while no other process can be at work there.

    Raises:
        UserError: one is at work, or cannot be removed; those before it are gone.
    """
    for run in runs:
        with in_use(run.path):
            try:
                shutil.rmtree(run.path)
            except OSError as error:
                raise UserError(f"'{run.path}' cannot be removed: {error.strerror or error}") from error


def mark(run: Found, label: str) -> None:
    """Gives a run a label, in label.txt of its directory; an empty one takes it away.

    Raises:
        UserError: the label has several lines or is longer than 60 characters, or cannot be written.
    """
    text = label.strip()
    if len(text) > 60 or not all(char.isprintable() for char in text):
        raise UserError(f"'{label[:80]}' is not allowed as a label (one line of at most 60 characters)")
    try:
        if text:
            write_text(run.path / LABEL, f"{text}\n")
        else:
            (run.path / LABEL).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{run.path / LABEL} cannot be written: {error.strerror or error}") from error
