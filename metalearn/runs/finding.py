"""Which runs there are below given paths, read from their small files alone: results.json, config.yaml, eval-<time>.json. Needs no torch.

A run that has not ended, failed, or cannot be read is found too, and says so.
"""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from metalearn.errors import UserError, one_line
from metalearn.kinds import scale_of
from metalearn.locks import is_folder_locked
from metalearn.report import terminal
from metalearn.runs.directory import mapping, read_text
from metalearn.runs.found import UNREADABLE, Found
from metalearn.runs.quick_config import quick_config
from metalearn.runs.record import read_results
from metalearn.status import Status

LABEL = "label.txt"  # what `metalearn runs mark` wrote


def found(paths: Sequence[str | Path], evaluations: bool = False) -> list[Found]:
    """The runs at or below the paths, each once, in the order of the paths and there of their names.

    Args:
        paths: run directories, sweeps, other folders, files in a run directory, patterns such as `outputs/*/maml-*`.
        evaluations: also the tests of these runs under other conditions.

    Raises:
        UserError: a path is not there, or no run is below it.
    """
    runs: dict[Path, Found] = {}
    for path in paths:
        below = [folder for place in places(str(path)) for folder in run_directories(place)]
        read = {folder: runs.get(folder) or read_run(folder) for folder in below}
        ours = {folder: run for folder, run in read.items() if run.is_run}
        if not ours:
            raise UserError(f"'{path}' holds no run directory")
        runs |= ours
    if not evaluations:
        return list(runs.values())
    return [one for run in runs.values() for one in (run, *_evaluations(run))]


def places(path: str) -> list[Path]:
    """The folders that a path or a pattern names, for a file the one it is in; UserError where there is none."""
    whole = os.path.expanduser(path)
    if os.path.exists(whole):
        place = Path(whole)
        return [place if place.is_dir() else place.parent]
    matches = sorted(glob.glob(whole, recursive=True)) if glob.has_magic(whole) else []
    if not matches:
        raise UserError(f"'{path}' {'matches nothing' if glob.has_magic(whole) else 'is not there'}")
    return list(dict.fromkeys(place if place.is_dir() else place.parent for place in map(Path, matches)))


def run_directories(folder: Path, below: bool = False) -> Iterator[Path]:
    """The run directories at or below a folder, in the order of their names; links to folders are not followed.

    Args:
        below: whether `folder` lies below what the user named; one that cannot be read is passed over then, and stderr says so.

    Raises:
        UserError: the folder that the user named cannot be read.
    """
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        (folder / "config.yaml").exists()  # raises where the folder can be listed and not entered
    except OSError as error:
        fault = f"'{folder}' cannot be read: {error.strerror}"
        if not below:
            raise UserError(fault) from error
        terminal.error_line(f"warning: {fault}; passed over")
        return
    names = {entry.name for entry in entries}
    if names & {"config.yaml", "results.json"}:
        yield folder
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
            yield from run_directories(Path(entry.path), below=True)


def read_run(path: Path) -> Found:
    """A run directory, whatever state it is in."""
    faults, config, results = [], {}, {}
    if (path / "config.yaml").exists():
        try:
            config = quick_config(path / "config.yaml")
            _check_sections(
                path / "config.yaml", config, ("names", "task", "train", "eval", "dataset", "algorithm", "backbone")
            )
        except UserError as error:
            faults.append(one_line(error))
            config = {}
    else:
        faults.append(f"there is no {path / 'config.yaml'}")
    readable = True
    if (path / "results.json").exists():
        try:
            results = read_results(path)
            _check_results(path / "results.json", results)
        except (UserError, KeyError, TypeError) as error:
            faults.append(one_line(error) if isinstance(error, UserError) else f"{path / 'results.json'}: no kind")
            readable, results = False, {}
    status, why = _status(path, results) if readable else (UNREADABLE, faults[-1])
    return Found(path, status, why, config, results, label=label_of(path), unreadable=tuple(faults))


def _check_results(file: Path, results: Mapping[str, Any]) -> None:
    """Raises UserError, KeyError or TypeError where a part is not what a run writes: a table must not fail over one damaged file."""
    _check_sections(file, results, ("task", "test", "train", "split", "environment", "kind"))
    test = results.get("test") or {}
    for key in (scale_of(results).score, "ci95", "ci95_classes", "tasks", "seen_classes"):
        if not isinstance(test.get(key), int | float | None):
            raise UserError(f"{file}: test.{key} is no number")
    if not isinstance(results.get("status"), str | None):
        raise UserError(f"{file}: status is no text")
    if not isinstance(results.get("overrides", []), list):
        raise UserError(f"{file}: overrides is no list")


def _check_sections(file: Path, content: Mapping[str, Any], names: Sequence[str]) -> None:
    for name in names:
        if not isinstance(content.get(name), Mapping | None):
            raise UserError(f"{file}: {name} is no mapping")


def _status(path: Path, results: Mapping[str, Any]) -> tuple[str, str | None]:
    recorded = results.get("status")
    if isinstance(recorded, str) and recorded in set(Status) and Status(recorded).finished:
        return str(recorded), results.get("error")
    told = path.parent / "jobs" / f"{path.name}.error"  # a job of a sweep that could not say so itself
    if told.is_file():
        return str(Status.FAILED), " ".join(told.read_text(encoding="utf-8", errors="replace").split())
    try:
        running = is_folder_locked(path)
    except OSError:
        running = False
    return str(Status.RUNNING if running else Status.INTERRUPTED), results.get("error")


def label_of(path: Path) -> str | None:
    """What `metalearn runs mark` called it."""
    try:
        return (path / LABEL).read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def _evaluations(run: Found) -> Iterator[Found]:
    for file in sorted(run.path.glob("eval-*.json")):
        try:
            record = mapping(file, json.loads(read_text(file)))
            _check_results(file, record)
            record["overrides"] = [text for text in record.get("overrides", ()) if text != _as_it_was(run)]
            yield Found(run.path, record.get("status", ""), record.get("error"), run.config, record, file, run.label)
        except (ValueError, KeyError, TypeError) as error:  # UserError too
            why = f"{file} cannot be read: {one_line(error)}"
            yield Found(run.path, UNREADABLE, why, run.config, {}, file, run.label, (why,))


def _as_it_was(run: Found) -> str:
    """The override that only says what the run's own test did."""
    return f"eval.transductive={str(run.test.get('transductive')).lower()}"
